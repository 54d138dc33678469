"""Style transfer: loss against steps, against the learning rate, and the pictures themselves.

Fixed before running: what a run reached is log10 of its loss at the end over that at the start, of
the same seed; a run that diverged is at its start, 0. The learning rate is chosen for each
optimizer on the tuning seeds, by the mean.
"""

# What a column of a table holds is beyond the types of pandas.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from runners import record
from runners.config import ConfigError
from scripts.figures import style, targets, training
from scripts.figures.training import KEY, pick, seeds_of
from scripts.judging import Verdict
from tasks.style_transfer import pictures

Tables = dict[str, pd.DataFrame]
Config = Mapping[str, Any]
EXPERIMENT = "style_curves"
LEARNED = 0.0  # log10 of the loss over that at the start: below it the picture got better


def config(values: Mapping[str, Any]) -> dict[str, Any]:
    task = values["task"]
    return {
        "scale": values["scale"],
        "steps": values["steps"],
        "optimizers": targets.optimizers_of(values),
        "runs": Path(values["results_dir"]) / "runs",
        "content": task["content"],
        "style": task["style"],
        "size": task["size"],
        "net": f"{task['net'].upper()} up to {task['style_layers'][-1]}, weights: "
        f"{weights(task['weights'])}",
    }


def weights(source: str) -> str:
    known = {"imagenet": "ImageNet", "random": "random, a stand-in for ImageNet"}
    return known.get(source, Path(source).name)


def outcomes(tidy: pd.DataFrame) -> pd.DataFrame:
    """One row a replica: KEY, start, end, value = log10(end / start), diverged."""
    loss = pick(tidy, tidy.metric == "loss").sort_values("step")
    keys = [name for name in KEY if name in loss]
    each = loss.groupby(keys, observed=True, dropna=False)["value"]
    # by place: pandas' own first and last pass over what is no number
    found = each.agg(start=lambda v: v.iloc[0], end=lambda v: v.iloc[-1]).reset_index()
    dead = pick(tidy, tidy.metric == "diverged_at")[["run", "replica"]].assign(dead=True)
    found = found.merge(dead, on=["run", "replica"], how="left")
    found["diverged"] = found.dead.notna() | ~np.isfinite(found.end)
    value = np.log10(found.end / found.start)
    return found.assign(value=value.where(~found.diverged, 0.0)).drop(columns="dead")


def tables(tidy: pd.DataFrame, config: Config) -> Tables:
    """`tuning`: the chosen learning rates; `reached`: what each optimizer reached at every learning
    rate; `curves`: loss over that at the start, against steps, at the chosen ones;
    `steps_to_target`: when each seed is as low as the middle optimizer ends."""
    found = outcomes(tidy)
    chosen = training.tuned(found, ["optimizer"], LEARNED)
    report = pick(found, found.phase == "report")
    reached = report.groupby(["optimizer", "lr"], observed=True).agg(
        n=("seed", "size"), diverged=("diverged", "sum"), **_quartiles("value")
    )
    loss = pick(tidy, (tidy.metric == "loss") & (tidy.phase == "report")).merge(chosen, how="inner")
    loss = loss.merge(report[["run", "replica", "start"]], on=["run", "replica"])
    loss = loss.assign(value=loss.value / loss.start)
    spread = loss.groupby(["optimizer", "step"], observed=True).agg(**_quartiles("value"))
    return {
        "tuning": chosen,
        "reached": reached.reset_index(),
        "curves": spread.reset_index(),
        "steps_to_target": _steps_to_target(loss, found, chosen, config),
    }


def _steps_to_target(
    curves: pd.DataFrame, found: pd.DataFrame, chosen: pd.DataFrame, config: Config
) -> pd.DataFrame:
    target = 10 ** targets.median_on_tuning_seeds(found, chosen, config["optimizers"])
    dead = pick(found, found.diverged)[["run", "replica"]].assign(diverged=True)
    curves = curves.merge(dead, on=["run", "replica"], how="left")
    return targets.table(
        targets.first_reached(curves, curves.value <= target, curves.diverged.notna()),
        problem="style_curves",
        target=f"loss down to {target:.3g} of that at the start",
        horizon=config["steps"],
        budgets=[training.budget(name, found, chosen, config["steps"])
                 for name in curves.optimizer.unique()],
    )  # fmt: skip


def _quartiles(column: str) -> dict[str, Any]:
    return {"q1": (column, lambda v: v.quantile(0.25)), "median": (column, "median"),
            "q3": (column, lambda v: v.quantile(0.75))}  # fmt: skip


def verdicts(tidy: pd.DataFrame, tables: Tables, config: Config) -> list[Verdict]:
    found, chosen = outcomes(tidy), tables["tuning"]
    each = found.merge(chosen, how="inner")
    report, tune = (
        -pick(each, each.phase == phase).pivot(index="seed", columns="optimizer", values="value")
        for phase in ("report", "tune")
    )
    steps = config["steps"]
    return training.ahead(
        EXPERIMENT, report, tune, found, chosen, steps,
        unit="powers of ten below {}'s loss",
        what=f"Loss after {steps:,} steps over that at the start, geometric means",
        text=lambda score: f"{10**-score:.3g}",
    )  # fmt: skip


