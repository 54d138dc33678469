"""Six optimizers on the translation transformer, the learning rate of each from tuning seeds.

The learning rate is the one with the lowest mean training loss over the last window on the tuning
seeds. A run that diverged counts as one that looks at no context (`iwslt_warmup.losses`).
"""

# What a column of a table holds is beyond the types of pandas.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scripts import statistics
from scripts.figures import iwslt_warmup, style, targets, training
from scripts.figures.training import pick
from scripts.judging import Verdict

Tables = dict[str, pd.DataFrame]
Config = Mapping[str, Any]
EXPERIMENT = "iwslt_optimizers"


def config(values: Mapping[str, Any]) -> dict[str, Any]:
    own = {"warmup": values["schedule"]["warmup"], "optimizers": targets.optimizers_of(values)}
    return iwslt_warmup.config(values) | own


def tables(tidy: pd.DataFrame, config: Config) -> Tables:
    """`tuning`: the chosen learning rates; `final`: the end of each report run at it; `settings`:
    means with intervals at every lr; `curves`: quartiles against steps at the chosen lr."""
    found = iwslt_warmup.losses(tidy)
    final = iwslt_warmup.finals(found)
    chosen = training.tuned(final, ["optimizer"], _context_free(tidy))
    rows = []
    report = pick(final, final.phase == "report")
    for key, cell in report.groupby(["optimizer", "lr"], observed=True):
        mean = statistics.mean_interval(cell.value)
        rows.append(dict(zip(["optimizer", "lr"], key, strict=True))  # type: ignore[call-overload]
                    | {"n": mean.n, "mean": mean.value, "low": mean.low, "high": mean.high})  # fmt: skip
    best = report.merge(chosen, how="inner")
    at_best = pick(found, found.phase == "report").merge(chosen, how="inner")
    curves = at_best.groupby(["optimizer", "step"], observed=True)["value"]
    curves = curves.quantile([0.25, 0.5, 0.75]).unstack().reset_index()
    curves.columns = ["optimizer", "step", "q1", "median", "q3"]
    return {
        "tuning": chosen,
        "settings": pd.DataFrame(rows),
        "final": pd.DataFrame(best[["optimizer", "lr", "seed", "value", "trained"]]),
        "curves": curves,
        "steps_to_target": _steps_to_target(at_best, tidy, final, chosen, config),
    }


def _steps_to_target(
    curves: pd.DataFrame, tidy: pd.DataFrame, final: pd.DataFrame, chosen: pd.DataFrame,
    config: Config,
) -> pd.DataFrame:  # fmt: skip
    """When the training loss of each seed is as low as the middle optimizer's ends."""
    target = targets.median_on_tuning_seeds(final, chosen, config["optimizers"])
    dead = set(tidy.run[tidy.metric == "diverged_at"].astype(str))
    return targets.table(
        targets.first_reached(curves, curves.value <= target, curves.run.astype(str).isin(dead)),
        problem="iwslt_optimizers",
        target=f"training loss down to {target:.3g} bits per token",
        horizon=config["steps"],
        budgets=[training.budget(name, final, chosen, config["steps"])
                 for name in curves.optimizer.unique()],
    )  # fmt: skip


def _context_free(tidy: pd.DataFrame) -> float:
    """Loss of the best prediction without context: below it something was learned."""
    return float(pick(tidy, tidy.metric == "context_free_loss").value.iloc[0])


def verdicts(tidy: pd.DataFrame, tables: Tables, config: Config) -> list[Verdict]:
    every, chosen = iwslt_warmup.finals(iwslt_warmup.losses(tidy)), tables["tuning"]
    tune = pick(every, every.phase == "tune").merge(chosen)
    report, tune = (
        -ends.pivot(index="seed", columns="optimizer", values="value")
        for ends in (tables["final"], tune)
    )
    return training.ahead(
        EXPERIMENT, report, tune, every, chosen, config["steps"],
        unit="bits per token below {}",
        what="Mean training loss at the end, bits per token",
        text=lambda score: f"{-score:.2f}",
    )  # fmt: skip


