"""Style transfer over the plane of (u, v): the loss that Adam and LaProp reach, and the pictures.

Fixed before running: what a run reached is log10 of its loss at the end over that at the start
(style_curves); a run *fails* if that is not below 0, or if it diverged. The learning rate is chosen
for each optimizer in each cell on the tuning seeds.
"""

# What a column of a table holds is beyond the types of pandas.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from scripts import claims, fairness, judging, statistics
from scripts.figures import style, style_curves, training
from scripts.figures.plane import panels
from scripts.figures.style_curves import finals, outcomes, show
from scripts.figures.training import pick, seeds_of
from scripts.judging import Verdict

Tables = dict[str, pd.DataFrame]
Config = Mapping[str, Any]
EXPERIMENT, SETTING, SUBJECT, RIVAL = "style_uv", "tuned", "laprop", "adam"
CELL = ["optimizer", "beta1", "beta2"]

config = style_curves.config


def tables(tidy: pd.DataFrame, config: Config) -> Tables:
    """`tuning`: the chosen learning rates; `plane`: what each cell reached, and how many failed."""
    found = outcomes(tidy)
    chosen = training.tuned(found, CELL, style_curves.LEARNED)
    report = training.reported(found, chosen)
    report = report.assign(failed=report.value >= 0)
    plane = report.groupby(CELL, observed=True).agg(
        lr=("lr", "first"), n=("seed", "size"), failed=("failed", "sum"),
        median=("value", "median"), q1=("value", lambda v: v.quantile(0.25)),
        q3=("value", lambda v: v.quantile(0.75)),
    )  # fmt: skip
    return {"tuning": chosen, "plane": plane.reset_index()}


def verdicts(tidy: pd.DataFrame, tables: Tables, config: Config) -> list[Verdict]:
    found, chosen = outcomes(tidy), tables["tuning"]
    report = training.reported(found, chosen)
    n = report.seed.nunique()
    us, vs = sorted(report.beta1.unique()), sorted(report.beta2.unique())
    settled = []
    for claim in claims.claims_of(EXPERIMENT):
        names, budgets = _compared(claim.id), []
        for name in names:
            cells = pick(chosen, _cells_of(claim.id, chosen, vs))
            budget = training.budget(name, found, cells, config["steps"])
            eps = {key: value for key, value in budget.fixed.items() if key == "eps"}
            budgets.append(replace(budget, fixed=eps))  # the betas are what is varied
        if verdict := training.refusal(claim, SETTING, n, budgets):
            settled.append(verdict)
            continue
        if claim.id == "style_uv_beyond":
            beyond = pick(report, _cells_of(claim.id, report, vs))
            mean = beyond.groupby(["optimizer", "seed"], observed=True)["value"].mean().unstack(0)
            gap = statistics.mean_interval(mean[RIVAL] - mean[SUBJECT])
            unit = "powers of ten below Adam's loss, where μ > √ν"
            cells = len(beyond[["beta1", "beta2"]].drop_duplicates())
            told = (f"Loss at the end over that at the start, geometric means over {cells} cells: "
                    f"LaProp {10 ** mean[SUBJECT].mean():.3g}, "
                    f"Adam {10 ** mean[RIVAL].mean():.3g}.")  # fmt: skip
        else:
            (name,) = names
            change = _change(pick(report, report.optimizer == name), vs[0], vs[-1])
            gains = -change if name == SUBJECT else change
            gap = statistics.mean_interval(gains)
            unit = (f"powers of ten {'below' if name == SUBJECT else 'above'} the loss at "
                    f"ν = {vs[-1]:g}, at ν = {vs[0]:g}")  # fmt: skip
            told = (f"From ν = {vs[-1]:g} to {vs[0]:g} the loss of {style.mark(name).label} is "
                    f"multiplied by {10 ** change.mean():.3g} (geometric mean over μ of "
                    f"{', '.join(f'{u:g}' for u in us)}).")  # fmt: skip
        settled.append(
            judging.judge(
                claim,
                SETTING,
                budget=fairness.budget_text(budgets),
                p_for=gap.p_above(0),
                p_against=gap.p_below(0),
                effect=gap,
                effect_unit=unit,
                sentence=told,
            )
        )
    return judging.settle(settled)


