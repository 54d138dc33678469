"""The record of a run: what it was, what it measured, how it ended.

``<results_dir>/runs/<key>/record.jsonl`` holds one JSON object a line: first the provenance, then
a row per evaluation, last a status. Lines are flushed as they are written, so a kill at any
moment leaves a readable record; a line that was cut off is not counted. Numbers that JSON does
not know (NaN, infinities) are written as null: "no number".
"""

import json
import math
import os
import platform
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

COMPLETED, DIVERGED, FAILED, INTERRUPTED = "completed", "diverged", "failed", "interrupted"
FINISHED = (COMPLETED, DIVERGED)  # results; the other two are run again
FILE_NAME = "record.jsonl"


@dataclass
class Record:
    """A record as read back.

    Attributes:
        provenance: the first line: key, names, values (the resolved configuration), replicas,
            code, packages, hardware.
        rows: one dict an evaluation: ``step``, ``train_seconds`` and a list of R values a metric.
        status: the last line (``status``, ``step``, ...), or None if the run did not end.
        damaged: line numbers (from 1) that could not be read.
    """

    provenance: dict[str, Any]
    rows: list[dict[str, Any]] = field(default_factory=list)
    status: dict[str, Any] | None = None
    damaged: list[int] = field(default_factory=list)


class RecordWriter:
    """Appends to a record. Create with ``start`` (a new one) or ``resume`` (cut to a checkpoint)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("ab", buffering=0)

    @classmethod
    def start(cls, folder: Path, provenance: dict[str, Any]) -> "RecordWriter":
        """A new record in ``folder``; an older one there is replaced in one step."""
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / FILE_NAME, [_line(provenance)])
        return cls(folder / FILE_NAME)

    @classmethod
    def resume(cls, folder: Path, size: int) -> "RecordWriter":
        """Go on with the first ``size`` bytes, the length at the time of the checkpoint."""
        os.truncate(folder / FILE_NAME, size)
        return cls(folder / FILE_NAME)

    def write(self, row: dict[str, Any]) -> None:
        """Append a whole line, or, where there is no room for it, nothing; then raises OSError."""
        before, line = self._file.tell(), memoryview(_line(row))
        try:
            while line:
                line = line[self._file.write(line) :]
        except OSError:
            self._file.truncate(before)
            raise

    def size(self) -> int:
        """Bytes written so far, on disk: a checkpoint must not know rows that a crash can lose."""
        os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self, status: str, **details: Any) -> None:
        """Write the last line."""
        self.write({"status": status, **details})
        os.fsync(self._file.fileno())
        self._file.close()

    def abandon(self) -> None:
        """Close the file, if it still is open, without a last line."""
        self._file.close()


def before(path: Path) -> Path:
    """Where a forced sweep keeps ``path`` until the run that replaces it has begun."""
    return path.with_name(f"{path.name}.before")


def temporary_of(path: Path) -> Path:
    """Where a process writes what is to become ``path``: no other does so, on any machine."""
    return path.with_name(f"{path.name}.{platform.node()}.{os.getpid()}.tmp")


def write_atomically(path: Path, chunks: Iterable[bytes]) -> None:
    """Old content or new, never a half, and nothing left beside it; raises OSError."""
    temporary = temporary_of(path)
    try:
        with temporary.open("wb") as file:
            file.writelines(chunks)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    os.replace(temporary, path)


def read_record(folder: Path) -> Record | None:
    """The record in ``folder``, or None where there is none (or none with a readable first line)."""
    provenance, rows, status, damaged = None, [], None, []
    for number, line in _lines(folder):
        if line is None:
            damaged.append(number)
        elif provenance is None:
            provenance = line
        elif "status" in line:
            status = line
        else:
            rows.append(line)
    if provenance is None or 1 in damaged:
        return None
    return Record(provenance, rows, status, damaged)


def read_status(folder: Path) -> str | None:
    """How the run in ``folder`` ended, or None; reads the first line and the last only.

    A record whose first line cannot be read is of no use, however it ended.
    """
    status = read_last_line(folder)
    if not status or "status" not in status or read_first_line(folder) is None:
        return None
    return status["status"]


def version(folder: Path) -> tuple[int, int, int] | None:
    """Differs whenever the record in ``folder`` does; None where there is none."""
    try:
        found = (folder / FILE_NAME).stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def read_first_line(folder: Path) -> dict[str, Any] | None:
    """The provenance of the record, or None where there is none or it was cut off."""
    try:
        with (folder / FILE_NAME).open("rb") as file:
            return _parse(file.readline())
    except (FileNotFoundError, NotADirectoryError):
        return None


def read_last_line(folder: Path) -> dict[str, Any] | None:
    """The last line of the record, or None where there is none or it was cut off."""
    try:
        with (folder / FILE_NAME).open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            window = 1 << 14
            while True:
                file.seek(max(0, end - window))
                tail = file.read()
                # a last line longer than the window: look further back
                if tail.count(b"\n") > 1 or window >= end:
                    break
                window *= 4
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not tail.endswith(b"\n"):
        return None
    return _parse(tail.rstrip(b"\n").rpartition(b"\n")[2])


def median(values: Sequence[float | None]) -> float:
    """The upper median, for display; "no number" counts as beyond every number."""
    known = [math.inf if v is None or math.isnan(v) else v for v in values]
    return statistics.median_high(known)


def median_text(values: Sequence[float | None], form: str) -> str:
    """`median` as text in the format ``form``; where it is no number, a dash."""
    value = median(values)
    return "-" if math.isinf(value) else format(value, form)


def _lines(folder: Path) -> Iterator[tuple[int, dict[str, Any] | None]]:
    try:
        data = (folder / FILE_NAME).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return
    *whole, cut = data.split(b"\n")
    for number, line in enumerate(whole, 1):
        yield number, _parse(line)
    if cut:
        yield len(whole) + 1, None


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _line(value: dict[str, Any]) -> bytes:
    text = json.dumps(_without_nan(value), allow_nan=False, separators=(",", ":"))
    return text.encode() + b"\n"


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return value
