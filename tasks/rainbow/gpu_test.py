"""What only a GPU can show of Rainbow; skipped where there is none."""

import pytest
import torch

from tasks.rainbow.task import Rainbow
from tasks.rainbow.task_test import BREAKOUT, CARTPOLE, GREEDY, adam, check_actions, train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize("settings", [
    CARTPOLE | {"n_step": 3}, BREAKOUT, BREAKOUT | {"noise_every": 4},
], ids=["vector", "pixels", "held noise"])  # fmt: skip
def test_the_graph_computes_what_the_cpu_does(settings):
    """The same seeds, actions at random: the batches are the same, the losses up to rounding."""
    settings = settings | {"epsilon": 1.0, "epsilon_end": 1.0}
    losses = []
    for device in ("cpu", "cuda"):
        task = Rainbow([0], **settings).to(device)
        losses.append(train(task, adam(task, lr=1e-5), 12))
        if device == "cuda":
            assert task._learner._update._graph is not None
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)


@pytest.mark.parametrize("noise_every", [1, 3, 4])
def test_each_action_is_the_best_under_the_present_weights_and_noise(noise_every):
    """Several graphs read the weights that one of them forms."""
    task = Rainbow([0], **CARTPOLE, **GREEDY, noise_every=noise_every).to("cuda")
    check_actions(task, noise_every)


def test_overlap_changes_nothing_but_the_time():
    losses = []
    for overlap in (True, False):
        task = Rainbow([0], **BREAKOUT, overlap=overlap).to("cuda")
        losses.append(train(task, adam(task, lr=1e-5), 12))
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)


def test_a_checkpoint_goes_to_another_device():
    task = Rainbow([0], **CARTPOLE).to("cuda")
    train(task, adam(task), 8)
    other = Rainbow([0], **CARTPOLE)
    other.load_state_dict(task.state_dict())
    assert other._replay.frames.device.type == "cpu" and other.agent_steps == task.agent_steps
    assert torch.equal(other._replay.frames, task._replay.frames.cpu())
