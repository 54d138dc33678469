"""Environments as Rainbow plays them: one agent step at a time, episodes joined end to end.

`Atari` does the preprocessing of DeepMind (Mnih et al. 2015) on the emulator of ale-py; `Vector` is
any other gymnasium environment whose observation is a vector. Both draw from streams that are keyed
by (seed, purpose, number of the game), so where one stands can be said in a few numbers.
"""

import difflib
from typing import Any, NamedTuple, Protocol

import ale_py
import ale_py.roms
import cv2
import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray

from tasks.task import stream

SIDE = 84  # pixels of a preprocessed frame
SKIP = 4  # emulator frames an agent step
MAX_NOOPS = 30
STACK = 4


class Outcome(NamedTuple):
    """What an agent step led to.

    An *episode* is what the learner sees as one: in a game with lives it ends with a life. A *game*
    is over when all are lost.
    """

    observation: NDArray[Any]
    reward: float  # as the learner gets it
    terminal: bool  # nothing follows: no bootstrap
    truncated: bool  # out of time: the value of `observation` counts
    first: NDArray[Any] | None  # the next episode's first observation, where this one ended
    score: float | None  # unclipped return of the whole game, where it is over


class Environment(Protocol):
    actions: int
    shape: tuple[int, ...]  # of one observation
    dtype: Any
    stack: int  # so many observations are the input of a network
    frames_per_step: int

    def reset(self) -> NDArray[Any]:
        """The first observation of the first game."""
        ...

    def step(self, action: int) -> Outcome: ...

    def screen(self) -> NDArray[np.uint8]:
        """A picture for people, (height, width, 3)."""
        ...

    def state(self) -> dict[str, Any]:
        """Where the environment stands, for `restore`."""
        ...

    def restore(self, state: dict[str, Any]) -> None: ...


def make(
    game: str, seed: int, purpose: str, *, sticky: float | None = None, life_is_episode: bool = True,
    clip_rewards: bool = True, first_game: int = 0, picture: bool = False,
) -> Environment:  # fmt: skip
    """The environment that gymnasium calls ``game``.

    Args:
        purpose: names the random streams, with ``seed``.
        sticky: probability of repeating the last action, in each emulator frame; None: as
            registered (0 for NoFrameskip-v4, 0.25 for v5).
        life_is_episode: whether the learner sees a lost life as an end.
        clip_rewards: whether the learner gets the sign of an Atari reward.
        first_game: number of the first game, which chooses its random stream.
        picture: whether `screen` will be asked for.

    Raises ValueError where there is no such game, no ROM, or where its observations or actions are
    none that a network here can take.
    """
    gymnasium.register_envs(ale_py)  # makes its import do something
    if game not in gymnasium.registry:
        near = difflib.get_close_matches(game, gymnasium.registry, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"game={game}: gymnasium knows no such environment{hint}")
    spec = gymnasium.spec(game)
    if "ale_py" in str(spec.entry_point):
        settings = spec.kwargs
        return Atari(
            settings["game"], seed, purpose, first_game=first_game, clip_rewards=clip_rewards,
            sticky=settings.get("repeat_action_probability", 0.0) if sticky is None else sticky,
            life_is_episode=life_is_episode,
            max_frames=settings.get("max_num_frames_per_episode", 108_000),
        )  # fmt: skip
    if sticky:
        raise ValueError(f"sticky={sticky}: {game} is no Atari game")
    return Vector(game, seed, purpose, first_game, picture)


