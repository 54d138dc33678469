"""Rainbow DQN (Hessel et al. 2018) on Atari, in the variant of the LaProp paper.

Reproduces the paper's reinforcement-learning experiment; conf/task/rainbow.yaml has the setting and
its deviations. One `loss()` is one optimizer step: it plays ``train_every`` agent steps (the first
one also those before learning starts), then draws a batch. Order of events, agent step t:

    a_t by the online network, with noise of row r, or at random with probability epsilon(t)
    the environment takes a_t; the replay gets the step
    if t is a multiple of train_every and learning has started: one update, with noise of row r
    if t is a multiple of target_every: the target network becomes the online network

where r = t / noise_every, rounded up. The a_t before an update is known when the update begins, and
the update needs what follows a_t only if it happens to draw that very step. So the environment can
be emulated in a process of its own during the update, which is done again where it would have come
out differently: the numbers are those of the order above, bit for bit (`overlap`).
"""

import copy
import math
import sys
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tasks.rainbow import environment
from tasks.rainbow.elsewhere import Elsewhere
from tasks.rainbow.evaluation import Evaluation
from tasks.rainbow.frame_log import FrameLog
from tasks.rainbow.learner import Learner, Update
from tasks.rainbow.memory import available_bytes
from tasks.rainbow.network import Network
from tasks.rainbow.random_rows import Rows, factor_noise, uniform
from tasks.rainbow.replay import SLOT_BYTES, Replay
from tasks.rainbow.schedules import Beta, Epsilon
from tasks.task import Stopped, Task, check_counts, check_flags, check_numbers, check_texts

SMOOTHING = 0.01  # of the reported loss
SECONDS_BETWEEN_LINES = 10.0
GAMES_REMEMBERED = 100  # for the return in training


