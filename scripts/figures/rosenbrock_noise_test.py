"""Tables, verdicts and figure from small synthetic tables with known answers."""

import hashlib
import math
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from scripts.figures import rosenbrock_noise as figure
from scripts.figures import style

HORIZON = 30_000
SIGMAS = [0.0, 0.02, 0.04, 0.08, 0.14]
LRS = [0.003, 0.01, 0.03]
# Median steps at lr 1e-2 as a multiple of 1000 + 100,000 sigma; above the horizon is censored.
PACE = {"laprop": 1.0, "adam": 1.02, "amsgrad": 0.99, "radam": 1.05, "adabound": 50, "signsgd": 0.5}
CONFIG: dict[str, Any] = {
    "steps": HORIZON, "tuning_steps": HORIZON, "tol": 0.1, "sigmas": SIGMAS, "lrs": LRS, "optimizers": list(PACE),
    "common_lr": 0.01, "path_sigmas": [0.02, 0.14], "scale": "quick",
}  # fmt: skip


def synthetic(pace=PACE, *, tune: int = 12, report: int = 12, lr_factor=(3.0, 1.0, 2.0)):
    """Adam and AMSGrad never get there at sigma 0.14; the best lr is 1e-2 by lr_factor."""
    blocks = []
    for name, level in pace.items():
        betas = {"beta1": 0.9, "beta2": 0.9} if name != "signsgd" else {}
        same = {"experiment": "rosenbrock_noise", "task": "rosenbrock", "optimizer": name,
                "eps": 1e-15 if name == "laprop" else 1e-8, **betas}  # fmt: skip
        for lr, factor in zip(LRS, lr_factor, strict=True):
            rng = np.random.default_rng(1)  # the same noise for all: paired
            cells = [(s, k) for s in SIGMAS for k in [*range(report), *range(1000, 1000 + tune)]]
            sigma, seed = (np.array(column) for column in zip(*cells, strict=True))
            steps = level * factor * (1000 + 1e5 * sigma) * rng.uniform(0.97, 1.03, len(cells))
            steps[(sigma > 0.1) & (name in ("adam", "amsgrad"))] = np.inf
            steps = np.where(steps > HORIZON, np.nan, steps.round())
            for metric, value in (("steps_to_tol", steps), ("distance", np.full(len(cells), 0.2))):
                phase = np.where(seed < 1000, "report", "tune")
                blocks.append(pd.DataFrame({
                    **same, "lr": lr, "run": f"{name}-{lr}", "phase": phase, "seed": seed,
                    "replica": np.arange(len(cells)), "sigma": sigma, "step": HORIZON,
                    "metric": metric, "value": value,
                }))  # fmt: skip
        for step in (10, 20, 30):
            for metric in ("x", "y", "distance", "steps_to_tol"):
                value = {"x": step / 40, "y": (step / 40) ** 2, "distance": 1.0}.get(
                    metric, math.nan
                )
                blocks.append(pd.DataFrame({
                    **same, "lr": 0.01, "run": f"{name}-path", "phase": "report", "seed": 0,
                    "replica": [0, 1], "sigma": [0.02, 0.14], "step": step, "metric": metric,
                    "value": value,
                }))  # fmt: skip
    return pd.concat(blocks, ignore_index=True)


def verdicts(tidy: pd.DataFrame, config=CONFIG) -> dict[tuple[str, str], Any]:
    found = figure.verdicts(tidy, figure.tables(tidy, config), config)
    return {(v.claim.removeprefix("rosenbrock_"), v.setting): v for v in found}


@pytest.fixture(scope="module")
def tidy() -> pd.DataFrame:
    return synthetic()


@pytest.fixture(scope="module")
def drawn(tidy: pd.DataFrame):
    return figure.draw(tidy, figure.tables(tidy, CONFIG), CONFIG)


# ---------------------------------------------------------------- tables


def test_tables_hold_every_cell_in_order(tidy: pd.DataFrame) -> None:
    got = figure.tables(tidy, CONFIG)
    tuning, summary = got["tuning"], got["summary"]
    assert len(tuning) == 6 * 5 * 3 and len(summary) == (5 + 6) * 5  # signsgd has no betas
    assert tuning.groupby(["optimizer", "sigma"]).chosen.sum().eq(1).all()
    assert list(dict.fromkeys(summary.optimizer)) == list(PACE)
    shuffled = tidy.sample(frac=1, random_state=1)
    names = ["optimizer", "run", "phase", "metric"]
    again = figure.tables(shuffled.astype(dict.fromkeys(names, "category")), CONFIG)
    for name, table in got.items():
        pd.testing.assert_frame_equal(table, again[name])


