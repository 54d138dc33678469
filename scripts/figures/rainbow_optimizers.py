"""Rainbow with six optimizers at one lr: learning curves, what they come to, profiles over seeds.

Fixed before running: compared is the mean return over all evaluations but the first, which is
before any learning, paired over seeds.
"""

# What a column of a table holds is beyond the types of pandas.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportReturnType=false

import textwrap
from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from scripts import claims, fairness, judging
from scripts.fairness import Budget
from scripts.figures import learning_curves, style, targets, training
from scripts.figures.training import pick
from scripts.judging import Verdict

Tables = dict[str, pd.DataFrame]
Config = Mapping[str, Any]
EXPERIMENT, SUBJECT = "rainbow_optimizers", "laprop"
BY = ("optimizer",)
# Steps to a return, in optimizer steps. There are no tuning seeds to take a target from: what
# gymnasium calls solving CartPole-v0, and the human player of Mnih et al. (2015) on Breakout.
TARGETS = {"CartPole-v1": 195.0, learning_curves.BREAKOUT: 31.8}


def config(values: Mapping[str, Any]) -> dict[str, Any]:
    found = learning_curves.config(values)
    return found | {"eps": values["sweeps"]["all"]["optimizer.eps"][0]}


def tables(tidy: pd.DataFrame, config: Config) -> Tables:
    """`curves`: IQM by agent step; `whole`: of each seed, the mean return over the evaluations;
    `scores`: their IQM; `profiles`: the fraction of seeds above each return; `steps_to_target`:
    the first evaluation at which a seed reaches the return of TARGETS."""
    runs = learning_curves.returns(tidy, BY)
    whole = learning_curves.window(runs, 1, config["agent_steps"])
    levels = np.linspace(0, float(whole.value.max()), 101)
    profiles = [
        {"optimizer": name, "level": level, "fraction": float((cell.value > level).mean())}
        for (name,), cell in whole.groupby(list(BY), observed=True)
        for level in levels
    ]
    return {
        "steps_to_target": _steps_to_target(tidy, whole, config),
        "curves": learning_curves.curves(runs, BY),
        "whole": whole,
        "scores": learning_curves.scores(whole, BY),
        "profiles": pd.DataFrame(profiles),
    }


def _steps_to_target(tidy: pd.DataFrame, whole: pd.DataFrame, config: Config) -> pd.DataFrame:
    game = config["game"]
    if game not in TARGETS:
        return pd.DataFrame(columns=targets.COLUMNS)
    rows = pick(tidy, (tidy.metric == "return") & (tidy.phase == "report"))
    dead = set(tidy.run[tidy.metric == "diverged_at"].astype(str))
    return targets.table(
        targets.first_reached(rows, rows.value >= TARGETS[game], rows.run.astype(str).isin(dead)),
        problem="rainbow_optimizers",
        target=f"mean return of {config['games']} games of {game} at least {TARGETS[game]:g}",
        horizon=config["steps"],
        budgets=_budgets(tidy, whole, config),
    )  # fmt: skip


def verdicts(tidy: pd.DataFrame, tables: Tables, config: Config) -> list[Verdict]:
    whole = tables["whole"]
    arms = {name: cell for (name,), cell in whole.groupby(list(BY), observed=True)}
    (claim,) = claims.claims_of(EXPERIMENT)
    setting = f"{config['game']}, lr {config['lr']:g}"
    budgets = _budgets(tidy, whole, config)
    if verdict := training.refusal(claim, setting, len(arms[SUBJECT]), budgets):
        return [verdict]
    others = {name: learning_curves.paired(arms[SUBJECT], cell)
              for name, cell in arms.items() if name != SUBJECT}  # fmt: skip
    closest = min(others, key=lambda name: others[name].value)
    order = tables["scores"].sort_values("value", ascending=False)
    ranks = ", ".join(f"{style.mark(arm.optimizer).label} {arm.value:.3g}"
                      for arm in order.itertuples())  # fmt: skip
    verdict = judging.judge(
        claim, setting, p_for=max(other.p_above(0) for other in others.values()),
        p_against=min(1.0, len(others) * min(other.p_below(0) for other in others.values())),
        effect=others[closest],
        effect_unit=f"points a game more than {style.mark(closest).label}, the best of the others",
        budget=fairness.budget_text(budgets),
        sentence=f"IQM of the mean return over the evaluations: {ranks}.",
    )  # fmt: skip
    return judging.settle([verdict])


