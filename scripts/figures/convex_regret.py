"""Average regret on online convex problems: the tables, the verdicts and the figure.

`convex_regret_evidence` has the theorem, its bound, and what is asked of each claim.
"""

# What a column of a table holds is beyond the types of pandas.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportReturnType=false

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from scripts import claims, fairness, grid, judging, statistics
from scripts.claims import MIN_ROUNDS, REGRET_FALLS, Claim
from scripts.fairness import Budget
from scripts.figures import style, targets, training
from scripts.figures.convex_regret_evidence import (
    AMSGRAD,
    COUSIN,
    SUBJECT,
    TITLES,
    Arm,
    Config,
    Regrets,
    against_bound,
    arms_of,
    bounded,
    converges,
    covered,
    falls,
    smaller,
)
from scripts.figures.training import pick
from scripts.judging import Verdict
from tasks.online_convex import DIMENSIONS, ITEMS

Tables = dict[str, pd.DataFrame]

CURVED = ("least_squares", "logistic")
CAPTION_WIDTH = 148  # characters a line

_ARM = ["setting", "optimizer", "lr"]


def config(values: Mapping[str, Any]) -> dict[str, Any]:
    """What the analysis needs of the experiment's resolved configuration."""
    task = values["task"]
    return {
        "scale": values["scale"],
        "optimizers": style.in_order(targets.optimizers_of(values)),
        "large": {"reddi": task["reddi_large"], "reddi_stochastic": task["stochastic_large"]},
        "surplus": task["stochastic_surplus"],
    }


# ---------------------------------------------------------------- tables


def tables(tidy: pd.DataFrame, config: Config) -> Tables:
    """`tuning`: every lr; `curves`: regret against rounds at the best lr; `powers`: its exponent;
    `bound`: LaProp's regret beside the theorem's bound, at every lr.

    A setting is a problem with a pair of betas; an optimizer without betas is in all settings of
    its problem. On the counterexample every lr is tuned and reported on the one sequence.
    """
    regrets = arms_of(tidy, config)
    tuning = _tuning(regrets)
    curves, powers, bounds = [], [], []
    chosen = pick(tuning, tuning.chosen.astype(bool))[_ARM]
    for setting, optimizer, lr in chosen.itertuples(index=False, name=None):
        arm = regrets[setting, optimizer][lr]
        values = arm.report
        same = {"setting": setting, "optimizer": optimizer, "lr": lr, "n": len(values)}
        for rounds in arm.rounds:
            mean = statistics.mean_interval(values[rounds])
            curves.append({**same, "rounds": rounds, "average_regret": mean.value,
                           "low": mean.low, "high": mean.high})  # fmt: skip
        power = arm.power
        betas = {name: arm.fixed.get(name, math.nan) for name in ("beta1", "beta2")}
        powers.append({**same, **betas, "rounds": arm.rounds[-1], "power": power.value,
                       "low": power.low, "high": power.high,
                       "average_regret": curves[-1]["average_regret"], "x": arm.x})  # fmt: skip
    for (setting, optimizer), arms in regrets.items():
        if optimizer in (SUBJECT, AMSGRAD) and covered(arms):
            bounds += [against_bound(arm, lr, config).assign(setting=setting, optimizer=optimizer)
                       for lr, arm in arms.items()]  # fmt: skip
    columns = [*_ARM, "rounds", "average_regret", "bound"]
    bound = pd.concat(bounds, ignore_index=True) if bounds else pd.DataFrame(columns=columns)
    return {"tuning": tuning, "curves": pd.DataFrame(curves), "powers": pd.DataFrame(powers),
            "bound": bound[columns]}  # fmt: skip


def _tuning(regrets: Regrets) -> pd.DataFrame:
    """The lr with the smallest mean average regret at the last round, on the tuning seeds."""
    rows = []
    for (setting, optimizer), arms in regrets.items():
        last = {lr: arm.last(arm.tune) for lr, arm in arms.items()}
        powers = {lr: arm.tuning_power.value for lr, arm in arms.items()}
        means = {lr: float(regret.mean()) for lr, regret in last.items()}
        best = grid.choose(
            means, lambda a, b, last=last: statistics.mean_interval(last[a] - last[b])
        )
        # Where the regret falls at no lr, the verdict is about that and not about the best lr: a
        # larger one may make it smaller yet, which the caption says.
        falls = any(power <= REGRET_FALLS for power in powers.values())
        for lr in sorted(arms):
            rows.append({
                "setting": setting, "optimizer": optimizer, "lr": lr, "n": len(last[lr]),
                "average_regret": means[lr], "power": powers[lr], "chosen": lr == best.lr,
                "tied": lr in best.tied and len(best.tied) > 1,
                "edge": lr == best.lr and best.on_edge,
                "on_edge": lr == best.lr and best.on_edge and falls,
            })  # fmt: skip
    return pd.DataFrame(rows)


