"""The authors' published raw curves: how far ours are from them, and a figure of their own.

All of them are single runs (n = 1), so that no ranking follows from them. ``results/reference/``
names their source.
"""

# What a column of a table holds is beyond the types of pandas.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from runners.collect import write_if_changed
from runners.config import ROOT
from scripts import claims, judging
from scripts.figures import style

REFERENCE = ROOT / "results" / "reference"
EXPERIMENT, FOLDER = "published", "authors"  # results/published/authors/
DISTANCES = "distance_to_published.csv"  # what a figure module may write beside its tables
ROBERTA_UPDATES = 125_000  # of a whole run
LAST_TENTH = 0.9  # from this fraction of the updates on


def distance(
    setting: str, unit: str, ours: tuple[ArrayLike, ArrayLike], theirs: tuple[ArrayLike, ArrayLike]
) -> dict[str, Any]:
    """A row of the table of distances: the mean of |ours - theirs| at their points.

    ``ours`` and ``theirs`` are (x, y); ours is interpolated linearly, and only points within the
    range of both count. Without any the distance is NaN.
    """
    x, y = (np.asarray(column, dtype=float) for column in ours)
    at, value = (np.asarray(column, dtype=float) for column in theirs)
    inside = (at >= x.min()) & (at <= x.max())
    gaps = np.abs(np.interp(at[inside], x, y) - value[inside])
    return {"setting": setting, "distance": gaps.mean() if gaps.size else float("nan"),
            "unit": unit, "points": int(inside.sum())}  # fmt: skip


def curves() -> dict[str, pd.DataFrame]:
    """The published curves by task: optimizer, setting, x, value."""
    iwslt = pd.read_csv(REFERENCE / "iwslt14_deen_train_loss.csv")
    roberta = pd.read_csv(REFERENCE / "roberta_wikipedia_train_loss.csv")
    rainbow = pd.read_csv(REFERENCE / "rainbow_breakout.csv")
    return {
        "iwslt": pd.DataFrame({
            "optimizer": iwslt.optimizer, "setting": iwslt.warmup.map(_warmup),
            "x": iwslt["update"], "value": iwslt.train_loss,
        }),
        "roberta": pd.DataFrame({
            "optimizer": roberta.optimizer,
            "setting": roberta.warmup_updates.map(_warmup) + ", ν = " + roberta.beta2.astype(str),
            "x": roberta["update"], "value": roberta.train_loss,
        }),
        "rainbow": pd.DataFrame({
            "optimizer": rainbow.optimizer,
            "setting": rainbow.optimizer.map({"adam": "ε = 1.5e-4", "laprop": "ε = 1e-15"}),
            "x": rainbow.frames, "value": rainbow.mean_return,
        }),
    }  # fmt: skip


def _warmup(updates: int) -> str:
    return f"warm-up {updates:,}" if updates else "no warm-up"


def ends(found: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Task, optimizer, setting, value: the mean over the last tenth of each curve, n."""
    rows = []
    for task, table in found.items():
        for key, curve in table.groupby(["setting", "optimizer"]):
            setting, optimizer = key  # type: ignore[misc]
            last = curve.value[curve.x > LAST_TENTH * curve.x.max()]
            rows.append({"task": task, "setting": setting, "optimizer": optimizer,
                         "updates": int(curve.x.max()), "value": last.mean(), "n": 1})  # fmt: skip
    return pd.DataFrame(rows)


def verdicts(table: pd.DataFrame) -> list[judging.Verdict]:
    """What single runs can say of the claims that rest on them alone: nothing for sure."""
    roberta = table[table.task == "roberta"].pivot(
        index="setting", columns="optimizer", values="value"
    )
    both = roberta.dropna()
    told = "; ".join(f"{setting}: LaProp {row.laprop:.2f}, Adam {row.adam:.2f}"
                     for setting, row in both.iterrows())  # fmt: skip
    (claim,) = claims.claims_of(EXPERIMENT)
    verdict = judging.inconclusive(claim, "authors' logs", judging.few_seeds(1), n=1)
    (updates,) = set(table.updates[table.task == "roberta"])
    said = (
        f"{verdict.sentence} Their mean training loss over the last tenth of the {updates:,} updates "
        f"published, of {ROBERTA_UPDATES:,}, bits per token: {told}."
    )
    return [replace(verdict, sentence=said)]


def make(results_dir: Path) -> Path:
    """Write figure, tables and claims of the published curves; returns their folder."""
    folder, found = results_dir / EXPERIMENT / FOLDER, curves()
    table = ends(found)
    write_if_changed(folder / "ends.csv", table.to_csv(index=False).encode())
    frame = judging.to_frame(verdicts(table))
    write_if_changed(folder / "claims.csv", frame.to_csv(index=False).encode())
    style.save(draw(found), folder)
    return folder


def draw(found: Mapping[str, pd.DataFrame]) -> Figure:
    panels = (
        ("iwslt", "a  IWSLT14 de-en", "thousand updates", "training loss (bits per token)"),
        ("roberta", "b  RoBERTa, Wikipedia", "thousand updates", "training loss (bits per token)"),
        ("rainbow", "c  Rainbow, Breakout", "million agent steps", "mean return of 20 games"),
    )
    with matplotlib.rc_context(style.RC):
        fig = Figure(figsize=(7.6, 4.4))
        fig.text(0.01, 0.98, "The authors' published raw curves, n = 1 each", fontsize=11, fontweight="bold",
                 va="top")  # fmt: skip
        grid = fig.add_gridspec(1, 3, left=0.07, right=0.985, top=0.85, bottom=0.42, wspace=0.3)
        for place, (task, title, x, y) in enumerate(panels):
            ax = fig.add_subplot(grid[place])
            _panel(ax, found[task], 1e6 if task == "rainbow" else 1e3)
            ax.set_title(title, loc="left")
            ax.set_xlabel(x)
            ax.set_ylabel(y)
            ax.set_ylim(bottom=0)
        fig.text(0.01, 0.02, "Each curve is one run (n = 1), so that no ranking follows. Colour: the "
                 f"optimizer; line: the setting.\nb has the first sixth of {ROBERTA_UPDATES:,} updates. "
                 "In c the two differ in ε as well as in the optimizer.",
                 fontsize=7, va="bottom")  # fmt: skip
    return fig


_DASHES = ("-", (0, (5, 1.5)), (0, (1, 1.2)), (0, (4, 1.2, 1, 1.2)))


def _panel(ax: Axes, table: pd.DataFrame, unit: float) -> None:
    dashes = dict(zip(sorted(table.setting.unique()), _DASHES, strict=False))
    for name in style.in_order(table.optimizer):
        for setting, curve in table[table.optimizer == name].groupby("setting"):
            look = style.mark(name)
            ax.plot(curve.x / unit, curve.value, color=look.colour, linestyle=dashes[str(setting)],
                    linewidth=0.9, label=f"{look.label}, {setting}")  # fmt: skip
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.27), frameon=False, fontsize=6.5,
              handlelength=3)  # fmt: skip
