"""What a tuning budget is worth: the expected result of the best of k trials.

Of n trials with the same space for every optimizer, k are drawn without replacement, the one that
is best on the tuning seeds is chosen, and its result on the report seeds counts. The expectation
over all draws has a closed form: the trial of rank r is the best of k with probability
C(n - r, k - 1) / C(n, k). Its interval resamples trials and report seeds, both together for all
optimizers, as they share them. Beyond half the trials the few best would decide alone: not shown.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import special

from scripts.statistics import BOOTSTRAP_SEED, Comparison, comparison

Floats = NDArray[np.float64]


def chances(n: int, budgets: Sequence[int]) -> Floats:
    """(budgets, n): how probably the trial of each rank, the best first, is the best of k drawn."""
    ranks, k = np.arange(1, n + 1)[None, :], np.asarray(budgets)[:, None]
    if k.min() < 1 or k.max() > n:
        raise ValueError(f"budgets from 1 to the number of trials, {n}, expected")
    found = np.exp(_log_choose(n - ranks, k - 1) - _log_choose(np.full_like(k, n), k))
    return np.where(n - ranks >= k - 1, found, 0.0)


def expected_best(tune: Floats, report: Floats, budgets: Sequence[int]) -> Floats:
    """(budgets,): ``tune``, (trials,), chooses, the smallest; ``report``, (trials,), counts.

    Of trials that are equal on the tuning seeds each is as good a choice: their mean counts.
    """
    _, group = np.unique(tune, return_inverse=True)
    equal = np.bincount(group, weights=report) / np.bincount(group)
    order = np.argsort(group, kind="stable")
    return chances(len(tune), budgets) @ equal[group][order]


def curves(
    tune: Mapping[str, Floats], report: Mapping[str, Floats], budgets: Sequence[int], *,
    seed: int = BOOTSTRAP_SEED, resamples: int = 2000,
) -> tuple[dict[str, Floats], dict[str, Floats]]:  # fmt: skip
    """The tuning curve of each optimizer, (budgets,), and its resamples, (resamples, budgets).

    ``tune``, (trials,), the mean over the tuning seeds; ``report``, (trials, seeds).
    """
    shapes = {values.shape for values in report.values()}
    if len(shapes) != 1 or {(len(t),) for t in tune.values()} != {s[:1] for s in shapes}:
        raise ValueError("the same trials and seeds expected for every optimizer")
    ((trials, seeds),) = shapes
    chance = np.random.default_rng(seed)
    draws: dict[str, list[Floats]] = {name: [] for name in report}
    for _ in range(resamples):
        drawn = chance.integers(0, trials, trials)
        weights = np.bincount(chance.integers(0, seeds, seeds), minlength=seeds) / seeds
        for name, values in report.items():
            means = values[drawn] @ weights
            draws[name].append(expected_best(tune[name][drawn], means, budgets))
    means = {
        name: expected_best(tune[name], values.mean(axis=1), budgets)
        for name, values in report.items()
    }
    return means, {name: np.array(each) for name, each in draws.items()}


def difference(
    a: str, b: str, means: Mapping[str, Floats], draws: Mapping[str, Floats], place: int, n: int
) -> Comparison:
    """a - b at the ``place``-th budget; ``n``: the fewer of trials and seeds, both resampled."""
    apart = draws[a][:, place] - draws[b][:, place]
    return comparison(float(means[a][place] - means[b][place]), apart, apart, n)


def _log_choose(n: NDArray[np.int64], k: NDArray[np.int64]) -> Floats:
    n = np.maximum(n, k)  # where it is larger there is nothing to choose; the caller says 0
    return special.gammaln(n + 1) - special.gammaln(k + 1) - special.gammaln(n - k + 1)
