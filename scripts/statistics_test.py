"""Coverage by simulation, references, and what must never happen (a censored time dropped)."""

import math

import numpy as np
import pytest
from scipy import stats

from scripts import statistics as st

SIMULATIONS = 2000
TWO_POINTS = 0.02
NAN = float("nan")


# ---------------------------------------------------------------- coverage and error rates


@pytest.mark.parametrize("n", [20, 200])
@pytest.mark.parametrize("horizon", [math.inf, 1.2, 0.8, 0.69])
def test_interval_of_the_median_covers_in_95_of_100(n: int, horizon: float) -> None:
    # exponential times; the true median log 2 = 0.693 lies just beyond the last horizon, and at the
    # two in between 30% and 45% of the times are censored
    rng = np.random.default_rng([n, int(100 * min(horizon, 9))])
    truth = math.log(2) if math.log(2) < horizon else math.inf
    cap = min(horizon, 1e9)
    hits = 0
    for _ in range(SIMULATIONS):
        times = rng.exponential(size=n)
        got = st.median_interval(np.where(times > cap, NAN, times), cap, seed=1, resamples=4000)
        hits += got.low <= truth <= got.high
    # beyond the horizon only the lower end can be wrong: half of the errors are left
    nominal = 0.95 if truth < math.inf else 0.975
    assert abs(hits / SIMULATIONS - nominal) <= TWO_POINTS, hits / SIMULATIONS


@pytest.mark.parametrize("n", [20, 200])
def test_paired_differences_cover_and_reject_as_often_as_they_say(n: int) -> None:
    # restricted means of two optimizers that share the difficulty of a seed; about 20% censored
    rng = np.random.default_rng(n)
    simulations = SIMULATIONS if n < 100 else SIMULATIONS // 5
    hits = above = below = 0
    for _ in range(simulations):
        seeds = rng.exponential(size=n)
        a, b = (seeds + rng.exponential(size=n) for _ in range(2))
        a, b = (np.where(t > 3, NAN, t) for t in (a, b))
        got = st.difference_of_restricted_means(a, b, 3, seed=1, resamples=2000)
        hits += got.low <= 0 <= got.high
        above += got.p_above(0) <= 0.025
        below += got.p_below(0) <= 0.025
    margin = 3 * math.sqrt(0.05 * 0.95 / simulations)
    assert abs(hits / simulations - 0.95) <= margin
    assert abs((above + below) / simulations - 0.05) <= margin


