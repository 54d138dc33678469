"""Training the translation transformer with and without warm-up; the authors' curves behind ours.

The *way* of a run is what it has gained on the best prediction that looks at no context, as a part
of what the runs with warm-up gain in the mean, at the same learning rate; both over the last window.
A run *trains* if it goes TRAINED of the way. To fail is to stay at the start: a run that has gone LEFT
of it is on its way, and may train later.

The two come from the authors' curves. Without warm-up their Adam ends at 9.42 bits per token, having
gained about 0.6 of the 6.8 that there are, and their LaProp at 4.50, having gained 5.5. What no context
gives is a guess for their corpus: 10.0, where Adam's curve first rests; from 10.3 on their Adam would
count as late. Before, both were numbers of bits, by which it did at 10.0. They were changed after the
results of quick scale were known; there it takes LaProp's lead away.

"Alike" with warm-up: mean losses at the end within ALIKE of each other.
"""

# What a column of a table holds is beyond the types of pandas.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from runners.config import ROOT
from scripts import claims, fairness, fractions, judging, statistics
from scripts.figures import style, training
from scripts.figures.training import pick
from scripts.judging import Verdict
from scripts.published import distance
from scripts.stand_ins import stand_ins

Tables = dict[str, pd.DataFrame]
Config = Mapping[str, Any]
EXPERIMENT, SUBJECT, RIVAL = "iwslt_warmup", "laprop", "adam"
PUBLISHED = ROOT / "results" / "reference" / "iwslt14_deen_train_loss.csv"
ROOM = claims.IWSLT_ROOM
TRAINED = claims.IWSLT_TRAINED
LEFT = claims.IWSLT_LEFT
ALIKE = claims.IWSLT_ALIKE


def config(values: Mapping[str, Any]) -> dict[str, Any]:
    task = values["task"]
    # a run may be the beginning of a longer one, by whose length its learning rate decays
    whole = values["schedule"].get("total", values["steps"])
    note = "; ".join(stand_ins(values)) or f"corpus {task['corpus']}"
    return {"scale": values["scale"], "steps": values["steps"], "whole": whole, "note": note} | {
        name: task[name]
        for name in ("corpus", "width", "layers", "max_tokens", "dropout", "label_smoothing")
    }


def losses(tidy: pd.DataFrame) -> pd.DataFrame:
    """One row a run and window: run, optimizer, lr, warmup, phase, seed, step, value.

    A run that diverged counts, from then on, as one that looks at no context.
    """
    keys = ["run", "optimizer", "lr", "warmup", "phase", "seed"]
    found = pick(tidy, (tidy.metric == "train_loss") & (tidy.step > 0))[[*keys, "step", "value"]]
    context_free = pick(tidy, tidy.metric == "context_free_loss").groupby("run", observed=True)
    ends = pick(tidy, tidy.metric == "diverged_at").groupby("run", observed=True).value.max()
    found = found.assign(
        context_free=found.run.astype(str).map(_by_text(context_free.value.first())),
        ends=found.run.astype(str).map(_by_text(ends)),
    )
    dead = (found.step > found.ends) | found.value.isna()
    found["value"] = found.value.where(~dead, found.context_free)
    return found.drop(columns="ends")


def _by_text(column: pd.Series) -> dict[str, float]:
    return {str(run): float(value) for run, value in column.items()}


def finals(found: pd.DataFrame) -> pd.DataFrame:
    """The last row of each run, its way, whether it trained, and whether it has left the plateau.

    The way is NaN where runs with warm-up are missing or gain less than ROOM, and then nobody knows
    whether a run trained.
    """
    last = found.sort_values("step").groupby("run", observed=True).tail(1)
    lr = last.lr.astype(float)
    ends = pick(last, last.warmup > 0).groupby(lr).value.mean()
    gained, room = last.context_free - last.value, last.context_free - lr.map(ends)
    way = gained / room.where(room >= ROOM)
    trained, left = ((way >= part).where(way.notna()) for part in (TRAINED, LEFT))
    return last.assign(way=way, trained=trained, left=left)


