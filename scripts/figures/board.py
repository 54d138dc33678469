"""The figure of the leaderboard: profiles, their areas, and each problem."""

# What a column of a table holds is beyond the types of pandas.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false

import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scripts import profiles
from scripts.figures import hover, style
from scripts.figures.training import pick
from scripts.statistics import MIN_SEEDS

ALL, FAIR = "all", "not refused"


def draw(
    ranking: pd.DataFrame, profile: pd.DataFrame, boards: pd.DataFrame, scale: str
) -> Figure:  # fmt: skip
    """a: profiles over all problems; b: their areas, those without the refused problems beside
    them where the order is another one; c: each problem."""
    names = style.in_order(boards.optimizer)
    problems = list(dict.fromkeys(ranking.problem))
    with matplotlib.rc_context(style.RC):
        fig = Figure(figsize=(7.6, 4.6 + 0.24 * len(problems)))
        height = fig.get_figheight()
        fig.text(0.01, 1 - 0.07 / height, f"Leaderboard: steps to target, scale {scale}",
                 fontsize=11, fontweight="bold", va="top")  # fmt: skip
        style.legend(fig, names, top=1 - 0.25 / height)
        top = 1 - 0.75 / height
        grid = fig.add_gridspec(1, 2, left=0.075, right=0.985, top=top, bottom=top - 2.1 / height,
                                wspace=0.3, width_ratios=(1.25, 1))  # fmt: skip
        _profiles(fig.add_subplot(grid[0]), pick(profile, profile.problems == ALL), names)
        _scores(fig.add_subplot(grid[1]), boards)
        below = fig.add_gridspec(1, 1, left=0.235, right=0.985, top=top - 2.75 / height,
                                 bottom=1.17 / height)  # fmt: skip
        _problems(fig.add_subplot(below[0]), ranking, names)
        fig.text(0.01, 0.06 / height, _caption(ranking, boards), fontsize=7, va="bottom",
                 linespacing=1.3)  # fmt: skip
    return fig


def marks(row: Any) -> str:
    """What is said of a problem behind its name."""
    return ("†" if row.refused else "") + ("*" if row.few_seeds else "")


def _profiles(ax: Axes, profile: pd.DataFrame, names: Sequence[str]) -> None:
    for name in names:
        own, look = pick(profile, profile.optimizer == name), style.mark(name)
        style.line(ax, own.tau, own.rho, look, drawstyle="steps-post")
        style.band(ax, own.tau, own.low, own.high, look, 0.07, step="post")
    ax.set(xscale="log", xlim=(1, profiles.TAU_MAX), ylim=(-0.03, 1.03),
           xlabel="τ: at most so many times the steps of the best",
           ylabel="weighted share of problems ρ(τ)")  # fmt: skip
    _powers_of_two(ax, profiles.TAU_MAX)
    ax.set_title("a  performance profiles", loc="left")


def _scores(ax: Axes, boards: pd.DataFrame) -> None:
    """The order is that of all problems; open marks where it is another without the refused."""
    first = pick(boards, boards.problems == ALL)
    second = pick(boards, boards.problems == FAIR).set_index("optimizer")
    other = len(second) > 0 and list(second.index) != list(first.optimizer)
    shift = 0.17 if other else 0.0
    for place, row in enumerate(first.itertuples()):
        look = style.mark(row.optimizer)
        ax.plot(row.score, place - shift, color=look.colour, marker=look.marker, markersize=5)
        _bar(ax, place - shift, row, color=look.colour, linewidth=1.2)
        if other:
            fair = second.loc[row.optimizer]
            ax.plot(fair.score, place + shift, color=look.colour, marker=look.marker, markersize=5,
                    markerfacecolor="white")  # fmt: skip
            _bar(
                ax, place + shift, fair, color=look.colour, linewidth=0.8, linestyle="--", zorder=1
            )
    ax.set_yticks(range(len(first)), [style.mark(name).label for name in first.optimizer])
    ax.set(ylim=(len(first) - 0.4, -0.6), xlim=(-0.02, 1.02), xlabel="area under the profile")
    ax.grid(visible=False, axis="y")
    ax.set_title("b  order of the board", loc="left")


