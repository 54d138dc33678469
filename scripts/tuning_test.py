import math
from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from runners.config import ConfigError
from runners.plan import plan
from runners.search import log_uniform, one_minus_log_uniform
from scripts import tuning
from scripts.figures import tuning_rosenbrock


def brute(tune, report, k):
    """The mean over all draws of k trials of the result of the one that is best in tuning."""
    return np.mean(
        [report[min(d, key=lambda t: tune[t])] for d in combinations(range(len(tune)), k)]
    )


def test_the_expected_best_is_the_mean_over_all_draws():
    chance = np.random.default_rng(0)
    tune, report = chance.random(9), chance.random(9)
    found = tuning.expected_best(tune, report, range(1, 10))
    assert found == pytest.approx([brute(tune, report, k) for k in range(1, 10)])
    assert found[0] == pytest.approx(report.mean()) and found[-1] == report[tune.argmin()]
    assert tuning.chances(9, range(1, 10)).sum(axis=1) == pytest.approx(np.ones(9))
    with pytest.raises(ValueError, match="budgets from 1 to the number of trials"):
        tuning.chances(9, [10])


def test_trials_that_are_equal_in_tuning_share_their_chance():
    tune, report = np.array([1.0, 0.0, 0.0]), np.array([9.0, 1.0, 3.0])
    assert tuning.expected_best(tune, report, [3]) == pytest.approx([2.0])
    shuffled = [2, 0, 1]
    assert tuning.expected_best(tune[shuffled], report[shuffled], [2]) == pytest.approx(
        tuning.expected_best(tune, report, [2])
    )


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    """Uniform results that tuning knows exactly: the best of k draws is 1 / (k + 1) on average."""
    chance, k, covered = np.random.default_rng(1), 4, 0
    for _ in range(100):
        values = chance.random(40)
        _, draws = tuning.curves({"a": values}, {"a": values[:, None]}, [k], seed=0, resamples=300)
        low, high = np.quantile(draws["a"][:, 0], [0.025, 0.975])
        covered += low <= 1 / (k + 1) <= high
    assert 86 <= covered <= 100


def test_optimizers_that_share_their_points_are_compared_as_pairs():
    chance = np.random.default_rng(2)
    values = chance.random((20, 5)) * 10
    arms = {"a": values + 1.0, "b": values}
    tune = {name: each.mean(axis=1) for name, each in arms.items()}
    means, draws = tuning.curves(tune, arms, [1, 5], seed=0, resamples=1000)
    gap = tuning.difference("a", "b", means, draws, 1, 20)
    assert gap.value == pytest.approx(1) and gap.low == pytest.approx(1)
    assert gap.p_above(0) < 0.01 and gap.p_below(0) > 0.99
    with pytest.raises(ValueError, match="the same trials and seeds"):
        tuning.curves(tune, {"a": values, "b": values[:9]}, [1], seed=0)


def test_who_flies_past_the_minimum_and_diverges_has_not_reached_it():
    common = {"optimizer": "adabound", "lr": 0.1, "beta1": 0.9, "beta2": 0.9, "phase": "report",
              "run": "r"}  # fmt: skip
    rows = [common | {"seed": seed, "replica": seed, "step": step, "metric": "steps_to_tol",
                      "value": value}
            for seed, value in ((0, 90.0), (1, 90.0), (2, np.nan)) for step in (100, 2000)]  # fmt: skip
    rows.append(common | {"seed": 1, "replica": 1, "step": 2000, "metric": "diverged_at",
                          "value": 1500.0})  # fmt: skip
    found = tuning_rosenbrock._outcomes(pd.DataFrame(rows), {"steps": 2000})
    assert found.sort_values("seed").value.tolist() == [90, 2000, 2000]


def test_trials_are_the_same_points_for_every_optimizer_and_fill_the_space():
    jobs = plan(["experiment=tuning_rosenbrock", "scale=quick"])
    points = {}
    for job in jobs:
        values = job.config.values["optimizer"]
        points.setdefault(job.config.names["optimizer"], []).append(
            (values["lr"], *values["betas"])
        )
    assert len(points) == 5 and len({tuple(p) for p in points.values()}) == 1
    lrs, us, vs = np.array(points["adam"]).T
    unit = [np.log10(lrs) / 4 + 1, np.log10(1 - us) / 2 + 1, np.log10(1 - vs) / 3 + 1]
    for coordinate in unit:  # evenly: no fifth of the range has more than a third of the trials
        counts = np.histogram(coordinate, bins=5, range=(0, 1))[0]
        assert counts.sum() == len(lrs) and 0 < counts.min() and counts.max() < len(lrs) / 3
    assert abs(np.corrcoef(unit) - np.eye(3)).max() < 0.3


def test_a_longer_search_goes_on_with_the_shorter_one_and_a_trial_can_be_run_alone():
    assert log_uniform(0, 0, 1e-4, 1.0) == pytest.approx(0.01)  # Halton, base 2: 1/2, 1/4, 3/4
    assert math.log10(log_uniform(1, 0, 1e-4, 1.0)) == pytest.approx(-3)
    assert one_minus_log_uniform(0, 1, 0.001, 1.0) == pytest.approx(0.99)  # base 3: 1/3
    (job,) = plan(["experiment=tuning_deep_fc", "optimizer=laprop", "trial=1"])
    assert job.config.values["optimizer"]["lr"] == log_uniform(1, 0, 1e-5, 0.1)
    with pytest.raises(ConfigError, match="the experiment sweeps trial"):
        plan(["experiment=tuning_deep_fc", "trial=9999"])
