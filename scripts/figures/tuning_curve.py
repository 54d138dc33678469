"""Performance as a function of the tuning budget: what the two tuning experiments share.

Every optimizer tries the same points of the same space; `scripts/tuning.py` has the estimate.
"""

# What a column of a table holds is beyond the types of pandas.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scripts import claims, fairness, judging, statistics, tuning
from scripts.claims import SMALL_BUDGET
from scripts.fairness import Budget
from scripts.figures import style, training
from scripts.figures.training import pick, refusal
from scripts.judging import Verdict

Tables = dict[str, pd.DataFrame]
SETTING, SUBJECT, RIVAL = "best of k", "laprop", "adam"
POINT = ["lr", "beta1", "beta2"]


def config(values: Mapping[str, Any]) -> dict[str, Any]:
    space = values["space"]
    return {
        "scale": values["scale"],
        "steps": values["steps"],
        "space": f"lr {_range(space['lr'])}, 1 − μ {_range(space['one_minus_u'])}, "
        f"1 − ν {_range(space['one_minus_v'])}",
    }


def tables(outcomes: pd.DataFrame) -> Tables:
    """`trials`: every trial's mean on either kind of seeds; `curve`: the best of k, with interval.

    ``outcomes`` has a row a replica: optimizer, `POINT`, phase, seed, value (smaller is better).
    """
    trials = outcomes.pivot_table(
        index=["optimizer", *POINT], columns="phase", values="value", aggfunc="mean", observed=True
    ).reset_index()  # fmt: skip
    names = style.in_order(outcomes.optimizer.unique())
    tune, report = _arms(outcomes, names)
    budgets = _budgets(len(tune[SUBJECT]))
    means, draws = tuning.curves(tune, report, budgets)
    rows = []
    for name in names:
        for place, k in enumerate(budgets):
            ends = statistics.comparison(
                float(means[name][place]), draws[name][:, place], draws[name][:, place],
                min(report[name].shape),
            )  # fmt: skip
            rows.append({"optimizer": name, "k": k, "expected": ends.value, "low": ends.low,
                         "high": ends.high, "trials": len(tune[name]),
                         "seeds": report[name].shape[1]})  # fmt: skip
    return {"trials": trials.rename_axis(columns=None), "curve": pd.DataFrame(rows)}


def verdicts(
    experiment: str, outcomes: pd.DataFrame, tables: Tables, steps: int, unit: str,
    fixed: Mapping[str, Mapping[str, float]],
) -> list[Verdict]:  # fmt: skip
    """Whether LaProp is ahead of Adam, with a few trials and with half of them; ``fixed``: what is
    not tuned of each."""
    tune, report = _arms(outcomes, (SUBJECT, RIVAL))
    budgets = _budgets(len(tune[SUBJECT]))
    means, draws = tuning.curves(tune, report, budgets)
    given = [_budget(name, outcomes, steps, fixed[name]) for name in (SUBJECT, RIVAL)]
    labels = [style.mark(name).label for name in (SUBJECT, RIVAL)]
    found = []
    for claim in claims.claims_of(experiment):
        seeds = report[SUBJECT].shape[1]
        if verdict := refusal(claim, SETTING, seeds, given):
            found.append(verdict)
            continue
        k = min(SMALL_BUDGET, budgets[-1]) if claim.id.endswith("small_budget") else budgets[-1]
        place = budgets.index(k)
        gap = tuning.difference(RIVAL, SUBJECT, means, draws, place, min(report[SUBJECT].shape))
        each = ", ".join(
            f"{label} {judging.number(float(means[name][place]))}"
            for label, name in zip(labels, (SUBJECT, RIVAL), strict=True)
        )
        found.append(
            judging.judge(
                claim,
                SETTING,
                p_for=gap.p_above(0),
                p_against=gap.p_below(0),
                effect=gap,
                effect_unit=f"{unit} saved (Adam − LaProp, best of {k} of {len(tune[SUBJECT])} trials)",
                budget=fairness.budget_text(given),
                sentence=f"Expected {unit} of the best of {k} trials: {each}.",
            )
        )
    return judging.settle(found)


def draw(tables: Tables, config: Mapping[str, Any], title: str, unit: str, note: str) -> Figure:
    """Left the tuning curves, right the trials themselves, sorted."""
    curve, trials = tables["curve"], tables["trials"]
    names = style.in_order(curve.optimizer.unique())
    with matplotlib.rc_context(style.RC):
        fig = Figure(figsize=(7.6, 4.1))
        fig.text(0.01, 0.98, title, fontsize=11, fontweight="bold", va="top")
        style.legend(fig, names, 0.93)
        grid = fig.add_gridspec(1, 2, left=0.09, right=0.985, top=0.79, bottom=0.27, wspace=0.28)
        left, right = fig.add_subplot(grid[0, 0]), fig.add_subplot(grid[0, 1])
        for name in names:
            look = style.mark(name)
            part = pick(curve, curve.optimizer == name)
            style.band(left, part.k, part.low, part.high, look, 0.12)
            _line(left, part.k, part.expected, look)
            ranked = np.sort(pick(trials, trials.optimizer == name).report)
            _line(right, np.arange(1, len(ranked) + 1), ranked, look)
        left.set_title("a  The best of k trials", loc="left")
        left.set_xlabel("tuning budget k (trials)")
        left.set_ylabel(f"expected {unit}")
        right.set_title("b  All trials, each optimizer's best first", loc="left")
        right.set_xlabel("rank of the trial")
        right.set_ylabel(f"mean {unit}")
        count, seeds = int(curve.trials.iloc[0]), int(curve.seeds.iloc[0])
        fig.text(0.01, 0.015, "\n".join([
            (f"Scale {config['scale']}: {count} trials each at the same points, n = "
             f"{seeds} report seeds, {config['steps']:,} steps{note}."),
            f"Space, log-uniform: {config['space']}.",
            ("The best trial is chosen on other seeds. Bands: 95% intervals over trials and "
             "seeds, resampled together."),
        ]), va="bottom", fontsize=7)  # fmt: skip
    return fig


def _line(ax: Axes, x: Any, y: Any, look: style.Mark) -> None:
    style.line(ax, x, y, look, marker=look.marker, markersize=3, markevery=max(1, len(x) // 8))


def _arms(outcomes: pd.DataFrame, names: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """optimizer -> means on the tuning seeds, (trials,), and results, (trials, report seeds)."""
    tune, report = {}, {}
    for name in names:
        mine = pick(outcomes, outcomes.optimizer == name)
        wide = {
            phase: pick(mine, mine.phase == phase).pivot(
                index=POINT, columns="seed", values="value"
            )
            for phase in ("tune", "report")
        }
        tune[name] = wide["tune"].to_numpy().mean(axis=1)
        report[name] = wide["report"].to_numpy()
    return tune, report


def _budgets(trials: int) -> list[int]:
    return list(range(1, max(1, trials // 2) + 1))


def _budget(name: str, outcomes: pd.DataFrame, steps: int, fixed: Mapping[str, float]) -> Budget:
    mine = pick(outcomes, outcomes.optimizer == name)
    return Budget(
        optimizer=name, trials=len(mine[POINT].drop_duplicates()), knobs=("lr", "μ", "ν"),
        tuning_seeds=training.seeds_of(mine, "tune"), steps=steps,
        report_seeds=training.seeds_of(mine, "report"), fixed=fixed,
    )  # fmt: skip


def _range(ends: Sequence[float]) -> str:
    return f"{ends[0]:g} to {ends[1]:g}"
