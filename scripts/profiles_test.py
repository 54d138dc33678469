"""Performance profiles against a hand-computed example and a plain reference."""

import math

import numpy as np
import pytest
from scipy import stats

from scripts import profiles, statistics
from scripts.profiles import TAU_MAX, Problem

NONE = math.nan


def problem(experiment, *columns, horizon=100):
    steps = np.array(columns, dtype=float).T
    return Problem(experiment, f"{experiment} {columns}", horizon, tuple(range(len(steps))), steps)


# Restricted means of a, b, c:    10, 20, never (one seed each at 10, 20)
EASY = problem("one", [10, 10], [10, 30], [NONE, NONE])
#                                 80, 40, 40 (two of a's three seeds are at 70)
HARD = problem("one", [70, 70, NONE], [40, 40, 40], [30, 50, 40])
# One seed of four, and half of them, are not most of them.
LUCK = problem("one", [1, NONE, NONE, NONE], [1, 1, NONE, NONE], [90, 90, 90, NONE])
#                                 nobody
NEVER = problem("two", [NONE, NONE], [NONE, NONE], [NONE, NONE])


def test_by_hand():
    """Weights 1/4, 1/4, 1/2; ratios a: 1, 2, inf; b: 2, 1, inf; c: inf, 1, inf."""
    assert profiles.ratios(LUCK, np.ones((1, 4))).tolist() == [[math.inf, math.inf, 1]]
    board = profiles.board([EASY, HARD, NEVER], seed=0)
    assert board.weights.tolist() == [0.25, 0.25, 0.5]
    assert board.ratios.tolist() == [[1, 2, math.inf], [2, 1, 1], [math.inf] * 3]
    assert [e.value for e in board.profile(1)] == [0.25, 0.25, 0.25]
    assert [e.value for e in board.profile(1.99)] == [0.25, 0.25, 0.25]
    assert [e.value for e in board.profile(2)] == [0.5, 0.5, 0.25]
    assert [e.value for e in board.profile(1e9)] == [0.5, 0.5, 0.25]
    # log2 2 is a quarter of log2 16
    assert [e.value for e in board.scores()] == pytest.approx([0.4375, 0.4375, 0.25])
    assert board.ahead(0, 2).value == pytest.approx(0.1875)


def plain(problems, index):
    """The same from definitions, in loops: (rho at tau, score) for each optimizer, where ``index``
    gives the seeds of each experiment."""
    experiments = [p.experiment for p in problems]
    found = []
    for s in range(problems[0].steps.shape[1]):
        rho = {}
        for tau in np.geomspace(1, TAU_MAX, 4001):
            rho[tau] = 0.0
        for p in problems:
            times = {}
            for o in range(p.steps.shape[1]):
                own = [p.steps[i, o] for i in index[p.experiment]]
                capped = [p.horizon if math.isnan(t) else t for t in own]
                solved = sum(not math.isnan(t) for t in own) > len(own) / 2
                times[o] = sum(capped) / len(own) if solved else math.inf
            best = min(times.values())
            ratio = math.inf if times[s] == math.inf else times[s] / best
            weight = 1 / experiments.count(p.experiment) / len(set(experiments))
            for tau in rho:
                rho[tau] += weight * (ratio <= tau)
        taus = np.array(list(rho))
        area = np.trapezoid(list(rho.values()), np.log2(taus)) / math.log2(TAU_MAX)
        found.append((rho, float(area)))
    return found


def random_problems(chance, n=6, optimizers=3):
    made = []
    for experiment, horizon in (("one", 50), ("one", 80), ("two", 60)):
        steps = chance.integers(1, 100, (n, optimizers)).astype(float)
        steps[steps > horizon] = NONE
        made.append(Problem(experiment, str(len(made)), horizon, tuple(range(n)), steps))
    return made


def test_against_the_definition_in_loops():
    chance = np.random.default_rng(0)
    for _ in range(5):
        problems = random_problems(chance)
        board = profiles.board(problems, seed=0, resamples=1000)
        expected = plain(problems, {"one": range(6), "two": range(6)})
        for s, (rho, area) in enumerate(expected):
            assert board.scores()[s].value == pytest.approx(area, abs=1e-3)
            for tau in list(rho)[::500]:
                assert board.profile(tau)[s].value == pytest.approx(rho[tau])


def test_intervals_against_resampling_in_loops():
    """Other draws, the same distribution, within the error of both."""
    chance = np.random.default_rng(3)
    problems = random_problems(chance, n=8)
    board = profiles.board(problems, seed=0)
    draws = []
    for _ in range(1500):
        index = {name: chance.integers(0, 8, 8) for name in ("one", "two")}
        row = []
        for s in range(3):
            total = 0.0
            for p, weight in zip(problems, (0.25, 0.25, 0.5), strict=True):
                sample = p.steps[index[p.experiment]]
                mean = np.where(np.isnan(sample), p.horizon, sample).mean(axis=0)
                mean[np.isnan(sample).mean(axis=0) >= 0.5] = np.inf
                if np.isfinite(mean[s]):
                    total += weight * max(0.0, 1 - np.log2(mean[s] / mean.min()) / 4)
            row.append(total)
        draws.append(row)
    draws = np.array(draws)
    for s, score in enumerate(board.scores()):
        reference = statistics.comparison(score.value, draws[:, s], draws[:, s], 8)
        assert (score.low, score.high) == pytest.approx((reference.low, reference.high), abs=0.03)
        # half or most of the seeds is a jump: distributions are compared, not their quantiles
        assert stats.ks_2samp(score.low_draws, draws[:, s]).statistic < 0.06
    apart = board.ahead(0, 1)
    assert apart.p_above(0) == pytest.approx(
        statistics.comparison(0, draws[:, 0] - draws[:, 1], draws[:, 0] - draws[:, 1], 8).p_above(
            0
        ),
        abs=0.03,
    )


def test_problems_of_an_experiment_share_their_seeds_and_others_do_not():
    twice = profiles.board([EASY, EASY], seed=0).draws
    assert (twice[0] == twice[1]).all()
    other = problem("two", [10, 10], [10, 30], [NONE, NONE])
    apart = profiles.board([EASY, other], seed=0)
    assert (apart.draws[0] != apart.draws[1]).any()
    assert (apart.draws[0] == twice[0]).all()  # whatever else is on the board


def test_one_more_optimizer_that_never_gets_there_changes_nothing():
    chance = np.random.default_rng(1)
    for p in random_problems(chance):
        more = Problem(p.experiment, p.name, p.horizon, p.seeds,
                       np.column_stack([p.steps, np.full(len(p.seeds), NONE)]))  # fmt: skip
        before, after = profiles.board([p], seed=0).draws, profiles.board([more], seed=0).draws
        assert (before == after[..., :-1]).all() and np.isinf(after[..., -1]).all()


def test_unlike_problems_are_refused():
    with pytest.raises(ValueError, match="same optimizers"):
        profiles.board([EASY, problem("two", [1, 2])], seed=0)
    with pytest.raises(ValueError, match="at least one problem"):
        profiles.board([], seed=0)
