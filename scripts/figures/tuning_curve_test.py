"""Verdicts on tuning budgets from tables made by hand."""

import math

import numpy as np
import pandas as pd
import pytest

from scripts.figures import training, tuning_curve
from scripts.judging import CONTRADICTED, SUPPORTED

TRIALS, SEEDS, TUNING = 40, range(12), range(1_000_000, 1_000_003)
EPS = {"laprop": 1e-15, "adam": 1e-15}


def outcomes(level):
    """Trial i of an optimizer ends at ``level[optimizer]`` + i, and a little more for each seed."""
    return pd.DataFrame([
        {"optimizer": name, "lr": 10.0**-i, "beta1": 0.9, "beta2": 0.9, "seed": seed,
         "phase": "tune" if seed >= 1_000_000 else "report", "value": base + i + 0.01 * (seed % 5)}
        for name, base in level.items() for i in range(TRIALS) for seed in (*SEEDS, *TUNING)
    ])  # fmt: skip


def verdicts(level, eps=EPS):
    found = outcomes(level)
    tables = tuning_curve.tables(found)
    fixed = {name: {"eps": value} for name, value in eps.items()}
    got = tuning_curve.verdicts("tuning_rosenbrock", found, tables, 100, "steps", fixed)
    return {v.claim.removeprefix("tuning_rosenbrock_"): v for v in got}


@pytest.mark.parametrize(("adam", "verdict"), [(60.0, SUPPORTED), (-60.0, CONTRADICTED)])
def test_the_better_at_every_budget_wins_and_the_other_way_round(adam, verdict):
    got = verdicts({"laprop": 0.0, "adam": adam})
    assert {v.verdict for v in got.values()} == {verdict}
    assert [v.effect for v in got.values()] == pytest.approx([adam, adam], abs=1e-6)
    assert "best of 4 of 40" in got["small_budget"].effect_unit
    assert "best of 20 of 40" in got["large_budget"].effect_unit


def test_the_expected_best_of_few_and_of_all_but_one_level():
    """The expectation of the smallest of k of 0, ..., n - 1 without replacement: (n - k) / (k + 1)."""
    curve = tuning_curve.tables(outcomes({"laprop": 0.0, "adam": 5.0}))["curve"]
    mine = curve[curve.optimizer == "laprop"].set_index("k").expected
    offset = np.mean([0.01 * (seed % 5) for seed in SEEDS])
    for k in (1, 4, 20):
        assert mine[k] == pytest.approx((TRIALS - k) / (k + 1) + offset)


def test_the_best_trial_is_that_of_the_tuning_seeds():
    found = outcomes({"laprop": 0.0, "adam": 5.0})
    report = found.phase == "report"
    place = -np.log10(found.lr)
    found.loc[report, "value"] += TRIALS - 1 - 2 * place[report]  # the other way round
    curve = tuning_curve.tables(found)["curve"]
    mine = curve[curve.optimizer == "laprop"].set_index("k").expected
    offset = np.mean([0.01 * (seed % 5) for seed in SEEDS])
    for k in (1, 4, 20):
        assert mine[k] == pytest.approx(TRIALS - 1 - (TRIALS - k) / (k + 1) + offset)


def test_another_eps_is_refused_unless_it_is_as_good_as_none():
    level = {"laprop": 0.0, "adam": 60.0}
    refused = verdicts(level, {"laprop": 1e-15, "adam": 1e-8})
    assert all("the eps differ" in v.refused for v in refused.values())
    tidy = pd.DataFrame(
        {"optimizer": ["laprop", "adam", "signsgd"], "eps": [1e-15, 1e-8, math.nan]}
    )
    assert training.fixed(tidy, "laprop", 1e-6) == training.fixed(tidy, "adam", 1e-6) == {"eps": 0}
    assert training.fixed(tidy, "adam") == {"eps": 1e-8} and training.fixed(tidy, "signsgd") == {}
