"""What happens where there is no room left: a file system of 400 kB, of this test's own."""

import os
import subprocess

import pytest

from runners import collect, conftest, record
from runners.collect import to_parquet
from runners.plan import plan
from runners.run import main, run
from runners.sweep import state

ARGUMENTS = ["task=rosenbrock", "optimizer=adam", "seeds=3", "task.path=true", "tracking=disabled"]


@pytest.fixture
def small(tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", folder]
    if os.getuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small file system needs the right to mount one")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder, leave):
    """Take all room in ``folder`` but ``leave`` bytes; returns the file that takes it."""
    found = os.statvfs(folder)
    file = folder / "filler"
    file.write_bytes(b"x" * (found.f_bavail * found.f_bsize - leave))
    return file


def table(arguments):
    return to_parquet(conftest.collect(plan(arguments), "none"))


@pytest.mark.parametrize("what", ["record", "checkpoint"])
def test_a_run_on_a_full_disk_says_so_and_goes_on_when_there_is_room(small, tmp_path, capsys, what):
    steps = ["steps=600", "eval_every=1", "checkpoint_every=50"]
    if what == "checkpoint":
        steps = ["steps=600", "eval_every=300", "checkpoint_every=50"]
    arguments = [*ARGUMENTS, *steps, f"results_dir={small}"]
    (job,) = plan(arguments)
    filler = fill(small, leave=65536 if what == "record" else 12288)
    assert main(arguments) == 130
    error = capsys.readouterr().err
    assert "No space left on device; nothing is lost" in error and "Traceback" not in error
    assert state(job.config) == "interrupted"
    found = record.read_record(job.config.folder)
    assert found and not found.damaged and found.status is None
    assert not list(job.config.folder.glob("*.tmp"))
    if what == "record":
        assert len(found.rows) > 50
    filler.unlink()
    assert run(job.config) == "completed"
    other = [*ARGUMENTS, *steps, f"results_dir={tmp_path / 'whole'}"]
    assert main(other) == 0
    assert table(arguments) == table(other)


def test_gathering_on_a_full_disk_leaves_the_tables_as_they_were(small, capsys):
    arguments = [*ARGUMENTS, "steps=50", "eval_every=1", f"results_dir={small}"]
    assert main(arguments) == 0
    assert collect.main([f"results_dir={small}"]) == 0
    before = {path: path.read_bytes() for path in small.rglob("*") if path.is_file()}
    more = [*ARGUMENTS, "steps=60", "eval_every=1", f"results_dir={small}"]
    assert main(more) == 0
    filler = fill(small, leave=4096)
    capsys.readouterr()
    assert collect.main([f"results_dir={small}"]) == 1
    error = capsys.readouterr().err
    assert "No space left on device" in error and error.count("\n") == 1
    assert all(path.read_bytes() == content for path, content in before.items())
    filler.unlink()
    assert collect.main([f"results_dir={small}"]) == 0
    assert "2 finished records, 1 of all read now" in capsys.readouterr().out


def test_no_room_for_wandb_is_one_line_and_the_record_is_whole(small, tmp_path, capsys):
    arguments = ["task=rosenbrock", "optimizer=adam", "steps=20", f"results_dir={tmp_path}"]
    (job,) = plan(arguments)
    job.config.folder.mkdir(parents=True)
    (job.config.folder / "wandb").symlink_to(small)
    fill(small, leave=0)
    assert main(arguments) == 0
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("W&B gave up, the run goes on: "), error
    assert "No space left on device" in error
    found = record.read_record(job.config.folder)
    assert found and not found.damaged and found.status["status"] == "completed"