def tables(tidy: pd.DataFrame, config: Config) -> Tables:
    """`final`: the end of each run and its way; `settings`: mean end and fraction that trains of
    each setting, with the authors' end; `curves`: quartiles of the training loss against steps;
    `distance_to_published`: of our median curves from the authors', against training done."""
    found = losses(tidy)
    final = finals(found)
    published, done = published_curves(), config["steps"] / config["whole"]
    rows = []
    for key, cell in final.groupby(["optimizer", "lr", "warmup"], observed=True):
        name, lr, warmup = key  # type: ignore[misc]
        n, known = len(cell), cell.way.notna().all()
        trained = int(cell.trained.sum()) if known else np.nan
        low, high = fractions.wilson_interval(trained, n) if known else (np.nan, np.nan)
        theirs = pick(published, (published.optimizer == name)
                      & ((published.warmup > 0) == (warmup > 0))
                      & (published.fraction > 0.9 * done) & (published.fraction <= done))  # fmt: skip
        rows.append({"optimizer": name, "lr": lr, "warmup": warmup, "n": n,
                     "mean_loss": cell.value.mean(), "left": int(cell.left.sum()) if known else np.nan,
                     "trained": trained, "fraction": trained / n,
                     "fraction_low": low, "fraction_high": high,
                     "context_free_loss": cell.context_free.iloc[0],
                     "published_loss": theirs.train_loss.mean()})  # fmt: skip
    curves = found.groupby(["optimizer", "lr", "warmup", "step"], observed=True)["value"]
    curves = curves.quantile([0.25, 0.5, 0.75]).unstack().reset_index()
    curves.columns = ["optimizer", "lr", "warmup", "step", "q1", "median", "q3"]
    return {
        "settings": pd.DataFrame(rows),
        "final": pd.DataFrame(
            final[["optimizer", "lr", "warmup", "seed", "value", "way", "left", "trained"]]
        ),
        "curves": curves,
        "distance_to_published": pd.DataFrame(_distances(curves, published, config["whole"])),
    }


def _distances(
    curves: pd.DataFrame, published: pd.DataFrame, whole: int
) -> Iterator[dict[str, Any]]:
    """Of each of our median curves from the authors' of the same optimizer and kind of warm-up."""
    for (name, lr, warmup), ours in curves.groupby(["optimizer", "lr", "warmup"], observed=True):
        theirs = pick(published, (published.optimizer == name)
                      & ((published.warmup > 0) == (warmup > 0)))  # fmt: skip
        kind = "with" if warmup else "without"
        yield distance(f"{style.mark(name).label}, {kind} warm-up, lr {lr:g}", "bits per token",
                       (ours.step / whole, ours["median"]),
                       (theirs.fraction, theirs.train_loss))  # fmt: skip


def published_curves() -> pd.DataFrame:
    """The authors' curves, with the fraction of their updates that is done."""
    published = pd.read_csv(PUBLISHED)
    return published.assign(fraction=published["update"] / published["update"].max())


def verdicts(tidy: pd.DataFrame, tables: Tables, config: Config) -> list[Verdict]:
    final, found = tables["final"], []
    for claim in claims.claims_of(EXPERIMENT):
        for lr in sorted(final.lr.unique()):
            setting = f"lr {lr:g}"
            part = pick(final, final.lr == lr)
            missing = {SUBJECT, RIVAL} - set(part.optimizer.astype(str))
            if missing or part.warmup.nunique() < 2:
                reason = f"no runs of {', '.join(sorted(missing)) or 'both kinds of warm-up'}"
                found.append(judging.inconclusive(claim, setting, reason))
                continue
            seeds = int(part.groupby(["optimizer", "warmup"], observed=True).size().min())
            budgets = [fairness.untuned(name, config["steps"], pick(part, part.optimizer == name).seed,
                                        **training.fixed(tidy, name))
                       for name in (SUBJECT, RIVAL)]  # fmt: skip
            if verdict := training.refusal(claim, setting, seeds, budgets):
                found.append(verdict)
                continue
            judge = _alike if claim.id.endswith("alike") else _fails
            if judge is _fails and part.way.isna().any():
                reason = f"the runs with warm-up gain less than {ROOM} bits per token"
                found.append(judging.inconclusive(claim, setting, reason, n=seeds))
                continue
            found.append(judging.judge(claim, setting, budget="not tuned", **judge(part)))
    return judging.settle(found)


