"""The tables and verdicts of the regret experiment on curves whose power of T is given."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest

from scripts.figures import convex_regret as figure
from scripts.figures import convex_regret_evidence as evidence
from scripts.judging import CONTRADICTED, INCONCLUSIVE, SUPPORTED

CONFIG = {
    "scale": "quick",
    "optimizers": ["laprop", "adam"],
    "large": {"reddi": 3.0, "reddi_stochastic": 31.0},
    "surplus": 0.5,
}
ROUNDS = [0, *range(50, 2001, 50)]
LRS = (0.1, 1.0, 10.0)


def table(powers, rounds=ROUNDS, heights=None):
    """Average regrets height T^power, best at lr 1; ``powers[problem, optimizer]``."""
    rows = []
    for run, ((problem, optimizer), lr) in enumerate(itertools.product(powers, LRS)):
        certain = problem == "reddi"
        seeds = [0] if certain else [*range(20), *range(1_000_000, 1_000_010)]
        for replica, seed in enumerate(seeds):
            spread = 1 if certain else 1 + 0.02 * math.sin(seed)
            height = (heights or {}).get(optimizer, 1.0) * (1 if lr == 1 else 2) * spread
            for step, metric in itertools.product(rounds, ("average_regret", "x")):
                value = height * step ** powers[problem, optimizer] if step else math.nan
                rows.append({
                    "optimizer": optimizer, "lr": lr, "beta1": 0.0 if certain else 0.9,
                    "beta2": 0.1 if certain else 0.9, "amsgrad": False, "eps": 1e-15,
                    "phase": "tune" if seed >= 1_000_000 else "report", "seed": seed,
                    "problem": problem, "run": f"r{run}", "replica": replica, "step": step,
                    "metric": metric, "value": value if metric == "average_regret" else 0.5,
                })  # fmt: skip
    return pd.DataFrame(rows)


def verdicts(powers, **options):
    tidy = table(powers, **options)
    tables = figure.tables(tidy, CONFIG)
    found = figure.verdicts(tidy, tables, CONFIG)
    return {(v.claim.removeprefix("convex_regret_"), v.setting): v for v in found}, tables


def test_the_power_is_the_given_one_and_decides():
    for power, expected in ((-0.9, SUPPORTED), (-0.3, CONTRADICTED)):
        found, tables = verdicts(
            {("least_squares", "laprop"): power, ("least_squares", "adam"): -0.5}
        )
        verdict = found["sqrt", "least squares"]
        assert verdict.verdict == expected
        assert verdict.effect == pytest.approx(power, abs=1e-6)
        chosen = tables["tuning"][tables["tuning"].chosen]
        assert set(chosen.lr) == {1.0} and not chosen.on_edge.any()


@pytest.mark.parametrize(
    ("power", "tilt", "expected"),
    [(-0.47, 0, SUPPORTED), (-0.43, 0, CONTRADICTED), (-0.45, 0.04, INCONCLUSIVE)],
)
def test_a_power_is_told_from_the_theorems_where_the_seeds_agree(power, tilt, expected):
    tidy = table({("least_squares", "laprop"): power})
    middle = math.sqrt(ROUNDS[-1] * ROUNDS[-1] / 10)  # of the last decade
    tilts = np.where(tidy.seed % 2, tilt, -tilt)
    tidy["value"] *= (tidy.step.clip(lower=1) / middle) ** tilts
    found = figure.verdicts(tidy, figure.tables(tidy, CONFIG), CONFIG)
    (verdict,) = (v for v in found if v.claim == "convex_regret_sqrt")
    assert verdict.verdict == expected and verdict.effect == pytest.approx(power, abs=2e-3)


@pytest.mark.parametrize(("power", "refused"), [(0.0, False), (-0.2, False), (-0.3, True)])
def test_an_edge_of_the_grid_hides_nothing_where_the_regret_falls_at_no_lr(power, refused):
    """LaProp's regret is smallest, and constant, at the largest lr; at the smallest it may fall."""
    tidy = table({("reddi", "laprop"): 0.0, ("reddi", "adam"): -0.9})
    mine = (tidy.optimizer == "laprop") & (tidy.metric == "average_regret")
    tidy.loc[mine & (tidy.lr == 10), "value"] /= 100
    falling = mine & (tidy.lr == 0.1)
    tidy.loc[falling, "value"] *= tidy.step[falling].clip(lower=1) ** power
    found = figure.verdicts(tidy, figure.tables(tidy, CONFIG), CONFIG)
    (verdict,) = (v for v in found if v.claim == "convex_regret_counterexample")
    assert verdict.verdict == (INCONCLUSIVE if refused else CONTRADICTED)
    assert ("laprop lies on the edge of its grid (lr 10)" in verdict.refused) == refused


