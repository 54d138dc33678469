import json
import os
import shutil
import subprocess
import sys
import threading
import time

import pytest

from runners import lease, record
from runners.config import ROOT
from runners.lease import LeaseLost, hold, is_held
from runners.plan import plan
from runners.run import run
from runners.sweep_test import small
from tasks.rosenbrock import Rosenbrock

HOLDER = (
    "import sys, time, pathlib; from runners.lease import hold\n"
    "with hold(pathlib.Path(sys.argv[1])) as held:\n"
    "    print('held' if held else 'not', flush=True); time.sleep(60)"
)


def holder(folder):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, folder], cwd=ROOT, stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"held\n"
    return process


def elsewhere(folder, age=0.0):
    """As if a process of another machine had held it and been silent for ``age`` seconds."""
    (path,) = folder.glob("lease.*")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"host": "another"}))
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_one_holds_it_and_the_next_after_it_was_given_back(tmp_path):
    assert not is_held(tmp_path)
    with hold(tmp_path) as first:
        assert first and is_held(tmp_path)
        with hold(tmp_path) as second:
            assert second is None
        first.check()
    assert not is_held(tmp_path)
    with hold(tmp_path) as third:
        assert third and [path.name for path in tmp_path.iterdir()] == ["lease.2"]


def test_a_dead_process_of_this_machine_loses_it_at_once(tmp_path):
    process = holder(tmp_path)
    assert is_held(tmp_path)
    process.kill()
    time.sleep(0.2)  # a zombie: dead, and not yet waited for
    assert not is_held(tmp_path)
    with hold(tmp_path) as mine:
        assert mine
    process.wait()


def test_one_of_another_machine_is_believed_until_it_was_silent_for_too_long(tmp_path):
    process = holder(tmp_path)
    try:
        elsewhere(tmp_path, age=lease.SECONDS - 10)
        assert is_held(tmp_path)
        with hold(tmp_path) as mine:
            assert mine is None
        elsewhere(tmp_path, age=lease.SECONDS + 10)
        assert not is_held(tmp_path)
        with hold(tmp_path) as mine:
            assert mine
    finally:
        process.kill()
        process.wait()


def test_who_comes_back_after_it_expired_is_told_and_the_next_keeps_it(tmp_path):
    with hold(tmp_path) as sleeper:
        elsewhere(tmp_path, age=lease.SECONDS + 10)
        with hold(tmp_path) as taker:
            assert taker
            with pytest.raises(LeaseLost, match="another process has taken over"):
                sleeper.check()
            taker.check()
            sleeper.give_back()
            assert is_held(tmp_path)
            taker.check()


def test_who_comes_back_after_two_others_is_told(tmp_path):
    with hold(tmp_path) as sleeper:
        for _ in range(2):
            elsewhere(tmp_path, age=lease.SECONDS + 10)
            with hold(tmp_path) as taker:
                assert taker
        with pytest.raises(LeaseLost, match="another process has taken over"):
            sleeper.check()


def test_a_folder_that_was_deleted_is_not_held(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    with hold(folder) as held:
        held.check()
        shutil.rmtree(folder)
        with pytest.raises(LeaseLost, match="it was deleted"):
            held.check()


def test_it_is_renewed(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.02)
    with hold(tmp_path):
        path = elsewhere(tmp_path, age=1000)
        end = time.monotonic() + 10
        while time.time() - path.stat().st_mtime > 500:
            assert time.monotonic() < end, "not renewed"
            time.sleep(0.01)


@pytest.mark.parametrize("before", ["free", "dead"])
def test_of_many_at_the_same_moment_one_gets_it(tmp_path, before):
    for attempt in range(20):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        if before == "dead":
            (folder / "lease.7").write_text(json.dumps({"host": "another", "pid": 1}))
            os.utime(folder / "lease.7", (0, 0))
        barrier, got = threading.Barrier(8), []

        def take(folder=folder, barrier=barrier, got=got):
            barrier.wait()
            got.append(lease._take(folder))

        threads = [threading.Thread(target=take) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (one,) = [held for held in got if held is not None]
        one.check()
        one.give_back()


@pytest.mark.parametrize(
    ("method", "step", "breaks"),
    [("loss", 36, False), ("loss", 31, False), ("artifacts", 120, False), ("loss", 31, True)],
    ids=["a row", "a checkpoint", "the end", "a failure"],
)
def test_a_run_that_was_taken_over_writes_no_more(tmp_path, monkeypatch, method, step, breaks):
    """It sleeps in ``method`` at ``step``, before it would write what the case is named after."""
    (job,) = plan(small(tmp_path, "optimizer=adam", "optimizer.lr=1e-2"))
    plain, left = getattr(Rosenbrock, method), {}

    def files():
        found = [path for path in job.config.folder.iterdir() if "lease" not in path.name]
        return {path.name: path.read_bytes() for path in found}

    def asleep(self):
        if self.step == step:
            monkeypatch.undo()  # the taker does not sleep
            elsewhere(job.config.folder, age=lease.SECONDS + 10)
            assert run(job.config) == "completed"
            left.update(files())
            if breaks:
                raise RuntimeError("its files are gone")
        return plain(self)

    monkeypatch.setattr(Rosenbrock, method, asleep)
    monkeypatch.setattr(lease, "RENEW_SECONDS", 1000)
    assert run(job.config) == "running"
    assert files() == left and list(left) == [record.FILE_NAME]


def test_what_another_finished_while_this_one_was_building_is_not_run_again(tmp_path, monkeypatch):
    (job,) = plan(small(tmp_path, "optimizer=adam", "optimizer.lr=1e-2"))
    build, left = Rosenbrock.__init__, []

    def slow(self, seeds, **given):
        monkeypatch.undo()  # the other is faster
        assert run(job.config) == "completed"
        left.append(record.version(job.config.folder))
        build(self, seeds, **given)

    monkeypatch.setattr(Rosenbrock, "__init__", slow)
    assert run(job.config) == "completed"
    assert left == [record.version(job.config.folder)]
