"""Rainbow's arguments: what each may be, and the two schedules that are made of them."""

import math
from typing import NamedTuple

from tasks.rainbow.environment import STACK
from tasks.task import check_counts, check_flags, check_numbers, check_texts


class Epsilon(NamedTuple):
    """Probability of a random action at agent step t."""

    start: float
    end: float
    decay: float

    def __call__(self, t: int) -> float:
        return self.end + (self.start - self.end) * math.exp(-t / self.decay)


class Beta(NamedTuple):
    """Power of the importance weights at agent step t: from ``start`` to 1, where it stays."""

    start: float
    steps: int

    def __call__(self, t: int) -> float:
        return min(1.0, self.start + (1 - self.start) * t / self.steps)


def check(
    *, seeds, game, sticky, life_is_episode, clip_rewards, batch, capacity, learning_starts,
    train_every, target_every, gamma, n_step, double, dueling, noisy, sigma, noise_every,
    prioritized, alpha, beta, beta_steps, greatest_decay, normalise_weights, distributional, atoms,
    v_min, v_max, epsilon, epsilon_end, epsilon_decay, eval_games, eval_most_steps, overlap, video,
) -> None:  # fmt: skip
    """Raises ValueError for the first argument of `Rainbow` that is not what it should be."""
    if len(seeds) != 1:
        raise ValueError(f"seeds={list(seeds)}: rainbow runs one seed at a time; sweep `seed`")
    check_texts(game=game)
    check_flags(
        life_is_episode=life_is_episode, clip_rewards=clip_rewards, double=double, dueling=dueling,
        noisy=noisy, prioritized=prioritized, video=video, normalise_weights=normalise_weights,
        distributional=distributional, **({} if overlap is None else {"overlap": overlap}),
    )  # fmt: skip
    check_counts(
        1, batch=batch, train_every=train_every, target_every=target_every, n_step=n_step,
        noise_every=noise_every, beta_steps=beta_steps, eval_games=eval_games,
        eval_most_steps=eval_most_steps,
    )  # fmt: skip
    check_counts(2, atoms=atoms)
    check_counts(n_step + 2 * STACK, capacity=capacity)
    check_counts(n_step, learning_starts=learning_starts)
    check_numbers(
        "a number from 0 to 1", lambda x: 0 <= x <= 1, gamma=gamma, alpha=alpha, beta=beta,
        greatest_decay=greatest_decay, epsilon=epsilon, epsilon_end=epsilon_end,
    )  # fmt: skip
    if sticky is not None:
        check_numbers("a number in [0, 1), or null,", lambda x: 0 <= x < 1, sticky=sticky)
    check_numbers("a positive number", lambda x: x > 0, sigma=sigma, epsilon_decay=epsilon_decay)
    check_numbers("a finite number", math.isfinite, v_min=v_min, v_max=v_max)
    if not v_min < v_max:
        raise ValueError(f"v_min={v_min}: less than v_max={v_max} expected")
