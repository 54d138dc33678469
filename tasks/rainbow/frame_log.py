"""Frames on disk, appended as they come, so that a checkpoint has little left to write.

The log is a folder of numbered files of CHUNK frames each. A checkpoint holds where the log stood,
with a checksum of every file; what was appended later is cut off when it is resumed, and never
touches what an earlier checkpoint refers to.
"""

import os
import zlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from tasks.task import CorruptState

CHUNK = 4096  # frames a file: 29 MB of Atari


class FrameLog:
    """The last ``keep`` frames of an endless sequence of frames of ``size`` bytes."""

    def __init__(self, folder: Path, size: int, keep: int) -> None:
        self.folder, self.size, self.keep = folder, size, keep
        folder.mkdir(parents=True, exist_ok=True)
        self.count = 0
        self._checksums: dict[int, int] = {}  # of the file with this number, as far as written
        self._file: BinaryIO | None = None
        self._saved_from = 0  # the first file that the last checkpoint needs
        self._disk = ThreadPoolExecutor(1, "frame log")
        self._pending: list[Future[None]] = []

    def append(self, frame: bytes) -> None:
        number, place = divmod(self.count, CHUNK)
        if place == 0:
            self._close()
            self._file = self._path(number).open("wb", buffering=1 << 20)
            self._checksums[number] = 0
        assert self._file is not None
        self._file.write(frame)
        self._checksums[number] = zlib.crc32(frame, self._checksums[number])
        self.count += 1

    def sync(self) -> dict[str, Any]:
        """Everything safely on disk; returns where the log stands, for `resume`.

        Deletes the files that neither this state nor the one before needs.
        """
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
        for done in self._pending:
            done.result()
        self._pending = []
        for number in [n for n in self._checksums if n < self._saved_from]:
            self._path(number).unlink(missing_ok=True)
            del self._checksums[number]
        self._saved_from = max(self.count - self.keep, 0) // CHUNK
        needed = {n: c for n, c in self._checksums.items() if n >= self._saved_from}
        return {"count": self.count, "checksums": needed}

    def resume(self, state: dict[str, Any]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Go on from ``state``; yields (number of the first frame, frames as bytes) file by file.

        Raises CorruptState before anything is yielded or changed where a file is not as it was.
        """
        count, checksums = state["count"], state["checksums"]
        for number, checksum in checksums.items():
            self._read(number, count, checksum)
        return self._resume(count, checksums)

    def _resume(
        self, count: int, checksums: dict[int, int]
    ) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        self._close()
        for path in self.folder.glob("*.frames"):
            if int(path.stem) not in checksums:
                path.unlink()
        self.count, self._checksums = count, dict(checksums)
        self._saved_from = min(checksums, default=0)
        last, place = divmod(count, CHUNK)
        if place:
            with self._path(last).open("r+b") as file:
                file.truncate(place * self.size)
            self._file = self._path(last).open("ab", buffering=1 << 20)
        for number, checksum in checksums.items():
            frames = np.frombuffer(self._read(number, count, checksum), np.uint8)
            yield number * CHUNK, frames.reshape(-1, self.size).copy()

    def _read(self, number: int, count: int, checksum: int) -> bytes:
        path = self._path(number)
        length = min(CHUNK, count - number * CHUNK) * self.size
        try:
            with path.open("rb") as file:
                content = file.read(length)
        except OSError as error:
            raise CorruptState(f"{path}: cannot be read: {error.strerror}") from error
        if len(content) < length:
            raise CorruptState(f"{path}: {len(content):,} bytes, {length:,} expected")
        if zlib.crc32(content) != checksum:
            raise CorruptState(f"{path}: damaged, its checksum is not that of the checkpoint")
        return content

    def _close(self) -> None:
        """The present file is full: to disk with it, while the game goes on."""
        if self._file is not None:
            self._pending.append(self._disk.submit(_to_disk, self._file))
            self._file = None

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06}.frames"


def _to_disk(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
    file.close()