@pytest.mark.parametrize(
    ("n", "shared", "least", "most"),
    [(50, 0.0, 0.93, 0.97), (20, 0.3, 0.95, 1)],
)
def test_ratio_of_medians_covers(n: int, shared: float, least: float, most: float) -> None:
    # what the seeds share makes it conservative: never more false alarms than promised
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(SIMULATIONS // 4):
        seeds = rng.normal(size=n)
        a, b = (np.exp(shared * seeds + 0.2 * rng.normal(size=n)) for _ in range(2))
        got = st.ratio_of_medians(2 * a, b, 100, seed=1, resamples=1000)
        hits += got.low <= 2 <= got.high
    assert least <= hits / (SIMULATIONS // 4) <= most


# ---------------------------------------------------------------- references


def test_holm_by_hand() -> None:
    p = [0.01, 0.04, 0.03, 0.005]
    assert st.holm(p).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_bootstrap_of_a_mean_against_scipy() -> None:
    values = np.random.default_rng(5).gamma(3, size=200)
    got = st.mean_interval(values, seed=1)
    want = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile",
                           rng=np.random.default_rng(2)).confidence_interval  # fmt: skip
    width = want.high - want.low
    assert got.low == pytest.approx(want.low, abs=0.05 * width)
    assert got.high == pytest.approx(want.high, abs=0.05 * width)


@pytest.mark.parametrize("side", [1, -1])
def test_beyond_a_margin_has_two_sides_and_within_it_both(side) -> None:
    values = side * np.random.default_rng(6).normal(0.3, 0.1, size=12)
    got = st.mean_interval(values, seed=1)
    near, far = (got.p_above, got.p_below) if side > 0 else (got.p_below, got.p_above)
    assert 0.01 < near(side * 0.25) < 0.05 and 0.01 < far(side * 0.4) < 0.1
    assert got.p_beyond(0.25) == 2 * near(side * 0.25)
    assert got.p_within(0.4) == far(side * 0.4)
    assert got.p_beyond(0.5) == 1.0 and got.p_within(0.1) > 0.99


def test_p_value_and_interval_agree() -> None:
    values = np.random.default_rng(6).normal(size=20)
    got = st.mean_interval(values, seed=1)
    assert got.p_above(got.low - 1e-3) <= 0.0255 and got.p_above(got.low + 1e-3) >= 0.0245
    assert got.p_below(got.high + 1e-3) <= 0.0255 and got.p_below(got.high - 1e-3) >= 0.0245
    assert got.p_above(got.low - 0.2) < 0.02 and got.p_above(got.low + 0.2) > 0.03


@pytest.mark.parametrize("n", [10, 20])
@pytest.mark.parametrize("draw", ["normal", "exponential"])
def test_interval_of_a_mean_covers(n: int, draw: str) -> None:
    """Of most verdicts: ten seeds. Skewed values cost a few hundredths."""
    chance = np.random.default_rng(n)
    samples = getattr(chance, draw)(size=(600, n))
    truth = {"normal": 0.0, "exponential": 1.0}[draw]
    found = [st.mean_interval(sample, seed=1, resamples=2000) for sample in samples]
    covered = np.mean([f.low <= truth <= f.high for f in found])
    assert (0.93 if draw == "normal" else 0.89) <= covered <= 0.98


def test_below_six_seeds_there_is_no_interval_and_no_test() -> None:
    few = st.mean_interval([1.0, 1.1, 1.2, 1.3, 1.4], seed=1)
    assert (few.low, few.high, few.p_above(0)) == (-math.inf, math.inf, 1.0)
    assert st.mean_interval([1.0, 1.1, 1.2, 1.3, 1.4, 1.5], seed=1).p_above(0) < 0.02


def test_percent_saved_is_that_of_the_ratio_of_means() -> None:
    """Against scipy's bootstrap of the ratio; a fixed denominator would be too wide here."""
    chance = np.random.default_rng(8)
    b = chance.gamma(4.0, size=40)
    a = 0.8 * b * chance.normal(1, 0.1, 40)
    got = st.percent_saved(a, b, seed=1)
    assert got.value == pytest.approx(100 * (b.mean() - a.mean()) / b.mean())
    want = stats.bootstrap((a, b), lambda a, b, axis: 100 * (1 - a.mean(axis) / b.mean(axis)),
                           paired=True, vectorized=True, method="percentile",
                           rng=np.random.default_rng(2)).confidence_interval  # fmt: skip
    width = want.high - want.low
    assert got.low == pytest.approx(want.low, abs=0.1 * width)
    assert got.high == pytest.approx(want.high, abs=0.1 * width)
    fixed = st.mean_interval(100 * (b - a) / b.mean(), seed=1)
    assert fixed.high - fixed.low > 1.2 * width
    assert math.isnan(st.percent_saved(a, -b, seed=1).value)
    spread = st.percent_saved(a - a.mean(), b - b.mean() + 0.01, seed=1)
    assert (spread.low, spread.high) == (-math.inf, math.inf)


def test_same_seed_same_interval_another_seed_another() -> None:
    values = np.random.default_rng(7).exponential(size=50)
    assert st.mean_interval(values, seed=1) == st.mean_interval(values, seed=1)
    assert st.mean_interval(values, seed=1) != st.mean_interval(values, seed=2)


# ---------------------------------------------------------------- censoring


def test_a_median_needs_more_than_half() -> None:
    assert st.censored_median([1, 2, 3, NAN, NAN], 10) == 3
    assert st.censored_median([1, 2, 3, NAN, NAN, NAN], 10) == math.inf  # exactly half
    assert st.censored_median([1, 2, 3, 4, NAN, NAN], 10) == 3.5
    assert st.censored_median([NAN], 10) == math.inf


def test_a_censored_time_counts_and_more_of_them_never_look_faster() -> None:
    reached = list(range(1, 21))
    assert st.restricted_mean([*reached, NAN], 100) == pytest.approx((sum(reached) + 100) / 21)
    assert st.median_interval([*reached, NAN], 100, seed=1).n == 21
    last = st.median_interval(reached, 100, seed=1)
    for censored in range(1, 21):
        times = [*reached[:-censored], *[NAN] * censored]
        got = st.median_interval(times, 100, seed=1)
        assert got.n == 20
        assert (got.value, got.low, got.high) >= (last.value, last.low, last.high)
        last = got
    assert (last.value, last.low, last.high) == (math.inf,) * 3


def test_ratio_of_censored_medians_claims_only_what_is_known() -> None:
    fast, never = [10.0] * 20, [NAN] * 20
    ratio = st.ratio_of_medians(never, fast, 40, seed=1)
    assert (ratio.value, ratio.low, ratio.high) == (math.inf, 4, math.inf)
    assert ratio.p_above(3.9) < 0.01 and ratio.p_above(4.1) > 0.9
    ratio = st.ratio_of_medians(fast, never, 40, seed=1)
    assert (ratio.value, ratio.low, ratio.high) == (0, 0, 0.25)
    ratio = st.ratio_of_medians(never, never, 40, seed=1)
    assert math.isnan(ratio.value) and (ratio.low, ratio.high) == (0, math.inf)
    assert min(ratio.p_above(1), ratio.p_below(1)) > 0.9


def test_pairing_takes_out_what_the_seeds_share() -> None:
    rng = np.random.default_rng(8)
    shared = rng.uniform(100, 1000, size=20)
    got = st.difference_of_restricted_means(shared + 5, shared + rng.normal(size=20), 2000, seed=1)
    assert 3 < got.low < 5 < got.high < 7
    a, b = st.align([3, 1, 2], [30, 10, 20], [1, 2, 3], [11, 21, 31])
    assert a.tolist() == [10, 20, 30] and b.tolist() == [11, 21, 31]


def test_one_seed_says_nothing() -> None:
    got = st.mean_interval([3.0], seed=1)
    assert (got.low, got.high) == (-math.inf, math.inf) and got.p_above(0) == 1.0


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: st.censored_median([], 10), "non-empty"),
        (lambda: st.censored_median([1, 11], 10), r"\(0, 10\]"),
        (lambda: st.censored_median([0], 10), r"\(0, 10\]"),
        (lambda: st.censored_median([math.inf], 10), "inf"),
        (lambda: st.restricted_mean([1], NAN), "horizon"),
        (lambda: st.mean_interval([1, NAN], seed=1), "finite"),
        (lambda: st.mean_interval([], seed=1), "non-empty"),
        (lambda: st.mean_interval([1.0, 2.0], seed=1, resamples=10), "too few"),
        (lambda: st.ratio_of_medians([1, 2], [1], 10, seed=1), "equally many"),
        (lambda: st.align([1, 2], [1, 2], [1, 3], [1, 2]), r"\[2, 3\]"),
        (lambda: st.align([1, 1], [1, 2], [1, 2], [1, 2]), "twice"),
        (lambda: st.align([], [], [], []), "0 seeds"),
        (lambda: st.align([1], [1, 2], [1], [1]), "1 seeds for 2"),
        (lambda: st.holm([0.1, NAN]), r"\[0, 1\]"),
        (lambda: st.holm([1.1]), r"\[0, 1\]"),
    ],
)
def test_bad_input_gets_one_clear_line(call, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- medians without a distribution


def test_order_interval_covers_whatever_the_distribution() -> None:
    rng = np.random.default_rng(3)
    for n in (6, 20, 101):
        hits = 0
        for draw in rng.standard_cauchy((2000, n)):
            found = st.order_interval(draw)
            hits += found.low <= 0 <= found.high
            assert found.n == n and found.value == np.median(draw)
        assert hits / 2000 >= 0.94
    # the textbook's ranks for 20 values: the 6th and the 15th
    found = st.order_interval(np.arange(1, 21))
    assert (found.low, found.value, found.high) == (6, 10.5, 15)
    assert st.order_interval([1, 2, 3, 4, math.inf, math.inf]).high == math.inf
    assert st.order_interval([1.0] * 5).low == -math.inf  # too few for an interval
    for bad in ([], [1.0, math.nan]):
        with pytest.raises(ValueError, match="values"):
            st.order_interval(bad)


def test_the_sign_flip_test_is_scipys_permutation_test():
    values = np.random.default_rng(3).normal(0.4, 1.0, 9).round(1)
    expected = stats.permutation_test(
        (values,), np.mean, permutation_type="samples", alternative="greater", n_resamples=np.inf
    ).pvalue
    assert st.flip_p(values) == pytest.approx(expected, rel=1e-12)


def test_ties_are_no_evidence():
    """Five seeds ahead by a step of the grid and five alike: 1/32, as the sign test has it."""
    gain = np.repeat([40.0, 0.0], 5)
    assert st.flip_p(gain) == 2**-5
    assert st.mean_interval(gain).p_above(0) == 2**-5
    assert st.mean_interval(-gain).p_below(0) == 2**-5
    assert st.mean_interval(np.zeros(10)).p_above(0) == 1


def test_a_mean_of_coarse_differences_keeps_its_level():
    chance = np.random.default_rng(5)
    draws = chance.choice([-40.0, 0.0, 40.0], p=[0.25, 0.5, 0.25], size=(1000, 10))
    rejected = np.mean([st.mean_interval(d, resamples=1000).p_above(0) <= 0.025 for d in draws])
    assert rejected <= 0.025 + 3 * np.sqrt(0.025 * 0.975 / 1000)
