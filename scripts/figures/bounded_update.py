"""The size of one update: what LaProp and Adam do on given gradients, against their bounds.

With mu = u, nu = v, no eps and a constant lr, let |update| / lr be the size of one step t.

LaProp averages x_i = g_i / sqrt(n_i / (1 - v^i)) with weights that sum to one. Of the sum
n_i = (1 - v) sum_k v^k g_{i-k}^2 the first term alone gives |x_i| <= sqrt((1 - v^i) / (1 - v)), so

    LaProp:  sqrt((1 - v^t) / (1 - v))  <=  1 / sqrt(1 - v)                      for every u,

approached where for many steps each gradient dwarfs the one before.

Adam's step is (m_t / (1 - u^t)) / sqrt(n_t / (1 - v^t)), m_t = (1 - u) sum_k u^k g_{t-k}. By
Cauchy-Schwarz sum_k (u / sqrt(v))^k (sqrt(v)^k g_{t-k}) is at most the root of
sum_k (u^2 / v)^k times that of sum_k v^k g_{t-k}^2, so

    Adam:  (1 - u) / (1 - u^t) sqrt((1 - v^t) / (1 - v)) sqrt(sum_{k<t} (u^2 / v)^k),

with equality for g_{t-k} proportional to (u / v)^k: for gradients with the ratio v / u, at every t
at once. For u^2 < v it grows with t to (1 - u) / sqrt((1 - v) (1 - u^2 / v)); for u^2 >= v it grows
without limit. The paper's bound has sum_k (u / sqrt(v))^k in the place of the root of the sum of
squares, (1 - u) / (sqrt(1 - v) (1 - u / sqrt(v))): true as well, and larger.
"""

from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from scripts import claims, judging
from scripts.claims import GROWS, ROUNDING, SEVERE, Claim
from scripts.figures import hover, style
from scripts.figures.training import check_columns, pick
from scripts.judging import Verdict
from tasks.gradient_sequence import HUGE, TINY

Tables = dict[str, pd.DataFrame]
Config = Mapping[str, Any]  # what `config` returns

OPTIMIZERS = ("laprop", "adam")
KINDS = {  # label and marker
    "normal": ("normal", "o"),
    "cauchy": ("Cauchy", "D"),
    "spike": ("spike after silence", "v"),
    "geometric": ("geometric", "s"),
    "burst": ("geometric after silence", "^"),
}
RANGE = np.log10(HUGE / TINY)  # decades that a sequence can grow or shrink by
CEILING = 100.0  # of the panels against nu
GROWTH_CEILING = 1e4  # of the panels against the horizon
GREY = "#555555"

_NEEDED = [
    "optimizer", "beta1", "beta2", "lr", "eps", "run", "replica", "kind", "ratio", "step",
    "metric", "value",
]  # fmt: skip


def laprop_bound(v: Any, t: Any = np.inf) -> Any:
    """The bound of |update| / lr at step t; the limit without t."""
    return np.sqrt((1 - v**t) / (1 - v))


def adam_bound(u: float, v: float, t: Any = np.inf) -> Any:
    """The tight bound of |update| / lr at step t; inf where it exceeds float64, or has no limit."""
    t, ratio = np.asarray(t, dtype=float), u * u / v
    with np.errstate(over="ignore", invalid="ignore"):
        squares = t if ratio == 1 else np.expm1(t * np.log(ratio)) / (ratio - 1)
        return (1 - u) / (1 - u**t) * np.sqrt((1 - v**t) / (1 - v) * squares)


def paper_bound(u: float, v: float) -> float:
    """The paper's bound of Adam's |update| / lr; inf where it has none."""
    return (1 - u) / np.sqrt(1 - v) / (1 - u / np.sqrt(v)) if u * u < v else np.inf


def config(values: Mapping[str, Any]) -> dict[str, Any]:
    """What the analysis needs of the experiment's resolved configuration."""
    return {
        "scale": values["scale"],
        "steps": values["steps"],
        "eval_every": values["eval_every"],
        "silence": values["task"]["silence"],
    }


# ---------------------------------------------------------------- tables