class Rainbow(Task):
    """The learner, its environment and its replay; one replica.

    Args:
        seeds: exactly one.
        game: what gymnasium calls it: an Atari game, or anything with a vector as observation.
        sticky: probability that an emulator frame repeats the last action; None: as registered. Of
            Atari games, as the next two.
        life_is_episode: the learner sees the loss of a life as an end.
        clip_rewards: to their sign.
        capacity: of the replay, in agent steps.
        learning_starts: agent steps before learning.
        train_every, target_every: agent steps.
        n_step: length of the returns.
        double, dueling, noisy, prioritized, distributional: the parts of Rainbow.
        sigma: of the noisy layers' initialisation.
        noise_every: agent steps in a row with the same noise of the online network.
        atoms, v_min, v_max: of the distribution of returns.
        alpha: power of the priorities.
        beta, beta_steps: power of the importance weights, linear to 1 over so many agent steps.
        greatest_decay: of the greatest priority, at each sample; 1: it never falls.
        normalise_weights: importance weights are divided by the largest of the batch.
        epsilon, epsilon_end, epsilon_decay: random actions with probability
            end + (start - end) exp(-t / decay).
        eval_games: full games at an evaluation.
        eval_most_steps: after so many agent steps in a life the rest of it does not count.
        overlap: emulate in a process of its own, which the update does not wait for; None: where the
            update is an accelerator's, since on a CPU the two would only take cores from each other.
            The numbers are the same.
        video: record a game at each evaluation.

    Raises ValueError that begins with the argument's name.
    """

    support: Tensor  # (atoms,), or one 0 where returns have no distribution

    def __init__(
        self,
        seeds: Sequence[int],
        game: str = "BreakoutNoFrameskip-v4",
        sticky: float | None = None,
        life_is_episode: bool = True,
        clip_rewards: bool = True,
        batch: int = 32,
        capacity: int = 500_000,
        learning_starts: int = 80_000,
        train_every: int = 4,
        target_every: int = 10_000,
        gamma: float = 0.99,
        n_step: int = 1,
        double: bool = True,
        dueling: bool = False,
        noisy: bool = True,
        sigma: float = 0.5,
        noise_every: int = 1,
        prioritized: bool = True,
        alpha: float = 0.5,
        beta: float = 0.4,
        beta_steps: int = 100_000,
        greatest_decay: float = 0.99,
        normalise_weights: bool = False,
        distributional: bool = True,
        atoms: int = 51,
        v_min: float = -10.0,
        v_max: float = 10.0,
        epsilon: float = 1.0,
        epsilon_end: float = 0.005,
        epsilon_decay: float = 30_000.0,
        eval_games: int = 20,
        eval_most_steps: int = 5_000,
        overlap: bool | None = None,
        video: bool = False,
    ) -> None:
        super().__init__()
        if len(seeds) != 1:
            raise ValueError(f"seeds={list(seeds)}: rainbow runs one seed at a time; sweep `seed`")
        check_texts(game=game)
        check_flags(
            life_is_episode=life_is_episode, clip_rewards=clip_rewards, double=double,
            dueling=dueling, noisy=noisy, prioritized=prioritized, video=video,
            normalise_weights=normalise_weights, distributional=distributional,
        )  # fmt: skip
        if overlap is not None and not isinstance(overlap, bool):
            raise ValueError(f"overlap={overlap}: true, false or null expected")
        check_counts(
            1, batch=batch, train_every=train_every, target_every=target_every, n_step=n_step,
            noise_every=noise_every, beta_steps=beta_steps, eval_games=eval_games,
            eval_most_steps=eval_most_steps,
        )  # fmt: skip
        check_counts(2, atoms=atoms)
        check_counts(n_step + 2 * environment.STACK, capacity=capacity)
        check_counts(n_step, learning_starts=learning_starts)
        check_numbers(
            "a number from 0 to 1", lambda x: 0 <= x <= 1, gamma=gamma, alpha=alpha, beta=beta,
            greatest_decay=greatest_decay, epsilon=epsilon, epsilon_end=epsilon_end,
        )  # fmt: skip
        if sticky is not None:
            check_numbers("a number in [0, 1), or null,", lambda x: 0 <= x < 1, sticky=sticky)
        check_numbers(
            "a positive number", lambda x: x > 0, sigma=sigma, epsilon_decay=epsilon_decay
        )
        check_numbers("a finite number", math.isfinite, v_min=v_min, v_max=v_max)
        if not v_min < v_max:
            raise ValueError(f"v_min={v_min}: less than v_max={v_max} expected")
        (seed,) = seeds
        self.replicas = [{"seed": seed}]
        self._playing_settings = {
            "game": game, "seed": seed, "purpose": "play", "sticky": sticky,
            "life_is_episode": life_is_episode, "clip_rewards": clip_rewards,
        }  # fmt: skip
        self._playing: environment.Environment | Elsewhere
        self._playing = environment.make(**self._playing_settings)
        self._evaluation = Evaluation(game, seed, eval_games, sticky, eval_most_steps, video)
        self._double = double
        self.train_every, self.target_every = train_every, target_every
        self._noise_every = noise_every
        self.learning_starts, self.gamma, self.n_step = learning_starts, gamma, n_step
        self._capacity = capacity
        self._priorities = {
            "alpha": alpha if prioritized else 0.0, "decay": greatest_decay,
            "normalise": normalise_weights,
        }  # fmt: skip
        self._beta = Beta(beta, beta_steps)
        self._epsilon = Epsilon(epsilon, epsilon_end, epsilon_decay)
        self._seed = seed
        support = torch.linspace(v_min, v_max, atoms) if distributional else torch.zeros(1)
        self._make_networks(support, dueling, sigma if noisy else None)
        self._exploration = Rows(seed, "exploration", uniform(2), 1024)
        self._fractions = Rows(seed, "replay", uniform(batch), 256)
        self._noise: tuple[torch.device, Rows, Rows] | None = None
        self._overlap = overlap
        self.agent_steps = 0
        self.updates = 0
        self.episodes = 0
        self.scores: deque[float] = deque(maxlen=GAMES_REMEMBERED)
        self.smoothed_loss = math.nan
        self._replay: Replay | None = None
        self._learner: Learner | None = None
        self._update: Update | None = None

    def _make_networks(self, support: Tensor, dueling: bool, sigma: float | None) -> None:
        with torch.random.fork_rng(devices=[]):  # weights by the seed, and nothing else moves
            torch.manual_seed(self._seed)
            self.online = Network(
                self._playing.shape, self._playing.stack, self._playing.actions, len(support),
                dueling=dueling, noisy=sigma,
            )  # fmt: skip
        self.target = copy.deepcopy(self.online).requires_grad_(False)
        self.register_buffer("support", support, persistent=False)

    # ------------------------------------------------------------ the contract

    def loss(self) -> Tensor:
        """Play, draw a batch, and return its loss, shape (). Gradients are ready, for `backward`."""
        kind = self.support.device.type
        half = torch.is_autocast_enabled(kind)
        with torch.autocast(kind, enabled=False):
            learner = self._prepare(half)
            until = max(self.agent_steps, self.learning_starts) + self.train_every
            until -= until % self.train_every
            self._play(until - 1)
            update = self._last_step_and_update()
            learner.commit(update)
        self._update = update
        self.updates += 1
        return update.loss

    def backward(self, loss: Tensor, weight: Tensor) -> None:
        """``weight`` is 1 as long as the one replica lives, and this is not called afterwards."""
        assert self._update is not None  # made by loss()
        for parameter, gradient in zip(
            self.online.parameters(), self._update.gradients, strict=True
        ):
            parameter.grad = gradient
        self._update = None
        value = float(loss)
        before = value if math.isnan(self.smoothed_loss) else self.smoothed_loss
        self.smoothed_loss = before + SMOOTHING * (value - before)

    def evaluate(self) -> dict[str, Tensor]:
        """Full games at epsilon 0 with the noise of the last step of training held, as the authors
        did; the score counts unclipped rewards. The games' random numbers depend on the seed and
        on the number of agent steps, not on the optimizer."""
        noise = self._noise_rows()[0](self._noise_number())
        scores = self._evaluation.play(self.online, self.support, noise, self.agent_steps)
        mean = scores.mean()
        error = scores.std() / math.sqrt(len(scores)) if len(scores) > 1 else mean * math.nan
        trained = sum(self.scores) / len(self.scores) if self.scores else math.nan
        others = {
            "train_return": trained, "loss": self.smoothed_loss, "agent_steps": self.agent_steps,
            "frames": self.agent_steps * self._playing.frames_per_step, "episodes": self.episodes,
        }  # fmt: skip
        return {
            "return": mean, "return_sem": error,
            **{name: torch.tensor(float(value)) for name, value in others.items()},
        }  # fmt: skip

    def artifacts(self) -> dict[str, bytes]:
        """The recorded game of the last evaluation, if any is recorded."""
        return self._evaluation.recorded()

    # ------------------------------------------------------------ play

    def _play(self, until: int) -> None:
        """Agent steps up to number ``until``, one after the other."""
        assert self._replay is not None
        told = time.monotonic()
        while self.agent_steps < until:
            if self.stopping():  # the first 80,000 steps are one call of `loss`
                raise Stopped
            action = self._begin_step()
            if isinstance(self._playing, Elsewhere):
                self._playing.begin(action)
                self._replay.begin(action)
                self._replay.flush()  # now, when there is only the emulator to wait for
                self._end_step(self._playing.end())
            else:
                self._replay.begin(action)
                self._end_step(self._playing.step(action))
            if time.monotonic() - told > SECONDS_BETWEEN_LINES:
                told = time.monotonic()
                print(f"rainbow: {self.agent_steps:,} of {until + 1:,} agent steps before the "
                      "update", file=sys.stderr, flush=True)  # fmt: skip

    def _last_step_and_update(self) -> Update:
        """The step before an update, and the update, which begins while the step is emulated."""
        replay = self._replay
        assert replay is not None
        action = self._begin_step()
        if not isinstance(self._playing, Elsewhere):
            replay.begin(action)
            self._end_step(self._playing.step(action))
            return self._draw()
        self._playing.begin(action)
        replay.begin(action)
        update = self._draw()
        outcome = self._playing.end()
        right = replay.foresaw(update.indices, outcome)
        self._end_step(outcome)
        return update if right else self._draw()

    def _begin_step(self) -> int:
        """Count one more agent step and choose its action."""
        assert self._replay is not None and self._learner is not None
        if self.agent_steps and self.agent_steps % self.target_every == 0:
            self.target.load_state_dict(self.online.state_dict())
            self._learner.refresh_target()
        self.agent_steps += 1
        chance, which = self._exploration(self.agent_steps).tolist()
        if chance < self._epsilon(self.agent_steps):
            return int(which * self._playing.actions)
        observation, number = self._replay.observation(), self._noise_number()
        noise = self._noise_rows()[0](number)
        return self._learner.act(torch.from_numpy(observation)[None], noise, number)

    def _end_step(self, outcome: environment.Outcome) -> None:
        assert self._replay is not None
        self._replay.finish(outcome)
        self.episodes += outcome.terminal or outcome.truncated
        if outcome.score is not None:
            self.scores.append(outcome.score)

    def _draw(self) -> Update:
        assert self._replay is not None and self._learner is not None
        self._replay.flush()
        beta = self._beta(self.agent_steps)
        (noise, target_noise), number = self._noise_rows(), self._noise_number()
        return self._learner.update(
            self._fractions(self.updates), self._replay.size, beta, noise(number), number,
            target_noise(self.updates),
        )  # fmt: skip

    # ------------------------------------------------------------ what is made when it is needed

    def _prepare(self, half: bool) -> Learner:
        overlap = self.support.is_cuda if self._overlap is None else self._overlap
        if overlap and not isinstance(self._playing, Elsewhere):
            begun = self._replay is not None
            self._playing = Elsewhere(self._playing, self._playing_settings, begun)
        if self._replay is None:
            self._replay = self._new_replay()
            self._replay.start(self._playing.reset())
        if self._learner is None or self._learner.half != half:
            self._learner = Learner(
                self.online, self.target, self.support, self._replay, double=self._double,
                half=half, held=self._noise_every > 1,
            )  # fmt: skip
        return self._learner

    def _new_replay(self) -> Replay:
        device = self.support.device
        replay = Replay(
            self._capacity, self._playing.shape, self._playing.dtype, stack=self._playing.stack,
            n_step=self.n_step, gamma=self.gamma, device=device, **self._priorities,
        )  # fmt: skip
        if self.folder is not None:
            frame = replay.frames[0].numel() * replay.frames.element_size()
            replay.log = FrameLog(self.folder / "replay", frame, self._capacity)
        return replay

    def _noise_number(self) -> int:
        """Of the online network's noise, for the agent step that was begun last."""
        return -(-self.agent_steps // self._noise_every)

    def _noise_rows(self) -> tuple[Rows, Rows]:
        """Noise of the online network by number, of the target network by update."""
        device = self.support.device
        if self._noise is None or self._noise[0] != device:
            draw = factor_noise(self.online.noise_size, device)
            online = Rows(self._seed, "noise online", draw, 256)
            target = Rows(self._seed, "noise target", draw, 64)
            self._noise = (device, online, target)
        return self._noise[1:]

    def _apply(self, fn: Any, recurse: bool = True) -> "Rainbow":
        """Moves to a device come through here: the replay must fit there."""
        super()._apply(fn, recurse)
        frame = math.prod(self._playing.shape) * np.dtype(self._playing.dtype).itemsize
        needed = self._capacity * (frame + SLOT_BYTES)
        free = available_bytes(self.support.device)
        if needed > free:
            raise ValueError(
                f"capacity={self._capacity}: the replay takes {needed / 1e9:.1f} GB, "
                f"{free / 1e9:.1f} GB are free on {self.support.device}"
            )
        return self

    # ------------------------------------------------------------ checkpoints

    def get_extra_state(self) -> dict[str, Any]:
        return {
            "agent_steps": self.agent_steps, "updates": self.updates, "episodes": self.episodes,
            "scores": list(self.scores), "smoothed_loss": self.smoothed_loss,
            "environment": self._playing.state() if self._replay else None,
            "replay": self._replay.state() if self._replay else None,
        }  # fmt: skip

    def set_extra_state(self, state: dict[str, Any]) -> None:
        if state["replay"] is not None:
            replay = self._new_replay()
            replay.restore(state["replay"])
            self._replay = replay
            self._playing.restore(state["environment"])
        self.agent_steps, self.updates = state["agent_steps"], state["updates"]
        self.episodes, self.smoothed_loss = state["episodes"], state["smoothed_loss"]
        self.scores = deque(state["scores"], maxlen=GAMES_REMEMBERED)
        self._learner = None