def draw(tidy: pd.DataFrame, tables: Tables, config: Config) -> Figure:
    """Training curves at the chosen lr; the end against the lr."""
    settings, chosen = tables["settings"], tables["tuning"]
    names = style.in_order(settings.optimizer.astype(str))
    context_free = _context_free(tidy)
    with matplotlib.rc_context(style.RC):
        fig = Figure(figsize=(7.6, 4.4))
        height = fig.get_figheight()
        fig.text(0.01, 1 - 0.08 / height, "A translation transformer with all optimizers",
                 fontsize=11, fontweight="bold", va="top")  # fmt: skip
        style.legend(fig, names, top=1 - 0.3 / height)
        grid = fig.add_gridspec(1, 2, left=0.07, right=0.99, wspace=0.2, top=1 - 0.85 / height,
                                bottom=1.05 / height)  # fmt: skip
        left, right = (fig.add_subplot(grid[0, i]) for i in (0, 1))
        _curves_panel(left, tables["curves"], names)
        _lr_panel(right, settings, chosen, names)
        low = min(float(tables["curves"].q1.min()), float(settings["mean"].min()))
        high = max(context_free * 1.4, float(tables["curves"].q3.max()) * 1.03)
        for ax in (left, right):
            ax.axhline(context_free, color="#555555", linewidth=0.8, linestyle=":")
            ax.set_ylim(low - 0.1 * (high - low), high)
            ax.set_ylabel("training loss (bits per token)")
        left.set_title("a  each at its best learning rate", loc="left")
        right.set_title("b  the end against the learning rate", loc="left")
        n, tuning = int(settings.n.min()), tidy[tidy.phase == "tune"].seed.nunique()
        fig.text(0.01, 0.06 / height, "\n".join([
            (f"Scale {config['scale']}: n = {style.counted(n, 'seed')}; {config['note']}; width "
             f"{config['width']}, {config['layers']} + {config['layers']} layers, "
             f"{config['max_tokens']:,} tokens a batch, {config['steps']:,} steps,"),
            (f"{config['warmup']:,} of warm-up; (μ, ν) = {style.values_text(tidy, 'beta1', 'beta2')} for all with two betas. "
             f"Learning rate of each from {style.counted(tuning, 'other seed')} (ringed). Lines in a: medians,"),
            ("bands: quartiles; marks in b: means, "
             f"{style.interval_text(n, 'bars: 95% bootstrap intervals of the mean')}, marks shifted "
             "sideways. Dotted: the best that looks at no context."),
        ]), va="bottom", fontsize=7)  # fmt: skip
    return fig


def _curves_panel(ax: Axes, curves: pd.DataFrame, names: Sequence[str]) -> None:
    for name in names:
        part, look = pick(curves, curves.optimizer == name).sort_values("step"), style.mark(name)
        style.line(ax, part.step, part["median"], look)
        style.band(ax, part.step, part.q1, part.q3, look)
    ax.set_xlabel("optimizer steps")


def _lr_panel(ax: Axes, settings: pd.DataFrame, chosen: pd.DataFrame, names: Sequence[str]) -> None:
    lrs = sorted(settings.lr.unique())
    for name, shift in style.dodged(names, list(range(len(lrs))), 0.4):
        part, look = pick(settings, settings.optimizer == name).sort_values("lr"), style.mark(name)
        x = np.array([lrs.index(lr) for lr in part.lr]) + shift
        style.intervals(ax, x, part["mean"], part.low, part.high, look)
        best = part.lr.isin(pick(chosen, chosen.optimizer == name).lr).to_numpy()
        ax.plot(x[best], part["mean"].to_numpy()[best], marker="o", markersize=9, linestyle="none",
                markerfacecolor="none", markeredgecolor=look.colour, markeredgewidth=0.8)  # fmt: skip
    ax.set_xticks(range(len(lrs)), [f"{lr:g}" for lr in lrs])
    ax.set_xlabel("learning rate")