def test_who_fails_on_the_counterexample():
    outcomes = {
        (-0.9, 0.0): (SUPPORTED, ""),
        (0.0, -0.9): (CONTRADICTED, "LaProp that fails where Adam converges"),
        (0.0, 0.0): (CONTRADICTED, "Both fail"),
        (-0.3, -0.2): (SUPPORTED, ""),  # on either side of what counts as falling
        (-0.2, -0.3): (CONTRADICTED, "LaProp that fails where Adam converges"),
        (-0.9, -0.9): (INCONCLUSIVE, "Neither fails"),
    }
    for (mine, other), (expected, words) in outcomes.items():
        found, _ = verdicts({("reddi", "laprop"): mine, ("reddi", "adam"): other})
        verdict = found["counterexample", "counterexample"]
        assert verdict.verdict == expected and words in verdict.sentence
        assert verdict.n == 1 and math.isnan(verdict.p_value)


def test_the_bound_is_that_of_its_formula_and_an_excess_is_told():
    assert evidence.regret_bound(100, 2.0, 3.0, 0.75) == pytest.approx(3 * 10 * (4 / 4 + 2 / 0.5))
    found, tables = verdicts({("reddi", "laprop"): -0.9, ("reddi", "adam"): -0.9})
    assert found["bound", "counterexample"].verdict == SUPPORTED
    first = tables["bound"].query("lr == 1 and rounds == 50").iloc[0]
    assert first.bound == pytest.approx(3 / math.sqrt(50) * (2 + 1 / math.sqrt(0.9)))
    found, _ = verdicts({("reddi", "laprop"): 0.0, ("reddi", "adam"): 0.0})
    verdict = found["bound", "counterexample"]
    assert verdict.verdict == CONTRADICTED
    assert verdict.effect > 1 and "exceeds the bound from T = " in verdict.sentence


def test_the_smaller_regret_and_the_other_way_round():
    powers = {("logistic", "laprop"): -0.8, ("logistic", "adam"): -0.8}
    for mine, expected in ((0.8, SUPPORTED), (1.2, CONTRADICTED)):
        found, _ = verdicts(powers, heights={"laprop": mine})
        verdict = found["advantage", "logistic regression"]
        assert verdict.verdict == expected
        assert verdict.effect == pytest.approx(100 * (1 - mine), abs=0.5)


def test_few_rounds_a_missing_rival_and_damage_are_told():
    powers = {("least_squares", "laprop"): -0.9, ("least_squares", "adam"): -0.9}
    found, _ = verdicts(powers, rounds=[0, 10, 20, 40])
    assert {v.verdict for v in found.values()} == {INCONCLUSIVE}
    assert "40 rounds are too few" in found["sqrt", "least squares"].sentence
    tidy = table(powers).query("seed < 3 or seed >= 1_000_000")
    tidy["eps"] = tidy.eps.where(tidy.optimizer != "adam", 1.5e-4)
    unfair = figure.verdicts(tidy, figure.tables(tidy, CONFIG), CONFIG)
    (refused,) = (v.refused for v in unfair if v.claim == "convex_regret_advantage")
    assert "eps differ" in refused and "3 report seeds are too few" in refused
    found, _ = verdicts({("least_squares", "laprop"): -0.9})
    assert "no runs of adam" in found["advantage", "least squares"].sentence
    with pytest.raises(ValueError, match="lacks the columns problem"):
        figure.tables(table(powers).drop(columns="problem"), CONFIG)
    with pytest.raises(ValueError, match="average_regret and x are both needed"):
        figure.tables(table(powers).query("metric == 'x'"), CONFIG)


def test_thinned_rounds_are_evenly_spaced_in_the_logarithm():
    kept = evidence.thinned(range(10, 100_001, 10))
    ratios = np.diff(np.log10(kept))
    assert kept[-1] == 100_000 and len(kept) < 45
    assert ratios[len(ratios) // 2 :] == pytest.approx(0.1, abs=0.01)


def test_the_figure_is_drawn_with_labelled_axes():
    tidy = table({(p, o): -0.8 for p in ("reddi", "least_squares") for o in ("laprop", "adam")})
    drawn = figure.draw(tidy, figure.tables(tidy, CONFIG), CONFIG)
    labels = {ax.get_xlabel() for ax in drawn.axes}
    assert labels == {"rounds T", "power of T in R(T) / T, last decade"}
    assert "n = 20 seeds" in drawn.texts[-1].get_text().replace("\n", " ")
