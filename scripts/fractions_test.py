"""Exact references, coverage by enumeration and simulation, and bad input."""

import math
from itertools import product

import numpy as np
import pytest
from scipy import optimize, stats

from scripts import fractions

TWO_POINTS = 0.02


def test_wilson_covers_on_average_over_all_fractions() -> None:
    # exact, no simulation: sum the binomial over the outcomes whose interval covers
    for n in (20, 200):
        ends = np.array([fractions.wilson_interval(k, n) for k in range(n + 1)])
        p = np.linspace(0.02, 0.98, 97)[:, None]
        covered = (ends[:, 0] <= p) & (p <= ends[:, 1])
        coverage = (stats.binom.pmf(np.arange(n + 1), n, p) * covered).sum(axis=1)
        assert abs(coverage.mean() - 0.95) < 0.01
        assert coverage.min() > 0.92  # for some fractions it is a little less than promised


def test_interval_of_paired_fractions_covers() -> None:
    # exact over all pairs (only a, only b) of n = 20 seeds
    n, only_a, only_b = 20, 0.35, 0.10
    covered = 0.0
    for x, y in product(range(n + 1), repeat=2):
        chance = stats.multinomial.pmf([x, y, n - x - y], n, [only_a, only_b, 0.55])
        if chance > 1e-6:
            a, b = _pairs(x, y, n)
            got = fractions.difference_of_fractions(a, b)
            covered += chance * (got.low <= only_a - only_b <= got.high)
    assert abs(covered - 0.95) <= TWO_POINTS


def test_tango_interval_against_a_published_example_and_the_likelihood() -> None:
    # airway reactivity, 21 children: 1 only before, 7 only after (Fagerland et al. 2014, table 5)
    got = fractions.difference_of_fractions(*_pairs(1, 7, 21))
    assert (got.low, got.high) == pytest.approx((-0.517, -0.026), abs=5e-4)
    # no disagreement: Delta / (1 - Delta) = z^2 / n, by hand
    got = fractions.difference_of_fractions(*_pairs(0, 0, 20))
    want = 1.959964**2 / (20 + 1.959964**2)
    assert (got.low, got.high) == pytest.approx((-want, want), abs=1e-6)
    # the nuisance probability found numerically instead of in closed form
    x, y, n, delta = 3, 7, 20, 0.25

    def minus_log(q: float) -> float:
        rest = (n - x - y) * np.log(1 - 2 * q - delta)
        return -(x * np.log(q + delta) + y * np.log(q) + rest)

    q = optimize.minimize_scalar(minus_log, bounds=(1e-9, 0.375 - 1e-9), method="bounded").x
    score = (x - y - n * delta) / math.sqrt(n * (2 * q + delta - delta**2))
    got = fractions.p_fraction_difference_below(*_pairs(x, y, n), delta)
    assert got == pytest.approx(stats.norm.cdf(score), rel=1e-3)
    swapped = fractions.difference_of_fractions(*_pairs(7, 1, 21))
    assert (swapped.low, swapped.high) == pytest.approx((0.026, 0.517), abs=5e-4)


def test_the_test_of_a_bounded_mean_holds_its_level_in_the_worst_case() -> None:
    """Values of 0 and 1 whose mean is the threshold: all samples of each size."""
    for n, threshold in product((5, 10, 13, 20, 40), (0.1, 0.25, 0.5)):
        ones = np.arange(n + 1)
        p = np.array([fractions.p_mean_below([1.0] * k + [0.0] * (n - k), threshold) for k in ones])
        for level in (0.01, 0.025, 0.05):
            assert stats.binom.pmf(ones[p <= level], n, threshold).sum() <= level
    assert fractions.p_mean_below([0.0] * 13, 0.25) == pytest.approx(0.75**13)
    assert fractions.p_mean_below([0.1] * 100, 0.25) < 0.001  # and it rejects what is clear
    assert fractions.p_mean_below([0.5, 0.1], 0.25) == 1


def test_more_than_half_is_tested_by_the_binomial_tail() -> None:
    assert fractions.p_fraction_above(20, 20, 0.5) == pytest.approx(0.5**20)
    assert fractions.p_fraction_above(19, 20, 0.5) == pytest.approx(21 * 0.5**20)
    assert fractions.p_fraction_above(0, 20, 0.5) == 1


def test_references_from_scipy() -> None:
    for successes, n in ((0, 20), (3, 20), (20, 20), (77, 200)):
        want = stats.binomtest(successes, n).proportion_ci(method="wilson")
        assert fractions.wilson_interval(successes, n) == pytest.approx((want.low, want.high))
    a, b = _pairs(9, 2, 30)
    assert fractions.mcnemar_exact(a, b) == pytest.approx(stats.binomtest(2, 11).pvalue)
    assert fractions.mcnemar_exact(a, b, "greater") == pytest.approx(stats.binom.sf(8, 11, 0.5))
    assert fractions.mcnemar_exact(b, a, "greater") == pytest.approx(stats.binom.sf(1, 11, 0.5))
    assert fractions.mcnemar_exact(*_pairs(0, 0, 5)) == 1.0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: fractions.p_mean_below([0.5, 1.5], 0.25), "1.5"),
        (lambda: fractions.p_mean_below([], 0.25), "expected"),
        (lambda: fractions.wilson_interval(3, 2), "3/2"),
        (lambda: fractions.wilson_interval(0, 0), "0/0"),
        (lambda: fractions.mcnemar_exact([0.5], [1]), "True and False"),
        (lambda: fractions.mcnemar_exact([math.nan], [1]), "True and False"),
        (lambda: fractions.mcnemar_exact([1, 0], [1]), "number"),
        (lambda: fractions.p_fraction_difference_below([1], [1], 1), "threshold"),
    ],
)
def test_bad_input_gets_one_clear_line(call, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)


def _pairs(only_a: int, only_b: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.ones(n), np.ones(n)
    b[:only_a] = 0
    a[only_a : only_a + only_b] = 0
    return a, b