def _compared(claim: str) -> tuple[str, ...]:
    one = {"style_uv_laprop_gains": (SUBJECT,), "style_uv_adam_suffers": (RIVAL,)}
    return one.get(claim, (SUBJECT, RIVAL))


def _cells_of(claim: str, table: pd.DataFrame, vs: Sequence[float]) -> Any:
    """Which rows of ``table`` the claim is about: a best lr on the edge elsewhere does not matter."""
    if claim == "style_uv_beyond":
        return table.beta1 > np.sqrt(table.beta2)
    return table.beta2.isin([vs[0], vs[-1]])


def _change(report: pd.DataFrame, low: float, high: float) -> pd.Series:
    """Of each seed the mean over u of what it reached at v = low less that at v = high."""
    wide = report.pivot_table(index=["seed", "beta1"], columns="beta2", values="value")
    return cast(pd.Series, (wide[low] - wide[high]).groupby("seed").mean())


def draw(tidy: pd.DataFrame, tables: Tables, config: Config) -> Figure:
    plane = tables["plane"]
    us, vs = sorted(plane.beta1.unique()), sorted(plane.beta2.unique())
    images = finals(tidy, tables["tuning"], CELL, config["runs"])
    values = 10 ** plane["median"]
    norm = matplotlib.colors.LogNorm(vmin=values.min(), vmax=max(1.0, values.max()))
    with matplotlib.rc_context(style.RC | {"axes.grid": False}):
        fig = Figure(figsize=(7.6, 6.6))
        fig.text(0.01, 0.985, "Neural style transfer over the plane of (μ, ν)", fontsize=11,
                 fontweight="bold", va="top")  # fmt: skip
        top = fig.add_gridspec(1, 3, left=0.07, right=0.9, top=0.91, bottom=0.6, wspace=0.1,
                               width_ratios=(1, 1, 0.05))  # fmt: skip
        panels(fig, top, plane.assign(value=values), (SUBJECT, RIVAL), norm,
               "loss / loss at the start (median)",
               lambda row: f"{row.value:.2g}" + (f"\n× {int(row.failed)}" if row.failed else ""))  # fmt: skip
        for place, name in enumerate((SUBJECT, RIVAL)):
            left = 0.07 + place * 0.405
            fig.text(left, 0.5, f"{'cd'[place]}  {style.mark(name).label}: the pictures",
                     fontsize=9)  # fmt: skip
            _pictures_panel(fig, images, name, us, vs, left, left + 0.385)
        n, tuning = len(seeds_of(tidy, "report")), len(seeds_of(tidy, "tune"))
        lrs = ", ".join(f"{lr:g}" for lr in sorted(tidy.lr.unique()))
        fig.text(0.01, 0.012, "\n".join([
            (f"Scale {config['scale']}: n = {style.counted(n, 'seed')} a cell, {config['steps']:,} steps, "
            f"{config['size']} pixels, {config['net']}; ε = {style.values_text(tidy, 'eps')}."),
            (f"Learning rate per optimizer and cell from {{{lrs}}} on {style.counted(tuning, 'other seed')}; "
            "pictures: the first report seed at that learning rate."),
            "Black line: μ = √ν. × not below the loss at the start, or diverged: number of seeds.",
        ]), va="bottom", fontsize=7)  # fmt: skip
    return fig


def _pictures_panel(
    fig: Figure, images: Mapping[Any, Image.Image], name: str, us: Sequence[float],
    vs: Sequence[float], left: float, right: float,
) -> None:  # fmt: skip
    grid = fig.add_gridspec(len(us), len(vs), left=left, right=right, top=0.485, bottom=0.13,
                            wspace=0.04, hspace=0.04)  # fmt: skip
    for row, u in enumerate(reversed(us)):
        for column, v in enumerate(vs):
            ax = fig.add_subplot(grid[row, column])
            show(ax, images[name, u, v])
            if row == len(us) - 1:
                ax.text(0.5, -0.08, f"ν = {v:g}", transform=ax.transAxes, ha="center", va="top",
                        fontsize=6.5)  # fmt: skip
            if column == 0 and name == SUBJECT:
                ax.text(-0.06, 0.5, f"μ = {u:g}", transform=ax.transAxes, ha="right", va="center",
                        rotation=90, fontsize=6.5)  # fmt: skip