class Atari:
    """An Atari game: no-ops at the start, 4 frames an action, the maximum of the last two, 84 x 84.

    As in the wrappers of OpenAI's baselines: 1 to 30 no-ops after a reset of the game; in games
    with FIRE, that and the next action begin every episode; after a lost life the game goes on with
    a no-op. Grey values are the emulator's, resized by area. Sticky actions are drawn here and not
    by the emulator, whose own random state a serialized state does not hold.
    """

    shape: tuple[int, ...] = (SIDE, SIDE)
    dtype: Any = np.uint8
    stack = STACK
    frames_per_step = SKIP

    def __init__(
        self, game: str, seed: int, purpose: str, *, sticky: float, life_is_episode: bool,
        clip_rewards: bool, max_frames: int, first_game: int,
    ) -> None:  # fmt: skip
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        known = ale_py.roms.get_all_rom_ids()
        path = ale_py.roms.get_rom_path(game) if game in known else None
        if path is None:
            raise ValueError(f"game={game}: ale-py {ale_py.__version__} has no ROM of it")
        if not 0 <= sticky < 1:
            raise ValueError(f"sticky={sticky}: 0 <= sticky < 1 expected")
        self._ale = ale_py.ALEInterface()
        self._ale.setInt("random_seed", 0)  # nothing random is left in the emulator
        self._ale.setFloat("repeat_action_probability", 0.0)
        self._ale.setInt("max_num_frames_per_episode", max_frames)
        self._ale.loadROM(path)
        self._set = self._ale.getMinimalActionSet()
        self.actions = len(self._set)
        self._fire = self.actions >= 3 and self._set[1] == ale_py.Action.FIRE
        self._streams = (seed, purpose)
        self._sticky, self._life_is_episode, self._clip = sticky, life_is_episode, clip_rewards
        size = self._ale.getScreenDims()
        self._screens = np.empty((2, *size), np.uint8)
        self._game, self._draws = first_game - 1, 0
        self._random = stream(seed, f"{purpose} sticky", 0)
        self._last, self._lives, self._score = 0, 0, 0.0

    def reset(self) -> NDArray[np.uint8]:
        return self._begin(new_game=True)[0]

    def step(self, action: int) -> Outcome:
        reward, over = self._act(action)
        truncated = over and self._ale.game_truncated()
        life_lost = 0 < self._ale.lives() < self._lives
        self._lives = self._ale.lives()
        observation = self._observation()
        score = self._score if over else None
        terminal = (over and not truncated) or (self._life_is_episode and life_lost and not over)
        first = None
        if over or terminal:
            first, ended = self._begin(new_game=over)
            score = score if over else ended
        learnt = float(np.sign(reward)) if self._clip else reward
        return Outcome(observation, learnt, terminal, truncated, first, score)

    def screen(self) -> NDArray[np.uint8]:
        return self._ale.getScreenRGB()

    def state(self) -> dict[str, Any]:
        emulator = self._ale.cloneState(include_rng=True).serialize()
        return {
            "emulator": torch.frombuffer(bytearray(emulator), dtype=torch.uint8),
            "game": self._game, "draws": self._draws, "last": self._last, "lives": self._lives,
            "score": self._score,
        }  # fmt: skip

    def restore(self, state: dict[str, Any]) -> None:
        self._ale.restoreState(ale_py.ALEState(state["emulator"].numpy().tobytes()))
        self._game, self._draws, self._last = state["game"], state["draws"], state["last"]
        self._lives, self._score = state["lives"], state["score"]
        self._random = stream(self._streams[0], f"{self._streams[1]} sticky", self._game)
        self._random.bit_generator.advance(self._draws)  # type: ignore[attr-defined]

    def _begin(self, new_game: bool) -> tuple[NDArray[np.uint8], float | None]:
        """The first observation of an episode, of a new game or after the loss of a life; and the
        score of a game that was over before it came to that."""
        score = None
        if new_game:
            self._new_game()
        for action in (() if new_game else (0,)) + ((1, 2) if self._fire else ()):
            if self._act(action)[1]:
                score = self._score if score is None else score
                self._new_game()
        self._lives = self._ale.lives()
        return self._observation(), score

    def _new_game(self) -> None:
        self._game += 1
        seed, purpose = self._streams
        self._random, self._draws = stream(seed, f"{purpose} sticky", self._game), 0
        self._ale.reset_game()
        self._last, self._score = 0, 0.0
        for _ in range(stream(seed, f"{purpose} no-ops", self._game).integers(1, MAX_NOOPS + 1)):
            self._score += self._ale.act(self._set[0])
            if self._ale.game_over():
                self._ale.reset_game()
        self._ale.getScreenGrayscale(self._screens[1])
        self._screens[0] = self._screens[1]

    def _act(self, action: int) -> tuple[float, bool]:
        """One action for 4 frames; returns the reward and whether the game is over."""
        reward, over = 0.0, False
        for frame in range(SKIP):
            if self._sticky:
                self._draws += 1
                if self._random.random() >= self._sticky:
                    self._last = action
            else:
                self._last = action
            reward += self._ale.act(self._set[self._last])
            over = self._ale.game_over()  # out of time counts
            if frame >= SKIP - 2 or over:
                self._ale.getScreenGrayscale(self._screens[frame % 2])
            if over:
                break
        if over:  # a frame of the step before may stand in the other place
            self._screens[1 - frame % 2] = self._screens[frame % 2]
        self._score += reward
        return reward, over

    def _observation(self) -> NDArray[np.uint8]:
        frame = np.maximum(self._screens[0], self._screens[1])
        return cv2.resize(frame, (SIDE, SIDE), interpolation=cv2.INTER_AREA)  # type: ignore[return-value]