def tables(tidy: pd.DataFrame, config: Config) -> Tables:
    """The largest |update| / lr: `largest` by horizon, `kinds` by kind of sequence at the end.

    Both with n, the number of sequences, the tight bound at that horizon, and `reached`, the
    largest as a part of the bound.
    """
    moves = _moves(tidy)
    pair = ["u", "v", "optimizer"]
    last = pick(moves, moves.step == config["steps"])
    if last.empty:
        raise ValueError(f"no largest_move at step {config['steps']}, the end of the runs")
    return {"largest": _worst(moves, [*pair, "step"]), "kinds": _worst(last, [*pair, "kind"])}


def _moves(tidy: pd.DataFrame) -> pd.DataFrame:
    """One row per run, replica and horizon, with |update| / lr; inf where it is not a number."""
    check_columns(tidy, _NEEDED)
    tidy = tidy.astype({name: str for name in ("optimizer", "run", "metric", "kind")})
    if tidy.eps.nunique() > 1:
        raise ValueError("the runs differ in eps, which bounds the updates as well")
    keys = ["run", "replica"]
    lost = set(tidy[tidy.metric == "diverged_at"].set_index(keys).index)
    moves = pick(tidy, (tidy.metric == "largest_move") & (tidy.step > 0))
    moves = moves.rename(columns={"beta1": "u", "beta2": "v"})
    diverged = np.array([key in lost for key in zip(moves.run, moves.replica, strict=True)], bool)
    relative = (moves.value / moves.lr).fillna(np.inf).mask(diverged, np.inf)
    return moves.assign(relative=relative)