def _budgets(tidy: pd.DataFrame, whole: pd.DataFrame, config: Config) -> list[Budget]:
    names = ("lr", "beta1", "beta2", "eps")  # the lr is not tuned either
    return [
        fairness.untuned(name, config["steps"], arm.seed, **training.fixed(tidy, name, names=names))
        for (name,), arm in whole.groupby(list(BY), observed=True)
    ]


def draw(tidy: pd.DataFrame, tables: Tables, config: Config) -> Figure:
    curves, scores, profiles = tables["curves"], tables["scores"], tables["profiles"]
    names = style.in_order(scores.optimizer)
    looks = [style.mark(name) for name in names]
    with matplotlib.rc_context(style.RC):
        fig = Figure(figsize=(7.6, 4.7))
        fig.text(0.01, 0.985, f"Rainbow with all optimizers{config['note']}", fontsize=11,
                 fontweight="bold", va="top")  # fmt: skip
        style.legend(fig, names, top=0.95)
        grid = fig.add_gridspec(2, 2, left=0.075, right=0.985, top=0.84, bottom=0.24, hspace=0.72,
                                wspace=0.25, width_ratios=(1.35, 1))  # fmt: skip
        ax = fig.add_subplot(grid[:, 0])
        for name in names:
            band = 0.2 if name == SUBJECT else 0.06  # six of them lie upon each other
            learning_curves.draw_curve(ax, pick(curves, curves.optimizer == name),
                                       style.mark(name), band)  # fmt: skip
        learning_curves.steps_axis(ax, config["agent_steps"])
        ax.set_ylabel("return of a game")
        ax.set_title("a  learning curves", loc="left")
        ax = fig.add_subplot(grid[0, 1])
        learning_curves.draw_scores(ax, scores.set_index("optimizer").loc[names].reset_index(),
                                    looks)  # fmt: skip
        ax.set_title("b  mean over the evaluations", loc="left")
        ax.set_xlabel("IQM over seeds of the mean return")
        ax = fig.add_subplot(grid[1, 1])
        for name, look in zip(names, looks, strict=True):
            own = pick(profiles, profiles.optimizer == name)
            style.line(ax, own.level, own.fraction, look, drawstyle="steps-post")
        ax.set(xlabel="mean return τ", ylabel="fraction above τ", ylim=(-0.03, 1.05))
        ax.set_title("c  performance profiles", loc="left")
        fig.text(0.01, 0.012, _caption(curves, config), fontsize=7, va="bottom", linespacing=1.3)
    return fig


def _caption(curves: pd.DataFrame, config: Config) -> str:
    seeds = int(curves.n.min())
    mu, nu = config["betas"]
    band = style.interval_text(seeds, "bands and bars: its 95% bootstrap interval")
    text = (
        f"Scale {config['scale']}{config['note']}: n = {style.counted(seeds, 'seed')}, {config['agent_steps']:,} agent steps; "
        f"lr {config['lr']:g}, (μ, ν) = ({mu:g}, {nu:g}), ε = {config['eps']:g} for all that have "
        f"them, nothing is tuned. a, b: interquartile mean over seeds of the mean of "
        f"{config['games']} whole games at ε-greedy 0; {band}. b, c: the mean over all evaluations "
        "but the first, which is before any learning. Only LaProp and Adam are in the paper."
    )
    return textwrap.fill(text, 142)
