"""A run of Rainbow that is killed at random moments, from the command line."""

import subprocess
import sys
import textwrap

import pytest
import torch

from runners import record
from runners.config import ROOT
from tasks.rainbow.task import Rainbow
from tasks.rainbow.task_test import BREAKOUT, CARTPOLE, adam, same, train
from tasks.task import Stopped

SETTING = ["task=rainbow", "optimizer=laprop", "optimizer.lr=1e-3", "steps=12", "eval_every=4",
           "checkpoint_every=2", "tracking=disabled", "device=cpu", "task.learning_starts=300",
           "task.capacity=320", "task.target_every=40", "task.batch=8", "task.n_step=3",
           "task.sticky=0.25", "task.eval_games=1", "task.eval_most_steps=20", "task.overlap=true"]  # fmt: skip
DRIVER = textwrap.dedent("""
    import os, random, signal, sys, time
    import torch._dynamo, tasks.rainbow.task
    from runners import checkpoint, loop, progress, provenance, tracking
    from runners.run import main
    torch.set_num_threads(1)
    whole, killed, *overrides = sys.argv[1:]
    def attempt(folder, seconds=None):
        child = os.fork()
        if child == 0:
            os._exit(main([f"results_dir={folder}", *overrides]))
        if seconds is not None:
            time.sleep(seconds)
            os.kill(child, signal.SIGKILL)
        return os.waitpid(child, 0)[1]
    start = time.monotonic()
    assert attempt(whole) == 0
    fifth = (time.monotonic() - start) / 5
    chance = random.Random(3)
    kills = [attempt(killed, chance.uniform(0.5, 2) * fifth) for _ in range(4)]
    sys.exit(os.waitstatus_to_exitcode(attempt(killed)) + 2 * (kills.count(signal.SIGKILL) < 2))
""")


def test_killed_and_restarted_the_record_is_the_same(tmp_path):
    """At least two SIGKILLs, with frames on disk, wrapped around and cut off in the middle."""
    folders = [tmp_path / "whole", tmp_path / "killed"]
    subprocess.run([sys.executable, "-c", DRIVER, *folders, *SETTING],
                   cwd=ROOT, check=True, timeout=300)  # fmt: skip
    rows = []
    for folder in folders:
        (run,) = (folder / "runs").iterdir()
        found = record.read_record(run)
        assert found.status["status"] == record.COMPLETED
        rows.append([{k: v for k, v in row.items() if k != "train_seconds"} for row in found.rows])
        left = {path.name for path in run.iterdir() if not path.name.startswith("lease.")}
        assert left == {"record.jsonl"}  # no checkpoint, no frames
    assert rows[0] == rows[1] and len(rows[0]) == 4


@pytest.mark.parametrize("settings", [CARTPOLE | {"n_step": 3}, BREAKOUT], ids=["vector", "pixels"])
@pytest.mark.parametrize("after", [0, 1, 39, 40, 41, 42])
def test_a_stop_in_the_steps_before_learning_loses_none_of_them(tmp_path, settings, after):
    """And none is played twice, though all of them are one call of `loss`."""
    settings = settings | {"learning_starts": 40}
    whole, first, second = (Rainbow([3], **settings) for _ in range(3))
    losses = train(whole, adam(whole), 3)
    first.folder = second.folder = tmp_path
    first.stopping = lambda: first.agent_steps >= after
    with pytest.raises(Stopped):
        first.loss()
    assert first.agent_steps == after
    second.load_state_dict(torch.load(saved(first, tmp_path), weights_only=True))
    assert train(second, adam(second), 3) == losses
    assert second.agent_steps == whole.agent_steps == 52
    same(second.online.state_dict(), whole.online.state_dict())


def saved(task, folder):
    torch.save(task.state_dict(), folder / "state.pt")
    return folder / "state.pt"
