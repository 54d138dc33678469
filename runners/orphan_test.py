"""A sweep that is killed takes its workers along, and their runs go on from where they were."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runners import record
from runners.chaos_test import processes
from runners.config import ROOT
from runners.lease import is_held
from runners.plan import plan
from runners.sweep import MISSING, state

SWEEP = ["task=rosenbrock", "optimizer=adam,laprop", "optimizer.lr=1e-3,1e-2", "steps=3000000", "eval_every=1000",
         "checkpoint_every=1000", "tracking=disabled"]  # fmt: skip


def has_rows(file: Path) -> bool:
    return file.exists() and file.read_text().count("\n") > 3


def wait_until(what, seconds):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "too late"
        time.sleep(0.2)


SWEEPER = [sys.executable, "-m", "runners.run", "-m", *SWEEP, "hydra/launcher=joblib",
           "hydra.launcher.n_jobs=2"]  # fmt: skip
# a batch job that does its runs two at a time
JOB = [
    sys.executable,
    "-c",
    """
import sys
from pathlib import Path
from runners.cluster import Pack
from runners.plan import plan

if __name__ == "__main__":
    Pack([job.config for job in plan(sys.argv[1:])], 2, Path())()
""",
    *SWEEP,
]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
@pytest.mark.parametrize(
    ("command", "number"),
    [(SWEEPER, signal.SIGKILL), (SWEEPER, signal.SIGTERM), (JOB, signal.SIGKILL)],
    ids=["sweep-KILL", "sweep-TERM", "job-KILL"],
)
def test_workers_end_with_their_parent(tmp_path, command, number):
    folder = f"results_dir={tmp_path}"
    jobs = plan([*SWEEP, folder])
    parent = subprocess.Popen([*command, folder], cwd=ROOT, start_new_session=True,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    try:
        files = [job.config.folder / record.FILE_NAME for job in jobs]
        wait_until(lambda: sum(map(has_rows, files)) == 2, 60)
        assert len(processes(parent.pid)) > 2
    finally:
        os.kill(parent.pid, number)
    try:
        parent.wait(timeout=30)
        wait_until(lambda: not processes(parent.pid), 20)
    finally:  # whatever is wrong, nothing is left running
        for pid in processes(parent.pid):
            os.kill(pid, signal.SIGKILL)
    states = [state(job.config) for job in jobs]  # two were at work, the others are not begun
    assert sorted(states) == [record.INTERRUPTED] * 2 + [MISSING] * 2
    assert not any(is_held(job.config.folder) for job in jobs)
