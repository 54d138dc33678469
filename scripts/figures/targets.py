"""Steps to a target: the table `steps_to_target` of each experiment that compares all optimizers.

One row an optimizer and report seed, at the learning rate chosen on the tuning seeds: the step of
the first evaluation after the start that reaches the target. NaN is censored: not reached within
the horizon, or reached by a replica that diverged within it. `scripts/leaderboard.py` ranks them.

A target is the task's own or the claim's threshold where there is one; elsewhere
`median_on_tuning_seeds`, which favours no optimizer, or a score from elsewhere.
"""

# What a column of a table holds is beyond the types of pandas.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from scripts import fairness
from scripts.fairness import Budget
from scripts.figures.training import pick

COLUMNS = ["problem", "target", "optimizer", "seed", "steps", "horizon", "tuning", "refused"]


def table(
    steps: pd.DataFrame, *, problem: str, target: str, horizon: int, budgets: Sequence[Budget]
) -> pd.DataFrame:
    """The rows of one problem from its optimizer, seed and steps, in COLUMNS.

    ``tuning`` is what the optimizers were given in words, ``refused`` why the fairness gate would
    not rank them, empty if it would.
    """
    found = steps[["optimizer", "seed", "steps"]].astype({"optimizer": str})
    return found.assign(
        problem=problem, target=target, horizon=horizon, tuning=fairness.budget_text(budgets),
        refused=fairness.gate(budgets),
    )[COLUMNS].sort_values(["optimizer", "seed"], ignore_index=True)  # fmt: skip


def first_reached(rows: pd.DataFrame, reached: Any, diverged: Any = None) -> pd.DataFrame:
    """optimizer, seed and steps of each replica of ``rows`` (optimizer, seed, step).

    ``reached`` and ``diverged`` say of each row whether it is at the target, and whether its
    replica diverged.
    """
    keys = ["optimizer", "seed"]
    dead = np.zeros(len(rows), dtype=bool) if diverged is None else np.asarray(diverged, dtype=bool)
    hit = np.asarray(reached, dtype=bool) & ~dead & (rows.step > 0).to_numpy()
    rows = rows[keys].assign(steps=rows.step.where(hit))
    return rows.groupby(keys, observed=True)["steps"].min().reset_index()


def median_on_tuning_seeds(
    outcomes: pd.DataFrame, chosen: pd.DataFrame, optimizers: Sequence[str]
) -> float:
    """What the middle one of ``optimizers`` ends at: the median over them of the mean final value
    on the tuning seeds, which never report, at the chosen learning rates.

    ``optimizers`` are the experiment's own: one that is added moves no target.
    """
    tune = pick(outcomes, outcomes.phase == "tune").astype({"optimizer": str})
    tune = tune.merge(chosen.astype({"optimizer": str}), how="inner")
    means = tune.groupby("optimizer")["value"].mean()
    return float(means[means.index.isin(optimizers)].median())


def optimizers_of(values: Mapping[str, Any]) -> list[str]:
    """The optimizers that an experiment compares, from its resolved configuration."""
    return sorted({name for sweep in values["sweeps"].values() for name in sweep["optimizer"]})