def test_summary_counts_the_censored(tidy: pd.DataFrame) -> None:
    summary = figure.tables(tidy, CONFIG)["summary"].set_index(["setting", "optimizer", "sigma"])
    adam = summary.loc[("common", "adam", 0.14)]
    assert (adam.n, adam.converged, adam.fraction) == (12, 0, 0.0)
    assert adam.median_steps == adam.median_low == adam.median_high == math.inf
    assert adam.fraction_low == 0 < adam.fraction_high < 0.3
    laprop = summary.loc[("common", "laprop", 0.14)]
    assert laprop.converged == 12 and laprop.median_low <= laprop.median_steps <= laprop.median_high
    assert laprop.median_steps == pytest.approx(15_000, rel=0.03)
    assert math.isnan(summary.loc[("tuned", "signsgd", 0.0)].beta1)


def test_without_noise_all_seeds_are_one_run_that_has_no_interval(tidy, drawn) -> None:
    tables = figure.tables(tidy, CONFIG)
    still = tables["summary"][tables["summary"].sigma == 0]
    assert len(still) == 5 + 6 and (still.n == 1).all() and still.converged.isin([0, 1]).all()
    ends = ["fraction_low", "fraction_high", "median_low", "median_high"]
    assert still[ends].isna().all(axis=None)
    assert set(tables["tuning"].n[tables["tuning"].sigma == 0]) == {1}
    bars = [path.vertices for ax in (drawn.axes[1], drawn.axes[3]) for bars in ax.collections
            for path in bars.get_paths() if np.isfinite(path.vertices).all()]  # fmt: skip
    assert len(bars) == (5 + 6) * 4 and min(bar[:, 0].min() for bar in bars) > 0.01
    (caption,) = [text.get_text() for text in drawn.texts if "Scale quick" in text.get_text()]
    assert "n = 12 seeds per point, n = 1 without bars at σ = 0" in caption
    assert "12 other seeds" in caption.replace("\n", " ")


def test_tuning_picks_by_restricted_mean_and_flags_ties_and_edges(tidy: pd.DataFrame) -> None:
    tuning = figure.tables(tidy, CONFIG)["tuning"]
    best = tuning[tuning.chosen].set_index(["optimizer", "sigma"])
    assert (best.lr == 0.01).all() and not best.on_edge.any()
    lost = tuning[(tuning.optimizer == "adam") & (tuning.sigma == 0.14)]
    assert lost.tied.all() and (lost.restricted_mean == HORIZON).all()
    assert not best.tied["laprop", 0.08]
    edge = figure.tables(synthetic(lr_factor=(3.0, 1.5, 1.0)), CONFIG)["tuning"]
    edge = edge[edge.chosen].set_index(["optimizer", "sigma"])
    assert edge.lr["laprop", 0.02] == 0.03 and edge.on_edge["laprop", 0.02]
    assert not edge.on_edge["adam", 0.14]  # nothing converges: no edge
    # one lucky hit at the edge where nothing else converges decides nothing
    lucky = tidy.copy()
    hit = (lucky.run == "adam-0.03") & (lucky.sigma == 0.14) & (lucky.seed == 1000)
    lucky.loc[hit & (lucky.metric == "steps_to_tol"), "value"] = 500.0
    tuning = figure.tables(lucky, CONFIG)["tuning"]
    row = tuning[(tuning.optimizer == "adam") & (tuning.sigma == 0.14) & tuning.chosen].iloc[0]
    assert row.lr == 0.03 and row.tied and not row.on_edge


def diverged(rows: pd.DataFrame, at: float) -> pd.DataFrame:
    return rows[rows.metric == "distance"].assign(metric="diverged_at", value=at)


def test_reaching_the_target_and_then_diverging_is_not_converging(tidy: pd.DataFrame) -> None:
    run = tidy[(tidy.run == "radam-0.01") & (tidy.sigma == 0.02)]
    before = figure.tables(tidy, CONFIG)["summary"]
    flown = figure.tables(pd.concat([tidy, diverged(run, at=29_000)]), CONFIG)["summary"]
    cell = (flown.optimizer == "radam") & (flown.sigma == 0.02) & (flown.setting == "common")
    assert before[cell].converged.item() == 12 and flown[cell].converged.item() == 0
    # beyond the horizon of a setting nobody watches any more
    short = {**CONFIG, "tuning_steps": 20_000}
    kept = figure.tables(pd.concat([tidy, diverged(run, at=29_000)]), short)["summary"]
    cell = (kept.optimizer == "radam") & (kept.sigma == 0.02) & (kept.setting == "tuned")
    assert kept[cell].converged.item() == 12


