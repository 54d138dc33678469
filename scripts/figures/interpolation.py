"""LaProp between two families: how far its path is from momentum of the sign, and from RMSprop.

As v = nu goes to 0, g_i / sqrt(n_i) becomes sign(g_i), and LaProp's momentum that of the signs. Not
at the rate v: what is normalised is not near a sign where |g_i| is below about sqrt(v) |g_{i-1}|,
which happens the less often the smaller v is, and once it does, later signs differ as well. So
with more or longer steps (lr 1e-2, 2,000 steps) the distance stays on a plateau down to v of about
1e-8, and wavers there, before it falls. At u = mu = 0 LaProp is RMSprop with bias correction, which torch has as Adam with betas (0, v). Adam
becomes it, too; but as v goes to 0, Adam's update m / |g_i| has no limit that is bounded. Signum,
the sign of the momentum, is another method: its distance does not depend on v.

The distance of two paths of one seed is the largest distance of their positions over the recorded
steps, divided by the length of the limit's path through these.
"""

from collections.abc import Mapping
from typing import Any, Literal, cast

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from scripts import claims, fractions, judging, statistics
from scripts.claims import STEP_ROUNDING
from scripts.figures import hover, style
from scripts.figures.training import check_columns, pick
from scripts.judging import Verdict

Tables = dict[str, pd.DataFrame]
Config = Mapping[str, Any]  # what `config` returns

FLOOR = 1e-17  # of the axes: paths that agree to the last bit have distance 0
CEILING = 100.0  # of the panels against nu and mu
GREY = "#555555"
SIGN, SIGNUM, RMSPROP = "momentum of the sign", "Signum", "RMSprop"  # names of single runs
LIMITS = {  # what goes to 0: its symbol, the limit's name, the claim
    "nu": ("ν", SIGN, "limit_nu_momentum_of_sign"),
    "mu": ("μ", RMSPROP, "limit_mu_rmsprop"),
}

_NEEDED = [
    "optimizer", "beta1", "beta2", "lr", "eps", "momentum", "momentum_of", "run", "phase", "seed",
    "replica", "step", "metric", "value",
]  # fmt: skip


def config(values: Mapping[str, Any]) -> dict[str, Any]:
    """What the analysis needs of the experiment's resolved configuration."""
    return {
        "scale": values["scale"],
        "steps": values["steps"],
        "sigma": values["task"]["sigma"],
        "momentum": values["momentum"],
        "second": values["second"],
    }


# ---------------------------------------------------------------- tables


def tables(tidy: pd.DataFrame, config: Config) -> Tables:
    """Distances to the limit: `distance` over the whole path, `course` up to each step (LaProp).

    Medians over seeds with their exact 95% intervals; the column ``value`` is nu or mu, NaN for
    Signum, which has neither.
    """
    paths = _paths(tidy)
    rows, course = [], []
    for limit, (_, name, _) in LIMITS.items():
        for (optimizer, value), path in _approaching(paths, limit, config).items():
            apart = _distances(path, paths[name,])
            whole = statistics.order_interval(apart.iloc[-1])
            key = {"limit": limit, "optimizer": optimizer, "value": value}
            within = int((apart.iloc[-1] <= _tolerance(config)).sum())
            rows.append({**key, "n": whole.n, "median": whole.value, "low": whole.low,
                         "high": whole.high, "within_rounding": within})  # fmt: skip
            if optimizer == "laprop":
                course += [{**key, "step": step, "median": median}
                           for step, median in apart.median(axis=1).items()]  # fmt: skip
    return {"distance": pd.DataFrame(rows), "course": pd.DataFrame(course)}


Key = tuple[Any, ...]  # (optimizer, mu, nu), or the name alone of a run that stands still