# ---------------------------------------------------------------- verdicts


def verdicts(tidy: pd.DataFrame, tables: Tables, config: Config) -> list[Verdict]:
    """Every claim of this experiment in the settings it speaks of."""
    regrets = arms_of(tidy, config)
    settings = list(dict.fromkeys(setting for setting, _ in regrets))
    counter = [s for s in settings if "counterexample" in s]
    curved = [s for s in settings if s in {TITLES[name] for name in CURVED}]
    proved = [s for s in settings if covered(regrets.get((s, SUBJECT), {}))]
    plans = {
        "convex_regret_sqrt": (falls, (SUBJECT,), settings),
        "convex_regret_bound": (bounded, (SUBJECT,), proved),
        "convex_regret_counterexample": (converges, (SUBJECT, COUSIN), counter),
        "convex_regret_advantage": (smaller, (SUBJECT, COUSIN), curved),
    }
    found = []
    for claim in claims.claims_of("convex_regret"):
        judge, compared, where = plans[claim.id]
        for setting in where:
            found.append(
                _verdict(judge, claim, setting, compared, regrets, tables["tuning"], config)
            )
    return judging.settle(found)


def _verdict(
    judge: Any, claim: Claim, setting: str, compared: Sequence[str], regrets: Regrets,
    tuning: pd.DataFrame, config: Config,
) -> Verdict:  # fmt: skip
    """Refuse where something is missing or unfair, judge otherwise."""
    lacking = [o for o in compared if (setting, o) not in regrets]
    if lacking:
        return judging.inconclusive(claim, setting, f"no runs of {', '.join(lacking)}")
    mine = pick(tuning, tuning.setting == setting)
    chosen = mine[mine.chosen].set_index("optimizer").lr
    best = {o: regrets[setting, o][float(chosen[o])] for o in compared}
    budgets = [_budget(o, best[o], mine) for o in compared]
    certain, rounds = best[compared[0]].certain, best[compared[0]].rounds[-1]
    text, seeds = fairness.budget_text(budgets), min(len(b.report_seeds) for b in budgets)
    if certain:
        text = f"{budgets[0].trials} lrs on the sequence itself" + " each" * (len(compared) > 1)
    few = f"{rounds} rounds are too few (at least {MIN_ROUNDS:,})" if rounds < MIN_ROUNDS else ""
    if verdict := training.refusal(claim, setting, seeds, budgets, few, certain):
        return replace(verdict, budget=text)
    every = {o: regrets[setting, o] for o in (*compared, AMSGRAD) if (setting, o) in regrets}
    evidence = judge(best, every, config)
    if not certain:
        return judging.judge(claim, setting, budget=text, **evidence)
    verdict = judging.INCONCLUSIVE
    if evidence["p_for"] == 0 or evidence["p_against"] == 0:
        verdict = judging.SUPPORTED if evidence["p_for"] == 0 else judging.CONTRADICTED
    return judging.certain(
        claim, setting, verdict, effect=evidence["effect"].value,
        effect_unit=evidence["effect_unit"], budget=text, sentence=evidence["sentence"],
    )  # fmt: skip


def _budget(optimizer: str, arm: Arm, tuning: pd.DataFrame) -> Budget:
    tried = pick(tuning, tuning.optimizer == optimizer)
    return Budget(
        optimizer=optimizer,
        trials=len(tried),
        tuning_seeds=tuple(int(seed) for seed in arm.tune.index),
        knobs=("lr",),
        steps=arm.rounds[-1],
        report_seeds=tuple(int(seed) for seed in arm.report.index),
        on_edge=tuple(f"lr {lr:g}" for lr in tried[tried.on_edge.astype(bool)].lr),
        fixed=arm.fixed,
    )


# ---------------------------------------------------------------- figure


