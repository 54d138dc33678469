"""The folder in which a task keeps what is too large for every checkpoint (tasks/task.py)."""

import os

import pytest

from runners import record
from runners.collect import to_parquet
from runners.conftest import collect
from runners.plan import plan
from runners.run import main, run
from tasks.rosenbrock import Rosenbrock
from tasks.task import CorruptState


class Diary(Rosenbrock):
    """A task that writes a line a step, and knows how many of them are its own."""

    kill_at = None

    def loss(self):
        self.folder.mkdir(exist_ok=True)
        with (self.folder / "diary").open("a") as file:
            file.write(f"{self.step}\n")
        if self.step == Diary.kill_at:
            raise MemoryError("killed")
        return super().loss()

    def get_extra_state(self):
        return {"steps": self.step, "rest": super().get_extra_state()}

    def set_extra_state(self, state):
        path = self.folder / "diary"
        lines = path.read_text().split() if path.exists() else []
        if lines[: state["steps"]] != [str(i) for i in range(state["steps"])]:
            raise CorruptState(f"{path}: {len(lines)} lines, {state['steps']} expected")
        super().set_extra_state(state["rest"])
        path.write_text("".join(f"{line}\n" for line in lines[: state["steps"]]))


@pytest.fixture
def job(tmp_path, monkeypatch):
    monkeypatch.setattr("tasks.rosenbrock.Rosenbrock", Diary)
    monkeypatch.setattr(Diary, "kill_at", 31)
    return one(tmp_path)


def one(folder):
    (found,) = plan(["task=rosenbrock", "optimizer=adam", "steps=60", "eval_every=20",
                     "checkpoint_every=7", "tracking=disabled", f"results_dir={folder}"])  # fmt: skip
    return found


def table(job):
    return to_parquet(collect([job], "one"))


def test_it_lasts_as_long_as_the_run(job, tmp_path, monkeypatch):
    assert run(job.config) == record.FAILED
    folder = job.config.folder / "task"
    assert (folder / "diary").read_text().split()[-1] == "31"  # past the checkpoint at 28
    monkeypatch.setattr(Diary, "kill_at", 45)
    assert run(job.config) == record.FAILED
    assert (folder / "diary").read_text().split() == [str(i) for i in range(46)]  # cut, gone on
    monkeypatch.setattr(Diary, "kill_at", None)
    assert run(job.config) == record.COMPLETED
    assert not folder.exists()
    other = one(tmp_path / "whole")
    assert run(other.config) == record.COMPLETED
    assert table(job) == table(other)


def test_damage_there_is_one_line_and_the_run_starts_again(job, tmp_path, monkeypatch, capsys):
    assert run(job.config) == record.FAILED
    path = job.config.folder / "task" / "diary"
    path.write_text("0\n1\n")
    (path.parent / "other").write_text("of no checkpoint")
    monkeypatch.setattr(Diary, "kill_at", 5)
    assert run(job.config) == record.FAILED
    error = capsys.readouterr().err
    assert f"{path}: 2 lines, 28 expected; set aside as checkpoint.pt.aside" in error
    assert error.count("\n") == 1
    assert os.listdir(path.parent) == ["diary"]
    assert path.read_text().split() == [str(i) for i in range(6)]
    monkeypatch.setattr(Diary, "kill_at", None)
    assert run(job.config) == record.COMPLETED
    other = one(tmp_path / "whole")
    run(other.config)
    assert table(job) == table(other)


def test_force_starts_with_an_empty_one(job, monkeypatch):
    assert run(job.config) == record.FAILED
    monkeypatch.setattr(Diary, "kill_at", 3)
    arguments = ["optimizer=adam", "steps=60", "eval_every=20", "checkpoint_every=7"]
    where = [f"results_dir={job.config.values['results_dir']}", "tracking=disabled", "force=true"]
    assert main([*arguments, *where]) == 1
    assert (job.config.folder / "task" / "diary").read_text().split() == ["0", "1", "2", "3"]
