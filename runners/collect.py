"""From the records of an experiment to the tidy table: one row a measured value.

Columns: experiment, task, optimizer, the optimizer's hyper-parameters (one column each; ``betas``
as ``beta1`` and ``beta2``) and the schedule's, run (the key), phase (``tune`` or ``report``, by the seed), seed,
replica, what else tells replicas apart (``sigma``, ...), step, metric, value. The metrics are the
task's, and ``diverged_at`` for replicas that did. Times are not in it: the same configuration
gives the same table, byte for byte.
"""

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from runners import record
from runners.config import TUNING_SEEDS_START, ConfigError
from runners.sweep import Job

NOT_METRICS = ("step", "train_seconds")


def collect(jobs: Sequence[Job], experiment: str, overrides: Sequence[str] = ()) -> pd.DataFrame:
    """The tidy table of all ``jobs``, which ``overrides`` have planned.

    Raises ConfigError where one is not finished.
    """
    tables = []
    for job in jobs:
        found = record.read_record(job.config.folder)
        if found is None or not found.status or found.status["status"] not in record.FINISHED:
            raise ConfigError(
                f"{job.config.label} ({job.config.key}) is not finished; "
                f"run the sweep first: python -m runners.run -m {' '.join(overrides)}"
            )
        tables.append(_table(found, experiment))
    tidy = pd.concat(tables, ignore_index=True)
    for name in ("experiment", "task", "optimizer", "run", "phase", "metric"):
        tidy[name] = tidy[name].astype("category")
    return tidy


def write_atomically(path: Path, content: bytes) -> None:
    """Old content or new, never a half; an equal file is left alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.read_bytes() == content:
        return
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def to_parquet(table: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False, compression="zstd")
    return buffer.getvalue()


def _table(found: record.Record, experiment: str) -> pd.DataFrame:
    provenance, names = found.provenance, found.provenance["names"]
    replicas = pd.DataFrame(provenance["replicas"])
    replica, step, metric, value = _long(found, len(replicas))
    own = {name: column.to_numpy()[replica] for name, column in replicas.items()}
    constant = {"experiment": experiment, "task": names["task"], "optimizer": names["optimizer"]}
    constant |= _hyper_parameters(provenance["values"]["optimizer"])
    constant |= _hyper_parameters(provenance["values"]["schedule"])
    phase = np.where(own["seed"] >= TUNING_SEEDS_START, "tune", "report")
    return pd.DataFrame(
        {
            **{name: np.full(len(value), given) for name, given in constant.items()},
            "run": provenance["key"],
            "phase": phase,
            "seed": own.pop("seed"),
            "replica": replica,
            **own,
            "step": step,
            "metric": metric,
            "value": value,
        }
    )


def _long(found: record.Record, replicas: int) -> tuple[np.ndarray, ...]:
    """All measured values of a run: columns replica, step, metric, value of equal length."""
    metrics = [name for name in found.rows[0] if name not in NOT_METRICS]
    shape = (len(found.rows), len(metrics), replicas)
    # None becomes NaN
    values = np.array([[row[m] for m in metrics] for row in found.rows], dtype=np.float64)
    rows, kinds, places = np.indices(shape).reshape(3, -1)
    status = found.status or {}
    diverged = sorted((int(r), at) for r, at in status["diverged"].items())
    return (
        np.concatenate([places, np.array([r for r, _ in diverged], dtype=places.dtype)]),
        np.concatenate(
            [
                np.array([row["step"] for row in found.rows])[rows],
                np.full(len(diverged), status["step"]),
            ]
        ),
        np.concatenate([np.array(metrics, dtype=object)[kinds], ["diverged_at"] * len(diverged)]),
        np.concatenate([values.reshape(-1), np.array([at for _, at in diverged], dtype=float)]),
    )


def _hyper_parameters(group: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in group.items():
        if name.startswith("_"):
            continue
        if name == "betas":
            found |= {"beta1": value[0], "beta2": value[1]}
        else:
            found[name] = value
    return found