def _paths(tidy: pd.DataFrame) -> dict[Key, pd.DataFrame]:
    """(x, y) of each method: rows are steps, columns (metric, seed); inf from where one diverged."""
    check_columns(tidy, _NEEDED)
    names = ("optimizer", "run", "phase", "metric", "momentum_of")
    tidy = tidy.astype({name: str for name in names})
    for name in ("lr", "eps"):
        if len(set(tidy[name].dropna())) > 1:
            raise ValueError(f"the runs differ in {name}: they have no limit in common")
    tidy = pick(tidy, tidy.phase == "report")
    paths: dict[Key, pd.DataFrame] = {}
    for _, run in cast(Any, tidy.groupby("run")):
        path = run[run.metric.isin(["x", "y"])].pivot(
            index="step", columns=["metric", "seed"], values="value"
        )
        for row in run[run.metric == "diverged_at"].itertuples():
            path.loc[path.index >= row.value, pd.IndexSlice[:, row.seed]] = np.inf
        paths[_key(run.iloc[0])] = path.sort_index(axis=1)
    for name in (SIGN, SIGNUM, RMSPROP):
        if (name,) not in paths:
            raise ValueError(f"no run of {name}")
    reference = paths[SIGN,]
    for key, path in paths.items():
        if not (path.index.equals(reference.index) and path.columns.equals(reference.columns)):
            run = " ".join(map(str, key))
            raise ValueError(f"the run {run} has other steps or seeds than {SIGN}")
    return paths


def _key(run: Any) -> Key:
    if run.optimizer == "signsgd":
        return (SIGN if run.momentum_of == "sign" else SIGNUM,)
    if run.optimizer == "adam" and run.beta1 == 0:
        return (RMSPROP,)
    return run.optimizer, float(run.beta1), float(run.beta2)


def _approaching(
    paths: Mapping[Key, pd.DataFrame], limit: str, config: Config
) -> dict[tuple[str, float], pd.DataFrame]:
    """The runs on the way to a limit, by optimizer and value; Signum stands still."""
    betas = sorted(key for key in paths if len(key) == 3)
    found = {}
    for name in style.in_order(key[0] for key in betas):
        for u, v in (key[1:] for key in betas if key[0] == name):
            if limit == "nu" and u == config["momentum"]:
                found[name, v] = paths[name, u, v]
            if limit == "mu" and v == config["second"]:
                found[name, u] = paths[name, u, v]
    return found | ({("signum", np.nan): paths[SIGNUM,]} if limit == "nu" else {})


def _distances(path: Any, limit: Any) -> Any:
    """Largest distance so far over the length of the limit's whole path; rows steps, columns seeds."""
    apart = np.hypot(path["x"] - limit["x"], path["y"] - limit["y"])
    moves = np.hypot(limit["x"].diff(), limit["y"].diff())
    return apart.cummax() / moves.sum()


def _tolerance(config: Config) -> float:
    return config["steps"] * STEP_ROUNDING


def _records(frame: pd.DataFrame, mask: Any) -> list[Any]:
    return pick(frame, mask).to_dict("records")


# ---------------------------------------------------------------- verdicts


def verdicts(tidy: pd.DataFrame, tables: Tables, config: Config) -> list[Verdict]:
    """Both limits, corrected for their number; what Adam and Signum do is told with them."""
    paths = _paths(tidy)
    found = []
    for claim in claims.claims_of("interpolation"):
        limit = next(name for name, (_, _, id) in LIMITS.items() if id == claim.id)
        symbol, name, _ = LIMITS[limit]
        setting = f"μ = {config['momentum']:g}" if limit == "nu" else f"ν = {config['second']:g}"
        runs = {value: _distances(path, paths[name,]).iloc[-1].to_numpy()
                for (optimizer, value), path in _approaching(paths, limit, config).items()
                if optimizer == "laprop"}  # fmt: skip
        if len(runs) < 2:
            reason = f"fewer than two values of {symbol} for LaProp"
            found.append(judging.inconclusive(claim, setting, reason))
            continue
        evidence = becomes(runs, _tolerance(config), symbol)
        evidence["sentence"] += _others(tables["distance"], limit, symbol)
        found.append(judging.judge(claim, setting, budget="not tuned", **evidence))
    return judging.settle(found)


