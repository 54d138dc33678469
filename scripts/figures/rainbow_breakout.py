"""Rainbow on Breakout: LaProp and Adam at both of the authors' eps, their curves laid over.

Fixed before running: compared is the mean return over the evaluations from 1.0M to 2.0M agent
steps, paired over seeds, at the same eps. As published the two differ in eps too; that pair is
drawn, and the fairness gate refuses to rank it.
"""

# What a column of a table holds is beyond the types of pandas.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportReturnType=false

import textwrap
from collections.abc import Mapping
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from scripts import claims, fairness, judging, statistics
from scripts.figures import learning_curves, style
from scripts.figures.learning_curves import PUBLISHED_EPS, WINDOW, eps_text
from scripts.figures.training import pick, refusal
from scripts.judging import Verdict
from scripts.published import distance

Tables = dict[str, pd.DataFrame]
Config = Mapping[str, Any]
EXPERIMENT, SUBJECT, RIVAL = "rainbow_breakout", "laprop", "adam"
BY = ("optimizer", "eps")


def config(values: Mapping[str, Any]) -> dict[str, Any]:
    return learning_curves.config(values)


def tables(tidy: pd.DataFrame, config: Config) -> Tables:
    """`curves`: IQM by agent step; `early`: of each seed, the mean return over the window;
    `scores`: their IQM; `published`: the authors' points in the window, n = 1;
    `distance_to_published`: of our curves from theirs."""
    runs = learning_curves.returns(tidy, BY)
    early = learning_curves.window(runs, *_window(config))
    authors = learning_curves.published()
    inside = pick(authors, authors.agent_steps.between(*WINDOW))
    means = inside.groupby("optimizer").value.mean().reset_index().assign(n=1)
    means["eps"] = means.optimizer.map(PUBLISHED_EPS)
    curves = learning_curves.curves(runs, BY)
    distances = []
    for name, eps in PUBLISHED_EPS.items():
        ours = pick(curves, (curves.optimizer == name) & (curves.eps == eps))
        theirs = pick(authors, authors.optimizer == name)
        distances.append(distance(f"{style.mark(name).label}, ε = {eps_text(eps)}", "points a game",
                                  (ours.agent_steps, ours.value),
                                  (theirs.agent_steps, theirs.value)))  # fmt: skip
    return {
        "curves": curves,
        "distance_to_published": pd.DataFrame(distances),
        "early": early,
        "scores": learning_curves.scores(early, BY),
        "published": means,
    }


def _window(config: Config) -> tuple[float, float]:
    """The window of the claims, or the second half of a run that is too short for it."""
    return WINDOW if _reached(config) else (config["agent_steps"] / 2, config["agent_steps"])


def _reached(config: Config) -> bool:
    return config["agent_steps"] >= WINDOW[1]


def verdicts(tidy: pd.DataFrame, tables: Tables, config: Config) -> list[Verdict]:
    early = tables["early"]
    arms = {key: cell for key, cell in early.groupby(list(BY), observed=True)}
    lower, upper = sorted({eps for _, eps in arms})
    ahead, matters = claims.claims_of(EXPERIMENT)
    pairs = {f"ε = {eps_text(eps)}": ((SUBJECT, eps), (RIVAL, eps)) for eps in (lower, upper)}
    published = tuple((name, PUBLISHED_EPS[name]) for name in (SUBJECT, RIVAL))
    pairs["as published: ε = 1e-15 and 1.5e-4"] = published  # type: ignore[assignment]
    found = [_compare(ahead, setting, arms, a, b, config) for setting, (a, b) in pairs.items()]
    setting = f"Adam, ε = {eps_text(lower)} and {eps_text(upper)}"
    found.append(_compare(matters, setting, arms, (RIVAL, lower), (RIVAL, upper), config))
    return judging.settle(found)


def _compare(
    claim: claims.Claim, setting: str, arms: Mapping[Any, pd.DataFrame], a: tuple[str, float],
    b: tuple[str, float], config: Config,
) -> Verdict:  # fmt: skip
    """Arm a against arm b; the same optimizer at two eps is asked for a difference of any sign."""
    seeds, same_optimizer = len(arms[a]), a[0] == b[0]
    budgets = [fairness.untuned(name, config["steps"], arms[name, eps].seed,
                                **({} if same_optimizer else {"eps": eps}))
               for name, eps in (a, b)]  # fmt: skip
    steps = config["agent_steps"]
    short = "" if _reached(config) else f"{steps:,} agent steps of the {WINDOW[1]:,} it takes"
    if verdict := refusal(claim, setting, seeds, budgets, short):
        return verdict
    difference = learning_curves.paired(arms[a], arms[b])
    base = float(statistics.interquartile_mean(arms[b].value))
    if same_optimizer:
        margin = claims.SMALL_GAP * abs(base)
        p_for, p_against = difference.p_beyond(0), difference.p_within(margin)
    else:
        p_for, p_against = difference.p_above(0), difference.p_below(0)
    mine = float(statistics.interquartile_mean(arms[a].value))
    return judging.judge(
        claim, setting, p_for=p_for, p_against=p_against, effect=difference,
        effect_unit="points a game", budget=fairness.budget_text(budgets),
        sentence=f"IQM of the mean return from 1.0M to 2.0M agent steps: {_label(*a)} {mine:.3g}, "
        f"{_label(*b)} {base:.3g}.",
    )  # fmt: skip


