"""All finished records of a results directory as two tables, each record read once.

``tidy.parquet`` has a row a measured value, as an experiment's has; ``runs.parquet`` has a row a run
with all its settings, for values that differ in what the first does not tell.

``.collected/index.json`` says of every record which version of it was read, what it is, and how
many values it gave; ``.collected/rows-<n>.parquet`` has the values, in the order of the index. The
index is written last and names its rows, so a kill or a full disk leaves the old pair or the new.
"""

import itertools
import json
import uuid
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from runners import record
from runners.collect import as_text, hyper_parameters, long, of_one_kind_each, phases, to_parquet
from runners.config import MANNER
from runners.record import write_atomically

if TYPE_CHECKING:  # slow to import, and not needed to see that nothing has changed
    import pandas as pd
    import pyarrow as pa

FOLDER, INDEX, TABLE, RUNS = ".collected", "index.json", "tidy.parquet", "runs.parquet"
FORMAT = 2
RUNS_AT_ONCE = 1000  # of the table in memory
GROUPS = ("task", "optimizer", "schedule")
TEXTS = ("experiment", "task", "optimizer", "run", "phase")


@dataclass
class Entry:
    """What is known of one record.

    Attributes:
        version: of the file that was read (`record.version`).
        values: how many it gave; 0 for one that is not finished, or damaged.
        head: columns that are the same in all its values, ``replicas`` among them.
        settings: its row of ``runs.parquet``.
        damage: why it gives none, if it should.
    """

    version: list[int]
    values: int = 0
    head: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    damage: str | None = None


@dataclass
class Collected:
    """The outcome of `update`: counts of records, and the damaged ones with the reason."""

    finished: int
    unfinished: int
    read: int
    values: int
    damaged: dict[Path, str]


def update(results_dir: Path, progress: Any = iter) -> Collected:
    """Bring both tables of ``results_dir`` up to date; only new and changed records are read.

    ``progress`` wraps the list of folders that are read. Raises OSError where there is no room;
    tables and cache are then the old ones.
    """
    folders = sorted(p for p in (results_dir / "runs").iterdir() if p.is_dir())
    versions = {f.name: list(v) for f in folders if (v := record.version(f)) is not None}
    index = _load(results_dir / FOLDER)
    old = {key: e for key, e in index["records"].items() if versions.get(key) == e.version}
    todo = [results_dir / "runs" / key for key in versions if key not in old]
    new, parts = {}, {}
    for folder in progress(todo):
        new[folder.name], parts[folder.name] = _read(folder, versions[folder.name])
    records = {key: old[key] if key in old else new[key] for key in versions}
    tables = [results_dir / RUNS, results_dir / TABLE]
    changed = todo or len(records) < len(index["records"])
    if changed or [_version(path) for path in tables] != index["tables"]:
        try:
            rows = _rows_of(results_dir / FOLDER, index) if old else None
        except (OSError, ValueError):  # not what it was: all again
            (results_dir / FOLDER / INDEX).unlink(missing_ok=True)
            return update(results_dir, progress)
        rows = _merge(rows, index["records"], records, parts)
        temporary = record.temporary_of(tables[0])  # both tables, or none where there is no room
        try:
            temporary.write_bytes(to_parquet(_runs(records)))
            _write_table(tables[1], records, rows)
            temporary.replace(tables[0])
        finally:
            temporary.unlink(missing_ok=True)
        _save(results_dir / FOLDER, records, rows, [_version(path) for path in tables])
    return Collected(
        finished=sum(e.values > 0 for e in records.values()),
        unfinished=sum(e.values == 0 and e.damage is None for e in records.values()),
        read=len(todo),
        values=sum(e.values for e in records.values()),
        damaged={results_dir / "runs" / k: e.damage for k, e in records.items() if e.damage},
    )


def _read(folder: Path, version: list[int]) -> "tuple[Entry, pa.Table | None]":
    import pyarrow as pa

    found = record.read_record(folder)
    if found is None:
        return Entry(version, damage="its first line cannot be read"), None
    if not found.status or found.status["status"] not in record.FINISHED:
        return Entry(version), None
    if found.damaged:
        lines = ", ".join(map(str, found.damaged[:5]))
        return Entry(version, damage=f"lines that cannot be read: {lines}"), None
    try:
        names, replicas = found.provenance["names"], found.provenance["replicas"]
        replica, step, metric, value = long(found, len(replicas))
        head = {
            **{name: names[name] for name in ("experiment", "task", "optimizer")},
            "hyper_parameters": {
                **hyper_parameters(found.provenance["values"]["optimizer"]),
                **hyper_parameters(found.provenance["values"]["schedule"]),
            },
            "run": found.provenance["key"],
            "replicas": replicas,
        }
        settings = _settings(found)
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        return Entry(version, damage=f"not the lines of a record: {error!r}"), None
    names, codes = np.unique(metric.astype(str), return_inverse=True)
    table = pa.table(
        {
            "replica": replica.astype(np.int32),
            "step": step.astype(np.int64),
            "metric": pa.DictionaryArray.from_arrays(codes.astype(np.int32), names.tolist()),
            "value": value.astype(np.float64),
        }
    )
    return Entry(version, len(value), head, settings), table


def _settings(found: record.Record) -> dict[str, Any]:
    """All that was set for a run, and where and how long it ran."""
    provenance, status = found.provenance, found.status or {}
    names, values, hardware = (provenance[name] for name in ("names", "values", "hardware"))
    of_groups = {
        f"{group}.{name}": value
        for group in GROUPS
        for name, value in values[group].items() if not name.startswith("_")
    }  # fmt: skip
    return {
        "run": provenance["key"], **names,
        **{name: value for name, value in values.items() if name not in (*GROUPS, *MANNER, "scales")},
        **of_groups,
        "last_step": status["step"], "train_seconds": found.rows[-1]["train_seconds"],
        "device": hardware.get("gpu", hardware["device"]), "host": hardware["host"],
        "torch": provenance["packages"]["torch"], "commit": provenance["code"]["commit"],
    }  # fmt: skip


