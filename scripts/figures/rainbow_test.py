"""The figures of Rainbow on tables whose truth is known."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from runners.plan import plan
from scripts import statistics
from scripts.figures import learning_curves, rainbow_breakout, rainbow_optimizers, style
from scripts.figures.learning_curves import BREAKOUT
from scripts.judging import CONTRADICTED, INCONCLUSIVE, SUPPORTED

CONFIG = {"scale": "paper", "steps": 480_000, "game": BREAKOUT, "games": 20,
          "agent_steps": 2_000_000, "lr": 6.25e-5, "betas": (0.9, 0.999), "note": "",
          "eps": 1e-8}  # fmt: skip
EPS = (1e-15, 1.5e-4)
POINTS = [0, *range(200_000, 2_000_001, 200_000)]


def table(levels, seeds=12, points=POINTS, spread=1.0, ends=None):
    """Returns that rise to ``levels[optimizer, eps]``; `ends[optimizer, eps]`: the last point."""
    rows = []
    for run, ((optimizer, eps), level) in enumerate(levels.items()):
        for seed in range(seeds):
            for agent_steps in points:
                if ends and agent_steps > ends.get((optimizer, eps), math.inf):
                    continue
                noise = spread * math.sin(7 * seed + run)
                value = level * agent_steps / 2e6 + (noise if agent_steps else 0)
                common = {"optimizer": optimizer, "eps": eps, "lr": 6.25e-5, "beta1": 0.9,
                          "beta2": 0.999, "phase": "report", "seed": seed, "replica": 0,
                          "run": f"r{run} {seed}", "step": agent_steps // 4}  # fmt: skip
                rows += [common | {"metric": "return", "value": value},
                         common | {"metric": "agent_steps", "value": float(agent_steps)},
                         common | {"metric": "return_sem", "value": 1.0}]  # fmt: skip
    tidy = pd.DataFrame(rows)
    for name in ("run", "optimizer", "phase", "metric"):
        tidy[name] = tidy[name].astype("category")
    return tidy


def breakout(laprop, adam, **options):
    """Levels at the two eps of each."""
    levels = {("laprop", e): v for e, v in zip(EPS, laprop, strict=True)}
    levels |= {("adam", e): v for e, v in zip(EPS, adam, strict=True)}
    tidy = table(levels, **options)
    config = CONFIG | {"agent_steps": max(options.get("points", POINTS))}
    tables = rainbow_breakout.tables(tidy, config)
    found = rainbow_breakout.verdicts(tidy, tables, config)
    verdicts = {(v.claim.removeprefix("rainbow_"), v.setting): v for v in found}
    return verdicts, tables, (tidy, config)


def test_optimizers_are_compared_at_the_same_eps():
    verdicts, tables, _ = breakout(laprop=(200, 100), adam=(100, 200))
    assert verdicts["ahead_early", "ε = 1e-15"].verdict == SUPPORTED
    assert verdicts["ahead_early", "ε = 1.5e-4"].verdict == CONTRADICTED
    # the mean of level * t / 2M over the evaluations from 1M to 2M is three quarters of the level
    assert verdicts["ahead_early", "ε = 1e-15"].effect == pytest.approx(75, abs=2)
    means = tables["scores"].set_index(["optimizer", "eps"]).value
    assert means["laprop", 1e-15] == pytest.approx(150, abs=1)


def test_the_published_pair_is_refused_because_its_eps_differ():
    verdicts, _, _ = breakout(laprop=(200, 200), adam=(100, 100))
    ((_, setting),) = [key for key in verdicts if key[1].startswith("as published")]
    verdict = verdicts["ahead_early", setting]
    assert verdict.verdict == INCONCLUSIVE
    assert "the eps differ: laprop 1e-15, adam 0.00015" in verdict.refused


@pytest.mark.parametrize(("adam", "expected"), [
    ((100, 200), SUPPORTED), ((200, 100), SUPPORTED), ((100, 102), CONTRADICTED),
])  # fmt: skip
def test_what_the_eps_alone_does(adam, expected):
    verdicts, _, _ = breakout(laprop=(100, 100), adam=adam)
    assert verdicts["eps_matters", "Adam, ε = 1e-15 and 1.5e-4"].verdict == expected


def test_few_seeds_and_short_runs_are_inconclusive():
    verdicts, _, _ = breakout(laprop=(200, 200), adam=(100, 100), seeds=3)
    assert {v.verdict for v in verdicts.values()} == {INCONCLUSIVE}
    assert "3 report seeds are too few" in verdicts["ahead_early", "ε = 1e-15"].sentence
    verdicts, _, _ = breakout(laprop=(200, 200), adam=(100, 100), points=[0, 1000, 2000])
    assert {v.verdict for v in verdicts.values()} == {INCONCLUSIVE}
    assert "2,000 agent steps of the 2,000,000" in verdicts["ahead_early", "ε = 1e-15"].sentence


def test_a_run_that_diverged_keeps_its_last_return():
    ends = {("adam", 1e-15): 1_000_000}
    _, tables, _ = breakout(laprop=(100, 100), adam=(100, 100), ends=ends, spread=0)
    early = tables["early"].set_index(["optimizer", "eps", "seed"]).value
    assert early["adam", 1e-15, 0] == pytest.approx(50)
    assert early["adam", 1.5e-4, 0] == pytest.approx(75)


def optimizers(levels, **options):
    tidy = table({(name, 1e-8): level for name, level in levels.items()}, **options)
    tidy.loc[tidy.optimizer == "signsgd", ["eps", "beta1", "beta2"]] = np.nan
    tables = rainbow_optimizers.tables(tidy, CONFIG)
    (verdict,) = rainbow_optimizers.verdicts(tidy, tables, CONFIG)
    return verdict, tables, (tidy, CONFIG)


@pytest.mark.parametrize(("laprop", "expected"), [
    (300, SUPPORTED), (50, CONTRADICTED), (200, INCONCLUSIVE),
])  # fmt: skip
def test_fastest_of_all(laprop, expected):
    levels = {"laprop": laprop, "adam": 200, "radam": 100, "signsgd": 80}
    verdict, tables, _ = optimizers(levels)
    assert verdict.verdict == expected
    assert verdict.budget == "not tuned" and "more than Adam" in verdict.effect_unit
    profile = tables["profiles"].set_index(["optimizer", "level"]).fraction
    assert profile["radam"].iloc[0] == 1 and profile["radam"].iloc[-1] == 0
    assert profile["radam"].is_monotonic_decreasing


@pytest.mark.parametrize(("others", "expected"), [
    (["adam"], CONTRADICTED), (["adam", "radam"], INCONCLUSIVE),
    (["adam", "radam", "amsgrad"], INCONCLUSIVE),
])  # fmt: skip
def test_of_more_others_the_best_must_be_farther_ahead(others, expected):
    """LaProp is ahead of all but Adam, of which it is for 2 of 12 seeds. A resample's IQM, of its
    middle 6, is ahead where 6 or more of the 12 are of these 2, whose probability is binomial."""
    levels = {(name, 1e-8): 50.0 for name in others}
    levels |= {("laprop", 1e-8): 100.0, ("adam", 1e-8): 100.0}
    tidy = table(levels, spread=0)
    mine = (tidy.optimizer == "laprop") & (tidy.metric == "return")
    tidy.loc[mine, "value"] *= np.where(tidy.seed[mine] < 2, 1.3, 0.8)
    (verdict,) = rainbow_optimizers.verdicts(tidy, rainbow_optimizers.tables(tidy, CONFIG), CONFIG)
    z = stats.norm.ppf(stats.binom.sf(5, 12, 2 / 12))
    p = stats.t.cdf(z * math.sqrt(11 / 12), 11)  # expanded as the intervals are
    assert verdict.p_value == pytest.approx(2 * len(others) * p, rel=0.15)
    assert verdict.verdict == expected


def test_optimizers_with_another_eps_or_lr_are_not_ranked():
    tidy = table({("laprop", 1e-15): 2, ("adam", 1e-8): 1})
    tables = rainbow_optimizers.tables(tidy, CONFIG)
    (verdict,) = rainbow_optimizers.verdicts(tidy, tables, CONFIG)
    assert verdict.verdict == INCONCLUSIVE and "the eps differ" in verdict.refused


@pytest.mark.parametrize("seeds", [1, 12])
@pytest.mark.parametrize("points", [POINTS, [0, 1000, 2000]])
def test_figures_can_be_read(seeds, points):
    _, tables, given = breakout((200, 150), (100, 120), seeds=seeds, points=points)
    assert not style.clashes(rainbow_breakout.draw(given[0], tables, given[1]))
    names = ("laprop", "adam", "amsgrad", "radam", "adabound", "signsgd")
    _, tables, (tidy, _) = optimizers(dict(zip(names, range(6, 0, -1), strict=True)), seeds=seeds,
                                      points=points)  # fmt: skip
    config = CONFIG | {"note": " · CartPole-v1, a stand-in for Breakout"}
    assert not style.clashes(rainbow_optimizers.draw(tidy, tables, config))


@pytest.mark.parametrize(("points", "theirs"), [([0, 1000, 2000], 0), (POINTS[:4], 3)])
def test_the_axes_end_where_the_runs_do(points, theirs):
    _, tables, (tidy, config) = breakout((200, 150), (100, 120), points=points)
    fig = rainbow_breakout.draw(tidy, tables, config)
    assert all(ax.get_xlim()[1] < 1.1 * points[-1] for ax in fig.axes[:3])
    marks = [line for line in fig.axes[0].lines if line.get_markerfacecolor() == "white"]
    assert [len(np.asarray(line.get_xdata())) for line in marks] == [theirs, theirs]
    caption = fig.texts[-1].get_text().replace("\n", " ")
    assert ("Open marks" in caption) == (theirs > 0)
    assert ("curves begin at 200,000 agent steps and are not on these axes" in caption) == (
        not theirs
    )


def test_the_authors_points_are_those_of_the_design():
    points = learning_curves.published().set_index(["optimizer", "agent_steps"]).value
    rounded = {(o, t): round(points[o, t]) for o in ("adam", "laprop")
               for t in (1_000_000, 1_400_000, 2_000_000)}  # fmt: skip
    assert list(rounded.values()) == [26, 58, 174, 61, 178, 182]


@pytest.mark.parametrize("experiment", ["rainbow_breakout", "rainbow_optimizers"])
@pytest.mark.parametrize("scale", ["quick", "paper"])
def test_everybody_gets_the_same(experiment, scale):
    arms, tasks = {}, []
    for job in plan([f"experiment={experiment}", f"scale={scale}"]):
        values = job.config.values
        optimizer = values["optimizer"]
        tasks.append(values["task"])
        key = (job.config.names["optimizer"], optimizer.get("eps"))
        arms.setdefault(key, set()).add((values["seeds"][0], values["steps"], optimizer["lr"]))
    task = tasks[0]
    assert all(other == task for other in tasks)
    assert len(set(map(frozenset, arms.values()))) == 1
    if experiment == "rainbow_breakout":
        assert set(arms) == {(o, e) for o in ("laprop", "adam") for e in EPS}
        assert len(next(iter(arms.values()))) >= 3
    else:
        assert {name for name, _ in arms} == {
            "laprop", "adam", "amsgrad", "radam", "adabound", "signsgd",
        }  # fmt: skip
    if scale == "paper":  # an evaluation falls on each of the authors' points
        steps = [task["learning_starts"] + 4 * s for s in range(0, 480_001, values["eval_every"])]
        assert {1_000_000, 1_400_000, 2_000_000} <= set(steps) and task["game"] == BREAKOUT


def test_interquartile_means_against_their_definition():
    """Of n values the n/4 lowest and highest, rounded down, are left out."""
    random = np.random.default_rng(0)
    for n in (1, 3, 4, 5, 8, 13):
        values = random.standard_cauchy(n)
        cut = n // 4
        middle = np.sort(values)[cut : n - cut]
        assert statistics.interquartile_mean(values) == pytest.approx(middle.mean())
    assert statistics.interquartile_mean([[1, 2], [3, 4]]).tolist() == [2, 3]


def test_intervals_of_interquartile_means_cover():
    """Normal samples, whose IQM is their mean: 95% within the error of 300 trials."""
    random, hits, paired = np.random.default_rng(1), 0, 0
    for _ in range(300):
        a, b = random.normal(2, 1, 12), random.normal(1, 1, 12)
        found = statistics.iqm_interval(a, seed=0, resamples=1000)
        hits += found.low <= 2 <= found.high
        both = statistics.difference_of_iqms(a + 5 * b, 5 * b, seed=0, resamples=1000)
        paired += both.low <= 2 <= both.high
    assert stats.binomtest(hits, 300, 0.95).pvalue > 1e-3
    assert paired / 300 > 0.9
    one = statistics.iqm_interval([3.0], seed=0)
    assert (one.value, one.low, one.high) == (3, -math.inf, math.inf)
    with pytest.raises(ValueError, match="finite"):
        statistics.iqm_interval([1.0, math.nan], seed=0)
    with pytest.raises(ValueError, match="equally many"):
        statistics.difference_of_iqms([1.0], [1.0, 2.0], seed=0)


def test_a_run_that_ends_between_evaluations_changes_nobody_elses():
    tidy = table({("adam", 1e-8): 100.0}, seeds=3)
    whole = learning_curves.returns(tidy, ["optimizer"])
    late = (tidy.seed == 2) & (tidy.step > 200_000)
    cut = tidy[~late].copy()
    last = cut[(cut.seed == 2) & (cut.step == 200_000)].copy()
    last["step"] += 7_000  # where it diverged
    last.loc[last.metric == "agent_steps", "value"] += 28_000
    found = learning_curves.returns(pd.concat([cut, last]), ["optimizer"])
    others = [t[t.seed < 2].reset_index(drop=True) for t in (found, whole)]
    pd.testing.assert_frame_equal(*others)
    ended = found[found.seed == 2]
    assert len(ended) == len(POINTS) and ended.value.iloc[-1] == last.value.iloc[0]
