"""From the records of an experiment to the tidy table: one row a measured value.

    python -m runners.collect [results_dir=DIR]

gathers all finished records of DIR, of whatever experiment or of none, in DIR/tidy.parquet, and what
was set for each run (``task.width``, ``optimizer.lr``, ``steps``, ``precision``, ...) in DIR/runs.parquet, a row
a run, lists as JSON text; only new and changed records are read (runners/archive.py). Damaged ones are
named and left out, and the exit code is 1.

Columns of tidy.parquet: experiment, task, optimizer, the optimizer's hyper-parameters (one column each; ``betas``
as ``beta1`` and ``beta2``, other lists as JSON text) and the schedule's, run (the key), phase (``tune`` or ``report``, by the seed), seed,
replica, what else tells replicas apart (``sigma``, ...), step, metric, value. The metrics are the
task's, and ``diverged_at`` for replicas that did. Times are not in it: the same configuration
gives the same table, byte for byte.
"""

import io
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from runners import record
from runners.command import command
from runners.config import TUNING_SEEDS_START, ConfigError

if TYPE_CHECKING:  # pandas takes a second, and finding nothing changed should not
    import pandas as pd

    from runners.plan import Job

NOT_METRICS = ("step", "train_seconds")


def read_all(jobs: "Sequence[Job]") -> list[record.Record | None]:
    """The record of each job, in their order; None where its run is not finished."""
    found = [record.read_record(job.config.folder) for job in jobs]
    return [r if r and r.status and r.status["status"] in record.FINISHED else None for r in found]


def tidy_table(records: Sequence[record.Record], experiment: str) -> "pd.DataFrame":
    """The tidy table of finished ``records``."""
    import pandas as pd

    tidy = pd.concat([_table(found, experiment) for found in records], ignore_index=True)
    tidy = of_one_kind_each(tidy)
    for name in ("experiment", "task", "optimizer", "run", "phase", "metric"):
        tidy[name] = tidy[name].astype("category")
    return tidy


def write_if_changed(path: Path, content: bytes) -> None:
    """An equal file is left alone; else `record.write_atomically`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.read_bytes() == content:
        return
    record.write_atomically(path, [content])


def to_parquet(table: "pd.DataFrame") -> bytes:
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False, compression="zstd")
    return buffer.getvalue()


def _table(found: record.Record, experiment: str) -> "pd.DataFrame":
    import pandas as pd

    provenance, names = found.provenance, found.provenance["names"]
    replicas = pd.DataFrame(provenance["replicas"])
    replica, step, metric, value = long(found, len(replicas))
    own = {name: column.to_numpy()[replica] for name, column in replicas.items()}
    constant = {"experiment": experiment, "task": names["task"], "optimizer": names["optimizer"]}
    constant |= hyper_parameters(provenance["values"]["optimizer"])
    constant |= hyper_parameters(provenance["values"]["schedule"])
    return pd.DataFrame(
        {
            **{name: np.full(len(value), given) for name, given in constant.items()},
            "run": provenance["key"],
            "phase": phases(own["seed"]),
            "seed": own.pop("seed"),
            "replica": replica,
            **own,
            "step": step,
            "metric": metric,
            "value": value,
        }
    )


def phases(seeds: np.ndarray) -> np.ndarray:
    return np.where(seeds >= TUNING_SEEDS_START, "tune", "report")


def long(found: record.Record, replicas: int) -> tuple[np.ndarray, ...]:
    """All measured values of a run: columns replica, step, metric, value of equal length."""
    metrics = [name for name in found.rows[0] if name not in NOT_METRICS]
    shape = (len(found.rows), len(metrics), replicas)
    # None becomes NaN
    values = np.array([[row[m] for m in metrics] for row in found.rows], dtype=np.float64)
    if values.shape != shape:
        raise ValueError(f"{values.shape[-1]} values a metric, {replicas} replicas")
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


def hyper_parameters(group: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in group.items():
        if name.startswith("_") or value is None:
            continue
        if name == "betas":
            found |= {"beta1": value[0], "beta2": value[1]}
        else:
            found[name] = (
                value if isinstance(value, str | bool | int | float) else json.dumps(value)
            )
    return found


def as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def of_one_kind_each(table: "pd.DataFrame") -> "pd.DataFrame":
    """Columns as text in which two optimizers mean different kinds of values by the same name."""
    from pandas.api.types import infer_dtype

    mixed = [name for name, column in table.items()
             if column.dtype == object and infer_dtype(column).startswith("mixed")]  # fmt: skip
    return table.assign(**{str(n): table[n].map(as_text, na_action="ignore") for n in mixed})


@command
def main(arguments: list[str]) -> int:
    from runners.archive import RUNS, TABLE, update

    others = [a for a in arguments if not a.startswith("results_dir=")]
    if others:
        raise ConfigError(f"{others[0]}: only results_dir=DIR expected")
    folder = Path(([a.partition("=")[2] for a in arguments] or ["results"])[-1])
    if not (folder / "runs").is_dir():
        raise ConfigError(f"results_dir={folder}: no folder runs in it")
    try:
        found = update(folder, _progress)
    except OSError as error:
        where = error.filename or folder
        print(f"error: {where}: {error.strerror or error}; tables are as before", file=sys.stderr)
        return 1
    for path, damage in found.damaged.items():
        print(f"damaged, left out: {path / record.FILE_NAME}: {damage}", file=sys.stderr)
    print(
        f"{found.finished:,} finished records, {found.read:,} of all read now, "
        f"{found.unfinished:,} not finished, {len(found.damaged):,} damaged; "
        f"{found.values:,} values in {folder / TABLE}, settings in {folder / RUNS}"
    )
    return 1 if found.damaged else 0


def _progress(folders: Sequence[Path]) -> Iterable[Path]:
    """A bar on a terminal, elsewhere a line a thousand records."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(folders, desc="collect", unit="record")
        return
    for number, folder in enumerate(folders):
        if number and number % 1000 == 0:
            print(f"{number:,} of {len(folders):,} records read", file=sys.stderr, flush=True)
        yield folder


if __name__ == "__main__":
    sys.exit(main())
