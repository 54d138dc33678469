"""Evaluation: full games at epsilon 0, side by side, scored by their unclipped rewards."""

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tasks.rainbow import environment
from tasks.rainbow.network import Network
from tasks.rainbow.targets import q_values
from tasks.task import stream

FRAME_SECONDS = 1 / 15  # an agent step of an Atari game
MOST_PICTURES = 3_000


class Evaluation:
    """``games`` full games a call, each with a random stream of its own.

    As the authors': after ``most_steps`` agent steps in an episode (a life) the rest of it is played
    at random and does not count, or a policy that goes round in circles would play for hours. What
    a game draws depends on (seed, ``when``, number of the game) alone.
    """

    def __init__(
        self, game: str, seed: int, games: int, sticky: float | None, most_steps: int, video: bool
    ) -> None:
        self._settings = {"game": game, "seed": seed, "sticky": sticky, "most_steps": most_steps}
        self._games, self._video = games, video
        if video:  # raises where that is not possible
            environment.make(game, seed, "video", picture=True)
        self._pictures: list[Image.Image] = []

    @torch.no_grad()
    def play(self, network: Network, atoms: Tensor, noise: Tensor, when: int) -> Tensor:
        """Scores (games,), float64, with the ``noise`` of the network held."""
        playing = {
            i: _Game(**self._settings, when=when, number=i, picture=self._video and i == 0)
            for i in range(self._games)
        }
        scores = torch.empty(self._games, dtype=torch.float64)
        self._pictures = []
        network = network.at(noise)
        while playing:
            observations = torch.from_numpy(np.stack([g.observation for g in playing.values()]))
            values = q_values(network(observations.to(atoms.device)), atoms)
            actions = values.argmax(1).tolist()
            for (i, game), action in zip(list(playing.items()), actions, strict=True):
                game.step(action)
                if self._video and i == 0 and len(self._pictures) < MOST_PICTURES:
                    self._pictures.append(Image.fromarray(game.screen()))
                if game.over:
                    scores[i] = game.score
                    del playing[i]
        return scores

    def recorded(self) -> dict[str, bytes]:
        """The first game of the last call as an animation, if ``video``."""
        if not self._pictures:
            return {}
        buffer = io.BytesIO()
        first, *rest = (p.quantize(32) for p in self._pictures)
        first.save(buffer, "GIF", save_all=True, append_images=rest, loop=0,
                   duration=1000 * FRAME_SECONDS)  # fmt: skip
        return {"game.gif": buffer.getvalue()}


class _Game:
    """One game of an evaluation."""

    def __init__(
        self, game: str, seed: int, sticky: float | None, most_steps: int, when: int, number: int,
        picture: bool,
    ) -> None:  # fmt: skip
        self._environment = environment.make(
            game, seed, f"evaluation {when}", sticky=sticky, clip_rewards=False, first_game=number,
            picture=picture,
        )  # fmt: skip
        self._random = stream(seed, f"evaluation {when} stuck", number)
        self._steps, self._most_steps = 0, most_steps
        self.over, self.score = False, 0.0
        self.observation = np.stack([self._environment.reset()] * self._environment.stack)

    def step(self, action: int) -> None:
        stuck = self._steps >= self._most_steps
        if stuck:
            action = int(self._random.integers(self._environment.actions))
        outcome = self._environment.step(action)
        self._steps += 1
        if not stuck:
            self.score += outcome.reward
        self.over = outcome.score is not None
        if outcome.first is not None:
            self._steps = 0
            self.observation = np.stack([outcome.first] * self._environment.stack)
        else:
            self.observation = np.concatenate([self.observation[1:], outcome.observation[None]])

    def screen(self) -> np.ndarray:
        return self._environment.screen()