def _bar(ax: Axes, y: float, row: Any, **look: Any) -> None:
    if np.isfinite([row.low, row.high]).all():  # one seed says nothing about the spread
        ax.hlines(y, row.low, row.high, **look)


def _problems(ax: Axes, ranking: pd.DataFrame, names: Sequence[str]) -> None:
    """One row a problem: how many times the steps of the best each optimizer takes."""
    problems = list(dict.fromkeys(ranking.problem))
    finite = ranking.ratio[np.isfinite(ranking.ratio)]
    last = 2.0 ** np.ceil(np.log2(max(float(finite.max()) if len(finite) else 2.0, 2.0)))
    late = last * 1.6  # a place of its own for those that do not reach the target
    beyond = dict(zip(names, late * np.geomspace(0.85, 1 / 0.85, len(names)), strict=True))
    ax.axvspan(late * 0.76, late / 0.76, color="#F2F2F2", linewidth=0, zorder=0)
    labels = []
    for row, problem in enumerate(problems):
        cells = pick(ranking, ranking.problem == problem).set_index("optimizer")
        labels.append(f"{problem} {marks(cells.iloc[0])}".strip())
        for name, shift in style.dodged(names, [0.0, 1.0], 0.6):
            if name not in cells.index:
                continue
            look, ratio = style.mark(name), cells.loc[name, "ratio"]
            reached = bool(np.isfinite(ratio))
            (mark,) = ax.plot(
                ratio if reached else beyond[name], row + shift * reached, color=look.colour,
                marker=look.marker, markersize=3.6,
                markerfacecolor=look.colour if reached else "white",
            )  # fmt: skip
            if not reached:
                hover.instead(mark, "not within the horizon")
        if row:
            ax.axhline(row - 0.5, color="#E3E3E3", linewidth=0.6, zorder=0)
    ax.set_xscale("log")
    _powers_of_two(ax, last)
    ticks = [t for t in ax.get_xticks() if t <= last]
    ax.set_xticks([*ticks, late], [*(f"{t:g}" for t in ticks), "not in time"])
    ax.set(xlim=(0.93, late / 0.76), ylim=(len(problems) - 0.5, -0.5))
    ax.set_yticks(range(len(problems)), labels)
    ax.grid(visible=False, axis="y")
    ax.set_xlabel("restricted mean steps over those of the best")
    ax.set_title("c  each problem", loc="left")


def _powers_of_two(ax: Axes, last: float) -> None:
    ticks = [2.0**k for k in range(int(np.log2(last)) + 1)]
    ax.set_xticks(ticks, [f"{t:g}" for t in ticks])
    ax.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())


def _horizons(each: pd.DataFrame) -> str:
    found = sorted(set(each.horizon.astype(int)))
    return f"{', '.join(f'{h:,}' for h in found)} steps"


def _caption(ranking: pd.DataFrame, boards: pd.DataFrame) -> str:
    each = ranking.drop_duplicates("problem")
    few = int(each.few_seeds.sum())
    each = each if few == len(each) else each[~each.few_seeds]  # those on the board
    low, high = int(each.n.min()), int(each.n.max())
    n = f"{low}" if low == high else f"{low} to {high}"
    refused = int((each.refused != "").sum())
    bands = style.interval_text(
        low,
        "bands and bars: 95% bootstrap intervals over seeds, for these problems",
    )
    text = (
        f"n = {n} seeds; {style.counted(len(each), 'problem')} of "
        f"{style.counted(each.experiment.nunique(), 'experiment')}, each "
        "experiment one unit of weight. Steps: restricted mean over seeds, one that does not "
        "reach the target counting as the horizon; not in time (open): half of the seeds or fewer "
        f"reach it within that horizon, {_horizons(each)}; {bands}."
    )
    if refused:
        text += (
            f" †: refused by the fairness gate (unequal chances, or a best lr on the edge of its "
            f"grid), {refused} of them"
        )
        first = list(boards[boards.problems == ALL].optimizer)
        second = list(boards[boards.problems == FAIR].optimizer)
        text += "; open marks in b: without these." if second and second != first else (
            "; without these the order is the same." if second else "."
        )  # fmt: skip
    if few:
        there = "" if each.few_seeds.all() else ", not in a and b"
        text += f" *: fewer than {MIN_SEEDS} seeds{there}."
    return textwrap.fill(text, 142)
