"""Verdicts from arms with known answers, Holm over verdicts, rendering."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from scripts import claims, judging
from scripts.figures.rosenbrock_evidence import Arms, alike, fastest, still_converges
from scripts.judging import Verdict
from scripts.statistics import Estimate

CLAIM = claims.CLAIMS[0]
HORIZON = 1000.0


def arms(scale: dict[str, float], sigmas=(0.1, 0.2), n: int = 20) -> Arms:
    """Steps of about scale[optimizer], NaN where that is beyond the horizon; phases differ."""
    rng = np.random.default_rng(1)
    found = {}
    for name, level in scale.items():
        for sigma in sigmas:
            for phase, first in (("tune", 0), ("report", 100)):
                steps = level * rng.uniform(0.97, 1.03, n)
                seeds = range(first, first + n)
                found[name, sigma, phase] = pd.Series(
                    np.where(steps > HORIZON, np.nan, steps), seeds
                )
    return found


def judged(predicate, scale: dict[str, float], **more) -> Verdict:
    labels = {name: name.title() for name in scale}
    evidence = predicate(arms(scale, **more), labels, (0.1, 0.2), HORIZON)
    return judging.judge(CLAIM, "common", budget="", **evidence)


# ---------------------------------------------------------------- evidence


@pytest.mark.parametrize(
    ("predicate", "scale", "verdict"),
    [
        (alike, {"laprop": 100, "adam": 103, "amsgrad": 98}, "supported"),
        (alike, {"laprop": 100, "adam": 101, "amsgrad": 140}, "contradicted"),
        (alike, {"laprop": 100, "adam": 101, "amsgrad": 125}, "inconclusive"),
        (alike, {"laprop": 100, "adam": 101, "amsgrad": 2000}, "contradicted"),
        (
            alike,
            {"laprop": 2000, "adam": 2000, "amsgrad": 2000},
            "inconclusive",
        ),
        (alike, {"laprop": 900, "adam": 2000, "amsgrad": 900}, "inconclusive"),
        (fastest, {"laprop": 100, "adam": 150, "radam": 2000}, "supported"),
        (fastest, {"laprop": 100, "adam": 150, "signsgd": 50}, "contradicted"),
        (fastest, {"laprop": 100, "adam": 150, "radam": 100}, "inconclusive"),
        (
            fastest,
            {"laprop": 2000, "adam": 2000, "radam": 2000},
            "inconclusive",
        ),
        (fastest, {"laprop": 2000, "adam": 900, "radam": 2000}, "contradicted"),
        (
            still_converges,
            {"laprop": 900, "adam": 2000, "amsgrad": 2000},
            "supported",
        ),
        (
            still_converges,
            {"laprop": 900, "adam": 900, "amsgrad": 2000},
            "contradicted",
        ),
        (
            still_converges,
            {"laprop": 2000, "adam": 900, "amsgrad": 900},
            "contradicted",
        ),
        (
            still_converges,
            {"laprop": 900, "adam": 1000, "amsgrad": 2000},
            "supported",
        ),
    ],
)
def test_verdicts_of_known_answers(predicate, scale, verdict: str) -> None:
    got = judged(predicate, scale)
    assert got.verdict == verdict
    assert got.n == 20 and got.sentence and got.effect_unit
    assert (got.p_value <= 0.05) == (verdict != "inconclusive")


def test_the_effect_names_the_rival_and_its_size() -> None:
    got = judged(fastest, {"laprop": 100, "adam": 150, "signsgd": 50})
    assert "Signsgd" in got.sentence and " steps more than Signsgd" in got.sentence
    assert got.effect == pytest.approx(-50, abs=2) and got.low < got.effect < got.high < 0
    assert "Ahead of, each with a 95% interval above 0: Adam." in got.sentence
    got = judged(alike, {"laprop": 100, "adam": 101, "amsgrad": 140})
    assert got.effect == pytest.approx(1.4, abs=0.05) and got.low > 1.25
    assert "(Amsgrad / Laprop" in got.effect_unit
    got = judged(still_converges, {"laprop": 900, "adam": 2000, "amsgrad": 2000})
    assert got.effect == 1 and 0.6 < got.low < got.high == 1


def test_too_few_seeds_are_inconclusive_however_clear_the_effect() -> None:
    for n, verdict in ((9, "inconclusive"), (10, "supported")):
        got = judged(fastest, {"laprop": 100, "adam": 500}, n=n)
        assert got.verdict == verdict and got.n == n
        assert ("too few" in got.sentence) == (n == 9)
        assert math.isnan(got.effect) == (n == 9)


def test_picking_the_comparison_on_tuning_seeds_makes_few_false_verdicts() -> None:
    # three optimizers that are the same: none is fastest, none slower than the best
    wrong = 0
    for run in range(200):
        rng = np.random.default_rng(run)
        same = {
            (name, 0.1, phase): pd.Series(rng.exponential(100, 20).clip(1, 999))
            for name in ("laprop", "adam", "radam") for phase in ("tune", "report")
        }  # fmt: skip
        labels = {name: name for name, _, _ in same}
        evidence = fastest(same, labels, (0.1,), HORIZON)
        wrong += judging.judge(CLAIM, "common", budget="", **evidence).verdict != "inconclusive"
    assert wrong / 200 <= 0.05


def test_the_noise_with_the_widest_gap_is_picked_on_tuning_seeds() -> None:
    """There it is 0.2; on the report seeds it would be 0.1."""
    found = {
        (name, sigma, phase): pd.Series(np.full(20, 100.0))
        for name in ("laprop", "adam") for sigma in (0.1, 0.2) for phase in ("tune", "report")
    }  # fmt: skip
    for sigma, phase, failing in ((0.1, "tune", 2), (0.2, "tune", 9), (0.1, "report", 18),
                                  (0.2, "report", 12)):  # fmt: skip
        found["adam", sigma, phase][:failing] = math.nan
    evidence = still_converges(found, {"laprop": "LaProp", "adam": "Adam"}, (0.1, 0.2), HORIZON)
    assert evidence["effect"].value == pytest.approx(12 / 20)
    assert "σ = 0.2" in evidence["effect_unit"] and "σ = 0.2" in evidence["sentence"]


@pytest.mark.parametrize(
    ("failing", "verdict"), [(0, "contradicted"), (5, "inconclusive"), (8, "supported")]
)
def test_who_still_converges_is_not_refuted_by_the_noise_at_which_all_do(failing, verdict) -> None:
    """Rivals stop converging at the larger noise only, for so many of 20 seeds."""
    found = {
        (name, sigma, phase): pd.Series(np.full(20, 100.0))
        for name in ("laprop", "adam", "amsgrad") for sigma in (0.1, 0.2)
        for phase in ("tune", "report")
    }  # fmt: skip
    for (name, sigma, _), steps in found.items():
        if name != "laprop" and sigma == 0.2:
            steps[:failing] = math.nan
    evidence = still_converges(found, {name: name for name, _, _ in found}, (0.1, 0.2), HORIZON)
    assert judging.judge(CLAIM, "common", budget="", **evidence).verdict == verdict


@pytest.mark.parametrize(
    ("optimizers", "pairs", "verdict"),
    [(2, 1, "contradicted"), (3, 3, "inconclusive"), (4, 6, "inconclusive")],
)
def test_of_more_pairs_the_farthest_apart_must_be_farther(optimizers, pairs, verdict) -> None:
    """One is twice as slow for 17 of 23 seeds, the others are alike. A resample's median is beyond
    the factor where 12 or more of its 23 are of these 17, whose probability is binomial."""
    labels = {name: name for name in ["laprop", "adam", "amsgrad", "radam"][:optimizers]}
    steps = {name: np.full(23, 100.0) for name in labels}
    steps["laprop"][:17] = 200
    found = {
        (name, sigma, phase): pd.Series(steps[name])
        for name in labels for sigma in (0.1, 0.2) for phase in ("tune", "report")
    }  # fmt: skip
    evidence = alike(found, labels, (0.1, 0.2), HORIZON)
    z = stats.norm.ppf(stats.binom.cdf(11, 23, 17 / 23))
    p = stats.t.cdf(z * math.sqrt(22 / 23), 22)  # expanded as the intervals are
    assert evidence["p_against"] == pytest.approx(pairs * p, rel=0.15)
    assert judging.judge(CLAIM, "common", budget="", **evidence).verdict == verdict


def test_a_bound_is_examined_without_test_or_interval() -> None:
    def verdict(supported: bool, contradicted: bool) -> Verdict:
        return judging.examine(CLAIM, "u = 0.9", supported=supported, contradicted=contradicted,
                              effect=0.97, effect_unit="times the bound", n=7, sentence="So.")  # fmt: skip

    assert verdict(True, False).verdict == "supported"
    assert verdict(True, True).verdict == "contradicted"  # one counterexample is enough
    assert verdict(False, False).verdict == "inconclusive"
    (settled,) = judging.settle([verdict(True, False)])
    assert settled == verdict(True, False) and math.isnan(settled.p_value)
    assert "| 0.97 times the bound | 7 |" in judging.to_markdown([settled])


@pytest.mark.parametrize(
    ("value", "text"),
    [(1234.5, "1,234"), (1.234, "1.23"), (-0.05, "−0.050"), (0.0, "0.00"), (2.34e-17, "2.3e−17"),
     (0.0096, "0.0096"), (0.0123, "0.012"), (-0.92, "−0.92"), (9.6e-4, "9.6e−04"),
     (math.inf, "∞"), (math.nan, "unknown")],
)  # fmt: skip
def test_numbers_for_a_reader(value: float, text: str) -> None:
    assert judging.number(value) == text


@pytest.mark.parametrize(
    ("numbers", "text"),
    [((0.01224, 0.00964, 0.01492), "0.0122 (0.0096 to 0.0149)"),
     ((0.1796, -0.0133, 0.386), "0.18 (−0.01 to 0.39)"),
     ((1.39607, 1.38317, 1.40965), "1.396 (1.383 to 1.410)"),
     ((346.69, 0.0, 782.99), "347 (0 to 783)"),
     ((20.0, 4.0, 36.0), "20.0 (4.0 to 36.0)"),
     ((-0.0018, -0.0018, -0.0018), "−0.0018 (every resample of 10 seeds alike)"),
     ((4.78e-17, 2.61e-17, 9.72e-17), "4.8e−17 (2.6e−17 to 9.7e−17)"),
     ((0.0, 0.0, 0.0), "0.00 (every resample of 10 seeds alike)"),
     ((0.0684, math.nan, math.nan), "0.068")],
)  # fmt: skip
def test_an_effect_and_its_interval_have_one_precision(numbers, text: str) -> None:
    effect, low, high = numbers
    verdict = Verdict("c", "s", "supported", effect, "steps", low, high, 10)
    assert judging.effect_text(verdict) == f"{text} steps"


# ---------------------------------------------------------------- correction and rendering


def _verdict(p_for: float, p_against: float = 0.9) -> Verdict:
    return judging.judge(
        CLAIM, "tuned", p_for=p_for, p_against=p_against, effect=Estimate(1234.5, -2.0, math.inf, 20),
        effect_unit="steps", budget="5 lrs x 20 seeds each", sentence="In | words.",
    )  # fmt: skip


def test_holm_runs_over_the_tested_verdicts_and_takes_back_what_fails() -> None:
    missing = judging.inconclusive(CLAIM, "common", "no runs")
    drafts = [_verdict(0.02), missing, _verdict(0.005), _verdict(0.9, 0.001)]
    assert [v.verdict for v in drafts] == ["supported", "inconclusive", "supported", "contradicted"]
    got = judging.settle(drafts)
    assert [v.p_holm for v in got if v is not missing] == pytest.approx([0.04, 0.02, 0.006])
    assert [v.verdict for v in got] == [v.verdict for v in drafts]
    got = judging.settle([*drafts, _verdict(0.024)])
    assert [v.verdict for v in got] == ["inconclusive", "inconclusive", "supported", "contradicted",
                                        "inconclusive"]  # fmt: skip
    assert got[0].sentence.endswith("Not significant after correction for 4 tests.")
    assert got[0].p_holm == pytest.approx(0.08)
    assert judging.settle([missing]) == [missing]


def test_seeds_needed_are_the_fewest_that_could_settle_a_claim() -> None:
    for chance in (0.5, 0.75, 0.95):
        needed = judging.seeds_needed(chance)
        assert 2 * chance**needed <= judging.ALPHA < 2 * chance ** (needed - 1)


@pytest.mark.parametrize(
    ("p", "text"),
    [
        (0.0009, "< 0.001"),
        (0.012345, "0.012"),
        (0.04974, "0.0497"),
        (0.05003, "0.0500"),
        (0.2, "0.200"),
    ],
)
def test_a_p_value_tells_on_which_side_of_the_limit_it_is(p, text) -> None:
    assert judging.p_text(replace(_verdict(p), p_holm=p)) == text


def test_tables_show_numbers_reasons_and_survive_csv(tmp_path) -> None:
    refused = judging.inconclusive(CLAIM, "tuned", "the steps differ", n=20, refused=True)
    verdicts = judging.settle([_verdict(0.0001), refused])
    text = judging.to_markdown(verdicts)
    rows = text.splitlines()
    assert rows[4:7] == [
        "",
        "Fixed in advance, but where a 'To know' above says otherwise:",
        "",
    ] and text.endswith("\n")
    (rule,) = rows[7:]  # once for both verdicts
    assert CLAIM.supported_by in rule and CLAIM.contradicted_by in rule
    assert "1,234 (−2 to ∞) steps" in rows[2] and "In \\| words." in rows[2]
    assert "**supported**" in rows[2] and "| < 0.001 |" in rows[2]
    assert "**inconclusive** (refused)" in rows[3] and "No ranking: the steps differ." in rows[3]
    judging.to_frame(verdicts).to_csv(tmp_path / "claims.csv", index=False)
    read = pd.read_csv(tmp_path / "claims.csv")
    assert judging.to_markdown(judging.from_frame(read)) == text
    assert judging.from_frame(judging.to_frame(verdicts))[0] == verdicts[0]
    assert "the steps differ" in judging.to_text(verdicts)


def test_every_claim_says_what_supports_and_what_contradicts_it() -> None:
    ids = [claim.id for claim in claims.CLAIMS]
    assert len(set(ids)) == len(ids) and len(claims.claims_of("rosenbrock_noise")) == 4
    for claim in claims.CLAIMS:
        assert claim.sentence.endswith(".") and claim.source
        assert claim.supported_by != claim.contradicted_by
