"""Noisy Rosenbrock: the tables, the verdicts and the figure of the paper's toy experiment.

Reproduced: steps to the minimum against the noise level sigma. Added to the paper: signSGD,
intervals, and a learning rate tuned per optimizer and noise level on seeds of their own ("tuned",
beside the paper's equal setting, "common"). Steps to the target are censored at the horizon. A
replica that diverges within the horizon has not converged, even if it flew past the minimum
before: it counts as censored.
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scripts import claims, fairness, fractions, grid, judging, statistics
from scripts.claims import LARGE_NOISE, SMALL_NOISE, Claim
from scripts.fairness import Budget
from scripts.figures import style, targets, training
from scripts.figures.rosenbrock_evidence import Arms, alike, fastest, still_converges
from scripts.figures.rosenbrock_paths import panels
from scripts.figures.training import check_columns, pick
from scripts.judging import Verdict

Tables = dict[str, pd.DataFrame]
Config = Mapping[str, Any]  # what `config` returns

SETTINGS = ("common", "tuned")
SUBJECT, COUSINS = "laprop", ("adam", "amsgrad")
ADAPTIVE = ("adam", "amsgrad", "radam", "adabound")
# Gradients here are of order 0.1 to 100: an eps below this changes no update visibly.
NEGLIGIBLE_EPS = 1e-6

_CELL = ["optimizer", "lr", "phase", "sigma", "seed"]
_NEEDED = [*_CELL, "run", "beta1", "beta2", "replica", "step", "metric", "value"]


def config(values: Mapping[str, Any]) -> dict[str, Any]:
    """What the analysis needs of the experiment's resolved configuration.

    ``steps`` is the horizon of the setting "common", ``tuning_steps`` that of "tuned".
    """
    return {
        "scale": values["scale"],
        "steps": values["steps"],
        "tuning_steps": values["tuning_steps"],
        "tol": values["task"]["tol"],
        "sigmas": values["task"]["sigma"],
        "path_sigmas": values["path_sigma"],
        "common_lr": values["common_lr"],
        "optimizers": style.in_order(targets.optimizers_of(values)),
    }


def _horizon(setting: str, config: Config) -> int:
    return config["steps"] if setting == "common" else config["tuning_steps"]


# ---------------------------------------------------------------- tables


def tables(tidy: pd.DataFrame, config: Config) -> Tables:
    """`tuning`: every learning rate on the tuning seeds; `summary`: both settings, report seeds;
    `steps_to_target`: each seed of the setting "tuned". Without noise n is 1: all seeds are one
    run, which has no interval."""
    whole = _outcomes(tidy, config)
    tuning = _tuning(_cut(whole, _horizon("tuned", config)), config)
    rows = []
    for setting in SETTINGS:
        horizon = _horizon(setting, config)
        outcomes = _cut(whole, horizon)
        cells = _cells(outcomes)
        lrs = _lrs(setting, tuning, outcomes, config)
        for (optimizer, sigma), lr in lrs.items():
            cell = cells.get((optimizer, lr, "report", sigma))
            if cell is None:
                continue
            if sigma == 0:
                cell = cell.head(1)
            median = statistics.median_interval(cell.steps, horizon)
            converged = int(cell.steps.notna().sum())
            ends = (*fractions.wilson_interval(converged, median.n), median.low, median.high)
            low, high, median_low, median_high = ends if median.n > 1 else (math.nan,) * 4
            rows.append({
                "setting": setting, "optimizer": optimizer, "sigma": sigma, "lr": lr,
                "beta1": cell.beta1.iloc[0], "beta2": cell.beta2.iloc[0], "n": median.n,
                "converged": converged, "fraction": converged / median.n,
                "fraction_low": low, "fraction_high": high, "median_steps": median.value,
                "median_low": median_low, "median_high": median_high,
            })  # fmt: skip
    if not rows:
        raise ValueError("no run on report seeds: nothing to summarize")
    steps = _steps_to_target(_cut(whole, _horizon("tuned", config)), tuning, config)
    return {"tuning": tuning, "summary": pd.DataFrame(rows), "steps_to_target": steps}


def _steps_to_target(outcomes: pd.DataFrame, tuning: pd.DataFrame, config: Config) -> pd.DataFrame:
    cells, lrs = _cells(outcomes), _lrs("tuned", tuning, outcomes, config)
    problems = []
    # without noise all seeds are one run, by which nothing can be ranked
    for sigma in sorted({sigma for _, sigma in lrs if sigma > 0}):
        arms, budgets, steps = {}, [], []
        for name in [name for name, s in lrs if s == sigma]:
            tune, report = (cells.get((name, lrs[name, sigma], phase, sigma))
                            for phase in ("tune", "report"))  # fmt: skip
            if tune is None or report is None:
                continue
            arms[name, sigma, "tune"] = tune.set_index("seed").steps
            arms[name, sigma, "report"] = report.set_index("seed").steps
            budgets.append(_budget(name, "tuned", [sigma], arms, report, tuning, config))
            steps.append(report)
        if steps:
            problems.append(targets.table(
                pd.concat(steps), problem=f"rosenbrock_noise, σ = {sigma:g}",
                target=f"distance to (1, 1) below {config['tol']:g}",
                horizon=_horizon("tuned", config), budgets=budgets,
            ))  # fmt: skip
    return pd.concat(problems) if problems else pd.DataFrame(columns=targets.COLUMNS)


def _outcomes(tidy: pd.DataFrame, config: Config) -> pd.DataFrame:
    """One row per optimizer, lr, phase, sigma and seed with its steps to the target (or NaN)."""
    check_columns(tidy, _NEEDED)
    # categories would multiply in groupby and refuse to be mapped
    tidy = tidy.astype({name: str for name in ("optimizer", "run", "phase", "metric")})
    paths = set(tidy.run[tidy.metric.isin(["x", "y"])])
    rows = pick(tidy, ~tidy.run.isin(paths))  # path runs are extra and shorter
    rows = pick(rows, rows.step == rows.groupby("run").step.transform("max"))
    outcomes = pick(rows, rows.metric == "steps_to_tol").rename(columns={"value": "steps"})
    if outcomes.empty:
        raise ValueError("the tidy table holds no steps_to_tol of a run without a path")
    keys = {name: outcomes[name].astype(float).round(12) for name in ("sigma", "lr")}
    outcomes = outcomes.assign(**keys)  # rounded: they are looked up by value
    twice = pick(outcomes, outcomes.duplicated(_CELL))
    if len(twice):
        cell = ", ".join(f"{name} {twice.iloc[0][name]}" for name in _CELL)
        raise ValueError(f"two results for one cell ({cell}): mixed runs or a duplicated seed")
    keys = ["run", "replica"]
    diverged = pick(rows, rows.metric == "diverged_at").set_index(keys).value
    outcomes["diverged"] = diverged.reindex(outcomes.set_index(keys).index).to_numpy()
    common = np.isclose(outcomes.lr, config["common_lr"]) & outcomes.beta1.notna()
    horizon = np.where(common, config["steps"], config["tuning_steps"])
    unfinished = (outcomes.step < horizon) & outcomes.steps.isna() & outcomes.diverged.isna()
    if unfinished.any():
        row = outcomes[unfinished].iloc[0]
        raise ValueError(f"run {row.run} ({row.optimizer}, lr {row.lr:g}) ends at step {row.step}, "
                         f"before its horizon, with replicas still on their way")  # fmt: skip
    late = outcomes.steps > outcomes.step
    if late.any():
        row = outcomes[late].iloc[0]
        raise ValueError(f"run {row.run} has a replica that reached the target at step "
                         f"{row.steps:.0f}, after its last step {row.step}")  # fmt: skip
    seeds = outcomes.groupby(["optimizer", "phase", "lr", "sigma"]).seed.agg(frozenset)
    uneven = seeds.groupby(level=[0, 1]).nunique()
    if (uneven > 1).any():
        optimizer, phase = uneven.idxmax()
        raise ValueError(f"the {phase} seeds of {optimizer} differ between its lrs or sigmas")
    order = [*config["optimizers"], *sorted(set(outcomes.optimizer) - set(config["optimizers"]))]
    rank = outcomes.optimizer.map({name: i for i, name in enumerate(order)})
    return outcomes.assign(rank=rank).sort_values(["rank", *_CELL[1:]], ignore_index=True)


def _cut(outcomes: pd.DataFrame, horizon: int) -> pd.DataFrame:
    """As if every run had been watched for ``horizon`` steps only."""
    converged = (outcomes.steps <= horizon) & ~(outcomes.diverged <= horizon)
    return outcomes.assign(steps=outcomes.steps.where(converged))


def _cells(outcomes: pd.DataFrame) -> dict[tuple[str, float, str, float], pd.DataFrame]:
    groups = outcomes.groupby(["optimizer", "lr", "phase", "sigma"])
    return {cast(Any, key): cell for key, cell in groups}


def _tuning(outcomes: pd.DataFrame, config: Config) -> pd.DataFrame:
    tune = outcomes[outcomes.phase == "tune"]
    horizon = _horizon("tuned", config)
    rows = []
    for key, cells in tune.groupby(["rank", "optimizer", "sigma"]):
        _, optimizer, sigma = cast(tuple[int, str, float], key)
        arms = {cast(float, lr): arm.steps.to_numpy() for lr, arm in cells.groupby("lr")}
        means = {lr: statistics.restricted_mean(arm, horizon) for lr, arm in arms.items()}
        best = grid.choose(
            means,
            lambda a, b, arms=arms: statistics.difference_of_restricted_means(
                arms[a], arms[b], horizon
            ),
            # where nothing converges, and all are equal, the one nearest the common setting
            preferred=lambda lr: abs(np.log(lr / config["common_lr"])),
        )
        reached = any(np.isfinite(arm).any() for arm in arms.values())
        for lr, arm in arms.items():
            rows.append({
                "optimizer": optimizer, "sigma": sigma, "lr": lr,
                "n": len(arm) if sigma > 0 else 1,  # without noise all seeds are one run
                "restricted_mean": means[lr],
                "median_steps": statistics.censored_median(arm, horizon),
                "fraction": float(np.isfinite(arm).mean()), "chosen": lr == best.lr,
                "tied": lr in best.tied and len(best.tied) > 1,
                "on_edge": lr == best.lr and best.on_edge and reached,
            })  # fmt: skip
    columns = "optimizer sigma lr n restricted_mean median_steps fraction chosen tied on_edge"
    return pd.DataFrame(rows, columns=columns.split(" "))


def _lrs(
    setting: str, tuning: pd.DataFrame, outcomes: pd.DataFrame, config: Config
) -> dict[tuple[str, float], float]:
    """The learning rate of each optimizer at each noise level under a setting."""
    if setting == "tuned":
        best = pick(tuning, tuning.chosen.astype(bool))
        return {(o, s): lr for o, s, lr in best[["optimizer", "sigma", "lr"]].to_numpy()}
    # the setting includes the betas: an optimizer without two has no part in it
    common = np.isclose(outcomes.lr, config["common_lr"]) & outcomes.beta1.notna()
    common = pick(outcomes, common)
    cells = common.sort_values(["rank", "sigma"])[["optimizer", "sigma", "lr"]].to_numpy()
    return {(optimizer, sigma): lr for optimizer, sigma, lr in cells}


# ---------------------------------------------------------------- verdicts


def verdicts(tidy: pd.DataFrame, tables: Tables, config: Config) -> list[Verdict]:
    """Every claim of this experiment under both settings, corrected for their number."""
    whole = _outcomes(tidy, config)
    # at sigma 0 all seeds are one and the same run: no statement over seeds exists there
    small = [s for s in config["sigmas"] if 1e-9 < s <= SMALL_NOISE + 1e-9]
    large = [s for s in config["sigmas"] if s >= LARGE_NOISE - 1e-9]
    others = [o for o in config["optimizers"] if o != SUBJECT]
    plans = {
        "rosenbrock_alike_at_small_noise": (alike, COUSINS, small),
        "rosenbrock_fastest_adaptive": (fastest, ADAPTIVE, large),
        "rosenbrock_fastest_of_all": (fastest, others, large),
        "rosenbrock_still_converges": (still_converges, COUSINS, config["sigmas"]),
    }
    betaless = set(whole.optimizer[whole.beta1.isna()])
    views = {setting: _cut(whole, _horizon(setting, config)) for setting in SETTINGS}
    cells = {setting: _cells(outcomes) for setting, outcomes in views.items()}
    found = []
    for claim in claims.claims_of("rosenbrock_noise"):
        judge, rivals, sigmas = plans[claim.id]
        sigmas = [round(float(s), 12) for s in sigmas]
        for setting in SETTINGS:
            lrs = _lrs(setting, tables["tuning"], views[setting], config)
            if setting == "common" and set(rivals) & betaless:
                continue  # that setting does not exist for one of the rivals
            if setting == "tuned" and judge is still_converges:
                continue  # too short a time to tell that an optimizer never gets there
            found.append(_verdict(judge, claim, setting, rivals, sigmas, lrs, cells[setting],
                                  tables["tuning"], config))  # fmt: skip
    return judging.settle(found)


def _verdict(
    judge: Any, claim: Claim, setting: str, rivals: Sequence[str], sigmas: Sequence[float],
    lrs: Mapping[tuple[str, float], float], cells: Mapping[Any, pd.DataFrame],
    tuning: pd.DataFrame, config: Config,
) -> Verdict:  # fmt: skip
    """Refuse where something is missing or unfair, judge otherwise."""
    if not sigmas:
        return judging.inconclusive(
            claim, setting, "no noise level of this scale is in the range of the claim"
        )
    compared = [SUBJECT, *rivals]
    arms, runs = {}, {}
    for optimizer in compared:
        for sigma in sigmas:
            for phase in ("tune", "report"):
                cell = cells.get((optimizer, lrs.get((optimizer, sigma)), phase, sigma))
                if cell is None:
                    reason = f"no {phase} runs of {optimizer} at σ = {sigma:g}"
                    return judging.inconclusive(claim, setting, reason)
                arms[optimizer, sigma, phase] = cell.set_index("seed").steps
                runs[optimizer] = cell
    budgets = [_budget(o, setting, sigmas, arms, runs[o], tuning, config) for o in compared]
    seeds = min(len(budget.report_seeds) for budget in budgets)
    if verdict := training.refusal(claim, setting, seeds, budgets):
        return verdict
    labels = {o: style.mark(o).label for o in compared}
    horizon = _horizon(setting, config)
    evidence = judge(arms, labels, sigmas, horizon)
    return judging.judge(claim, setting, budget=fairness.budget_text(budgets), **evidence)


def _budget(
    optimizer: str, setting: str, sigmas: Sequence[float], arms: Arms, runs: pd.DataFrame,
    tuning: pd.DataFrame, config: Config,
) -> Budget:  # fmt: skip
    budget = Budget(
        optimizer=optimizer, trials=1, tuning_seeds=(), knobs=(),
        steps=_horizon(setting, config),
        report_seeds=tuple(int(s) for s in arms[optimizer, sigmas[0], "report"].index),
        fixed=training.fixed(runs, optimizer, NEGLIGIBLE_EPS),
    )  # fmt: skip
    if setting == "common":
        return budget
    tried = pick(tuning, (tuning.optimizer == optimizer) & tuning.sigma.isin(sigmas))
    edges = pick(tried, tried.on_edge.astype(bool))
    return replace(
        budget,
        trials=len(set(tried.lr)),
        tuning_seeds=tuple(int(s) for s in arms[optimizer, sigmas[0], "tune"].index),
        knobs=("lr",),
        on_edge=tuple(
            f"lr {lr:g} at σ = {sigma:g}" for lr, sigma in edges[["lr", "sigma"]].to_numpy()
        ),
    )


# ---------------------------------------------------------------- figure


def draw(tidy: pd.DataFrame, tables: Tables, config: Config) -> Figure:
    """Steps and fraction converged against sigma under both settings, and paths on the contour."""
    summary = tables["summary"]
    names = style.in_order(summary.optimizer)
    with matplotlib.rc_context(style.RC):
        fig = Figure(figsize=(7.6, 9.2))
        fig.text(0.01, 0.99, "Noisy Rosenbrock: steps to the minimum against gradient noise",
                 fontsize=11, fontweight="bold", va="top")  # fmt: skip
        style.legend(fig, names, top=0.973)
        grid = fig.add_gridspec(2, 2, left=0.09, right=0.99, top=0.91, bottom=0.46, hspace=0.09,
                                wspace=0.06, height_ratios=(1.6, 1))  # fmt: skip
        floor = 0.7 * min(summary.median_steps.min(), config["steps"] / 2)
        titles = {"common": f"a  common: lr {config['common_lr']:g}",
                  "tuned": "b  tuned: best lr per optimizer and σ"}  # fmt: skip
        for column, setting in enumerate(SETTINGS):
            part = pick(summary, summary.setting == setting)
            steps = fig.add_subplot(grid[0, column])
            fraction = fig.add_subplot(grid[1, column])
            _steps_panel(steps, part, names, config, floor, _horizon(setting, config))
            _fraction_panel(fraction, part, names, config, _horizon(setting, config))
            steps.set_title(titles[setting], loc="left")
            for ax in (steps, fraction):
                ax.yaxis.set_label_coords(-0.15, 0.5)
                if column:
                    ax.set_ylabel("")
                    ax.tick_params(labelleft=False)
        panels(fig, tidy, names, config)
        fig.text(0.01, 0.008, _caption(summary, tables["tuning"], config), fontsize=7,
                 va="bottom", linespacing=1.3)  # fmt: skip
    return fig


def _steps_panel(
    ax: Axes, part: pd.DataFrame, names: Sequence[str], config: Config, floor: float, horizon: int
) -> None:
    for name, shift in style.dodged(names, config["sigmas"]):
        cells = pick(part, part.optimizer == name).sort_values(by="sigma")
        style.intervals(ax, cells.sigma + shift, cells.median_steps, cells.median_low,
                        cells.median_high, style.mark(name), ceiling=horizon,
                        beyond_it="not reached within")  # fmt: skip
    ax.axhline(horizon, color="#555555", linewidth=0.8, zorder=1)
    ax.annotate(f"horizon {horizon:,}", (0.012, horizon), xycoords=("axes fraction", "data"),
                xytext=(0, -3), textcoords="offset points", va="top", color="#555555",
                fontsize=7)  # fmt: skip
    ax.set(yscale="log", ylim=(floor, config["steps"] * 1.7),
           ylabel=f"median steps to distance < {config['tol']:g}")  # fmt: skip
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    style.level_axis(ax, config["sigmas"])
    ax.tick_params(labelbottom=False)


def _fraction_panel(
    ax: Axes, part: pd.DataFrame, names: Sequence[str], config: Config, horizon: int
) -> None:
    for name, shift in style.dodged(names, config["sigmas"]):
        cells = pick(part, part.optimizer == name).sort_values(by="sigma")
        style.intervals(ax, cells.sigma + shift, cells.fraction, cells.fraction_low,
                        cells.fraction_high, style.mark(name))  # fmt: skip
    ax.set(ylim=(-0.04, 1.04), ylabel="fraction converged", xlabel="noise level σ")
    ax.annotate(f"within {horizon:,} steps", (0.16, 0.25), xycoords="axes fraction",
                color="#555555", fontsize=7)  # fmt: skip
    style.level_axis(ax, config["sigmas"])


def _caption(summary: pd.DataFrame, tuning: pd.DataFrame, config: Config) -> str:
    def span(counts: pd.Series) -> str:
        low, high = counts.min(), counts.max()
        return f"{low:g}" if low == high else f"{low:g} to {high:g}"

    noisy, tuned_noisy = (pick(table, table.sigma > 0) for table in (summary, tuning))
    n = [f"n = {span(noisy.n)} seeds per point"] if len(noisy) else []
    if len(noisy) < len(summary):
        n.append("n = 1 without bars at σ = 0, where nothing is random")
    pairs = summary[["beta1", "beta2"]].dropna().drop_duplicates().itertuples(index=False)
    betas = " and ".join(f"({b1:g}, {b2:g})" for b1, b2 in pairs)
    tuned = "Nothing was tuned."
    if len(tuning):
        grid = ", ".join(f"{lr:g}" for lr in sorted(set(tuning.lr)))
        seeds = f"{span(tuned_noisy.n)} other seeds" if len(tuned_noisy) else "the same run"
        tuned = f"Tuned: lr from {{{grid}}} on {seeds}."
    both = set(summary.optimizer[summary.setting == "common"])
    others = [style.mark(name).label for name in style.in_order(set(summary.optimizer) - both)]
    alone = f"; {', '.join(others)}: tuned only" if others and both else ""
    text = (
        f"Scale {config['scale']}: {', '.join(n)}; (μ, ν) = {betas} where an optimizer has two "
        f"betas{alone}. {tuned} Bars: 95% intervals (medians: bootstrap over seeds, fractions: "
        "Wilson). Open marks with an arrow: no median within the horizon; what diverges does not "
        "converge. Marks are shifted sideways."
    )
    return (
        f"{textwrap.fill(text, 150)}\nc: ● start (0, 0), ★ minimum (1, 1), circle: distance "
        f"{config['tol']:g}, □ end of the path; contours of the noise-free function, evenly "
        f"spaced in its logarithm."
    )
