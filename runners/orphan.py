"""A worker of a sweep does not outlive it: without its parent it saves its run and ends."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import TypeVar

POLL_SECONDS = 1.0
_busy = threading.Event()
_T = TypeVar("_T")


def with_parent(work: Callable[[], _T]) -> _T:
    """``work()``; in a worker process it is told to stop (SIGTERM) when the parent has died.

    A worker that lives on would hold memory for good: it waits to hand over what it has done.
    """
    if multiprocessing.current_process().name != "MainProcess":
        _watch()
    _busy.set()
    try:
        return work()
    finally:
        _busy.clear()


def _watch() -> None:
    name = "parent of the worker"
    if any(thread.name == name for thread in threading.enumerate()):
        return
    threading.Thread(target=_end_after, args=(os.getppid(),), name=name, daemon=True).start()


def _end_after(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    if _busy.is_set():
        os.kill(os.getpid(), signal.SIGTERM)  # the step ends, the run saves
    while _busy.is_set():
        time.sleep(POLL_SECONDS)
    os._exit(1)
