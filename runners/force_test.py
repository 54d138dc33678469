"""force=true, and runs that cannot begin."""

import errno
import os
import shutil
import signal

from runners import record
from runners.plan import plan
from runners.run import main, run
from runners.sweep import state
from runners.sweep_test import small, table


def test_force_runs_again_from_the_start(tmp_path):
    (job,) = plan(small(tmp_path, "optimizer=adam", "optimizer.lr=1e-2"))
    run(job.config)
    before = table([job])
    (job.config.folder / record.FILE_NAME).write_text(
        (job.config.folder / record.FILE_NAME).read_text().replace('"step":40', '"step":41')
    )
    assert run(job.config) == "completed" and table([job]) != before
    (again,) = plan(small(tmp_path, "optimizer=adam", "optimizer.lr=1e-2", "force=true"))
    assert run(again.config) == "completed" and table([job]) == before


def test_a_forced_sweep_starts_over_once_and_loses_nothing_where_it_cannot_start(tmp_path, capsys):
    overrides = small(tmp_path)
    assert main(["-m", *overrides]) == 0
    jobs = plan(overrides)
    before, old = table(jobs), [record.version(job.config.folder) for job in jobs]
    refused = ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=0"]
    assert main(["-m", *overrides, "force=true", *refused]) == 2
    assert [record.version(job.config.folder) for job in jobs] == old
    assert main(["-m", *overrides, "force=true"]) == 0
    assert "4 runs, 0 finished before, 4 to do" in capsys.readouterr().out
    new = [record.version(job.config.folder) for job in jobs]
    assert not set(new) & set(old) and table(jobs) == before
    assert not list(tmp_path.rglob("*.before"))


def test_what_was_set_aside_comes_back_where_the_next_cannot_be(tmp_path, capsys, monkeypatch):
    overrides = small(tmp_path)
    assert main(["-m", *overrides]) == 0
    jobs = plan(overrides)
    old = [record.version(job.config.folder) for job in jobs]
    stuck, replace = str(jobs[1].config.folder / record.FILE_NAME), os.replace

    def refusing(source, target):
        if str(source) == stuck:
            raise OSError(errno.EROFS, "Read-only file system", stuck)
        replace(source, target)

    monkeypatch.setattr(os, "replace", refusing)
    assert main(["-m", *overrides, "force=true"]) == 2
    assert capsys.readouterr().err == f"error: force=true: {stuck}: Read-only file system\n"
    assert [record.version(job.config.folder) for job in jobs] == old
    assert not list(tmp_path.rglob("*.before"))


def test_a_task_that_cannot_be_built_is_told_and_the_others_run(tmp_path, capsys, monkeypatch):
    from tasks.rosenbrock import Rosenbrock

    plain = Rosenbrock.__init__

    def fails(self, seeds, **given):
        if given["sigma"] == [0.5]:
            raise RuntimeError("no memory left")
        plain(self, seeds, **given)

    monkeypatch.setattr(Rosenbrock, "__init__", fails)
    whole = ["optimizer=adam", "optimizer.lr=1e-2", "task.sigma=[0.5]"]
    with monkeypatch.context() as patch:
        patch.setattr(Rosenbrock, "__init__", plain)
        assert main(["-m", *small(tmp_path, *whole)]) == 0
    assert main(["-m", *small(tmp_path, *whole, "force=true", "hydra/launcher=basic")]) == 1
    assert "1 missing" in capsys.readouterr().out
    (job,) = plan(small(tmp_path, *whole))
    assert state(job.config) == record.COMPLETED, "the old result is not lost"
    shutil.rmtree(job.config.folder)
    sigmas = [
        "optimizer=adam",
        "optimizer.lr=1e-2",
        "task.sigma=[0.5],[0.1]",
        "hydra/launcher=basic",
    ]
    assert main(["-m", *small(tmp_path, *sigmas)]) == 1
    caught = capsys.readouterr()
    assert "RuntimeError: no memory left" in caught.err
    assert "1 completed, 1 missing" in caught.out


def test_ctrl_c_in_a_forced_sweep_leaves_nothing_behind_once_it_has_gone_on(tmp_path, monkeypatch):
    from tasks.rosenbrock import Rosenbrock

    overrides = [*small(tmp_path), "hydra/launcher=basic"]
    assert main(["-m", *overrides]) == 0
    jobs, loss = plan(overrides), Rosenbrock.loss
    before = table(jobs)

    def interrupted(self):
        if self.step == 31:
            os.kill(os.getpid(), signal.SIGINT)
        return loss(self)

    with monkeypatch.context() as patch:
        patch.setattr(Rosenbrock, "loss", interrupted)
        assert main(["-m", *overrides, "force=true"]) == 130
    assert list(tmp_path.rglob("*.before"))  # of those that did not begin
    assert main(["-m", *overrides]) == 0
    assert not list(tmp_path.rglob("*.before")) and table(jobs) == before