def draw(tidy: pd.DataFrame, tables: Tables, config: Config) -> Figure:
    names = style.in_order(tables["curves"].optimizer)
    with matplotlib.rc_context(style.RC):
        fig = Figure(figsize=(7.6, 5.6))
        fig.text(0.01, 0.985, "Neural style transfer", fontsize=11, fontweight="bold", va="top")
        style.legend(fig, names, top=0.955)
        top = fig.add_gridspec(1, 2, left=0.1, right=0.985, top=0.86, bottom=0.535, wspace=0.28)
        _curves_panel(fig.add_subplot(top[0, 0]), tables["curves"], names)
        _tuning_panel(fig.add_subplot(top[0, 1]), tables, names)
        shown = {"content": pictures.to_image(pictures.load(config["content"], config["size"])),
                 "style": pictures.to_image(pictures.load(config["style"], config["size"]))}  # fmt: skip
        shown |= {style.mark(name).label: image for name, image in
                  finals(tidy, tables["tuning"], ["optimizer"], config["runs"]).items()}  # fmt: skip
        columns = -(-len(shown) // 2)
        bottom = fig.add_gridspec(2, columns, left=0.01, right=0.99, top=0.38, bottom=0.115,
                                  wspace=0.06, hspace=0.3)  # fmt: skip
        for place, (title, image) in enumerate(shown.items()):
            ax = fig.add_subplot(bottom[divmod(place, columns)])
            show(ax, image)
            ax.set_title(title, fontsize=7.5, pad=2)
        fig.text(0.01, 0.42, "c  content, style, and the final picture of the first report seed",
                 fontsize=9)  # fmt: skip
        n, tuning = len(seeds_of(tidy, "report")), len(seeds_of(tidy, "tune"))
        lrs = ", ".join(f"{lr:g}" for lr in sorted(tidy.lr.unique()))
        fig.text(0.01, 0.012, "\n".join([
            (f"Scale {config['scale']}: n = {style.counted(n, 'seed')} (the noise a picture starts from), "
            f"{config['size']} pixels, {config['net']}."),
            (f"Learning rate per optimizer from {{{lrs}}} on {style.counted(tuning, 'other seed')}; "
            f"(μ, ν) = {style.values_text(tidy, 'beta1', 'beta2')}, "
            f"ε = {style.values_text(tidy, 'eps')}."),
            "Lines and marks: medians; bands and bars: quartiles.",
        ]), va="bottom", fontsize=7)  # fmt: skip
    return fig


def finals(
    tidy: pd.DataFrame, chosen: pd.DataFrame, by: Sequence[str], runs: Path
) -> dict[Any, Image.Image]:
    """The final picture of the first report seed at the chosen learning rate, for each of ``by``.

    Raises ConfigError where a run's picture is no longer in its folder.
    """
    first = pick(tidy, (tidy.phase == "report") & (tidy.seed == seeds_of(tidy, "report")[0]))
    found = first.drop_duplicates(["run", "replica"]).merge(chosen, how="inner")
    images = {}
    for row in found.sort_values(list(by)).itertuples():
        kept = record.read_record(runs / str(row.run))
        files = (kept.status or {}).get("files", []) if kept else []
        path = runs / str(row.run) / (files[int(row.replica)] if files else "image.png")
        try:
            with Image.open(path) as image:
                image.load()
        except OSError as error:
            raise ConfigError(
                f"{path}: cannot be read ({error.strerror or error}); force=true runs it again"
            ) from None
        key = tuple(getattr(row, name) for name in by)
        images[key if len(by) > 1 else key[0]] = image
    order = style.in_order({row for row in images}) if list(by) == ["optimizer"] else images
    return {key: images[key] for key in order}


def show(ax: Axes, image: Image.Image) -> None:
    """A picture without axes, its pixels as they are."""
    ax.imshow(np.asarray(image), interpolation="nearest")
    ax.set_axis_off()


def _curves_panel(ax: Axes, curves: pd.DataFrame, names: Sequence[str]) -> None:
    for name in names:
        part, look = pick(curves, curves.optimizer == name), style.mark(name)
        style.line(ax, part.step, part["median"], look)
        style.band(ax, part.step, part.q1, part.q3, look)
    ax.set_yscale("log")
    ax.set_title("a  at the chosen learning rates", loc="left")
    ax.set_xlabel("optimizer steps")
    ax.set_ylabel("loss / loss at the start")


def _tuning_panel(ax: Axes, tables: Tables, names: Sequence[str]) -> None:
    for name in names:
        part, look = pick(tables["reached"], tables["reached"].optimizer == name), style.mark(name)
        style.intervals(ax, part.lr, 10 ** part["median"], 10**part.q1, 10**part.q3, look)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_title("b  at the end, over the grid", loc="left")
    ax.set_xlabel("learning rate")
    ax.set_ylabel("loss / loss at the start")
