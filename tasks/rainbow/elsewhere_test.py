"""An environment in another process is the one in this."""

import os
import signal
import subprocess
import sys
import time

import joblib
import numpy as np
import pytest

from runners.config import ROOT
from runners.run import STOPS
from tasks.rainbow import environment
from tasks.rainbow.elsewhere import GONE, Elsewhere

BREAKOUT = {"game": "BreakoutNoFrameskip-v4", "seed": 3, "purpose": "play", "sticky": 0.25}
CARTPOLE = {"game": "CartPole-v1", "seed": 3, "purpose": "play"}


def same(one, other):
    for here, there in zip(one, other, strict=True):
        assert np.array_equal(here, there) and type(here) is type(there)


@pytest.mark.parametrize("settings", [BREAKOUT, CARTPOLE], ids=["atari", "vector"])
def test_it_goes_on_where_the_other_stood_and_gives_its_state(settings):
    here, moved = environment.make(**settings), environment.make(**settings)
    assert np.array_equal(here.reset(), moved.reset())
    for i in range(60):
        same(here.step(i % here.actions), moved.step(i % here.actions))
    there = Elsewhere(moved, settings, begun=True)
    assert (there.actions, there.shape, there.stack) == (here.actions, here.shape, here.stack)
    ended = 0
    for i in range(150):
        outcome = here.step(i % 2 + here.actions - 2)
        same(outcome, there.step(i % 2 + here.actions - 2))
        ended += outcome.first is not None
    assert ended > 1
    third = environment.make(**settings)
    third.reset()
    third.restore(there.state())
    same(here.step(0), third.step(0))
    there.restore(third.state())
    same(here.step(1), there.step(1))


def test_one_that_has_not_begun_begins_as_the_other_would():
    there = Elsewhere(environment.make(**CARTPOLE), CARTPOLE, begun=False)
    assert np.array_equal(there.reset(), environment.make(**CARTPOLE).reset())


def test_what_it_raises_is_raised_here_and_it_goes_on():
    there = Elsewhere(environment.make(**CARTPOLE), CARTPOLE, begun=False)
    there.reset()
    with pytest.raises(AssertionError, match="7"):
        there.step(7)
    assert there.step(1).reward == 1


def test_a_stop_is_for_the_other_process_to_act_on():
    """From its first moment."""
    there = Elsewhere(environment.make(**CARTPOLE), CARTPOLE, begun=False)
    for name in STOPS:
        os.kill(there.process.pid, name)
        assert name not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    there.reset()
    assert there.step(1).reward == 1


def balanced(steps):
    there = Elsewhere(environment.make(**CARTPOLE), CARTPOLE, begun=False)
    there.reset()
    return sum(there.step(i % 2).reward for i in range(steps))


def test_a_worker_of_a_launcher_has_one_too():
    assert joblib.Parallel(n_jobs=2)(joblib.delayed(balanced)(n) for n in (5, 7)) == [5, 7]


def test_its_death_is_told():
    there = Elsewhere(environment.make(**CARTPOLE), CARTPOLE, begun=False)
    there.reset()
    there.process.kill()
    there.process.wait()
    for _ in range(2):
        with pytest.raises(RuntimeError, match=GONE):
            there.step(1)


AT_THE_END = """
from tasks.rainbow import environment
from tasks.rainbow.elsewhere import Elsewhere
if __name__ == "__main__":
    settings = {"game": "CartPole-v1", "seed": 3, "purpose": "play"}
    there = Elsewhere(environment.make(**settings), settings, begun=False)
    there.reset()
    print(there.process.pid, flush=True)
    ACTION
"""


@pytest.mark.parametrize(
    "action", ["pass", "raise SystemExit(3)", "import os; os.kill(os.getpid(), 9)"]
)
def test_it_ends_with_the_other_process(tmp_path, action):
    script = tmp_path / "script.py"
    script.write_text(AT_THE_END.replace("ACTION", action))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60,
                          env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)  # fmt: skip
    assert done.returncode == {"pass": 0, "raise SystemExit(3)": 3}.get(action, -9)
    until = time.monotonic() + 20
    while os.path.exists(f"/proc/{int(done.stdout)}") and time.monotonic() < until:
        time.sleep(0.05)
    assert not os.path.exists(f"/proc/{int(done.stdout)}")


def test_it_ends_with_its_object():
    there = Elsewhere(environment.make(**CARTPOLE), CARTPOLE, begun=False)
    process = there.process
    there.reset()
    del there
    process.wait(timeout=20)
    assert process.returncode == 0
