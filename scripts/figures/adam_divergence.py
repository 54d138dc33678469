"""Adam's divergence: how long a small net stays in the basin that it has reached.

Fixed before running: the loss (an exponential mean over batches) has *left its basin* at the first
evaluation where it is above that of a uniform guess, ln(classes), after it has been below half of
that; or when it is no longer finite. All optimizers have the
same learning rates, each of which is looked at; nothing is tuned, since the claim is about stability
and must hold at each.

Changed after the results of quick scale were known: a run *stays* if it settles and does not leave,
whichever optimizer it is, so that no claim rests on what does not train. At first a run that never
settled counted as staying, then that of LaProp did not.
"""

# What a column of a table holds is beyond the types of pandas.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from scripts import claims, fairness, fractions, judging, statistics
from scripts.figures import style, training
from scripts.figures.training import CHANCE, pick
from scripts.judging import Verdict

Tables = dict[str, pd.DataFrame]
Config = Mapping[str, Any]
EXPERIMENT, SUBJECT = "adam_divergence", "laprop"
STABLE = 0.95  # of the seeds: what "it works" means


def config(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "scale": values["scale"],
        "steps": values["steps"],
        "width": values["task"]["width"],
        "depth": values["task"]["depth"],
        "batch": values["task"]["batch"],
        "note": training.stand_in(values),
    }


def tables(tidy: pd.DataFrame, config: Config) -> Tables:
    """`left`: for each seed the step at which it left, NaN if not, and whether it ever settled;
    `survival`: how many of them stay, and their fraction."""
    found = training.curves(tidy, "smoothed_loss").sort_values("step")
    found = pick(found, found.phase == "report")
    groups = found.groupby(["optimizer", "beta2", "lr", "seed"], observed=True)
    left = groups.apply(_left_at, include_groups=False).rename("left").to_frame()
    left["settled"] = groups["value"].min().lt(CHANCE / 2)
    left = left.reset_index()
    rows = []
    for key, cell in left.groupby(["optimizer", "beta2", "lr"], observed=True):
        stay, n = int(_stays(cell).sum()), len(cell)
        low, high = fractions.wilson_interval(stay, n)
        rows.append(dict(zip(["optimizer", "beta2", "lr"], key, strict=True))  # type: ignore[call-overload]
                    | {"n": n, "settled": int(cell.settled.sum()), "stay": stay,
                       "fraction": stay / n, "fraction_low": low, "fraction_high": high,
                       "median_left": cell.left.median()})  # fmt: skip
    return {"survival": pd.DataFrame(rows), "left": left}


def _stays(left: pd.DataFrame) -> pd.Series:
    return left.left.isna() & left.settled


def _left_at(run: pd.DataFrame) -> float:
    """The step at which a run has left its basin; NaN where it has not."""
    run = pick(run, run.step > 0)  # at the start no loss has been averaged yet
    settled = np.maximum.accumulate(run.value.to_numpy() < CHANCE / 2)
    out = run.step.to_numpy()[run.lost.to_numpy() | settled & (run.value.to_numpy() > CHANCE)]
    ends = [float(out[0])] if out.size else []
    if run.diverged_at.notna().any():
        ends.append(float(run.diverged_at.max()))
    return min(ends, default=math.nan)


def verdicts(tidy: pd.DataFrame, tables: Tables, config: Config) -> list[Verdict]:
    left = tables["left"]
    momentum = float(tidy.beta1.iloc[0])
    stays = left.assign(stay=_stays(left))
    seeds = int(stays.groupby(["optimizer", "beta2", "lr"], observed=True).size().min())
    below = sorted(v for v in stays.beta2.unique() if v < momentum**2)
    found = []
    for claim in claims.claims_of(EXPERIMENT):
        for lr in sorted(stays.lr.unique()):
            setting = f"lr {lr:g}"
            part = pick(stays, stays.lr == lr)
            arms = {name: pick(part, part.optimizer == name) for name in (SUBJECT, "adam")}
            budgets = [fairness.untuned(name, config["steps"], arm.seed, **training.fixed(tidy, name))
                       for name, arm in arms.items()]  # fmt: skip
            if verdict := training.refusal(claim, setting, seeds, budgets):
                found.append(verdict)
                continue
            wide = part.pivot(index="seed", columns=["optimizer", "beta2"], values="stay")
            settled = part.pivot(index="seed", columns=["optimizer", "beta2"], values="settled")
            if claim.id.endswith("adam"):
                evidence = _adam_leaves(wide, settled, below)
            else:
                evidence = _stable_everywhere(wide, sorted(part.beta2.unique()))
            found.append(judging.judge(claim, setting, budget="not tuned", **evidence))
    return judging.settle(found)


def _adam_leaves(
    wide: pd.DataFrame, settled: pd.DataFrame, levels: Sequence[float]
) -> dict[str, Any]:
    """Below v = u^2, does LaProp stay where Adam leaves, at every level?"""
    gaps = {v: fractions.difference_of_fractions(wide[SUBJECT, v], wide["adam", v])
            for v in levels}  # fmt: skip
    smallest = min(levels, key=lambda v: gaps[v].value)
    told = "; ".join(
        f"ν = {v:g}: LaProp {wide[SUBJECT, v].mean():.0%} (of {settled[SUBJECT, v].mean():.0%} that "
        f"reach one), Adam {wide['adam', v].mean():.0%} (of {settled['adam', v].mean():.0%})"
        for v in levels
    )
    return {
        "p_for": max(fractions.mcnemar_exact(wide[SUBJECT, v], wide["adam", v], "greater")
                     for v in levels),
        "p_against": max(
            fractions.p_fraction_difference_below(wide[SUBJECT, v], wide["adam", v],
                                                   claims.SMALL_GAP) for v in levels),
        "effect": gaps[smallest],
        "effect_unit": f"difference of the fractions that stay (LaProp − Adam, ν = {smallest:g})",
        "sentence": f"Seeds that reach a basin and stay in it to the end: {told}.",
    }  # fmt: skip