def _label(optimizer: str, eps: float) -> str:
    return f"{style.mark(optimizer).label}, ε = {eps_text(eps)}"


def draw(tidy: pd.DataFrame, tables: Tables, config: Config) -> Figure:
    """Learning curves of three pairs, the confounded one first, and what they come to."""
    curves, scores = tables["curves"], tables["scores"]
    lower, upper = sorted(curves.eps.unique())
    panels = {
        "as published, ε differs": dict(PUBLISHED_EPS),
        f"both ε = {eps_text(lower)}": dict.fromkeys(PUBLISHED_EPS, lower),
        f"both ε = {eps_text(upper)}": dict.fromkeys(PUBLISHED_EPS, upper),
    }
    last, short = config["agent_steps"], not _reached(config)  # the axes end where the runs do
    with matplotlib.rc_context(style.RC):
        fig = Figure(figsize=(7.6, 5.6))
        fig.text(0.01, 0.985, f"Rainbow on {config['game'].removesuffix('NoFrameskip-v4')}"
                 f"{config['note']}", fontsize=11, fontweight="bold", va="top")  # fmt: skip
        style.legend(fig, style.in_order(PUBLISHED_EPS), top=0.955)
        grid = fig.add_gridspec(1, 3, left=0.085, right=0.985, top=0.865, bottom=0.565,
                                wspace=0.12)  # fmt: skip
        axes = [fig.add_subplot(grid[i]) for i in range(3)]
        for place, (ax, (title, eps)) in enumerate(zip(axes, panels.items(), strict=True)):
            ax.set_title(f"{'abc'[place]}  {title}", loc="left")
            for name, value in eps.items():
                arm = pick(curves, (curves.optimizer == name) & (curves.eps == value))
                learning_curves.draw_curve(ax, arm, style.mark(name))
                if PUBLISHED_EPS[name] == value:
                    learning_curves.draw_published(ax, name, last)
            learning_curves.steps_axis(ax, last)
            if place:
                ax.tick_params(labelleft=False)
        top = max(ax.get_ylim()[1] for ax in axes)
        for ax in axes:
            ax.set_ylim(0 if curves.value.min() >= 0 else None, top)
        axes[0].set_ylabel("return of a game")
        below = fig.add_gridspec(1, 1, left=0.175, right=0.985, top=0.43, bottom=0.225)
        _scores(fig.add_subplot(below[0]), scores, tables["published"], short)
        fig.text(0.01, 0.012, _caption(curves, config), fontsize=7, va="bottom",
                 linespacing=1.3)  # fmt: skip
    return fig


def _scores(ax: Any, scores: pd.DataFrame, published: pd.DataFrame, short: bool) -> None:
    order = [(name, eps) for name in style.in_order(scores.optimizer)
             for eps in sorted(scores.eps.unique())]  # fmt: skip
    table = scores.set_index(list(BY)).loc[order].reset_index()
    looks = [style.mark(name)._replace(label=_label(name, eps)) for name, eps in order]
    learning_curves.draw_scores(ax, table, looks)
    for point in published.itertuples():
        if not short:
            look = style.mark(point.optimizer)
            ax.plot(point.value, order.index((point.optimizer, point.eps)), color=look.colour,
                    marker=look.marker, markerfacecolor="white", markersize=5,
                    label=f"{look.label}, authors")  # fmt: skip
    if scores.value.min() >= 0:
        ax.set_xlim(left=0)
    span = "second half of the run" if short else "1.0M to 2.0M agent steps"
    ax.set_title(f"d  mean return over the evaluations, {span}", loc="left")
    ax.set_xlabel("IQM over seeds of the return of a game")


def _caption(curves: pd.DataFrame, config: Config) -> str:
    seeds = int(curves.n.min())
    mu, nu = config["betas"]
    band = style.interval_text(seeds, "bands and bars: its 95% bootstrap interval")
    text = (
        f"Scale {config['scale']}: n = {style.counted(seeds, 'seed')}, {config['agent_steps']:,} agent steps; lr "
        f"{config['lr']:g}, (μ, ν) = ({mu:g}, {nu:g}), nothing is tuned. Lines: interquartile mean "
        f"over seeds of the mean of {config['games']} whole games at ε-greedy 0; {band}. "
    )
    authors = learning_curves.published().agent_steps.min()
    if config["agent_steps"] >= authors:
        text += (
            "Open marks: the authors' runs (n = 1 each; bars: standard error over 20 games), Adam with "
            "ε = 1.5e-4, LaProp with 1e-15: the two published curves differ in ε as well as in the "
            "optimizer."
        )
    else:
        text += (
            "These runs are far too short to learn; they show that the path works. The authors' curves "
            f"begin at {authors:,} agent steps and are not on these axes; as published, Adam has "
            "ε = 1.5e-4 and LaProp 1e-15."
        )
    return textwrap.fill(text, 142)
