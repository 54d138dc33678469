"""All that a run writes but its checkpoints: rows, files for people, W&B, its progress, its end."""

from typing import Any

from runners import record
from runners.config import RunConfig
from runners.lease import Lease
from runners.progress import Bar
from runners.tracking import open_tracker
from tasks.task import Task


class Outputs:
    """Written for as long as the lease is this process's; what comes later raises LeaseLost.

    Args:
        step: where the run goes on.
        bar: whether a bar shows its progress.
    """

    def __init__(
        self, config: RunConfig, lease: Lease, task: Task, writer: record.RecordWriter, step: int,
        bar: bool,
    ) -> None:  # fmt: skip
        values = config.values
        self._folder, self._lease, self._task, self._writer = config.folder, lease, task, writer
        self._files: list[str] = []
        self._tracker = open_tracker(
            values["tracking"], config.key, config.label, config.folder, values, config.names,
            list(task.replicas),
        )  # fmt: skip
        self._bar = Bar(config.label, values["steps"], step, enabled=bar)

    def row(self, row: dict[str, Any]) -> None:
        """After an evaluation."""
        self._lease.check()
        self._writer.write(row)
        self._show_files()
        self._tracker.log(row)
        self._bar.show(row)

    def end(self, status: str, step: int, **details: Any) -> None:
        """The last line of the record."""
        self._lease.check()
        if status == record.INTERRUPTED:
            self._show_files()
        if self._files and status != record.FAILED:
            details["files"] = self._files
        self._writer.close(status, step=step, **details)

    def leave(self, status: str, step: int) -> None:
        """However it came to that: nothing stays open."""
        self._writer.abandon()
        self._tracker.images(self._folder, self._files, step)
        self._tracker.finish(status)
        self._bar.close()

    def _show_files(self) -> None:
        artifacts = self._task.artifacts()
        for name, content in artifacts.items():
            record.write_atomically(self._folder / name, [content])
        self._files = list(artifacts)
