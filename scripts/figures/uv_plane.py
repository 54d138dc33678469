"""The plane of (u, v): the loss that Adam and LaProp reach, side by side.

Adam's update is bounded only below the line u = sqrt(v); LaProp's everywhere. The learning rate is
chosen for each optimizer in each cell on the tuning seeds. A run that diverges counts as a guess.
"""

# What a column of a table holds is beyond the types of pandas.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false

from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from scripts import claims, fairness, fractions, judging, statistics
from scripts.figures import style, training
from scripts.figures.plane import panels
from scripts.figures.training import CHANCE, TRAINED, pick
from scripts.judging import Verdict

Tables = dict[str, pd.DataFrame]
Config = Mapping[str, Any]
EXPERIMENT, SETTING, SUBJECT, RIVAL = "uv_plane", "tuned", "laprop", "adam"


def config(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "scale": values["scale"],
        "steps": values["steps"],
        "width": values["task"]["width"],
        "depth": values["task"]["depth"],
        "note": training.stand_in(values),
    }


def tables(tidy: pd.DataFrame, config: Config) -> Tables:
    """`tuning`: the chosen learning rates; `plane`: median loss and counts of each cell."""
    outcomes = training.final(tidy, "loss")
    cell = ["optimizer", "beta1", "beta2"]
    chosen = training.tuned(outcomes, cell)
    report = training.reported(outcomes, chosen)
    plane = report.groupby(cell, observed=True).agg(
        lr=("lr", "first"), n=("seed", "size"), diverged=("diverged", "sum"),
        trained=("trained", "sum"), median_loss=("value", "median"),
        q1=("value", lambda v: v.quantile(0.25)), q3=("value", lambda v: v.quantile(0.75)),
    )  # fmt: skip
    return {"tuning": chosen, "plane": plane.reset_index()}


def verdicts(tidy: pd.DataFrame, tables: Tables, config: Config) -> list[Verdict]:
    outcomes = training.final(tidy, "loss")
    report = training.reported(outcomes, tables["tuning"])
    report = report.assign(beyond=report.beta1 > np.sqrt(report.beta2))
    (seeds,) = {int(n) for n in tables["plane"].n}
    found = []
    for claim in claims.claims_of(EXPERIMENT):
        beyond = claim.id.endswith("beyond")
        part = pick(report, report.beyond == beyond)
        share = part.groupby(["optimizer", "seed"], observed=True)["trained"].mean().unstack(0)
        gap = statistics.mean_interval(share[SUBJECT] - share[RIVAL])
        # no ranking of losses, but of how many cells train: an edge of the grid is no reason to refuse
        budgets = [training.budget(o, outcomes, tables["tuning"].assign(on_edge=False),
                                   config["steps"]) for o in (SUBJECT, RIVAL)]  # fmt: skip
        if verdict := training.refusal(claim, SETTING, seeds, budgets):
            found.append(verdict)
            continue
        cells = part[["beta1", "beta2"]].drop_duplicates().shape[0]
        worst = part.groupby(["optimizer", "beta1", "beta2"], observed=True)["value"].median()
        worst = worst.groupby("optimizer", observed=True).max().to_dict()
        where = "μ > √ν" if beyond else "μ ≤ √ν"
        few = ""
        if beyond:
            p_for, p_against = gap.p_above(0), gap.p_below(claims.SMALL_GAP)
        else:  # equivalence
            # seeds that are nearly all alike: resampling them would not know what is rare
            apart = (share[SUBJECT] - share[RIVAL]).abs()
            rare = fractions.p_mean_below(apart, claims.SMALL_GAP)
            p_for = max(gap.p_within(claims.SMALL_GAP), rare)
            p_against = gap.p_beyond(claims.SMALL_GAP)
            needed = judging.seeds_needed(1 - claims.SMALL_GAP)
            if gap.n < needed:
                few = f" {gap.n} seeds are too few to show it, {needed} could."
        found.append(
            judging.judge(
                claim,
                SETTING,
                budget=fairness.budget_text(budgets),
                p_for=p_for,
                p_against=p_against,
                effect=gap,
                effect_unit="difference of the fractions of cells that train (LaProp − Adam)",
                sentence=f"Of the {cells} cells with {where}, LaProp trains "
                f"{share[SUBJECT].mean():.0%} and Adam {share[RIVAL].mean():.0%} (mean over "
                f"seeds). A cell trains where the loss ends below {TRAINED:.2f} (a guess: "
                f"{CHANCE:.2f}); the highest median loss of one is {worst[SUBJECT]:.2g} and "
                f"{worst[RIVAL]:.2g}.{few}",
            )
        )
    return judging.settle(found)


def draw(tidy: pd.DataFrame, tables: Tables, config: Config) -> Figure:
    plane = tables["plane"]
    lowest = max(float(plane.median_loss.min()), 1e-6)
    norm = matplotlib.colors.LogNorm(vmin=lowest, vmax=CHANCE)
    with matplotlib.rc_context(style.RC | {"axes.grid": False}):
        fig = Figure(figsize=(7.6, 3.9))
        fig.text(0.01, 0.98, "Loss reached over the plane of (μ, ν)", fontsize=11,
                 fontweight="bold", va="top")  # fmt: skip
        grid = fig.add_gridspec(1, 3, left=0.07, right=0.92, top=0.83, bottom=0.27, wspace=0.1,
                                width_ratios=(1, 1, 0.05))  # fmt: skip
        panels(fig, grid, plane.rename(columns={"median_loss": "value"}), (SUBJECT, RIVAL), norm,
               "median training loss (nats)",
               lambda row: f"× {int(row.diverged)}" if row.diverged else "")  # fmt: skip
        chosen = tables["tuning"].lr
        edges = int(chosen.isin([tidy.lr.min(), tidy.lr.max()]).sum())
        n, tuning = plane.n.min(), tidy[tidy.phase == "tune"].seed.nunique()
        lrs = ", ".join(f"{lr:g}" for lr in sorted(tidy.lr.unique()))
        fig.text(0.01, 0.015, "\n".join([
            (f"Scale {config['scale']}: n = {style.counted(n, 'seed')} a cell, {config['steps']:,} steps, "
            f"{config['depth']} hidden layers of width {config['width']}, "
            f"ε = {style.values_text(tidy, 'eps')}"
            f"{config['note']}."),
            (f"Learning rate per optimizer and cell from {{{lrs}}} on {style.counted(tuning, 'other seed')}. "
            "Black line: μ = √ν; above it Adam's update is unbounded."),
            (f"It is the smallest or the largest of these in {edges} of {len(chosen)} cells; counted is what "
            "trains, losses are not ranked."),
            "× diverged: no longer finite for at least one seed, with their number.",
        ]), va="bottom", fontsize=7)  # fmt: skip
    return fig
