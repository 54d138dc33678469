"""A sweep as jobs of this machine, hydra/launcher=submitit_local: a killed run, warnings, settings."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from runners import cluster, record
from runners.collect import to_parquet
from runners.config import ROOT
from runners.conftest import collect
from runners.plan import plan
from runners.run import main, run, stop_signals
from runners.sweep import state

SWEEP = ["task=rosenbrock", "optimizer=adam", "eval_every=200", "checkpoint_every=200",
         "tracking=disabled"]  # fmt: skip


def test_a_killed_job_and_the_same_command_again(tmp_path, monkeypatch):
    sweep = [*SWEEP, "steps=2000"]
    overrides = [*sweep, f"results_dir={tmp_path / 'jobs'}"]
    command = ["-m", *overrides, "hydra/launcher=submitit_local"]
    jobs = plan(overrides)
    folder = jobs[0].config.folder
    with (tmp_path / "out").open("w") as out:
        driver = subprocess.Popen(
            [sys.executable, "-m", "runners.run", *command], cwd=ROOT, stdout=out, stderr=out
        )
    end = time.monotonic() + 60
    while not record.read_last_line(folder):
        assert driver.poll() is None and time.monotonic() < end, (tmp_path / "out").read_text()
        time.sleep(0.01)
    (lease,) = folder.glob("lease.*")
    os.kill(json.loads(lease.read_bytes())["pid"], signal.SIGKILL)
    assert driver.wait(timeout=60) == 1
    assert [state(job.config) for job in jobs] == ["interrupted"]
    assert "ended before its runs did" in (tmp_path / "out").read_text()
    monkeypatch.setattr(cluster, "POLL_SECONDS", 0.2)
    assert main(command) == 0
    local = [*sweep, f"results_dir={tmp_path / 'whole'}"]
    assert main(["-m", *local]) == 0
    assert to_parquet(collect(jobs, "local")) == to_parquet(collect(plan(local), "local"))
    assert record.read_record(folder).damaged == []


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM, signal.SIGHUP])
def test_a_warning_before_a_run_has_begun_stops_it_too(tmp_path, number):
    (job,) = plan([*SWEEP, "steps=400", f"results_dir={tmp_path}"])
    before = signal.signal(number, lambda *_: None)  # it goes on to whoever was there
    with stop_signals() as stop:
        signal.raise_signal(number)  # while a job imports, or as the terminal is closed
        assert stop() and run(job.config) == "interrupted"
    signal.signal(number, before)
    assert record.read_record(job.config.folder).status["step"] < 400
    assert run(job.config) == "completed"


def test_after_nohup_the_end_of_the_terminal_is_not_heard():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_signals() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop()
    finally:
        signal.signal(signal.SIGHUP, before)


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
