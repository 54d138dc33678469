"""Performance profiles over problems (Dolan and Moré 2002), with intervals over seeds.

Of optimizer s on problem p, t[p, s] is the restricted mean of the steps to the target, where a
censored seed counts as the horizon, and inf unless more than half of the seeds get there, which
one lucky seed would not show; r[p, s] = t[p, s] / min over
all s of t[p, s], inf too where nobody does. The profile

    rho_s(tau) = sum of w[p] over the problems with r[p, s] <= tau

is the weighted share of problems on which s takes at most tau times as long as the best. The
problems of one experiment share one unit of weight, so that nine noise levels do not outvote one
translation task; weights sum to 1. The score is the area under rho against log2 tau from 1 to
TAU_MAX, over that of a profile that is 1 throughout:

    score_s = sum of w[p] max(0, 1 - log2 r[p, s] / log2 TAU_MAX)

Intervals resample seeds, the same for all optimizers and for all problems of an experiment that
share them, as these see the same random streams; everything, the best one too, is then computed anew.
Noise makes the best of several look better than it is, so that scores of optimizers that are nearly
alike come out too small, all of them by about the same; the difference of two scores does not, and
is what an order rests on. In simulations (5 problems, 6 optimizers, 10 or 20 seeds, none to all of
them reaching a target) its interval covers in 93 to 97 of 100 cases.
"""

import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scripts.statistics import BOOTSTRAP_SEED, RESAMPLES, Comparison, comparison

TAU_MAX = 16.0  # slower than that is as good as never; fixed before the first board

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Problem:
    experiment: str
    name: str
    horizon: float
    seeds: tuple[int, ...]
    steps: Floats  # (seeds, optimizers), NaN: censored


@dataclass(frozen=True)
class Board:
    """Ratios and weights of all problems, as measured and for each resample of the seeds."""

    weights: Floats  # (problems,)
    ratios: Floats  # (problems, optimizers)
    draws: Floats  # (problems, resamples, optimizers)
    n: int  # the fewest seeds of a problem: no interval is narrower than it allows

    def profile(self, tau: float) -> list[Comparison]:
        """rho(tau) of each optimizer."""
        return self._intervals(_share(self.weights, self.ratios, tau),
                               _share(self.weights, self.draws, tau))  # fmt: skip

    def scores(self) -> list[Comparison]:
        """The area under the profile of each optimizer, from 0 to 1."""
        return self._intervals(_area(self.weights, self.ratios), _area(self.weights, self.draws))

    def ahead(self, a: int, b: int) -> Comparison:
        """score(a) - score(b) of two optimizers, resampled together."""
        value, draws = _area(self.weights, self.ratios), _area(self.weights, self.draws)
        apart = draws[:, a] - draws[:, b]
        return comparison(float(value[a] - value[b]), apart, apart, self.n)

    def _intervals(self, values: Floats, draws: Floats) -> list[Comparison]:
        return [comparison(float(value), column, column, self.n)
                for value, column in zip(values, draws.T, strict=True)]  # fmt: skip


def board(
    problems: Sequence[Problem], *, seed: int = BOOTSTRAP_SEED, resamples: int = RESAMPLES
) -> Board:
    """The board of ``problems``, which hold the same optimizers in the same order."""
    if len({problem.steps.shape[1] for problem in problems}) != 1:
        raise ValueError("at least one problem, and the same optimizers in each, expected")
    measured = [ratios(problem, np.ones((1, len(problem.seeds))))[0] for problem in problems]
    draws = []
    for problem in problems:
        n = len(problem.seeds)
        # by name, not by place: another experiment on the board changes no interval of this one
        chance = np.random.default_rng([seed, zlib.crc32(problem.experiment.encode()), n])
        draws.append(ratios(problem, chance.multinomial(n, np.full(n, 1 / n), resamples)))
    fewest = min(len(problem.seeds) for problem in problems)
    return Board(weights(problems), np.array(measured), np.array(draws), fewest)


def weights(problems: Sequence[Problem]) -> Floats:
    """(problems,): one unit an experiment, shared by its problems; they sum to 1."""
    count = Counter(problem.experiment for problem in problems)
    return np.array([1 / count[problem.experiment] / len(count) for problem in problems])


def ratios(problem: Problem, counts: NDArray[np.int64] | Floats) -> Floats:
    """(resamples, optimizers): r where each seed occurs as often as ``counts`` says,
    (resamples, seeds)."""
    counts = np.asarray(counts, dtype=float)
    reached = np.isfinite(problem.steps)
    capped = np.where(reached, problem.steps, problem.horizon)
    mean = counts @ capped / counts.sum(axis=1, keepdims=True)  # whole numbers: sums are exact
    mean = np.where(counts @ reached > counts.sum(axis=1, keepdims=True) / 2, mean, np.inf)
    best = mean.min(axis=1, keepdims=True)
    return np.divide(mean, best, out=np.full_like(mean, np.inf), where=np.isfinite(mean))


def _share(weights: Floats, ratios: Floats, tau: float) -> Floats:
    return np.tensordot(weights, ratios <= tau, axes=1)


def _area(weights: Floats, ratios: Floats) -> Floats:
    height = np.maximum(0, 1 - np.log2(ratios) / np.log2(TAU_MAX))
    return np.asarray(np.tensordot(weights, height, axes=1), dtype=float)
