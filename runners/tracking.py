"""Weights & Biases gets the same rows as the record, and can never fail a run."""

import contextlib
import errno
import logging
import os
import shutil
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, cast

from runners.command import first_line
from runners.record import FINISHED, median

PROJECT = "laprop"
_unreachable: list[Exception] = []  # why W&B online failed in this process, if it did
MOST_CURVES = 16  # a pack of more replicas is drawn by its median alone
IMAGES = (".png", ".jpg")
INIT_TIMEOUT = 20  # seconds to wait for a W&B server that does not answer
FINISH_TIMEOUT = 120  # seconds for the upload of what is left at the end of a run
TEARDOWN_TIMEOUT = 10  # seconds for the library to close, once it was given up


class NoTracker:
    """Tracking that is disabled, or was given up."""

    def log(self, row: dict[str, Any]) -> None:
        pass

    def images(self, folder: Path, names: Sequence[str], step: int) -> None:
        pass

    def finish(self, status: str) -> None:
        pass


class WandbTracker:
    """One W&B run, its id the run key, opened and closed by the run that it belongs to."""

    def __init__(
        self, key: str, label: str, folder: Path, mode: str, config: dict[str, Any],
        names: dict[str, str], replicas: list[dict[str, Any]],
    ) -> None:  # fmt: skip
        # The library prints through its own service; the record is the console of this project.
        os.environ.setdefault("WANDB_SILENT", "true")
        # nor does its log file that cannot be written tell of it, with a traceback a line
        logging.raiseExceptions = False
        import wandb

        self._names, self._folder = _replica_names(replicas), folder
        self._run = wandb.init(
            project=PROJECT,
            id=key,
            name=label,
            # on the page of the project: one group an experiment, in it one job type an optimizer
            group=_group(names, config),
            job_type=names["optimizer"],
            tags=[names["task"], names["optimizer"], names["schedule"]],
            config=config,
            dir=folder,
            mode=cast(Literal["offline", "online"], mode),
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(
                silent=True, console="off", init_timeout=INIT_TIMEOUT, x_disable_stats=True,
                disable_git=True, disable_code=True, x_save_requirements=False,
            ),
        )  # fmt: skip

    def log(self, row: dict[str, Any]) -> None:
        shown: dict[str, Any] = {}
        for name, value in row.items():
            if isinstance(value, list):
                shown |= self._curves(name, value)
            elif name != "step":
                shown[name] = value
        self._run.log(shown, step=row["step"])

    def images(self, folder: Path, names: Sequence[str], step: int) -> None:
        """Those of a run's files that are images, as what the run looked like at ``step``."""
        import wandb

        shown = {Path(name).stem: wandb.Image(str(folder / name)) for name in names
                 if Path(name).suffix in IMAGES}  # fmt: skip
        if shown:
            self._run.log(shown, step=step)

    def finish(self, status: str) -> None:
        self._run.summary["status"] = status
        self._run.finish(exit_code=0 if status in FINISHED else 1)
        # W&B's service drops what it has no room for, and does not say so
        folder = Path(self._folder, "wandb")
        if folder.is_dir() and shutil.disk_usage(folder).free == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))

    def _curves(self, name: str, values: list[float]) -> dict[str, float]:
        if len(values) == 1:
            return {name: values[0]}
        curves = {f"{name}/median": median(values)}
        if len(values) <= MOST_CURVES:
            curves |= {f"{name}/{r}": v for r, v in zip(self._names, values, strict=True)}
        return curves


class SafeTracker:
    """Passes everything on until the first failure, then says so in one line and stays quiet."""

    def __init__(self, make: Callable[[], NoTracker | WandbTracker]) -> None:
        self._inner: NoTracker | WandbTracker = NoTracker()
        self._try(lambda: setattr(self, "_inner", make()))

    def log(self, row: dict[str, Any]) -> None:
        self._try(lambda: self._inner.log(row))

    def images(self, folder: Path, names: Sequence[str], step: int) -> None:
        self._try(lambda: self._inner.images(folder, names, step))

    def finish(self, status: str) -> None:
        self._try(lambda: _within(FINISH_TIMEOUT, lambda: self._inner.finish(status)))

    def _try(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # whatever W&B raises: the run is worth more than its log
            self._inner = NoTracker()
            with contextlib.suppress(Exception):
                # else the library tries once more at exit, with a traceback, or without an end
                _within(TEARDOWN_TIMEOUT, _teardown)
            told = f"{type(error).__name__}: {first_line(error)}"
            print(f"W&B gave up, the run goes on: {told}", file=sys.stderr)


def _teardown() -> None:
    import wandb

    wandb.teardown()


def _within(seconds: float, action: Callable[[], None]) -> None:
    """Do ``action``; raises TimeoutError if it takes longer, and leaves it behind."""
    raised: list[Exception] = []

    def act() -> None:
        try:
            action()
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError(f"no end after {seconds:g} s; `wandb sync` uploads what is left")
    if raised:
        raise raised[0]


def open_tracker(
    mode: str, key: str, label: str, folder: Path, config: dict[str, Any],
    names: dict[str, str], replicas: list[dict[str, Any]],
) -> NoTracker | SafeTracker:  # fmt: skip
    """The tracker of one run; ``mode`` is offline, online or disabled.

    Once online has failed, it is not tried again in this process.
    """
    if mode == "disabled" or (mode == "online" and _unreachable):
        return NoTracker()

    def make() -> WandbTracker:
        try:
            return WandbTracker(key, label, folder, mode, config, names, replicas)
        except Exception as error:
            if mode == "online":
                # a server that does not answer would cost each run of a sweep its time-out
                _unreachable.append(error)
            raise

    return SafeTracker(make)


def _group(names: dict[str, str], config: dict[str, Any]) -> str:
    if names["experiment"] == "none":
        return names["task"]
    return f"{names['experiment']} {config['scale']}"


def _replica_names(replicas: list[dict[str, Any]]) -> list[str]:
    def text(value: Any) -> str:
        return value if isinstance(value, str) else f"{value:g}"

    return [",".join(f"{k}={text(v)}" for k, v in replica.items()) for replica in replicas]
