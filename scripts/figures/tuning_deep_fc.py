"""Training loss of a deep fully connected net against the tuning budget.

A replica that diverges, or ends above it, counts as a guess.
"""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from scripts.figures import training, tuning_curve
from scripts.figures.tuning_curve import RIVAL, SUBJECT, Tables
from scripts.judging import Verdict

EXPERIMENT, UNIT = "tuning_deep_fc", "training loss (nats)"


def config(values: Mapping[str, Any]) -> dict[str, Any]:
    return tuning_curve.config(values) | {
        "width": values["task"]["width"],
        "depth": values["task"]["depth"],
        "note": training.stand_in(values),
    }


def tables(tidy: pd.DataFrame, config: Mapping[str, Any]) -> Tables:
    return tuning_curve.tables(training.final(tidy, "loss"))


def verdicts(tidy: pd.DataFrame, tables: Tables, config: Mapping[str, Any]) -> list[Verdict]:
    outcomes = training.final(tidy, "loss")
    fixed = {name: training.fixed(tidy, name) for name in (SUBJECT, RIVAL)}
    return tuning_curve.verdicts(EXPERIMENT, outcomes, tables, config["steps"], UNIT, fixed)


def draw(tidy: pd.DataFrame, tables: Tables, config: Mapping[str, Any]) -> Figure:
    title = "What a tuning budget is worth on a deep fully connected net"
    note = f",\n{config['depth']} hidden layers of width {config['width']}{config['note']}"
    return tuning_curve.draw(tables, config, title, UNIT, note)
