import math
import subprocess
import sys
import textwrap
import time

import pytest
import wandb

from runners import tracking
from runners.config import ROOT
from runners.plan import plan
from runners.tracking import (
    NoTracker,
    SafeTracker,
    WandbTracker,
    _replica_names,
    open_tracker,
)

NAMES = {"task": "t", "optimizer": "o", "schedule": "s", "experiment": "none"}
FEW = ["task=rosenbrock", "steps=20", "eval_every=10"]


def tracker(folder, replicas=1, mode="offline", key="k"):
    seeds = [{"seed": seed, "sigma": 0.5} for seed in range(replicas)]
    return WandbTracker(key, "label", folder, mode, {"lr": 1}, NAMES, seeds)


def test_a_sweep_in_one_process_opens_and_closes_one_session_a_run(tmp_path):
    overrides = [*FEW, "optimizer=adam,laprop,signsgd", f"results_dir={tmp_path}"]
    subprocess.run(
        [sys.executable, "-m", "runners.run", "-m", *overrides], cwd=ROOT, check=True, timeout=120
    )
    for job in plan(overrides):
        (session,) = (job.config.folder / "wandb").glob("offline-run-*")
        assert session.name.endswith(job.config.key)
        assert (session / f"run-{job.config.key}.wandb").stat().st_size > 0


def test_the_same_rows_one_replica_a_few_and_many():
    row = {"step": 3, "train_seconds": 0.5, "loss": [2.0]}
    shown = []

    def log_with(replicas, values):
        made = WandbTracker.__new__(WandbTracker)
        made._names = [f"seed={seed:g}" for seed in range(replicas)]
        made._run = type("Run", (), {"log": lambda self, v, step: shown.append((step, v))})()
        made.log(row | {"loss": values})
        return shown.pop()

    assert log_with(1, [2.0]) == (3, {"train_seconds": 0.5, "loss": 2.0})
    assert log_with(3, [1.0, math.nan, 4.0])[1] == pytest.approx(
        {"train_seconds": 0.5, "loss/median": 4.0, "loss/seed=0": 1.0, "loss/seed=1": math.nan,
         "loss/seed=2": 4.0}, nan_ok=True)  # fmt: skip
    assert set(log_with(100, [1.0] * 100)[1]) == {"train_seconds", "loss/median"}


class Broken:
    def __init__(self, at):
        if at == "init":
            raise wandb.errors.CommError("no route to host\nand more")
        self.at = at

    def log(self, row):
        if self.at == "log":
            raise BrokenPipeError("the service is gone")

    def images(self, folder, names, step):
        raise ValueError("not an image")

    def finish(self, status):
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("at", ["init", "log", "images", "finish"])
def test_a_broken_session_is_one_line_and_nothing_else(at, capsys, tmp_path):
    safe = SafeTracker(lambda: Broken(at))
    for step in range(3):
        safe.log({"step": step})
    safe.images(tmp_path, ["image.png"], 3)
    safe.finish("completed")
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("W&B gave up, the run goes on: ")


def test_online_without_a_server_does_not_fail_the_run(tmp_path):
    """Nothing listens on the port; the run must end as if W&B had been off."""
    overrides = [*FEW, "optimizer=adam", "tracking=online", f"results_dir={tmp_path}"]
    code = textwrap.dedent("""
        import sys
        from runners import tracking
        from runners.run import main
        tracking.INIT_TIMEOUT = 3
        sys.exit(main(sys.argv[1:]))
    """)
    environment = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "0" * 40}
    import os

    done = subprocess.run(
        [sys.executable, "-c", code, *overrides], check=False, cwd=ROOT, env=os.environ | environment,
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "completed" in done.stdout
    assert done.stderr.count("W&B gave up, the run goes on") == 1


def test_a_killed_service_costs_one_line_also_at_the_end_of_the_process(tmp_path):
    code = textwrap.dedent("""
        import os, pathlib, signal, sys, time
        from runners.tracking import open_tracker
        names = {"task": "t", "optimizer": "o", "schedule": "s", "experiment": "none"}
        tracker = open_tracker("offline", "k", "label", pathlib.Path(sys.argv[1]), {}, names,
                               [{"seed": 0}])
        tracker.log({"step": 0, "loss": [1.0]})
        for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == os.getpid():
                os.kill(int(stat.parent.name), signal.SIGKILL)
                time.sleep(0.5)
        for step in range(1, 50):
            tracker.log({"step": step, "loss": [1.0]})
            time.sleep(0.01)
        tracker.finish("completed")
        print("the run goes on")
    """)
    done = subprocess.run([sys.executable, "-c", code, tmp_path], cwd=ROOT, capture_output=True,
                          text=True, check=True, timeout=120)  # fmt: skip
    assert done.stdout == "the run goes on\n"
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("W&B gave up"), done.stderr


def test_what_takes_too_long_is_left_behind():
    tracking._within(1, lambda: None)
    with pytest.raises(TimeoutError, match="no end after 0.05 s"):
        tracking._within(0.05, lambda: time.sleep(2))
    with pytest.raises(OSError, match="gone"):
        tracking._within(1, lambda: (_ for _ in ()).throw(OSError("gone")))


def test_disabled_is_nothing_at_all(tmp_path):
    made = open_tracker("disabled", "k", "label", tmp_path, {}, NAMES, [{"seed": 0}])
    assert type(made) is NoTracker
    assert not list(tmp_path.iterdir())


def test_replicas_are_named_by_numbers_and_by_words():
    named = _replica_names([{"seed": 3, "kind": "burst", "ratio": 0.5}])
    assert named == ["seed=3,kind=burst,ratio=0.5"]