def _fails(part: pd.DataFrame) -> dict[str, Any]:
    """Without warm-up, does LaProp train for seeds for which Adam stays on the plateau?"""
    none = pick(part, part.warmup == 0)
    trains, left = (none.pivot(index="seed", columns="optimizer", values=v).dropna().astype(bool)
                    for v in ("trained", "left"))  # fmt: skip
    mean = none.groupby("optimizer", observed=True).value.mean()
    both = trains[SUBJECT], left[RIVAL]
    return {
        "p_for": fractions.mcnemar_exact(*both, "greater"),
        "p_against": fractions.p_fraction_difference_below(*both, claims.SMALL_GAP),
        "effect": fractions.difference_of_fractions(*both),
        "effect_unit": "of the seeds: those that LaProp trains, less those with which Adam leaves the "
        "plateau",
        "sentence": f"Without warm-up LaProp trains for {trains[SUBJECT].mean():.0%} of the seeds, "
        f"Adam for {trains[RIVAL].mean():.0%}, and stays near a prediction without context for "
        f"{1 - left[RIVAL].mean():.0%}; mean training loss at the end {mean[SUBJECT]:.2f} and "
        f"{mean[RIVAL]:.2f} bits per token (authors, over the last tenth of 60,000 updates: 4.50 and 9.42).",
    }  # fmt: skip


def _alike(part: pd.DataFrame) -> dict[str, Any]:
    """With warm-up, are the two within ALIKE?"""
    warm = pick(part, part.warmup > 0)
    wide = warm.pivot(index="seed", columns="optimizer", values="value")
    gap = statistics.mean_interval(wide[RIVAL] - wide[SUBJECT])
    return {
        "p_for": gap.p_within(ALIKE),
        "p_against": gap.p_beyond(ALIKE),
        "effect": gap,
        "effect_unit": "bits per token (Adam − LaProp)",
        "sentence": f"With warm-up the mean training loss at the end is {wide[SUBJECT].mean():.2f} "
        f"bits per token with LaProp, {wide[RIVAL].mean():.2f} with Adam "
        "(authors, over the last tenth of 60,000 updates: 3.24 and 3.21).",
    }