def _others(distance: pd.DataFrame, limit: str, symbol: str) -> str:
    """What the methods that are not LaProp do in the same limit."""
    rows = pick(distance, distance.limit == limit)
    adam = _records(rows, rows.optimizer == "adam")
    told = []
    if adam:
        last = min(adam, key=lambda row: row["value"])
        told = [f" Adam with the same betas: {_interval(last)} at {symbol} = {last['value']:g}."]
    signum = _records(rows, rows.optimizer == "signum")
    return "".join([*told, *(f" Signum: {_interval(row)}." for row in signum)])


def _interval(row: Mapping[str, float]) -> str:
    value, low, high = (judging.number(row[name]) for name in ("median", "low", "high"))
    return f"{value} ({low} to {high})"


# ---------------------------------------------------------------- figure


def becomes(
    distances: Mapping[float, np.ndarray], tolerance: float, parameter: str
) -> dict[str, Any]:
    """Does the distance of two paths vanish with a parameter, and fall all the way?

    ``distances``: of each value of the parameter, one a seed, as parts of the path's length.
    """
    falling = sorted(distances, reverse=True)
    medians = [float(np.median(distances[value])) for value in falling]
    rises = [
        value
        for value, median, before in zip(falling[1:], medians[1:], medians, strict=False)
        if before > tolerance and median >= before
    ]
    last = distances[falling[-1]]
    within = int((last <= tolerance).sum())
    told = ", ".join(f"{judging.number(m)} at {v:g}" for v, m in zip(falling, medians, strict=True))
    stalls = ", ".join(f"{value:g}" for value in rises)
    return {
        "p_for": 1.0 if rises else fractions.p_fraction_above(within, last.size, 0.5),
        "p_against": fractions.p_fraction_above(last.size - within, last.size, 0.5),
        "effect": statistics.order_interval(last),
        "effect_unit": f"of the path's length, the median distance at {parameter} = "
        f"{falling[-1]:g}",
        "sentence": f"Within rounding ({judging.number(tolerance)}) at {parameter} = {falling[-1]:g} for "
        f"{within} of {last.size} seeds. Median distances: {told}."
        + (f" They do not fall at {parameter} = {stalls}." if rises else ""),
    }


def draw(tidy: pd.DataFrame, tables: Tables, config: Config) -> Figure:
    """Distance to the limit against nu and mu, and how LaProp's grows along the path."""
    distance, course = tables["distance"], tables["course"]
    with matplotlib.rc_context(style.RC):
        fig = Figure(figsize=(7.6, 6.9))
        fig.text(0.01, 0.988, "LaProp between momentum of the sign and RMSprop: distance of the "
                 "paths", fontsize=11, fontweight="bold", va="top")  # fmt: skip
        grid = fig.add_gridspec(2, 2, left=0.085, right=0.985, top=0.87, bottom=0.17,
                                hspace=0.42, wspace=0.16)  # fmt: skip
        titles = {"nu": f"to signSGD with momentum {config['momentum']:g} of the sign",
                  "mu": f"to RMSprop with bias correction, ν = {config['second']:g}"}  # fmt: skip
        for column, (limit, (symbol, _, _)) in enumerate(LIMITS.items()):
            ax = fig.add_subplot(grid[0, column])
            _against_parameter(ax, pick(distance, distance.limit == limit), config)
            ax.set_xlabel(symbol)
            ax.set_title(f"{'ab'[column]}  {titles[limit]}", loc="left")
            ax = fig.add_subplot(grid[1, column])
            _along_the_path(ax, pick(course, course.limit == limit), config)
            ax.set_title(
                f"{'cd'[column]}  along LaProp's path (at the lines: {symbol})", loc="left"
            )
            if column:
                for side in fig.axes[-2:]:
                    side.set_ylabel("")
        _legend(fig)
        fig.text(0.01, 0.01, _caption(tidy, distance, config), fontsize=7, va="bottom",
                 linespacing=1.3)  # fmt: skip
    return fig


