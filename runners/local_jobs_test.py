"""A sweep as jobs of this machine, hydra/launcher=submitit_local: a killed run, settings."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from runners import record
from runners.collect import collect, to_parquet
from runners.config import ROOT
from runners.run import main
from runners.sweep import plan, state

SWEEP = ["task=rosenbrock", "optimizer=adam", "seed=0,1", "eval_every=500",
         "checkpoint_every=500", "tracking=disabled"]  # fmt: skip


def test_a_killed_job_and_the_same_command_again(tmp_path):
    sweep = [*SWEEP, "steps=6000"]
    overrides = [*sweep, f"results_dir={tmp_path / 'jobs'}"]
    command = [sys.executable, "-m", "runners.run", "-m", *overrides,
               "hydra/launcher=submitit_local"]  # fmt: skip
    jobs = plan(overrides)
    lease = jobs[0].config.folder / "lease.1"
    with (tmp_path / "out").open("w") as out:
        driver = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=out)
    end = time.monotonic() + 60
    while not lease.exists() or not lease.stat().st_size:
        assert driver.poll() is None and time.monotonic() < end, (tmp_path / "out").read_text()
        time.sleep(0.01)
    os.kill(json.loads(lease.read_bytes())["pid"], signal.SIGKILL)
    assert driver.wait(timeout=60) == 1
    assert [state(job.config) for job in jobs] == ["interrupted", "completed"]
    assert "ended before its runs did" in (tmp_path / "out").read_text()
    subprocess.run(command, cwd=ROOT, check=True, timeout=60, stdout=subprocess.DEVNULL)
    local = [*sweep, f"results_dir={tmp_path / 'whole'}"]
    assert main(["-m", *local]) == 0
    assert to_parquet(collect(jobs, "local")) == to_parquet(collect(plan(local), "local"))
    assert record.read_record(jobs[0].config.folder).damaged == []


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("runs_per_job=0", "runs_per_job=0: a whole number >= 1 expected"),
        ("signal_delay_s=never", "signal_delay_s=never: a number > 0 expected"),
        ("timeout_min=2", "signal_delay_s=120: less than the time limit of a job expected"),
    ],
)
def test_settings_that_no_job_can_have(tmp_path, capsys, setting, said):
    overrides = [*SWEEP, "steps=10", f"results_dir={tmp_path}", "hydra/launcher=submitit_local"]
    assert main(["-m", *overrides, f"hydra.launcher.{setting}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: hydra.launcher.") and said in error and error.count("\n") == 1