def test_a_run_that_finished_or_diverged_early_is_read_at_its_last_step(tidy: pd.DataFrame) -> None:
    early = tidy.copy()
    early.loc[early.run == "laprop-0.01", "step"] = 21_000  # all replicas reached the target
    lost = early.run == "adabound-0.03"
    early.loc[lost, "step"] = 40
    early.loc[lost & (early.metric == "steps_to_tol"), "value"] = math.nan
    early = pd.concat([early, diverged(early[lost], at=40)])
    got = figure.tables(early, CONFIG)
    pd.testing.assert_frame_equal(got["summary"], figure.tables(tidy, CONFIG)["summary"])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda t: t.drop(columns="sigma"), "lacks the columns sigma"),
        (lambda t: t[t.metric != "steps_to_tol"], "no steps_to_tol"),
        (lambda t: pd.concat([t, t[t.run == "adam-0.01"]]), "two results for one cell"),
        (lambda t: t[~((t.run == "adam-0.01") & (t.seed == 3))], "report seeds of adam differ"),
        (lambda t: t.assign(step=t.step.where(t.run != "adam-0.01", 9)), "adam.*ends at step 9"),
        (lambda t: t[t.phase == "tune"], "no run on report seeds"),
        (lambda t: t.assign(value=t.value.where(t.metric != "steps_to_tol", 40_000)), "30000"),
    ],
)
def test_damaged_tables_get_one_clear_line(tidy: pd.DataFrame, damage, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        figure.tables(damage(tidy), CONFIG)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- verdicts


def test_verdicts_of_the_synthetic_experiment(tidy: pd.DataFrame) -> None:
    got = verdicts(tidy)
    assert len(got) == 6
    for setting in figure.SETTINGS:
        want = {"alike_at_small_noise": "supported", "fastest_adaptive": "supported",
                "fastest_of_all": "contradicted", "still_converges": "supported"}  # fmt: skip
        if setting == "common":
            del want["fastest_of_all"]  # signsgd has no betas, so no part in that setting
        else:
            del want["still_converges"]  # the tuned runs are not watched long enough to say never
        assert {n: v.verdict for (n, s), v in got.items() if s == setting} == want
        assert all(v.n == 12 for v in got.values())
    assert "signSGD" in got["fastest_of_all", "tuned"].sentence
    assert got["fastest_of_all", "tuned"].budget == "3 lrs x 12 seeds each"
    assert got["still_converges", "common"].budget == "not tuned"
    assert all(v.p_holm >= v.p_value for v in got.values())


def test_a_truth_turned_round_turns_the_verdicts() -> None:
    slow = {**PACE, "amsgrad": 1.6, "radam": 0.5, "laprop": 1.1}
    got = verdicts(synthetic(slow))
    assert got["alike_at_small_noise", "common"].verdict == "contradicted"
    assert got["fastest_adaptive", "common"].verdict == "contradicted"
    assert "RAdam" in got["fastest_adaptive", "common"].effect_unit
    got = verdicts(synthetic({**PACE, "laprop": 50}, report=24))
    assert got["still_converges", "common"].verdict == "contradicted"


def test_missing_and_unfair_comparisons_are_inconclusive_with_their_reason(tidy) -> None:
    got = verdicts(tidy[tidy.optimizer != "radam"])
    assert (
        got["fastest_adaptive", "tuned"].sentence
        == "No ranking: no tune runs of radam at σ = 0.08."
    )
    assert got["alike_at_small_noise", "tuned"].verdict == "supported"  # does not need radam
    got = verdicts(tidy[tidy.run != "adam-0.03"])
    assert "trials differ" in got["fastest_of_all", "tuned"].refused
    assert got["fastest_of_all", "tuned"].verdict == "inconclusive"
    assert ("fastest_of_all", "common") not in got  # signsgd has no betas
    got = verdicts(tidy[~((tidy.optimizer == "adam") & (tidy.seed == 3))])
    assert "report seeds differ" in got["alike_at_small_noise", "common"].refused
    confounded = tidy.assign(eps=tidy.eps.where(tidy.optimizer != "adam", 1.5e-4))
    assert "eps differ" in verdicts(confounded)["still_converges", "common"].refused
    got = verdicts(synthetic(lr_factor=(3.0, 1.5, 1.0)))
    assert "edge of its grid" in got["fastest_adaptive", "tuned"].refused
    assert got["fastest_adaptive", "common"].verdict == "supported"


def test_smoke_scale_says_so_and_still_draws() -> None:
    config = {**CONFIG, "sigmas": [0.0, 0.08], "scale": "smoke"}
    small = synthetic(tune=2, report=3)
    small = small[small.sigma.isin([0.0, 0.08]) | small.metric.isin(["x", "y"])]
    got = verdicts(small, config)
    assert {v.verdict for v in got.values()} == {"inconclusive"}
    assert "3 report seeds are too few" in got["fastest_of_all", "tuned"].sentence
    assert "no noise level" in got["alike_at_small_noise", "common"].sentence
    unfair = small.assign(eps=small.eps.where(small.optimizer != "adam", 1.5e-4))
    refused = verdicts(unfair, config)["fastest_of_all", "tuned"].refused
    assert "eps differ" in refused and "3 report seeds are too few" in refused
    drawn = figure.draw(small, figure.tables(small, config), config)
    assert any("Scale smoke: n = 3 seeds" in text.get_text() for text in drawn.texts)


# ---------------------------------------------------------------- figure


def test_figure_shows_all_and_saves_the_same_bytes(tidy: pd.DataFrame, drawn, tmp_path) -> None:
    before = dict(matplotlib.rcParams)
    again = figure.draw(tidy, figure.tables(tidy, CONFIG), CONFIG)
    digests = []
    for folder, fig in (("one", drawn), ("two", again)):
        paths = style.save(fig, tmp_path / folder)
        assert [p.name for p in paths] == ["figure.png", "figure.pdf", "figure.svg"]
        assert sorted((tmp_path / folder).iterdir()) == sorted(paths)
        digests.append([hashlib.sha256(p.read_bytes()).hexdigest() for p in paths])
    assert digests[0] == digests[1]
    assert b"Date" not in (tmp_path / "one/figure.pdf").read_bytes()
    assert len(drawn.axes) == 4 + 2 * 6
    assert [t.get_text() for t in drawn.legends[0].get_texts()] == [
        "LaProp", "Adam", "AMSGrad", "RAdam", "AdaBound", "signSGD"]  # fmt: skip
    assert dict(matplotlib.rcParams) == before


def test_texts_neither_overlap_nor_leave_the_page(drawn) -> None:
    canvas = FigureCanvasAgg(drawn)
    canvas.draw()
    texts = [*drawn.texts, *drawn.legends[0].get_texts()]
    for ax in drawn.axes:
        texts += [ax.title, ax._left_title, ax.xaxis.label, ax.yaxis.label]  # type: ignore[attr-defined]
    boxes = [(t.get_text(), t.get_window_extent(canvas.get_renderer()))
             for t in texts if t.get_text()]  # fmt: skip
    assert len(boxes) > 20
    for i, (text, box) in enumerate(boxes):
        assert drawn.bbox.x0 <= box.x0 and box.x1 <= drawn.bbox.x1, text
        assert drawn.bbox.y0 <= box.y0 and box.y1 <= drawn.bbox.y1, text
        for other, second in boxes[:i]:
            assert not box.overlaps(second), (text, other)


def test_censored_medians_are_open_marks_at_the_horizon(drawn) -> None:
    open_marks = [line for line in drawn.axes[0].lines if line.get_markerfacecolor() == "white"]
    at = sorted(x for line in open_marks for x in np.asarray(line.get_xdata()).tolist())
    assert {float(y) for line in open_marks for y in np.asarray(line.get_ydata())} == {HORIZON}
    # AdaBound everywhere, Adam and AMSGrad at 0.14: shifted, so that all are seen
    assert len(at) == 5 + 2 and min(np.diff(at)) > 0.001


def test_every_optimizer_has_its_own_look_and_an_unknown_one_a_lasting_one() -> None:
    marks = list(style.MARKS.values())
    for what in ("label", "colour", "marker", "linestyle"):
        assert len({getattr(m, what) for m in marks}) == len(marks) == 9
    assert style.mark("mine") == style.mark("mine") == (
        "mine", *style.mark("mine")[1:])  # fmt: skip
    assert style.mark("mine").colour not in {m.colour for m in marks}
    assert style.in_order(["zeta", "adam", "mine", "laprop"]) == ["laprop", "adam", "mine", "zeta"]


def test_a_caption_says_what_the_runs_have() -> None:
    tidy = pd.DataFrame({"beta1": [0.9, math.nan, 0.8, 0.9], "beta2": [0.98, math.nan, 0.7, 0.98],
                         "eps": [1e-26, math.nan, 1e-26, 1e-26]})  # fmt: skip
    assert style.values_text(tidy, "beta1", "beta2") == "(0.8, 0.7) or (0.9, 0.98)"
    assert style.values_text(tidy, "eps") == "1e-26"


def test_a_failed_save_leaves_the_old_figure(drawn, tmp_path, monkeypatch) -> None:
    (tmp_path / "figure.png").write_bytes(b"old")
    monkeypatch.setattr(drawn, "savefig", lambda *_, **__: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        style.save(drawn, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["figure.png"]
    assert (tmp_path / "figure.png").read_bytes() == b"old"
