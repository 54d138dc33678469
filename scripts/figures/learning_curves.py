"""What the figures of Rainbow share: returns by agent step, their statistics, the authors' points.

Statistics over seeds are those of Agarwal et al. (2021): interquartile means (IQM) with bootstrap
intervals, and performance profiles. A run that diverged keeps the return of its last evaluation.
"""

# What a column of a table holds is beyond the types of pandas.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportReturnType=false

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from runners.config import ROOT
from scripts import statistics
from scripts.figures import style
from scripts.figures.training import pick

PUBLISHED = ROOT / "results" / "reference" / "rainbow_breakout.csv"
PUBLISHED_EPS = {"laprop": 1e-15, "adam": 1.5e-4}
# what is compared: early training, between the first and the last of the points that the authors'
# advantage was read from
WINDOW = (1_000_000, 2_000_000)  # agent steps
BREAKOUT = "BreakoutNoFrameskip-v4"


def config(values: Mapping[str, Any]) -> dict[str, Any]:
    task = values["task"]
    optimizer = values["sweeps"]["all"]
    return {
        "scale": values["scale"],
        "steps": values["steps"],
        "game": task["game"],
        "games": task["eval_games"],
        "agent_steps": task["learning_starts"] // task["train_every"] * task["train_every"]
        + values["steps"] * task["train_every"],
        "lr": optimizer["optimizer.lr"][0],
        "betas": tuple(optimizer["optimizer.betas"][0]),
        "note": "" if task["game"] == BREAKOUT else f" · {task['game']}, a stand-in for Breakout",
    }


def published() -> pd.DataFrame:
    """The authors' points: optimizer, agent_steps, value, sem; one run an optimizer."""
    found = pd.read_csv(PUBLISHED)
    names = {"frames": "agent_steps", "mean_return": "value", "sem_return": "sem"}
    return found.rename(columns=names)


def returns(tidy: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """One row an arm (a setting of ``by``), seed and evaluation: ``by``, seed, agent_steps, value.

    Every seed has every evaluation of the longest: one that ended early keeps its last return.
    """
    keys = [*by, "seed"]
    report = pick(tidy, tidy.phase == "report")
    found = report[report.metric.isin(["return", "agent_steps"])].pivot_table(
        index=[*keys, "step"], columns="metric", values="value", observed=True
    )
    found = found.reset_index().rename(columns={"return": "value"})
    longest = found.groupby(keys, observed=True).step.transform("max") == found.step.max()
    steps = found[longest].groupby("step").agent_steps.max()
    whole = []
    for key, run in found.groupby(keys, observed=True):
        value = run.set_index("step").value  # where it ended it has a row that others have not
        value = value.reindex(steps.index.union(value.index)).ffill().reindex(steps.index)
        whole.append(pd.DataFrame({"agent_steps": steps, "value": value}).assign(
            **dict(zip(keys, key, strict=True))))  # fmt: skip
    table = pd.concat(whole, ignore_index=True)
    return table[[*keys, "agent_steps", "value"]]


def curves(runs: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """IQM over seeds of each arm at each evaluation, with its interval."""
    rows = []
    for key, cell in runs.groupby([*by, "agent_steps"], observed=True):
        value = statistics.iqm_interval(cell.value)
        rows.append(dict(zip([*by, "agent_steps"], key, strict=True)) | _numbers(value))
    return pd.DataFrame(rows)


def window(runs: pd.DataFrame, first: float, last: float) -> pd.DataFrame:
    """Of each arm and seed: the mean return over the evaluations from ``first`` to ``last``."""
    inside = pick(runs, (runs.agent_steps >= first) & (runs.agent_steps <= last))
    keys = [name for name in runs if name not in ("agent_steps", "value")]
    return inside.groupby(keys, observed=True).value.mean().reset_index()


def scores(each: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """IQM over seeds of what `window` gives, with its interval."""
    rows = []
    for key, cell in each.groupby(list(by), observed=True):
        value = statistics.iqm_interval(cell.value)
        rows.append(dict(zip(by, key, strict=True)) | _numbers(value))
    return pd.DataFrame(rows)


def paired(a: pd.DataFrame, b: pd.DataFrame) -> statistics.Comparison:
    """IQM(a) - IQM(b) of two arms of `window`, over the same seeds."""
    one, two = statistics.align(list(a.seed), a.value, list(b.seed), b.value)
    return statistics.difference_of_iqms(one, two)


def draw_curve(ax: Axes, curve: pd.DataFrame, look: style.Mark, band: float = 0.18) -> None:
    """IQM with its interval, a band of opacity ``band``."""
    curve = curve.sort_values("agent_steps")
    x = curve.agent_steps.to_numpy()
    style.line(ax, x, curve.value, look, marker=look.marker if len(x) < 15 else None,
               markersize=3.5)  # fmt: skip
    if np.isfinite(curve[["low", "high"]].to_numpy()).all():
        style.band(ax, x, curve.low, curve.high, look, band)


def draw_published(ax: Axes, optimizer: str, last: float) -> None:
    """The authors' run as open marks with the standard error of its 20 games."""
    points = published()
    points = pick(points, (points.optimizer == optimizer) & (points.agent_steps <= last))
    look = style.mark(optimizer)
    marks, _, _ = ax.errorbar(
        points.agent_steps, points.value, yerr=points["sem"], color=look.colour,
        marker=look.marker, markerfacecolor="white", markersize=4, linestyle="none",
        elinewidth=0.8, zorder=2,
    )  # fmt: skip
    marks.set_label(f"{look.label}, authors")


def draw_scores(ax: Axes, table: pd.DataFrame, looks: Sequence[style.Mark]) -> None:
    """One row an arm, its IQM with its interval."""
    for row, (look, arm) in enumerate(zip(looks, table.itertuples(), strict=True)):
        ax.plot(arm.value, row, color=look.colour, marker=look.marker, markersize=5)
        if np.isfinite([arm.low, arm.high]).all():
            ax.hlines(row, arm.low, arm.high, color=look.colour, linewidth=1.2)
    ax.set_yticks(range(len(looks)), [look.label for look in looks])
    ax.set_ylim(len(looks) - 0.5, -0.5)
    ax.grid(visible=False, axis="y")


def eps_text(eps: float) -> str:
    """As the authors write it: 1.5e-4."""
    return np.format_float_scientific(eps, trim="-", exp_digits=1)


def steps_axis(ax: Axes, last: float) -> None:
    ax.set_xlabel("agent steps (4 frames each)" if last > 50_000 else "agent steps")
    ax.xaxis.set_major_formatter(matplotlib.ticker.EngFormatter(sep=""))


def _numbers(value: statistics.Estimate) -> dict[str, float]:
    return {"value": value.value, "low": value.low, "high": value.high, "n": value.n}
