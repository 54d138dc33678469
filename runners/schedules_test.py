import math

import pytest
import torch

from runners.config import compose_config, resolve
from runners.run import run
from runners.schedules import inverse_sqrt


def optimizer():
    p = torch.nn.Parameter(torch.zeros(2))
    p.grad = torch.ones(2)
    return torch.optim.SGD([p], lr=0.3)


def test_round_t_is_played_at_lr_over_the_root_of_t():
    opt = optimizer()
    schedule = inverse_sqrt(opt)
    for t in range(1, 50):
        assert opt.param_groups[0]["lr"] == pytest.approx(0.3 / math.sqrt(t), rel=1e-15)
        opt.step()
        schedule.step()


def test_its_state_goes_through_a_checkpoint_that_unpickles_nothing(tmp_path):
    opt = optimizer()
    schedule = inverse_sqrt(opt)
    for _ in range(6):
        opt.step()
        schedule.step()
    torch.save([opt.state_dict(), schedule.state_dict()], tmp_path / "state.pt")
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    other = optimizer()
    resumed = inverse_sqrt(other)
    other.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    for one, two in ((opt, schedule), (other, resumed)):
        one.step()
        two.step()
    assert other.param_groups[0]["lr"] == opt.param_groups[0]["lr"]
    assert other.param_groups[0]["lr"] == pytest.approx(0.3 / math.sqrt(8))


def test_the_option_runs(tmp_path):
    overrides = ["schedule=inverse_sqrt", "task=online_convex", "steps=4", "checkpoint_every=2",
                 "tracking=disabled", f"results_dir={tmp_path}"]  # fmt: skip
    assert run(resolve(compose_config(overrides))) == "completed"