def _stable_everywhere(wide: pd.DataFrame, levels: Sequence[float]) -> dict[str, Any]:
    """Does LaProp stay at every v, for at least STABLE of the seeds?"""
    counts = {v: (int(wide[SUBJECT, v].sum()), len(wide)) for v in levels}
    worst = min(levels, key=lambda v: counts[v][0])
    stay, n = counts[worst]
    low, high = fractions.wilson_interval(stay, n)
    told = ", ".join(f"{counts[v][0] / n:.0%} at ν = {v:g}" for v in levels)
    needed = judging.seeds_needed(STABLE)
    few = (
        f" (If all of {n} do, that does not show that more than {STABLE:.0%} of all seeds would: "
        f"{needed} of {needed} could.)"
        if n < needed
        else ""
    )
    return {
        "p_for": max(fractions.p_fraction_above(*counts[v], STABLE) for v in levels),
        "p_against": fractions.p_fraction_below(stay, n, STABLE) * len(levels),
        "effect": statistics.Estimate(stay / n, low, high, n),
        "effect_unit": f"of the seeds stay (ν = {worst:g}, where the fewest do)",
        "sentence": f"LaProp reaches a basin and stays in it for {told} of the seeds.{few}",
    }


def draw(tidy: pd.DataFrame, tables: Tables, config: Config) -> Figure:
    """Survival curves: a row for each learning rate, a column for each v."""
    left = tables["left"]
    lrs, levels = sorted(left.lr.unique()), sorted(left.beta2.unique(), reverse=True)
    names, momentum = style.in_order(left.optimizer), float(tidy.beta1.iloc[0])
    seeds = int(tables["survival"].n.min())
    with matplotlib.rc_context(style.RC):
        fig = Figure(figsize=(7.6, 1.5 + 1.9 * len(lrs)))
        height = fig.get_figheight()
        fig.text(0.01, 1 - 0.08 / height, "How long the loss stays in its basin",
                 fontsize=11, fontweight="bold", va="top")  # fmt: skip
        style.legend(fig, names, top=1 - 0.3 / height)
        grid = fig.add_gridspec(len(lrs), len(levels), left=0.09, right=0.98,
                                top=1 - 0.85 / height, bottom=0.95 / height, hspace=0.3,
                                wspace=0.12)  # fmt: skip
        for row, lr in enumerate(lrs):
            for column, v in enumerate(levels):
                ax = fig.add_subplot(grid[row, column])
                for name in names:
                    part = pick(left, (left.optimizer == name) & (left.beta2 == v)
                                & (left.lr == lr))  # fmt: skip
                    part = pick(part, part.settled)
                    ends = np.sort(part.left.dropna().to_numpy())
                    x = np.concatenate([[0], ends, [config["steps"]]])
                    y = (len(part) - np.arange(len(ends) + 1)) / seeds
                    style.line(ax, x, [*y, y[-1]], style.mark(name), drawstyle="steps-post")
                ax.set_ylim(-0.04, 1.06)
                ax.set_xlim(0, config["steps"])
                ax.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(3, prune="upper"))
                if row == 0:
                    ax.set_title(f"ν = {v:g}" + (" < μ²" if v < momentum**2 else ""))
                if column:
                    ax.tick_params(labelleft=False)
                else:
                    ax.set_ylabel(f"lr {lr:g}\nfraction in its basin")
                if row == len(lrs) - 1:
                    ax.set_xlabel("optimizer steps")
                else:
                    ax.tick_params(labelbottom=False)
        fig.text(0.01, 0.06 / height, "\n".join([
            (f"Scale {config['scale']}: n = {style.counted(seeds, 'seed')}; {config['depth']} hidden layers of width "
            f"{config['width']}, batch {config['batch']:,}, {config['steps']:,} steps; μ = {momentum:g}, ε = {style.values_text(tidy, 'eps')}"
            f"{config['note']}."),
            ("A run leaves its basin when its loss, averaged over about 20 batches, exceeds that of "
            "a uniform guess"),
            ("after it has been below half of it, or is no longer finite. Nothing is tuned. "
             f"{seeds} of {seeds}: 95% interval {fractions.wilson_interval(seeds, seeds)[0]:.2f} to 1."),
            *_never_settled(left),
        ]), va="bottom", fontsize=7)  # fmt: skip
    return fig


def _never_settled(left: pd.DataFrame) -> list[str]:
    """For the caption: runs that have no basin to leave."""
    stuck = left.assign(stuck=left.left.isna() & ~left.settled)
    told = [f"{style.mark(str(name)).label} at ν = {v:g} ({cell.stuck.sum()} of {len(cell)} runs)"
            for (name, v), cell in stuck.groupby(["optimizer", "beta2"], observed=True)
            if cell.stuck.any()]  # fmt: skip
    return [f"Never below half of it, so drawn at 0: {', '.join(told)}."] if told else []
