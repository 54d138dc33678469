"""A sweep that is killed takes its workers along, and their runs go on from where they were."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runners import record
from runners.config import ROOT
from runners.lease import is_held
from runners.sweep import MISSING, plan, state

SWEEP = ["task=rosenbrock", "optimizer=adam,laprop", "optimizer.lr=1e-3,1e-2", "steps=3000000", "eval_every=1000",
         "checkpoint_every=1000", "tracking=disabled"]  # fmt: skip


def children(pid: int) -> list[int]:
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(status.parent.name))
    return found


def has_rows(file: Path) -> bool:
    return file.exists() and file.read_text().count("\n") > 3


def wait_until(what, seconds):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "too late"
        time.sleep(0.2)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_the_sweep(tmp_path, number):
    overrides = [*SWEEP, f"results_dir={tmp_path}"]
    jobs = plan(overrides)
    command = [sys.executable, "-m", "runners.run", "-m", *overrides,
               "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]  # fmt: skip
    parent = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL)  # fmt: skip
    try:
        files = [job.config.folder / record.FILE_NAME for job in jobs]
        wait_until(lambda: sum(map(has_rows, files)) == 2, 60)
        workers = children(parent.pid)
        assert len(workers) >= 2
    finally:
        os.kill(parent.pid, number)
    parent.wait(timeout=30)
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), 20)
    states = [state(job.config) for job in jobs]  # two were at work, the others are not begun
    assert sorted(states) == [record.INTERRUPTED] * 2 + [MISSING] * 2
    assert not any(is_held(job.config.folder) for job in jobs)
