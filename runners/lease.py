"""A lease on a run: one process at a time works on it, and a dead one loses it.

It works on a file system that several machines share, where advisory locks are often switched off:
all it needs is that a file can be created exclusively. ``lease.<n>`` in the folder of a run says
who has it; the greatest n counts. The holder renews its time stamp. Whoever finds it given back,
its process dead, or its time stamp older than `SECONDS` may create ``lease.<n + 1>``, which only
one can. The greatest number is never deleted, so no number is handed out twice.
"""

import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

SECONDS = 60.0  # a holder on another machine that was silent for so long has lost its lease
RENEW_SECONDS = SECONDS / 6


class LeaseLost(Exception):
    """The lease expired and another process has it: what this one writes would be a second run.
    Or its folder was deleted."""


class Lease:
    """One folder's lease while it is held; see `hold`."""

    def __init__(self, folder: Path, number: int) -> None:
        self._folder, self._number = folder, number
        self._path = _file(folder, number)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise LeaseLost if another process has taken over, or the folder is gone; call it before
        writing."""
        greatest = _greatest(self._folder)
        if greatest != self._number:  # taken over by one, or by several in turn
            why = "another process has taken over" if greatest else "it was deleted"
            raise LeaseLost(f"{self._folder}: {why}")

    def give_back(self) -> None:
        self._done.set()
        self._thread.join()
        with suppress(OSError):  # the folder was deleted, or the disk is full: the lease expires
            temporary = self._path.with_name(f"{self._path.name}.tmp")
            temporary.write_text(json.dumps({"given_back": True}))
            os.replace(temporary, self._path)

    def _renew(self) -> None:
        while not self._done.wait(RENEW_SECONDS):
            with suppress(OSError):
                os.utime(self._path)


@contextmanager
def hold(folder: Path) -> Iterator[Lease | None]:
    """The lease on ``folder``, which exists, for as long as the block takes; None if it is held."""
    lease = _take(folder)
    try:
        yield lease
    finally:
        if lease is not None:
            lease.give_back()


def is_held(folder: Path) -> bool:
    """Whether a living process has the lease on ``folder``; writes nothing."""
    return _is_held(folder, _greatest(folder), time.time())


def _is_held(folder: Path, number: int, now: float) -> bool:
    """``now`` is the time by the clock that stamps files there, or one near it."""
    try:
        # opened, not only looked at: NFS answers an open with fresh attributes
        with _file(folder, number).open("rb") as file:
            age = now - os.fstat(file.fileno()).st_mtime
            holder = _parse(file.read())
    except FileNotFoundError:
        return False
    if holder.get("given_back"):
        return False
    if holder.get("host") == _host():
        return _born(holder["pid"]) == holder["born"]
    return age <= SECONDS


def _take(folder: Path) -> Lease | None:
    with tempfile.TemporaryFile(dir=folder) as probe:
        now = os.fstat(probe.fileno()).st_mtime
    greatest = _greatest(folder)
    if _is_held(folder, greatest, now):
        return None
    path = _file(folder, greatest + 1)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        return None
    pid = os.getpid()
    try:
        with os.fdopen(descriptor, "w") as file:
            json.dump({"host": _host(), "pid": pid, "born": _born(pid)}, file)
    except OSError:  # no room
        path.unlink()
        raise
    if _greatest(folder) > greatest + 1:  # taken and given back while we looked
        path.unlink()
        return None
    for older in range(greatest, 0, -1):
        try:
            _file(folder, older).unlink()
        except FileNotFoundError:
            break
    return Lease(folder, greatest + 1)


def _file(folder: Path, number: int) -> Path:
    return folder / f"lease.{number}"


def _greatest(folder: Path) -> int:
    suffixes = [path.name.partition(".")[2] for path in folder.glob("lease.*")]
    return max((int(s) for s in suffixes if s.isdigit()), default=0)


def _parse(content: bytes) -> dict[str, Any]:
    """Who holds it; nothing is known of a holder that has only just created its file."""
    try:
        return json.loads(content)
    except ValueError:
        return {}


def _host() -> str:
    """This machine since it was started, and this container: where a process id means the same."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _born(pid: int) -> str | None:
    """When process ``pid`` was started, which tells it from a later one of the same number; None
    if it is dead. Without /proc: "alive"."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if state in "ZX" else rest[18]  # fields 3 and 22 of proc(5)
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return None
    except ProcessLookupError:
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "alive"