def _worst(moves: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    groups = moves.groupby(by, sort=True)
    worst = moves.loc[groups.relative.idxmax()].set_index(by)
    rows = worst.assign(n=groups.size(), largest=worst.relative).reset_index()
    rows["bound"] = [
        float(
            laprop_bound(r.v, r.step) if r.optimizer == "laprop" else adam_bound(r.u, r.v, r.step)
        )
        for r in rows.itertuples()
    ]
    with np.errstate(invalid="ignore"):
        rows["reached"] = rows.largest / rows.bound  # 0 where the bound is beyond float64
    names = ["u", "v", "optimizer", "step", "n", "kind", "ratio", "largest", "bound", "reached"]
    return rows[names].sort_values(by, ignore_index=True)


def _of(rows: pd.DataFrame, optimizer: str, u: float) -> pd.DataFrame:
    return pick(rows, (rows.optimizer == optimizer) & (rows.u == u))


# ---------------------------------------------------------------- verdicts


def verdicts(tidy: pd.DataFrame, tables: Tables, config: Config) -> list[Verdict]:
    """Every claim for each u, over all v. Maxima over sequences: no means, intervals or tests."""
    largest = tables["largest"]
    judges = {
        "update_laprop_bounded": _laprop_bounded,
        "update_adam_bounded_below": _adam_bounded_below,
        "update_adam_unbounded_above": _adam_unbounded_above,
    }
    found = []
    for claim in claims.claims_of("bounded_update"):
        for u in sorted(set(largest.u)):
            found.append(judges[claim.id](claim, f"μ = {u:g}", largest, u, config))
    return found


def _laprop_bounded(claim: Claim, setting: str, largest: pd.DataFrame, u: float,
                    config: Config) -> Verdict:  # fmt: skip
    rows = _of(largest, "laprop", u)
    if rows.empty:
        return judging.inconclusive(claim, setting, "no run of laprop")
    end = pick(rows, rows.step == config["steps"])
    worst, least = rows.reached.max(), end.reached.min()
    return judging.examine(
        claim, setting,
        supported=worst <= 1 + ROUNDING and least >= SEVERE, contradicted=worst > 1 + ROUNDING,
        effect=worst, effect_unit="times the bound, at most", n=int(end.n.min()),
        sentence=f"{end.n.min()} sequences {_each(len(end))} of ν from {end.v.min():g} "
        f"to {end.v.max():g}: the largest update is {worst:.9f} times √((1 − ν^t) / (1 − ν)), the "
        f"bound at its step t. The sequences reach at least {least:.2f} of it at every ν"
        f"{': it is tight' if least >= SEVERE else ''}.",
    )  # fmt: skip


def _adam_bounded_below(claim: Claim, setting: str, largest: pd.DataFrame, u: float,
                        config: Config) -> Verdict:  # fmt: skip
    rows = _of(largest, "adam", u)
    rows = pick(rows, rows.v > u * u)
    if rows.empty:
        return judging.inconclusive(claim, setting, "no run of adam with ν > μ²")
    rows = rows.assign(paper=[paper_bound(u, v) for v in rows.v])
    part = rows.largest / rows.paper
    end = pick(rows, rows.step == config["steps"])
    worst, least = part.max(), end.reached.min()
    parts = part[end.index]
    crossing = u / (2 - u)
    return judging.examine(
        claim, setting,
        supported=worst <= 1 + ROUNDING and least >= SEVERE, contradicted=worst > 1 + ROUNDING,
        effect=worst, effect_unit="times the paper's bound, at most", n=int(end.n.min()),
        sentence=f"At {len(end)} value{'s' * (len(end) > 1)} of ν above μ² the largest update is {parts.min():.2f} to "
        f"{parts.max():.2f} of the bound{': it is not tight' if parts.max() < SEVERE else ''}. By "
        "Cauchy-Schwarz lr (1 − μ) / √((1 − ν) (1 − μ² / ν)) is one, too; the sequences come to "
        f"at least {least:.2f} and at most {rows.reached.max():.9f} of that. It is lr at ν = μ, "
        f"and smaller than LaProp's bound for all ν > μ / (2 − μ) = {crossing:.3f}.",
    )  # fmt: skip


def _adam_unbounded_above(claim: Claim, setting: str, largest: pd.DataFrame, u: float,
                          config: Config) -> Verdict:  # fmt: skip
    both = {name: _of(largest, name, u).set_index(["v", "step"]) for name in OPTIMIZERS}
    vs = [v for v in sorted(set(largest.v[largest.u == u])) if v < u * u]
    if not vs or any((v, config["steps"]) not in rows.index for v in vs for rows in both.values()):
        return judging.inconclusive(claim, setting, "no runs of both with ν < μ²")
    horizons = {v: horizon(u, v, config) for v in vs}
    if min(horizons.values()) < config["eval_every"]:
        reason = f"no horizon of {config['eval_every']} steps doubles within float64's range"
        return judging.inconclusive(claim, setting, reason)

    def column(name: str, what: str, times: int) -> np.ndarray:
        return np.array([both[name].loc[(v, times * t), what] for v, t in horizons.items()])

    with np.errstate(invalid="ignore"):  # an update that is inf at both horizons shows no growth
        growth = {name: column(name, "largest", 2) / column(name, "largest", 1)
                  for name in OPTIMIZERS}  # fmt: skip
    driven = {name: column(name, "reached", 2) for name in OPTIMIZERS}
    adam = growth["adam"]
    holds = adam >= GROWS, adam > growth["laprop"], *(driven[name] >= SEVERE for name in OPTIMIZERS)
    slow = int(np.argmin(adam))
    return judging.examine(
        claim, setting,
        supported=bool(np.all(holds)),
        contradicted=bool(((adam < GROWS) & (driven["adam"] >= SEVERE)).any()),
        effect=float(adam.min()), effect_unit="times, at least: so much Adam's largest update grows when "
        f"the steps double (ν = {vs[slow]:g})", n=int(both["adam"].n.min()),
        sentence=f"Where the horizon doubles, {_each(len(vs))} of ν below μ², Adam's "
        f"largest update grows by {adam.min():.3g} times (ν = {vs[slow]:g}, "
        f"{horizons[vs[slow]]:,} to {2 * horizons[vs[slow]]:,} steps) to {adam.max():.1e} times, "
        f"LaProp's by {growth['laprop'].max():.3f} at most. No finite run shows that this has no "
        f"end; Adam's is at least {driven['adam'].min():.2f} of its tight bound by then, which "
        "grows like (μ / √ν)^t.",
    )  # fmt: skip


def _each(count: int) -> str:
    return f"at each of {count} values" if count > 1 else "at one value"


def horizon(u: float, v: float, config: Config) -> int:
    """The longest horizon that can be doubled: the worst case must stay within float64's range."""
    decades = abs(np.log10(v / u))
    longest = min(config["steps"], RANGE / decades if decades else np.inf) / 2
    return int(longest // config["eval_every"]) * config["eval_every"]


# ---------------------------------------------------------------- figure


def draw(tidy: pd.DataFrame, tables: Tables, config: Config) -> Figure:
    """Largest update against nu and against the horizon, for each mu; what drives it there."""
    largest, kinds = tables["largest"], tables["kinds"]
    us = sorted(set(largest.u))[:2]
    with matplotlib.rc_context(style.RC):
        fig = Figure(figsize=(7.6, 9.0))
        fig.text(0.01, 0.99, "The largest update that given gradients can cause", fontsize=11,
                 fontweight="bold", va="top")  # fmt: skip
        grid = fig.add_gridspec(3, 2, left=0.085, right=0.985, top=0.9, bottom=0.135,
                                hspace=0.42, wspace=0.2)  # fmt: skip
        for column, u in enumerate(us):
            ax = fig.add_subplot(grid[0, column])
            _against_v(ax, pick(largest, largest.step == config["steps"]), u)
            ax.set_title(f"{'ab'[column]}  after {config['steps']:,} steps, μ = {u:g}", loc="left")
            ax = fig.add_subplot(grid[1, column])
            _against_horizon(ax, largest, u)
            ax.set_title(f"{'cd'[column]}  growth, μ = {u:g} (at the lines: ν)",
                         loc="left")  # fmt: skip
        for column, name in enumerate(OPTIMIZERS):
            ax = fig.add_subplot(grid[2, column])
            _by_kind(ax, _of(kinds, name, us[0]), name)
            label = style.mark(name).label
            ax.set_title(f"{'ef'[column]}  {label}: what comes near the bound, μ = {us[0]:g}",
                         loc="left")  # fmt: skip
        _legends(fig)
        fig.text(0.01, 0.008, _caption(tidy, kinds, config), fontsize=7, va="bottom",
                 linespacing=1.3)  # fmt: skip
    return fig


def _v_axis(ax: Axes) -> None:
    ticks = [0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999]
    ax.set_xscale("logit")
    ax.set_xlim(5e-4, 1 - 5e-4)
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.set_xticks([], minor=True)
    ax.set_xlabel("ν (logit scale)", labelpad=1)


def _against_v(ax: Axes, end: pd.DataFrame, u: float) -> None:
    odds = np.linspace(-7.6, 7.6, 2001)
    v = 1 / (1 + np.exp(-odds))
    laprop, adam = (style.mark(name) for name in OPTIMIZERS)
    above = v[v > u * u + 1e-6]
    bounds = [
        *ax.plot(v, laprop_bound(v), color=laprop.colour, linewidth=1.6),
        *ax.plot(above, [adam_bound(u, x) for x in above], color=adam.colour, linewidth=1.3),
        *ax.plot(above, [paper_bound(u, x) for x in above], color=adam.colour, linewidth=1,
                 linestyle=(0, (2, 1.5))),
    ]  # fmt: skip
    for line in bounds:
        hover.instead(line, "")  # the axis is named for what was measured
    for name in OPTIMIZERS:
        rows = _of(end, name, u)
        look = style.mark(name)._replace(linestyle="none")
        style.intervals(ax, rows.v, rows.largest, rows.largest, rows.largest, look,
                        ceiling=CEILING)  # fmt: skip
    # inside: above the panel is its title, and outwards, as the two lines can be close together
    for x, label, side, shift in ((u * u, "μ²", "right", -2), (u, "μ", "left", 2)):
        ax.axvline(x, color=GREY, linewidth=0.8, linestyle=":", zorder=1)
        ax.annotate(label, (x, 1), xycoords=("data", "axes fraction"), xytext=(shift, 0),
                    textcoords="offset points", ha=side, va="top", color=GREY, fontsize=7)  # fmt: skip
    _v_axis(ax)
    ax.set(yscale="log", ylim=(0.7, 2 * CEILING), ylabel="largest |update| / lr")
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _against_horizon(ax: Axes, largest: pd.DataFrame, u: float) -> None:
    vs = sorted(set(largest.v[largest.u == u]))
    below = [v for v in vs if v < u * u]
    middle = min(vs, key=lambda v: abs(v - u))
    shown = {"laprop": {*below[-1:], vs[-1]}, "adam": {*below[-2:], middle}}
    away = {"laprop": 4, "adam": -1}  # LaProp's labels above its lines, Adam's below: they can meet
    for name, look in ((name, style.mark(name)) for name in OPTIMIZERS):
        for v in sorted(shown[name]):
            rows = _of(largest, name, u)
            rows = pick(rows, (rows.v == v) & (rows.largest <= GROWTH_CEILING))
            if rows.empty:
                continue
            ax.plot(rows.step, rows.largest, color=look.colour, linestyle=look.linestyle,
                    linewidth=1.3)  # fmt: skip
            ax.annotate(f"{v:g}", (rows.step.iloc[-1], rows.largest.iloc[-1]),
                        xytext=(3, away[name]), textcoords="offset points", va="center",
                        color=look.colour, fontsize=7)  # fmt: skip
    ax.set(xlim=(0, largest.step.max() * 1.1), yscale="log", ylim=(0.7, 2 * GROWTH_CEILING),
           ylabel="largest |update| / lr")  # fmt: skip
    ax.set_xlabel("horizon (steps)", labelpad=1)
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def _by_kind(ax: Axes, rows: pd.DataFrame, optimizer: str) -> None:
    colour = style.mark(optimizer).colour
    if optimizer == "adam":
        rows = pick(rows, rows.v > rows.u**2)
        ax.text(0.3, 0.5, "no bound\nfor ν ≤ μ²", transform=ax.transAxes, ha="center", va="center",
                color=GREY)  # fmt: skip
    for kind, (_, marker) in KINDS.items():
        part = pick(rows, rows.kind == kind)
        ax.plot(part.v, part.reached, color=colour, marker=marker, markersize=4, linewidth=0.6,
                linestyle="-" if kind in ("geometric", "burst") else ":",
                markerfacecolor=colour if kind in ("geometric", "burst") else "white")  # fmt: skip
    ax.axhline(1, color=GREY, linewidth=0.8, zorder=1)
    _v_axis(ax)
    ax.set(ylim=(-0.03, 1.08), ylabel="largest / tight bound")


def _legends(fig: Figure) -> None:
    laprop, adam = (style.mark(name) for name in OPTIMIZERS)
    entries = [
        (Line2D([], [], color=laprop.colour, marker=laprop.marker, linewidth=1.6),
         "LaProp: measured (marks), bound 1 / √(1 − ν) (line)"),
        (Line2D([], [], color=adam.colour, marker=adam.marker, linewidth=1.3),
         "Adam: measured (marks), tight bound (line)"),
        (Line2D([], [], color=adam.colour, linewidth=1, linestyle=(0, (2, 1.5))),
         "Adam: the paper's bound"),
    ]  # fmt: skip
    fig.legend(*zip(*entries, strict=True), loc="upper left", bbox_to_anchor=(0.005, 0.972),
               ncols=2, frameon=False, columnspacing=1.5)  # fmt: skip
    filled = ("geometric", "burst")
    marks = [Line2D([], [], color=GREY, marker=marker, markersize=4, linewidth=0.6,
                    linestyle="-" if kind in filled else ":",
                    markerfacecolor=GREY if kind in filled else "white")
             for kind, (_, marker) in KINDS.items()]  # fmt: skip
    fig.legend(marks, [label for label, _ in KINDS.values()], loc="lower center",
               bbox_to_anchor=(0.53, 0.067), ncols=len(KINDS), frameon=False, columnspacing=1.4)  # fmt: skip


def _caption(tidy: pd.DataFrame, kinds: pd.DataFrame, config: Config) -> str:
    n = kinds.groupby(["u", "v", "optimizer"]).n.sum()
    counts = kinds.groupby("kind").n.first()
    parts = ", ".join(f"{counts[kind]} {label}" for kind, (label, _) in KINDS.items()
                      if kind in counts)  # fmt: skip
    lrs = ", ".join(f"{lr:g}" for lr in sorted(set(tidy.lr)))
    return (
        f"Scale {config['scale']}: each mark is the largest of n = {n.max()} sequences ({parts}).\n"
        f"Silence: {config['silence']:,} steps. lr {lrs} constant, eps 0, (μ, ν) as shown, nothing "
        "tuned. Maxima over sequences, some of them adversarial: no interval applies.\nOpen marks "
        "with an arrow lie beyond the panel; so do the lines of c and d that end early. A step in "
        "LaProp's lines there is the end of the silence."
    )