def _runs(records: dict[str, Entry]) -> "pd.DataFrame":
    """A row a finished run; lists, and columns whose values are not all of one kind, are JSON."""
    import pandas as pd

    def plain(column: "pd.Series") -> Any:
        kinds = {type(value) for value in column.dropna()}
        if kinds == {int} and column.dropna().abs().max() < 2**63:
            return column.astype("Int64")
        if kinds and kinds <= {int, float}:
            return column.astype("float64")
        if kinds == {bool}:
            return column.astype("boolean")
        return column.map(as_text, na_action="ignore")

    found = [entry.settings for entry in records.values() if entry.values]
    frame = pd.DataFrame(found, dtype=object)
    return pd.DataFrame({name: plain(column) for name, column in frame.items()})


def _merge(
    rows: "pa.Table | None", before: dict[str, Entry], records: dict[str, Entry],
    parts: "dict[str, pa.Table | None]",
) -> "pa.Table":  # fmt: skip
    """The rows of ``records``, in their order: kept ones from ``rows``, the others from ``parts``."""
    import pyarrow as pa

    ends = itertools.accumulate(entry.values for entry in before.values())
    places = dict(zip(before, ends, strict=True))
    found = []
    for key, entry in records.items():
        if key in parts:
            found.append(parts[key])
        elif rows is not None:
            found.append(rows.slice(places[key] - entry.values, entry.values))
    tables = [table for table in found if table is not None and table.num_rows]
    if not tables:
        return pa.table({"replica": [], "step": [], "metric": [], "value": []})
    return pa.concat_tables(tables).combine_chunks().unify_dictionaries()


def _write_table(path: Path, records: dict[str, Entry], rows: "pa.Table") -> None:
    """The tidy table, columns as in runners/collect.py, a thousand runs at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    finished = [entry for entry in records.values() if entry.values]
    replicas = _replicas(entry.head for entry in finished)
    first = np.cumsum([0] + [len(entry.head["replicas"]) for entry in finished])
    start = np.cumsum([0] + [entry.values for entry in finished])
    temporary = record.temporary_of(path)
    try:
        writer: pq.ParquetWriter | None = None
        for at in range(0, max(1, len(finished)), RUNS_AT_ONCE):
            upto = min(at + RUNS_AT_ONCE, len(finished))
            part = rows.slice(start[at], start[upto] - start[at])
            counts = [entry.values for entry in finished[at:upto]]
            which = np.repeat(first[at:upto], counts) + np.asarray(part["replica"])
            table = replicas.take(pa.array(which.astype(np.int64)))
            for name in ("step", "metric", "value"):
                table = table.append_column(name, part[name])
            writer = writer or pq.ParquetWriter(temporary, table.schema, compression="zstd")
            writer.write_table(table)
        if writer is not None:
            writer.close()
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _replicas(heads: Iterable[dict[str, Any]]) -> "pa.Table":
    """One row a replica of a run: all columns that its values have in common."""
    import pandas as pd
    import pyarrow as pa

    def rows() -> Iterator[dict[str, Any]]:
        for head in heads:
            same = {n: head[n] for n in ("experiment", "task", "optimizer")}
            same |= {**head["hyper_parameters"], "run": head["run"]}
            for number, replica in enumerate(head["replicas"]):
                own = dict(replica)
                yield {**same, "phase": None, "seed": own.pop("seed"), "replica": number, **own}

    frame = pd.DataFrame(rows())
    if not len(frame):
        return pa.table({})
    frame = of_one_kind_each(frame)
    frame["phase"] = phases(frame["seed"].to_numpy())
    own = [name for name in frame if frame[name].dtype == object or name in TEXTS]
    frame[own] = frame[own].astype("category")
    return pa.Table.from_pandas(frame, preserve_index=False).unify_dictionaries()


def _load(folder: Path) -> dict[str, Any]:
    nothing = {"records": {}, "rows": None, "tables": None}
    try:
        index = json.loads((folder / INDEX).read_bytes())
        if index["format"] != FORMAT or not (folder / index["rows"]).exists():
            return nothing
        index["records"] = {key: Entry(**entry) for key, entry in index["records"].items()}
    except (OSError, ValueError, KeyError, TypeError):  # none, or not what it was: read all again
        return nothing
    return index


def _rows_of(folder: Path, index: dict[str, Any]) -> "pa.Table":
    import pyarrow.parquet as pq

    return pq.read_table(folder / index["rows"])


def _save(folder: Path, records: dict[str, Entry], rows: "pa.Table", tables: Any) -> None:
    import pyarrow.parquet as pq

    folder.mkdir(exist_ok=True)
    mine = folder / f"rows-{uuid.uuid4().hex}.parquet"  # never that of another at the same time
    try:
        pq.write_table(rows, mine, compression="zstd")
    except OSError:
        mine.unlink(missing_ok=True)
        raise
    entries = {key: vars(entry) for key, entry in records.items()}
    index = {"format": FORMAT, "rows": mine.name, "tables": tables, "records": entries}
    write_atomically(folder / INDEX, [json.dumps(index).encode()])
    for path in folder.glob("rows-*.parquet"):
        if path != mine:
            with suppress(OSError):
                path.unlink()


def _version(path: Path) -> list[int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return [found.st_mtime_ns, found.st_size]
