"""Checkpoints that are not what they were, or are of another machine."""

import json
import os
import pickle

import pytest
import torch
from torch import nn

from runners import checkpoint, record
from runners.checkpoint import save_checkpoint
from runners.loop import Progress
from runners.plan import plan
from runners.run import run
from runners.sweep_test import small, table


@pytest.mark.parametrize("damage", ["empty", "garbage", "truncated", "foreign", "pickle"])
def test_a_corrupted_checkpoint_is_named_set_aside_and_the_run_starts_again(
    tmp_path, capsys, monkeypatch, damage
):
    (job,) = plan(small(tmp_path, "optimizer=adam", "optimizer.lr=1e-2"))
    path = job.config.folder / "checkpoint.pt"
    from tasks.rosenbrock import Rosenbrock

    with monkeypatch.context() as patch:
        patch.setattr(Rosenbrock, "evaluate", lambda self: 1 / (self.step - 40) and {})
        assert run(job.config) == "failed"
    whole = path.read_bytes()
    if damage == "foreign":
        content = torch.load(path, weights_only=True)
        torch.save(content | {"key": "another"}, path)
    elif damage == "pickle":
        path.write_bytes(pickle.dumps({"key": job.config.key, "harm": os.getcwd}))
    else:
        path.write_bytes({"empty": b"", "garbage": b"x" * 999, "truncated": whole[:-200]}[damage])
    assert run(job.config) == "completed"
    assert "corrupted checkpoint" in capsys.readouterr().err
    assert (job.config.folder / "checkpoint.pt.aside").exists()
    (other,) = plan(small(tmp_path / "whole", "optimizer=adam", "optimizer.lr=1e-2"))
    run(other.config)
    assert table([job]) == table([other])


def test_a_checkpoint_is_replaced_as_a_whole_or_not_at_all(tmp_path, monkeypatch):
    path, layer = tmp_path / "checkpoint.pt", nn.Linear(2, 2)
    save_checkpoint(path, "key", {"task": layer}, Progress(), 0)
    old = path.read_bytes()
    with monkeypatch.context() as patch, pytest.raises((AttributeError, pickle.PicklingError)):
        patch.setattr(layer, "state_dict", lambda: {"cannot be saved": lambda: None})
        save_checkpoint(path, "key", {"task": layer}, Progress(1), 0)
    assert path.read_bytes() == old and list(tmp_path.iterdir()) == [path]
    with path.open("rb") as reader:
        save_checkpoint(path, "key", {"task": layer}, Progress(2), 0)
        assert reader.read() == old  # who has begun to read it reads it to its end
    assert path.read_bytes() != old and list(tmp_path.iterdir()) == [path]


def test_the_random_stream_of_torch_goes_on_where_it_was(tmp_path, monkeypatch):
    """For tasks that use it, as those in the package do not."""
    monkeypatch.setattr(checkpoint, "made_by_other_code", lambda folder: False)
    monkeypatch.setattr(checkpoint, "other_arithmetic", lambda folder, device: None)
    path, states = tmp_path / "checkpoint.pt", {"task": nn.Linear(2, 2)}
    (tmp_path / record.FILE_NAME).write_bytes(b"")
    save_checkpoint(path, "key", states, Progress(3), 0)
    expected = torch.rand(3)
    progress = Progress()
    assert checkpoint.load_checkpoint(path, "key", states, progress) == 0
    assert progress.step == 3 and torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("change", ["package", "device", "threads"])
def test_a_checkpoint_of_another_arithmetic_is_not_gone_on_with(tmp_path, capsys, change):
    (job,) = plan(small(tmp_path, "optimizer=adam", "optimizer.lr=1e-2"))
    folder = job.config.folder
    folder.mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record.RecordWriter, "close", lambda *_, **__: None)
        patch.setattr("runners.run.record.FINISHED", ())  # its checkpoint stays
        run(job.config)
    assert (folder / "checkpoint.pt").exists()
    first, _, rest = (folder / record.FILE_NAME).read_text().partition("\n")
    about = json.loads(first)
    where, other, made = {
        "package": ("packages", {"torch": "2.0.0"}, "torch 2.0.0"),
        "device": ("hardware", {"device": "cuda:0"}, "device cuda"),
        "threads": ("hardware", {"threads": 77}, "77 threads"),
    }[change]
    about[where] |= other
    (folder / record.FILE_NAME).write_text(json.dumps(about) + "\n" + rest + " " * len(first))
    assert run(job.config) == record.COMPLETED
    assert f"checkpoint made with {made}, which is another here" in capsys.readouterr().err


@pytest.mark.parametrize("left", [None, b"half a li"], ids=["gone", "cut"])
def test_a_checkpoint_without_its_record_is_not_gone_on_with(tmp_path, capsys, monkeypatch, left):
    """Rows before the checkpoint would be missing for good; W&B's session of them goes, too."""
    (job,) = plan(small(tmp_path, "optimizer=adam", "optimizer.lr=1e-2"))
    folder = job.config.folder
    from tasks.rosenbrock import Rosenbrock

    with monkeypatch.context() as patch:
        patch.setattr(Rosenbrock, "evaluate", lambda self: 1 / (self.step - 40) and {})
        assert run(job.config) == "failed"
    assert (folder / "checkpoint.pt").exists()
    (folder / record.FILE_NAME).unlink()
    if left is not None:
        (folder / record.FILE_NAME).write_bytes(left)
    (folder / "wandb" / "offline-run-before").mkdir(parents=True)
    assert run(job.config) == "completed"
    assert not (folder / "wandb" / "offline-run-before").exists()
    (other,) = plan(small(tmp_path / "whole", "optimizer=adam", "optimizer.lr=1e-2"))
    run(other.config)
    assert table([job]) == table([other])