def draw(tidy: pd.DataFrame, tables: Tables, config: Config) -> Figure:
    """A row for each learning rate; without warm-up left, with warm-up right."""
    curves, settings = tables["curves"], tables["settings"]
    lrs, warmups = sorted(curves.lr.unique()), sorted(curves.warmup.unique())
    kinds = " and ".join("with" if warmup else "without" for warmup in warmups)
    names, published = style.in_order(curves.optimizer), published_curves()
    with matplotlib.rc_context(style.RC):
        fig = Figure(figsize=(7.6, 1.75 + 2.6 * len(lrs)))
        height = fig.get_figheight()
        fig.text(0.01, 1 - 0.08 / height, f"A translation transformer, {kinds} warm-up",
                 fontsize=11, fontweight="bold", va="top")  # fmt: skip
        _legend(fig, names, 1 - 0.3 / height)
        grid = fig.add_gridspec(len(lrs), len(warmups), left=0.08, right=0.975, wspace=0.16,
                                top=1 - 0.85 / height, bottom=1.1 / height, hspace=0.35)  # fmt: skip
        panels = []
        for row, lr in enumerate(lrs):
            for column, warmup in enumerate(warmups):
                ax = fig.add_subplot(grid[row, column])
                panels.append(ax)
                cell = pick(curves, (curves.lr == lr) & (curves.warmup == warmup))
                theirs = pick(published, (published.warmup > 0) == (warmup > 0))
                _panel(ax, cell, theirs, names, config)
                level = settings.context_free_loss.iloc[0]
                ax.axhline(level, color="#555555", linewidth=0.8, linestyle=":")
                many = f"{warmup:,} of {config['whole']:,} steps of" if warmup else "no"
                ax.set_title(f"{chr(97 + row * len(warmups) + column)}  {many} warm-up, lr {lr:g}",
                             loc="left")  # fmt: skip
                if column == 0:
                    ax.set_ylabel("training loss (bits per token)")
        lows, highs = zip(*(ax.get_ylim() for ax in panels), strict=True)
        for ax in panels:  # they are to be compared
            ax.set_ylim(min(lows), max(highs))
        n = int(settings.n.min())
        larger = ", whose vocabulary is larger" if config["corpus"] == "numbers" else ""
        seeds = "seed, lines: its course" if n == 1 else "seeds, lines: medians, bands: quartiles"
        fig.text(0.01, 0.06 / height, "\n".join([
            f"Scale {config['scale']}: n = {n} {seeds}; {config['note']};",
            (f"width {config['width']}, {config['layers']} + {config['layers']} layers, "
             f"{config['max_tokens']:,} tokens a batch; (μ, ν) = {style.values_text(tidy, 'beta1', 'beta2')}, "
             f"weight decay {style.values_text(tidy, 'weight_decay')}, label smoothing "
             f"{config['label_smoothing']:g}, dropout {config['dropout']:g}."),
            ("Faint: the authors' single runs on IWSLT14 (60,000 updates, 2,000 of warm-up or none, "
             f"lr 3e-4){larger}:"),
            ("compare the shapes, not the heights, unless the corpus is theirs. "
             "Dotted: the best that looks at no context, here."),
        ]), va="bottom", fontsize=7)  # fmt: skip
    return fig


def _legend(fig: Figure, names: Sequence[str], top: float) -> None:
    handles, labels = [], []
    for name in names:
        look = style.mark(name)
        handles += [Line2D([], [], color=look.colour, linestyle=look.linestyle, linewidth=look.width),
                    Line2D([], [], color=look.colour, linestyle="-", linewidth=0.7, alpha=0.55)]  # fmt: skip
        labels += [look.label, f"{look.label}, authors, n = 1"]
    fig.legend(handles, labels, loc="upper center", bbox_to_anchor=(0.54, top), ncols=len(labels),
               frameon=False, handlelength=3.0, columnspacing=1.5)  # fmt: skip


def _panel(
    ax: Axes, cell: pd.DataFrame, theirs: pd.DataFrame, names: Sequence[str], config: Config
) -> None:
    done = config["steps"] / config["whole"]
    theirs = pick(theirs, theirs.fraction <= done)
    unit = 100 if done == 1 else config["whole"]
    ax.set_xlabel("training done (%)" if done == 1 else f"steps, of {unit:,}")
    for name in names:
        look = style.mark(name)
        part = pick(theirs, theirs.optimizer == name)
        ax.plot(unit * part.fraction, part.train_loss, color=look.colour, linewidth=0.7, alpha=0.55,
                label=f"{look.label}, authors", zorder=2)  # fmt: skip
        mine = pick(cell, cell.optimizer == name).sort_values("step")
        x = unit * mine.step / config["whole"]
        style.line(ax, x, mine["median"], look, zorder=4 - 0.1 * look.width)
        style.band(ax, x, mine.q1, mine.q3, look, 0.15)
    ax.set_xlim(0, unit * done)
    low = 0.0 if done == 1 else np.nanmin([theirs.train_loss.min(), cell.q1.min()]) - 0.3
    ax.set_ylim(low, float(np.nanmax([11.0, cell.q3.max()])) + 0.3)
