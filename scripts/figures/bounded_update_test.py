"""The bounds against brute force, and tables, verdicts and figure from synthetic tables."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf

from runners.config import CONF
from scripts.figures import bounded_update as figure
from scripts.figures import style

CONFIG: dict[str, Any] = {"steps": 400, "eval_every": 50, "silence": 100, "scale": "quick"}
PAIRS = [(0.9, 0.1), (0.9, 0.7), (0.9, 0.9), (0.9, 0.99), (0.99, 0.95), (0.99, 0.99), (0.99, 0.999)]
KINDS = [("normal", math.nan)] * 9 + [("spike", math.nan), ("geometric", 2.0), ("burst", 9.0)]


# ---------------------------------------------------------------- bounds


def updates(u: float, v: float, g: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """|update| / lr of LaProp and Adam at every step, from the equations."""
    m = x = n = 0.0
    found = []
    for t, value in enumerate(g.tolist(), 1):
        n = v * n + (1 - v) * value**2
        root = math.sqrt(n / (1 - v**t))
        m, x = u * m + (1 - u) * value, u * x + (1 - u) * value / root
        found.append((abs(x) / (1 - u**t), abs(m) / (1 - u**t) / root))
    laprop, adam = np.array(found).T
    return laprop, adam


@pytest.mark.parametrize(("u", "v"), [*PAIRS, (0.9, 0.81), (0.5, 0.3)])
def test_adams_tight_bound_is_the_maximum_of_a_quotient_of_forms(u: float, v: float) -> None:
    """max of w.g / sqrt(g.D g) is sqrt(w.D^-1 w), at g = D^-1 w, for a positive diagonal D."""
    for t in (1, 2, 7, 40):
        k = np.arange(t)[::-1]
        w = (1 - u) * u**k / (1 - u**t)
        d = (1 - v) * v**k / (1 - v**t)
        assert figure.adam_bound(u, v, t) == pytest.approx(math.sqrt((w * w / d).sum()), rel=1e-9)
        assert updates(u, v, w / d)[1][-1] == pytest.approx(figure.adam_bound(u, v, t), rel=1e-9)


@pytest.mark.parametrize(("u", "v"), PAIRS)
def test_no_sequence_exceeds_a_bound_and_the_adversaries_reach_them(u: float, v: float) -> None:
    t = np.arange(1, 61)
    laprop, adam = figure.laprop_bound(v, t), figure.adam_bound(u, v, t)
    rng = np.random.default_rng(0)
    for g in [*rng.standard_normal((20, 60)), *rng.standard_cauchy((20, 60)), 5.0**t, 0.2**t]:
        own, other = updates(u, v, g)
        assert (own <= laprop * (1 + 1e-12)).all() and (other <= adam * (1 + 1e-12)).all()
    np.testing.assert_allclose(updates(u, v, (v / u) ** t)[1], adam, rtol=1e-9)
    # each gradient dwarfs those before: x_i is at its bound, and the update their mean
    weights = np.cumsum(u ** -t.astype(float) * laprop) / np.cumsum(u ** -t.astype(float))
    np.testing.assert_allclose(updates(u, v, 1e5 ** (t - 30.0))[0], weights, rtol=1e-9)


def test_limits_of_the_bounds() -> None:
    for u, v in PAIRS:
        assert figure.laprop_bound(v) == pytest.approx(1 / math.sqrt(1 - v))
        many = figure.adam_bound(u, v, np.arange(1, 20_000))
        assert (np.diff(many[np.isfinite(many)]) >= -1e-12).all()  # grows with t
        if u * u < v:
            closed = (1 - u) / math.sqrt((1 - v) * (1 - u * u / v))
            assert figure.adam_bound(u, v) == pytest.approx(closed, rel=1e-12)
            assert many[-1] == pytest.approx(closed, rel=1e-3)
            sums = (1 - u) / math.sqrt(1 - v) * sum((u / math.sqrt(v)) ** k for k in range(10_000))
            assert figure.paper_bound(u, v) == pytest.approx(sums) and sums > closed
        else:
            assert figure.adam_bound(u, v) == figure.paper_bound(u, v) == math.inf
    assert figure.adam_bound(0.9, 0.9) == pytest.approx(1)
    crossing = 0.9 / 1.1
    assert figure.adam_bound(0.9, crossing) == pytest.approx(figure.laprop_bound(crossing))


def test_every_run_has_the_worst_case_of_its_own_betas() -> None:
    experiment = OmegaConf.load(CONF / "experiment" / "bounded_update.yaml")
    ratios = np.array(experiment.task.ratios)
    for scale in ("smoke", "quick", "paper"):
        for u, v in experiment.scales[scale].betas:
            assert np.abs(ratios / (v / u) - 1).min() < 1e-6, (u, v)


# ---------------------------------------------------------------- synthetic tables


def synthetic(laprop: float = 0.97, adam: float = 0.97, pairs=PAIRS) -> pd.DataFrame:
    """Sequences that reach these parts of the tight bounds; those of kind normal half of it."""
    rows = []
    for u, v in pairs:
        for name, part in (("laprop", laprop), ("adam", adam)):
            for step in range(0, 401, 50):
                bound = 0.0
                if step:
                    bound = figure.laprop_bound(v, step) if name == "laprop" else figure.adam_bound(
                        u, v, step)  # fmt: skip
                rows += [
                    {"optimizer": name, "beta1": u, "beta2": v, "lr": 0.01, "eps": 0.0,
                     "run": f"{name}-{u}-{v}", "replica": place, "seed": 0, "kind": kind,
                     "ratio": ratio, "step": step, "metric": "largest_move",
                     "value": 0.01 * bound * part * (0.5 if kind == "normal" else 1)}
                    for place, (kind, ratio) in enumerate(KINDS)
                ]  # fmt: skip
    return pd.DataFrame(rows)


def verdicts(tidy: pd.DataFrame) -> dict[tuple[str, str], Any]:
    found = figure.verdicts(tidy, figure.tables(tidy, CONFIG), CONFIG)
    return {(v.claim.removeprefix("update_"), v.setting): v for v in found}


def test_tables_take_the_largest_and_say_what_drove_it() -> None:
    tables = figure.tables(synthetic().sample(frac=1, random_state=1), CONFIG)
    largest, kinds = tables["largest"], tables["kinds"]
    assert len(largest) == len(PAIRS) * 2 * 8 and (largest.n == len(KINDS)).all()
    assert len(kinds) == len(PAIRS) * 2 * 4 and set(kinds.n) == {9, 1}
    known = np.isfinite(largest.bound)  # Adam's grows beyond float64
    assert known.sum() > 100 and (largest.v[~known] < 0.5).all()
    np.testing.assert_allclose(largest.reached[known], 0.97)
    row = largest.set_index(["u", "v", "optimizer", "step"]).loc[0.9, 0.99, "laprop", 400]
    assert row.largest == pytest.approx(0.97 * math.sqrt((1 - 0.99**400) / 0.01))
    assert row.kind != "normal"


def test_verdicts_of_the_synthetic_experiment() -> None:
    got = verdicts(synthetic())
    assert len(got) == 6 and {v.verdict for v in got.values()} == {"supported"}
    assert got["laprop_bounded", "μ = 0.9"].effect == pytest.approx(0.97)
    assert got["laprop_bounded", "μ = 0.9"].n == len(KINDS)
    tight = got["adam_bounded_below", "μ = 0.9"]
    assert "not tight" in tight.sentence and tight.effect < 0.3
    growth = figure.adam_bound(0.9, 0.7, 400) / figure.adam_bound(0.9, 0.7, 200)
    assert got["adam_unbounded_above", "μ = 0.9"].effect == pytest.approx(growth)


def test_one_sequence_beyond_a_bound_contradicts_it() -> None:
    tidy = synthetic()
    one = (tidy.run == "laprop-0.9-0.7") & (tidy.step == 150) & (tidy.replica == 4)
    bound = 0.01 * figure.laprop_bound(0.7, 150)
    tidy.loc[one, "value"] = bound * (1 + 1e-12)  # rounding
    assert verdicts(tidy)["laprop_bounded", "μ = 0.9"].verdict == "supported"
    tidy.loc[one, "value"] = bound * (1 + 1e-6)
    got = verdicts(tidy)
    assert got["laprop_bounded", "μ = 0.9"].verdict == "contradicted"
    assert got["laprop_bounded", "μ = 0.99"].verdict == "supported"
    for broken in (math.nan, math.inf):
        tidy.loc[one, "value"] = broken
        assert verdicts(tidy)["laprop_bounded", "μ = 0.9"].verdict == "contradicted"
    lost = synthetic()[one].assign(metric="diverged_at", value=10.0)
    got = verdicts(pd.concat([synthetic(), lost]))
    assert got["laprop_bounded", "μ = 0.9"].verdict == "contradicted"
    assert verdicts(synthetic(adam=20))["adam_bounded_below", "μ = 0.9"].verdict == "contradicted"


def test_sequences_that_are_too_mild_prove_nothing() -> None:
    got = verdicts(synthetic(laprop=0.5, adam=0.5))
    assert {v.verdict for v in got.values()} == {"inconclusive"}
    assert "is tight" not in got["laprop_bounded", "μ = 0.9"].sentence


def test_an_adam_that_stops_growing_contradicts_its_having_no_bound() -> None:
    tidy = synthetic(pairs=[(0.9, 0.7), (0.9, 0.99)])
    slow = (tidy.optimizer == "adam") & (tidy.step > 200) & (tidy.beta2 == 0.7)
    tidy.loc[slow, "value"] = 0.01 * figure.adam_bound(0.9, 0.7, 200)
    # far below what is possible: the sequences were to blame
    assert verdicts(tidy)["adam_unbounded_above", "μ = 0.9"].verdict == "inconclusive"
    found = figure.tables(tidy, CONFIG)
    found["largest"].loc[found["largest"].v == 0.7, "reached"] = 1.0
    got = [v for v in figure.verdicts(tidy, found, CONFIG) if v.claim.endswith("above")]
    assert [v.verdict for v in got] == ["contradicted"]


def test_missing_runs_are_told() -> None:
    got = verdicts(synthetic(pairs=[(0.9, 0.99)]))
    assert got["adam_unbounded_above", "μ = 0.9"].verdict == "inconclusive"
    assert "no runs of both" in got["adam_unbounded_above", "μ = 0.9"].sentence
    tidy = synthetic()
    assert "no run of laprop" in verdicts(tidy[tidy.optimizer == "adam"])[
        "laprop_bounded", "μ = 0.9"].sentence  # fmt: skip


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda t: t.drop(columns="kind"), "lacks the columns kind"),
        (lambda t: t.assign(eps=np.where(t.optimizer == "adam", 1e-8, 0)), "differ in eps"),
        (lambda t: t[t.step < 400], "no largest_move at step 400"),
    ],
)
def test_damaged_tables_get_one_clear_line(damage, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        figure.tables(damage(synthetic()), CONFIG)
    assert "\n" not in str(caught.value)


def test_the_horizon_doubles_within_the_range_of_float64() -> None:
    assert figure.horizon(0.9, 0.9, CONFIG) == 200  # constant gradients: the runs' length decides
    assert figure.horizon(0.9, 0.001, CONFIG) == 50
    assert figure.horizon(0.9, 1e-6, CONFIG) == 0
    assert 2 * 50 * abs(math.log10(0.001 / 0.9)) < 300


def test_figure_is_readable_with_one_and_two_values_of_mu() -> None:
    for pairs in (PAIRS, PAIRS[:4]):
        tidy = synthetic(pairs=pairs)
        fig = figure.draw(tidy, figure.tables(tidy, CONFIG), CONFIG)
        assert len(fig.axes) == 6 - 2 * (len(pairs) == 4)
        assert style.clashes(fig) == []
        assert any(f"n = {len(KINDS)} sequences" in text.get_text() for text in fig.texts)
