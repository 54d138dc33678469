"""Distances, verdicts and figure from synthetic paths with known answers."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from scripts import claims, judging
from scripts.figures import interpolation as figure
from scripts.figures import style
from scripts.judging import Verdict

SEEDS, STEPS = 12, [0, 50, 100, 150, 200]
CONFIG: dict[str, Any] = {
    "scale": "quick", "steps": 200, "sigma": [0.04], "momentum": 0.9, "second": 0.8,
}  # fmt: skip
SMALL = [0.5, 1e-2, 1e-8, 1e-16, 1e-18]


def run(name: str, apart: float, **hyper: Any) -> pd.DataFrame:
    """Paths of length 2 along x, shifted in y by ``apart`` times 2 at the second step alone."""
    rows = []
    for seed in range(SEEDS):
        factor = 1 + 0.1 * math.sin(seed)
        for step in STEPS:
            y = 2 * apart * factor if step == 100 else 0.0
            for metric, value in (("x", step / 100), ("y", y), ("distance", 1.0)):
                rows.append({"seed": seed, "replica": seed, "step": step, "metric": metric,
                             "value": value})  # fmt: skip
    same = {"optimizer": name, "lr": 1e-3, "phase": "report", "beta1": math.nan,
            "beta2": math.nan, "eps": math.nan, "momentum": math.nan, "momentum_of": None}  # fmt: skip
    key = f"{name} {hyper}"
    return pd.DataFrame(rows).assign(**{**same, "run": key, **hyper})


def synthetic(laprop=lambda value: 0.3 * value, adam=lambda value: 1.0) -> pd.DataFrame:
    runs = [
        run("signsgd", 0, momentum=0.9, momentum_of="sign"),
        run("signsgd", 0.7, momentum=0.9, momentum_of="gradient"),
        run("adam", 0, beta1=0.0, beta2=0.8, eps=1e-30),
    ]
    for value in SMALL:
        for name, apart in (("laprop", laprop), ("adam", adam)):
            for betas in ({"beta1": 0.9, "beta2": value}, {"beta1": value, "beta2": 0.8}):
                runs.append(run(name, apart(value), eps=1e-30, **betas))
    return pd.concat(runs, ignore_index=True)


def verdicts(tidy: pd.DataFrame) -> dict[str, Any]:
    found = figure.verdicts(tidy, figure.tables(tidy, CONFIG), CONFIG)
    return {v.claim: v for v in found}


def test_distances_are_the_largest_over_the_path_by_its_length() -> None:
    tables = figure.tables(synthetic().sample(frac=1, random_state=1), CONFIG)
    distance = tables["distance"].set_index(["limit", "optimizer", "value"])
    for limit in ("nu", "mu"):
        for value in SMALL:
            row = distance.loc[limit, "laprop", value]
            assert row["median"] == pytest.approx(0.3 * value, rel=0.1)
            assert row.low <= row["median"] <= row.high and row.n == SEEDS
        assert distance.loc[limit, "adam", 0.5]["median"] == pytest.approx(1, rel=0.1)
    signum = tables["distance"][tables["distance"].optimizer == "signum"]
    assert signum.limit.tolist() == ["nu"] and signum["median"].item() == pytest.approx(
        0.7, rel=0.1
    )
    within = tables["distance"].set_index("value").within_rounding
    assert (within.loc[1e-18] <= SEEDS).all() and distance.loc["nu", "laprop", 1e-18].iloc[-1] == 12
    course = tables["course"].set_index(["limit", "value", "step"])["median"]
    assert course["nu", 0.5, 50] == 0 < course["nu", 0.5, 100] == course["nu", 0.5, 200]


def test_verdicts_of_the_synthetic_experiment() -> None:
    got = verdicts(synthetic())
    nu, mu = got["limit_nu_momentum_of_sign"], got["limit_mu_rmsprop"]
    assert nu.verdict == mu.verdict == "supported" and nu.n == SEEDS
    assert (nu.setting, mu.setting) == ("μ = 0.9", "ν = 0.8")
    assert nu.effect == pytest.approx(3e-19, rel=0.1) and nu.low <= nu.effect <= nu.high
    assert "Adam with the same betas: 1.0" in nu.sentence and "Signum: 0.7" in nu.sentence
    assert "Signum" not in mu.sentence


def test_staying_away_contradicts_and_wavering_is_inconclusive() -> None:
    got = verdicts(synthetic(laprop=lambda value: 0.1 + value))
    assert {v.verdict for v in got.values()} == {"contradicted"}
    got = verdicts(synthetic(laprop=lambda value: 0.8 if value == 1e-2 else 0.3 * value))
    assert {v.verdict for v in got.values()} == {"inconclusive"}
    assert "They do not fall at ν = 0.01." in got["limit_nu_momentum_of_sign"].sentence


def test_a_path_that_diverges_is_infinitely_far() -> None:
    tidy = synthetic()
    last = "laprop {'eps': 1e-30, 'beta1': 0.9, 'beta2': 1e-18}"
    rows = tidy[(tidy.run == last) & (tidy.step == 200) & (tidy.metric == "x")]
    assert len(rows) == SEEDS
    got = verdicts(pd.concat([tidy, rows.assign(metric="diverged_at", value=120.0)]))
    nu = got["limit_nu_momentum_of_sign"]
    assert nu.verdict == "contradicted" and nu.effect == math.inf
    assert got["limit_mu_rmsprop"].verdict == "supported"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda t: t.drop(columns="beta2"), "lacks the columns beta2"),
        (lambda t: t[t.momentum_of != "sign"], "no run of momentum of the sign"),
        (lambda t: t[~((t.optimizer == "adam") & (t.beta1 == 0))], "no run of RMSprop"),
        (lambda t: t.assign(eps=t.eps.where(t.optimizer != "adam", 1e-8)), "differ in eps"),
        (lambda t: t.assign(lr=np.where(t.optimizer == "adam", 1e-2, 1e-3)), "differ in lr"),
        (lambda t: t[~((t.beta2 == 1e-8) & (t.seed == 3))], "other steps or seeds"),
    ],
)
def test_damaged_tables_get_one_clear_line(damage, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        figure.tables(damage(synthetic()), CONFIG)
    assert "\n" not in str(caught.value)


def test_too_little_to_judge_is_said() -> None:
    tidy = synthetic()
    few = verdicts(tidy[tidy.seed < 4])
    assert {v.verdict for v in few.values()} == {"inconclusive"}
    assert "4 report seeds are too few" in few["limit_mu_rmsprop"].sentence
    one = verdicts(tidy[(tidy.beta2 == 0.8) | tidy.beta2.isna()])
    assert "fewer than two values of ν" in one["limit_nu_momentum_of_sign"].sentence


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("seeds", [SEEDS, 3])  # of three the median has no interval
def test_figure_is_readable(seeds: int) -> None:
    tidy = synthetic()
    tidy = tidy[tidy.seed < seeds]
    fig = figure.draw(tidy, figure.tables(tidy, CONFIG), CONFIG)
    assert len(fig.axes) == 4 and style.clashes(fig) == []
    assert any(f"n = {seeds} seeds" in text.get_text() for text in fig.texts)


def test_becoming_needs_rounding_at_the_end_and_a_fall_on_the_way() -> None:
    (claim, *_) = claims.claims_of("interpolation")

    def judge(medians: dict[float, float], n: int = 20) -> Verdict:
        spread = np.random.default_rng(0).uniform(0.9, 1.1, n)
        distances = {value: median * spread for value, median in medians.items()}
        evidence = figure.becomes(distances, 1e-13, "ν")
        return judging.judge(claim, "u = 0.9", budget="", **evidence)

    falling = {0.9: 0.1, 0.1: 0.02, 1e-8: 1e-9, 1e-16: 3e-17, 1e-20: 4e-17}
    got = judge(falling)  # what lies within rounding need not fall any more
    assert got.verdict == "supported" and got.low <= got.effect <= got.high < 1e-13
    assert "20 of 20 seeds" in got.sentence and "do not fall" not in got.sentence
    wavers = judge({**falling, 0.1: 0.2})
    assert wavers.verdict == "inconclusive" and "They do not fall at ν = 0.1." in wavers.sentence
    assert judge({**falling, 1e-20: 1e-9}).verdict == "contradicted"
    assert judge(falling, n=9).verdict == "inconclusive"
