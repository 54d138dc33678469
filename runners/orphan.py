"""A worker process does not outlive its parent: it saves its run and ends."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import TypeVar

POLL_SECONDS = 1.0
_busy = threading.Event()
_parent: int | None = None  # of this worker, when its first run began
_T = TypeVar("_T")


def unless_orphaned(work: Callable[[], _T]) -> _T:
    """``work()``; in a worker process it is told to stop (SIGTERM) when the parent has died.

    The worker then ends, whatever is queued for it: one that lives on would hold memory for good,
    waiting to hand over what it has done.
    """
    if multiprocessing.current_process().name == "MainProcess":
        return work()
    _watch()
    _busy.set()
    try:
        _end_if_orphan()
        return work()
    finally:
        _end_if_orphan()  # the run has saved; the next one in the queue is not begun
        _busy.clear()


def _watch() -> None:
    global _parent
    if _parent is None:
        _parent = os.getppid()
        threading.Thread(target=_end_after_parent, daemon=True).start()


def _end_after_parent() -> None:
    while os.getppid() == _parent:
        time.sleep(POLL_SECONDS)
    if _busy.is_set():
        os.kill(os.getpid(), signal.SIGTERM)  # the step ends, the run saves
    while _busy.is_set():
        time.sleep(POLL_SECONDS)
    os._exit(1)


def _end_if_orphan() -> None:
    if os.getppid() != _parent:
        os._exit(1)