def draw(tidy: pd.DataFrame, tables: Tables, config: Config) -> Figure:
    """Average regret against rounds for each setting, and the exponents of all."""
    curves, powers = tables["curves"], tables["powers"]
    names = list(config["optimizers"])
    settings = list(dict.fromkeys(powers.setting))
    del tidy  # the tables hold all that is shown
    with matplotlib.rc_context(style.RC):
        fig = Figure(figsize=(7.6, 6.9))
        fig.text(0.01, 0.99, "Average regret on online convex problems, step size lr / √t",
                 fontsize=11, fontweight="bold", va="top")  # fmt: skip
        shown = [*names, *([AMSGRAD] if AMSGRAD in set(powers.optimizer) else [])]
        looks = [_look(name) for name in shown]
        lines = [Line2D([], [], color=m.colour, marker=m.marker, linestyle=m.linestyle,
                        linewidth=m.width, markerfacecolor=_face(name))
                 for name, m in zip(shown, looks, strict=True)]  # fmt: skip
        fig.legend(lines, [m.label for m in looks], loc="upper center", frameon=False,
                   bbox_to_anchor=(0.5, 0.965), ncols=len(shown), handlelength=2.6,
                   columnspacing=1.1)  # fmt: skip
        grid = fig.add_gridspec(2, 3, left=0.075, right=0.985, top=0.885, bottom=0.205,
                                hspace=0.36, wspace=0.28)  # fmt: skip
        for place, setting in enumerate(settings[:5]):
            ax = fig.add_subplot(grid[place // 3, place % 3])
            _curves_panel(ax, pick(curves, curves.setting == setting), shown)
            ax.set_title(f"{'abcde'[place]}  {setting}", loc="left")
            if place % 3 == 0:
                ax.set_ylabel("average regret R(T) / T")
            ax.set_xlabel("rounds T")
            bound = tables["bound"]
            _bound_on(ax, pick(bound, (bound.setting == setting) & (bound.optimizer == SUBJECT)))
        _powers_panel(fig.add_subplot(grid[1, 2]), powers, settings, shown)
        fig.text(0.01, 0.008, _caption(powers, tables["tuning"], config), fontsize=7,
                 va="bottom", linespacing=1.3)  # fmt: skip
    return fig


def _look(name: str) -> style.Mark:
    """LaProp with amsgrad looks like LaProp, but thin, dotted and with hollow marks."""
    if name != AMSGRAD:
        return style.mark(name)
    return style.mark(SUBJECT)._replace(label="LaProp, amsgrad", linestyle=":", width=1.0)


def _face(name: str) -> str:
    return "white" if name == AMSGRAD else _look(name).colour


def _curves_panel(ax: Axes, part: pd.DataFrame, names: Sequence[str]) -> None:
    for name in names:
        arm = part[part.optimizer == name]
        look = _look(name)
        rounds, mean = arm.rounds.to_numpy(), arm.average_regret.to_numpy()
        # a mean that is not positive has no place on this axis
        style.line(ax, rounds, np.where(mean > 0, mean, np.nan), look, marker=look.marker,
                   markevery=4, markersize=3.6, markerfacecolor=_face(name), label=look.label)  # fmt: skip
        if (arm.n > 1).any():
            tiny = mean[mean > 0].min() / 10
            style.band(
                ax, rounds, np.maximum(arm.low, tiny), np.maximum(arm.high, tiny), look, 0.15
            )
    ax.set(xscale="log", yscale="log")
    rounds = np.array([part.rounds.min(), part.rounds.max()], dtype=float)
    positive = part.average_regret[part.average_regret > 0]
    top = float(positive.max()) * 1.6
    ax.set_ylim(float(positive.min()) * 0.6, top)
    guide = top * 0.8 * (rounds / rounds[0]) ** -0.5
    ax.plot(rounds, guide, color="#555555", linewidth=0.9, linestyle=(0, (1, 2)), zorder=1.5)
    ax.annotate("T$^{-1/2}$", (rounds[1], guide[1]), xytext=(2, 3), color="#555555",
                textcoords="offset points", fontsize=7, ha="right", va="bottom")  # fmt: skip


def _bound_on(ax: Axes, bound: pd.DataFrame) -> None:
    """The theorem's bound at the lr of the grid that makes it smallest, and LaProp at that lr."""
    if bound.empty:
        return
    lr = bound.lr[bound.bound.idxmin()]
    here = pick(bound, bound.lr == lr)
    ax.plot(here.rounds, here.bound, color="black", linewidth=1.4, zorder=2)
    ax.plot(here.rounds, here.average_regret, color=style.mark(SUBJECT).colour, linewidth=0.8,
            label=f"LaProp, lr {lr:g}", zorder=3.5)  # fmt: skip
    low, high = ax.get_ylim()
    ax.set_ylim(low, max(high, here.bound.max() * 1.3))
    first = here.iloc[0]
    ax.annotate(f"bound, lr {lr:g}", (first.rounds, first.bound), xytext=(12, -1), fontsize=7,
                textcoords="offset points", va="center")  # fmt: skip


def _powers_panel(
    ax: Axes, powers: pd.DataFrame, settings: Sequence[str], names: Sequence[str]
) -> None:
    shifts = np.linspace(-0.36, 0.36, len(names))
    for name, shift in zip(names, shifts, strict=True):
        own = powers[powers.optimizer == name]
        look = _look(name)
        y = np.array([settings.index(s) for s in own.setting]) + shift
        ax.plot(own.power, y, linestyle="none", marker=look.marker, color=look.colour,
                markersize=4, markerfacecolor=_face(name), label=look.label, zorder=3)  # fmt: skip
        known = np.isfinite(own.low) & np.isfinite(own.high)
        ax.hlines(y[known], own.low[known], own.high[known], color=look.colour, linewidth=0.9)
    ax.axvline(-0.5, color="#555555", linewidth=0.9, linestyle=(0, (1, 2)))
    ax.axvline(0, color="#555555", linewidth=0.8)
    for line in range(1, len(settings)):
        ax.axhline(line - 0.5, color="#E3E3E3", linewidth=0.6)
    ax.set_yticks(range(len(settings)), [f"{'abcde'[i]}" for i in range(len(settings))])
    ax.set(ylim=(len(settings) - 0.5, -0.5), xlabel="power of T in R(T) / T, last decade")
    ax.grid(visible=False, axis="y")
    ax.set_title("f  how fast it falls", loc="left")


def _caption(powers: pd.DataFrame, tuning: pd.DataFrame, config: Config) -> str:
    seeds = sorted({int(n) for n in powers.n[powers.n > 1]})
    tuned = sorted({int(n) for n in tuning.n[tuning.n > 1]})
    grid = ", ".join(f"{lr:g}" for lr in sorted(set(tuning.lr)))
    pairs = powers[["n", "beta1", "beta2"]].dropna().drop_duplicates()
    nus = sorted({float(nu) for nu in pairs.beta2[pairs.n == 1]})
    noisy = pairs[pairs.n > 1][["beta1", "beta2"]].drop_duplicates().to_numpy()
    betas = " and ".join(f"({mu:g}, {nu:g})" for mu, nu in noisy)
    large, surplus = config["large"], config["surplus"]
    p = (1 + surplus) / (large["reddi_stochastic"] + 1)
    edges = pick(tuning, tuning.edge.astype(bool))
    settings = list(dict.fromkeys(powers.setting))
    edge = "; ".join(
        f"{letter}: {', '.join(_look(name).label for name in part.optimizer)}"
        for letter, setting in zip("abcde", settings, strict=False)
        if len(part := pick(edges, edges.setting == setting))
    )
    text = (
        f"Scale {config['scale']}. a, b: losses C x, −x, −x in turn, C = {large['reddi']:g}, on "
        f"[−1, 1] from x = 1, ν = {', '.join(f'{nu:g}' for nu in nus)}; nothing is random: no "
        f"seeds, no intervals, and the lr is chosen on the sequence itself. "
        f"c: C x with probability {p:.2g}, else −x, C = {large['reddi_stochastic']:g}. d, e: "
        f"{DIMENSIONS} dimensions, {ITEMS} losses drawn with replacement. c–e: (μ, ν) = "
        f"{betas}, n = {_span(seeds)} seeds, bands "
        f"and bars: 95% intervals (bootstrap over seeds), lr chosen on {_span(tuned)} other seeds. "
        f"lr from {{{grid}}} for each optimizer and panel, by the regret at the last T; on the "
        f"edge of the grid: {edge or 'none'}. signSGD has no betas. Dotted grey: slope −1/2. "
        f"a: at μ = 0 LaProp is Adam, their curves coincide. Black: the bound of the regret "
        f"theorem; thin line: LaProp at the same lr. Losses are convex, gradients and domain "
        f"bounded, lr as 1/√t; violated is that √n / lr never falls, which amsgrad restores. "
        f"RAdam at ν = {min(nus, default=0):g} never rectifies and is SGD with momentum."
    )
    return textwrap.fill(text, CAPTION_WIDTH)


def _span(counts: Sequence[int]) -> str:
    if not counts:
        return "no"
    return f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