def _distance_axis(ax: Axes, config: Config, top: float, side: Literal["left", "right"]) -> None:
    ax.set(yscale="log", ylim=(FLOOR / 3, top), ylabel="largest distance / path length")
    ax.axhspan(FLOOR / 3, _tolerance(config), color="#EEEEEE", zorder=0)
    ax.text(0.99 if side == "right" else 0.01, _tolerance(config) / 1.6, "rounding", ha=side,
            va="top", transform=ax.get_yaxis_transform(), fontsize=7, color=GREY)  # fmt: skip


def _against_parameter(ax: Axes, rows: pd.DataFrame, config: Config) -> None:
    for name in ("laprop", "adam"):
        part = pick(rows, rows.optimizer == name)
        style.intervals(ax, part.value, part["median"], part.low, part.high, style.mark(name),
                        ceiling=CEILING, floor=FLOOR)  # fmt: skip
    for row in _records(rows, rows.optimizer == "signum"):
        look = style.mark("signsgd")
        ax.axhline(row["median"], color=look.colour, linestyle=look.linestyle, linewidth=look.width)
        low, high = np.clip([row["low"], row["high"]], FLOOR, CEILING)  # few seeds: no ends
        ax.axhspan(low, high, color=look.colour, alpha=0.12, linewidth=0)
    ax.set_xscale("log")
    _distance_axis(ax, config, 10 * CEILING, "right")


def _along_the_path(ax: Axes, rows: pd.DataFrame, config: Config) -> None:
    look = style.mark("laprop")
    labelled = np.inf
    for value, line in sorted(rows.groupby("value"), key=lambda item: -cast(float, item[0])):
        line = pick(line, line.step > 0)
        (drawn,) = ax.plot(
            line.step, line["median"].clip(lower=FLOOR), color=look.colour, linewidth=1.1
        )
        if line["median"].iloc[-1] < FLOOR:
            hover.instead(drawn, f"below {FLOOR:g} at the end")
        height = max(float(line["median"].iloc[-1]), FLOOR)
        if height < labelled / 10:  # no room for more
            labelled = height
            ax.annotate(f"{value:g}", (line.step.iloc[-1], height), xytext=(4, 0),
                        textcoords="offset points", va="center", fontsize=7, color=look.colour)  # fmt: skip
    ax.set(xlabel="step", xlim=(0, 1.14 * config["steps"]))
    _distance_axis(ax, config, 10, "left")


def _legend(fig: Figure) -> None:
    marks = {"LaProp": style.mark("laprop"), "Adam, the same betas": style.mark("adam"),
             "Signum (sign of the momentum)": style.mark("signsgd")}  # fmt: skip
    lines = [Line2D([], [], color=m.colour, linestyle=m.linestyle, linewidth=m.width,
                    marker=m.marker if label != "Signum (sign of the momentum)" else "")
             for label, m in marks.items()]  # fmt: skip
    fig.legend(lines, list(marks), loc="upper left", bbox_to_anchor=(0.005, 0.957), ncols=3,
               frameon=False, handlelength=3.4)  # fmt: skip


def _caption(tidy: pd.DataFrame, distance: pd.DataFrame, config: Config) -> str:
    eps = ", ".join(f"{e:g}" for e in sorted(set(tidy.eps.dropna())))
    lrs = ", ".join(f"{lr:g}" for lr in sorted(set(tidy.lr)))
    sigma = ", ".join(f"{s:g}" for s in config["sigma"])
    return (
        f"Scale {config['scale']}: noisy Rosenbrock function, σ = {sigma}, {config['steps']:,} "
        f"steps, lr {lrs} and eps {eps} for all, μ = {config['momentum']:g} in a and c, nothing "
        f"tuned.\nMedian over n = {distance.n.min()} seeds, each paired with the limit's path of "
        "the same seed; bars and band: exact 95% intervals of the median.\nGrey: at most one "
        f"float64 rounding a step. Distances below {FLOOR:g}, 0 among them, lie at the bottom.\nRMSprop with bias "
        "correction is Adam with μ = 0. c and d: the values of a and b; lines close to another have "
        "no number."
    )
