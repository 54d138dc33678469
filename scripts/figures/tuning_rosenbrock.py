"""Steps to the minimum of the noisy Rosenbrock function against the tuning budget.

A replica that never gets there counts with all the steps that it was watched, and so does one that
diverges, even if it flew past the minimum before (as in rosenbrock_noise).
"""

# What a column of a table holds is beyond the types of pandas.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from scripts.figures import training, tuning_curve
from scripts.figures.rosenbrock_noise import NEGLIGIBLE_EPS
from scripts.figures.training import pick
from scripts.figures.tuning_curve import POINT, RIVAL, SUBJECT, Tables
from scripts.judging import Verdict

EXPERIMENT, UNIT = "tuning_rosenbrock", "steps to the minimum"


def config(values: Mapping[str, Any]) -> dict[str, Any]:
    (sigma,) = values["task"]["sigma"]
    return tuning_curve.config(values) | {"sigma": sigma, "tol": values["task"]["tol"]}


def tables(tidy: pd.DataFrame, config: Mapping[str, Any]) -> Tables:
    return tuning_curve.tables(_outcomes(tidy, config))


def verdicts(tidy: pd.DataFrame, tables: Tables, config: Mapping[str, Any]) -> list[Verdict]:
    outcomes = _outcomes(tidy, config)
    fixed = {name: training.fixed(tidy, name, NEGLIGIBLE_EPS) for name in (SUBJECT, RIVAL)}
    return tuning_curve.verdicts(EXPERIMENT, outcomes, tables, config["steps"], UNIT, fixed)


def draw(tidy: pd.DataFrame, tables: Tables, config: Mapping[str, Any]) -> Figure:
    title = "What a tuning budget is worth on the noisy Rosenbrock function"
    note = f" at most, σ = {config['sigma']:g}, reached: closer than {config['tol']:g}, never to diverge"
    return tuning_curve.draw(tables, config, title, UNIT, note)


def _outcomes(tidy: pd.DataFrame, config: Mapping[str, Any]) -> pd.DataFrame:
    rows = pick(tidy, tidy.metric == "steps_to_tol").sort_values("step")
    last = rows.groupby(["run", "replica"], observed=True).tail(1)
    found = last[["optimizer", *POINT, "phase", "seed", "value"]].copy()
    ends = pick(tidy, tidy.metric == "diverged_at")[["run", "replica"]]
    dead = pd.MultiIndex.from_frame(last[["run", "replica"]]).isin(pd.MultiIndex.from_frame(ends))
    found["value"] = found.value.mask(dead).fillna(config["steps"]).clip(upper=config["steps"])
    return found
