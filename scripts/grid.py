"""The best of a grid of learning rates, as the tuning seeds see it."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from scripts.statistics import MIN_SEEDS, Estimate


class Choice(NamedTuple):
    """What was chosen.

    Attributes:
        lr: the best.
        tied: those that the tuning seeds cannot tell from it; it is one of them.
        on_edge: it is the least or the greatest of the grid, so that a better one may lie beyond, and
            none between these is tied with it.
    """

    lr: float
    tied: frozenset[float]
    on_edge: bool


def choose(
    means: Mapping[float, float],
    worse: Callable[[float, float], Estimate],
    preferred: Callable[[float], float] = lambda lr: lr,
) -> Choice:
    """The learning rate with the smallest of ``means``.

    A lucky hit or two of a setting that does not work otherwise must not decide where in its grid
    the best one lies: that is what ties are for.

    Args:
        means: over the tuning seeds, of each learning rate of the grid.
        worse: by how much the first learning rate is worse than the second, seed by seed.
        preferred: of exactly equal ones that where this is smallest.
    """
    best = min(means, key=lambda lr: (means[lr], preferred(lr)))
    tied = frozenset(lr for lr in means if lr == best or _cannot_tell(worse(lr, best)))
    ends = {min(means), max(means)}
    return Choice(best, tied, best in ends and tied <= ends)


def _cannot_tell(worse: Estimate) -> bool:
    return worse.value == 0 if worse.n < MIN_SEEDS else worse.low <= 0
