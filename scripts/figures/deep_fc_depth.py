"""How deep may a fully connected net be? Training curves, and the greatest depth that still trains.

Fixed before running: a net of some depth and seed *trains* if its training loss at the end is below
0.9 ln(classes), nine tenths of a uniform guess; the *greatest depth that still trains* of a seed is
the largest depth of the grid up to which it trains at every depth, 0 if at none. The learning rate
is chosen for each optimizer and depth on the tuning seeds, by the mean loss at the end.
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

from scripts import fractions, judging
from scripts.figures import hover, style, targets, training
from scripts.figures.training import CHANCE, TRAINED, pick
from scripts.judging import Verdict

Tables = dict[str, pd.DataFrame]
Config = Mapping[str, Any]
EXPERIMENT = "deep_fc_depth"


def config(values: Mapping[str, Any]) -> dict[str, Any]:
    sweeps = values["sweeps"].values()
    return {
        "scale": values["scale"],
        "steps": values["steps"],
        "depths": sorted({depth for sweep in sweeps for depth in sweep["task.depth"]}),
        "width": values["task"]["width"],
        "batch": values["task"]["batch"],
        "note": training.stand_in(values),
    }


def tables(tidy: pd.DataFrame, config: Config) -> Tables:
    """`tuning`: the chosen learning rates; `fraction`: how many seeds train at each depth;
    `greatest`: the greatest depth of each optimizer and seed; `curves`: loss against steps;
    `steps_to_target`: the first evaluation below TRAINED at each depth."""
    outcomes = training.final(tidy, "loss", ["depth"])
    chosen = training.tuned(outcomes, ["optimizer", "depth"])
    report = training.reported(outcomes, chosen)
    rows = []
    for (optimizer, depth), cell in report.groupby(["optimizer", "depth"], observed=True):
        trained, n = int(cell.trained.sum()), len(cell)
        low, high = fractions.wilson_interval(trained, n)
        rows.append({"optimizer": optimizer, "depth": depth, "lr": cell.lr.iloc[0], "n": n,
                     "trained": trained, "fraction": trained / n, "fraction_low": low,
                     "fraction_high": high, "median_loss": cell.value.median()})  # fmt: skip
    found = training.curves(tidy, "loss", ["depth"]).merge(chosen, how="inner")
    found = pick(found, found.phase == "report")
    steps = _steps_to_target(found, outcomes, chosen, config)
    found["value"] = found.value.clip(upper=2 * CHANCE)
    spread = found.groupby(["optimizer", "depth", "step"], observed=True)["value"]
    spread = spread.quantile([0.25, 0.5, 0.75]).unstack().reset_index()
    spread.columns = ["optimizer", "depth", "step", "q1", "median", "q3"]
    return {
        "tuning": chosen,
        "fraction": pd.DataFrame(rows),
        "greatest": greatest_depths(report, config["depths"]),
        "curves": spread,
        "steps_to_target": steps,
    }


def _steps_to_target(
    curves: pd.DataFrame, outcomes: pd.DataFrame, chosen: pd.DataFrame, config: Config
) -> pd.DataFrame:
    problems = []
    for depth, rows in curves.groupby("depth"):
        here, best = pick(outcomes, outcomes.depth == depth), pick(chosen, chosen.depth == depth)
        names = rows.optimizer.unique()
        problems.append(targets.table(
            targets.first_reached(rows, rows.value < TRAINED, rows.diverged_at.notna()),
            problem=f"deep_fc_depth, depth {depth:,}",
            target=f"training loss below 0.9 ln {training.CLASSES} = {TRAINED:.3g}",
            horizon=config["steps"],
            budgets=[training.budget(name, here, best, config["steps"]) for name in names],
        ))  # fmt: skip
    return pd.concat(problems) if problems else pd.DataFrame(columns=targets.COLUMNS)


def greatest_depths(report: pd.DataFrame, depths: Sequence[int]) -> pd.DataFrame:
    """Optimizer, phase, seed, depth: the largest depth up to which the seed trains everywhere."""
    wide = report.pivot_table(index=["optimizer", "seed"], columns="depth", values="trained",
                              observed=True)  # fmt: skip
    reached = wide.reindex(columns=list(depths)).fillna(0).to_numpy(dtype=bool).cumprod(axis=1)
    values = np.concatenate([[0], np.asarray(depths)])[reached.sum(axis=1)]
    return wide.index.to_frame(index=False).assign(depth=values)


def verdicts(tidy: pd.DataFrame, tables: Tables, config: Config) -> list[Verdict]:
    outcomes, chosen = training.final(tidy, "loss", ["depth"]), tables["tuning"]
    tune = pick(outcomes, outcomes.phase == "tune").merge(chosen, how="inner")
    report, tune = (
        greatest.pivot(index="seed", columns="optimizer", values="depth")
        for greatest in (tables["greatest"], greatest_depths(tune, config["depths"]))
    )
    steps = config["steps"]
    return training.ahead(
        EXPERIMENT, report, tune, outcomes, chosen, steps,
        unit="layers deeper than {}",
        what=f"Mean greatest depth that still trains within {steps:,} steps at width {config['width']}",
        text=judging.number,
    )  # fmt: skip


def draw(tidy: pd.DataFrame, tables: Tables, config: Config) -> Figure:
    """Loss against steps at each depth; fraction of seeds that train against depth."""
    depths, names = config["depths"], style.in_order(tables["fraction"].optimizer)
    columns = 3
    rows = -(-(len(depths) + 1) // columns)
    with matplotlib.rc_context(style.RC):
        fig = Figure(figsize=(7.6, 1.15 + 2.15 * rows))
        height = fig.get_figheight()
        fig.text(0.01, 1 - 0.08 / height, "Extremely deep fully connected nets: which start to train?",
                 fontsize=11, fontweight="bold", va="top")  # fmt: skip
        style.legend(fig, names, top=1 - 0.3 / height)
        grid = fig.add_gridspec(rows, columns, left=0.08, right=0.99, top=1 - 0.82 / height,
                                bottom=0.85 / height, hspace=0.5, wspace=0.28)  # fmt: skip
        for place, depth in enumerate(depths):
            ax = fig.add_subplot(grid[divmod(place, columns)])
            _curves_panel(ax, tables["curves"], names, depth)
            ax.set_title(f"{chr(97 + place)}  depth {depth:,}", loc="left")
        row, column = divmod(len(depths), columns)
        ax = fig.add_subplot(grid[row, column:])  # whatever is left of the row
        ax.set_title(f"{chr(97 + len(depths))}  seeds that train", loc="left")
        _fraction_panel(ax, tables["fraction"], names, depths)
        n, tuning = tables["fraction"].n.min(), tidy[tidy.phase == "tune"].seed.nunique()
        lrs = ", ".join(f"{lr:g}" for lr in sorted(tidy.lr.unique()))
        fig.text(0.01, 0.06 / height, "\n".join([
            (f"Scale {config['scale']}: n = {style.counted(n, 'seed')}; width {config['width']}, batch "
            f"{config['batch']:,}; (μ, ν) = {style.values_text(tidy, 'beta1', 'beta2')} and "
            f"ε = {style.values_text(tidy, 'eps')} for all with two betas"
            f"{config['note']}."),
            (f"lr per optimizer and depth from {{{lrs}}} on {style.counted(tuning, 'other seed')}. "
            "Medians and quartiles (above the frame: the start)."),
            ("Dotted: the loss of a uniform guess, ln 10; a net trains if it ends below 0.9 of it "
            f"(dashed). Bars: 95% Wilson intervals. {max(depths)} is the end of the grid."),
        ]), va="bottom", fontsize=7)  # fmt: skip
    return fig


def _curves_panel(ax: Axes, curves: pd.DataFrame, names: Sequence[str], depth: int) -> None:
    ax.axhline(CHANCE, color="#555555", linewidth=0.8, linestyle=":")
    ax.axhline(TRAINED, color="#555555", linewidth=0.6, linestyle="--")
    for name in names:
        part = pick(curves, (curves.optimizer == name) & (curves.depth == depth))
        look = style.mark(name)
        line = style.line(ax, part.step, part["median"], look)
        if len(part) and part["median"].iloc[-1] >= 2 * CHANCE:  # clipped
            hover.instead(line, f"{2 * CHANCE:.3g} or more at the end")
        style.band(ax, part.step, part.q1, part.q3, look)
    ax.set_ylim(0, 1.35 * CHANCE)
    ax.set_xlabel("optimizer steps")
    ax.set_ylabel("training loss (nats)")


def _fraction_panel(
    ax: Axes, fraction: pd.DataFrame, names: Sequence[str], depths: Sequence[int]
) -> None:
    places = {depth: place for place, depth in enumerate(depths)}
    for name, shift in style.dodged(names, list(places.values()), 0.4):
        part = pick(fraction, fraction.optimizer == name).sort_values("depth")
        x = part.depth.map(places).astype(float) + shift
        style.intervals(ax, x, part.fraction, part.fraction_low, part.fraction_high,
                        style.mark(name))  # fmt: skip
    ax.set_xticks(list(places.values()), [f"{depth:,}" for depth in depths])
    ax.set_ylim(-0.05, 1.05)
    ax.set_xlabel("depth (hidden layers)")
    ax.set_ylabel("fraction of seeds")