class Vector:
    """A gymnasium environment with a vector as observation and a number of actions.

    Few of them can save their state. Each game is reset with a seed of its own, so that playing its
    actions again leads to the same place.
    """

    dtype: Any = np.float32
    stack = 1
    frames_per_step = 1

    def __init__(self, game: str, seed: int, purpose: str, first_game: int, picture: bool) -> None:
        try:
            self._env = gymnasium.make(game, render_mode="rgb_array" if picture else None)
        except Exception as error:  # whatever a package that is not installed raises
            raise ValueError(f"game={game}: {' '.join(str(error).split())}") from error
        if picture:
            self._try_to_draw(game)
        observations, actions = self._env.observation_space, self._env.action_space
        if not isinstance(observations, Box) or len(observations.shape) != 1:
            raise ValueError(
                f"game={game}: observations are {observations}; an Atari game or a vector of "
                "numbers expected"
            )
        if not isinstance(actions, Discrete):
            raise ValueError(  # noqa: TRY004
                f"game={game}: actions are {actions}; a number of actions expected"
            )
        self.shape, self.actions = observations.shape, int(actions.n)
        self._streams, self._game = (seed, purpose), first_game - 1
        self._played: list[int] = []
        self._score = 0.0

    def reset(self) -> NDArray[np.float32]:
        self._game += 1
        self._played, self._score = [], 0.0
        return self._reset()

    def step(self, action: int) -> Outcome:
        observation, reward, terminal, truncated, _ = self._env.step(action)
        self._played.append(action)
        self._score += float(reward)
        over = terminal or truncated
        score = self._score if over else None
        return Outcome(
            np.asarray(observation, np.float32), float(reward), terminal,
            truncated and not terminal, self.reset() if over else None, score,
        )  # fmt: skip

    def screen(self) -> NDArray[np.uint8]:
        return self._env.render()  # type: ignore[return-value]

    def state(self) -> dict[str, Any]:
        return {"game": self._game, "played": list(self._played), "score": self._score}

    def restore(self, state: dict[str, Any]) -> None:
        self._game, self._score = state["game"], state["score"]
        self._played = list(state["played"])
        self._reset()
        for action in self._played:
            self._env.step(action)

    def _try_to_draw(self, game: str) -> None:
        """Now, and not after hours of training."""
        try:
            self._env.reset()
            self._env.render()
        except Exception as error:  # whatever a package that is not installed raises
            reason = " ".join(str(error).split())
            raise ValueError(f"video=true: {game} cannot be drawn: {reason}") from error

    def _reset(self) -> NDArray[np.float32]:
        seed, purpose = self._streams
        number = int(stream(seed, purpose, self._game).integers(2**31))
        return np.asarray(self._env.reset(seed=number)[0], np.float32)
