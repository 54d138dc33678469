"""AdaBound against a transcription of its published update in Python floats, and its limits."""

import copy
import math

import numpy as np
import pytest
import torch

from laprop import AdaBound, adabound, stepping
from laprop.laprop_test import (
    FORMS_BUT_FUSED,
    SIZE,
    dropped,
    fading,
    noise,
    run,
    steady,
    switched_off,
    warmed_up,
)


def published(gradients, schedule, start, base_lr, betas, final_lr, gamma, eps, **options):
    """The path of one number under the published update."""
    beta1, beta2 = betas
    mean = second = largest = 0.0
    position, path = start, []
    for t, gradient in enumerate(gradients, start=1):
        lr = schedule(t - 1)
        if options.get("maximize"):
            gradient = -gradient
        gradient = gradient + options.get("weight_decay", 0.0) * position
        mean = beta1 * mean + (1 - beta1) * gradient
        second = beta2 * second + (1 - beta2) * gradient**2
        largest = max(largest, second)
        denominator = math.sqrt(largest if options.get("amsbound") else second) + eps
        rate = lr * math.sqrt(1 - beta2**t) / (1 - beta1**t) / denominator
        final = final_lr * lr / base_lr
        lower, upper = final * (1 - 1 / (gamma * t + 1)), final * (1 + 1 / (gamma * t))
        position = position - min(max(rate, lower), upper) * mean
        path.append(position)
    return path


# name: (gradients, schedule, options)
CASES = {
    "plain": (noise(), steady, {}),
    "lr dropped": (noise(), dropped, {}),
    "lr warmed up from zero": (noise(), warmed_up, {}),
    "lr zero for a while": (noise(), switched_off, {}),
    "gradients of 1e-7": (noise(scale=1e-7), steady, {}),
    "gradients over 12 orders": (noise(orders=12), steady, {"gamma": 0.1}),
    "eps 1e-2": (noise(), steady, {"eps": 1e-2}),
    "decay": (noise(), dropped, {"weight_decay": 0.3}),
    "decay, maximize": (noise(), dropped, {"weight_decay": 0.3, "maximize": True}),
    "amsbound": (fading(), steady, {"amsbound": True, "betas": (0.9, 0.8)}),
    "narrow": (noise(), dropped, {"gamma": 0.9, "final_lr": 1e-3}),
    "betas 0": (noise(), dropped, {"betas": (0.0, 0.0)}),
    "maximize": (noise(), steady, {"maximize": True, "amsbound": True}),
}


@FORMS_BUT_FUSED
@pytest.mark.parametrize("case", CASES)
def test_follows_the_published_update(case, form):
    gradients, schedule, options = CASES[case]
    options = {"betas": (0.9, 0.999), "final_lr": 0.1, "gamma": 1e-3, "eps": 1e-8, **options}
    start = np.linspace(-2.0, 2.0, SIZE)
    path = run(
        lambda params: AdaBound(params, lr=1e-2, **form, **options),
        gradients,
        schedule,
        start,
    )
    expected = [
        published(gradients[:, i], schedule, start[i], 1e-2, **options) for i in range(start.size)
    ]
    np.testing.assert_allclose(path, np.transpose(expected), rtol=1e-11, atol=1e-12)


def test_both_ends_of_the_band_are_reached():
    """Guards the table above: clipping that never happens would not be tested."""
    gradients, _, options = CASES["gradients over 12 orders"]
    rate = 1e-2 / np.abs(gradients[0])
    gamma = options["gamma"]
    low, high = 0.1 * (1 - 1 / (gamma + 1)), 0.1 * (1 + 1 / gamma)
    assert (rate < low).any() and (rate > high).any()


def test_defaults_are_the_published_ones():
    optimizer = AdaBound([torch.zeros(1, requires_grad=True)])
    group = {key: value for key, value in optimizer.param_groups[0].items() if key != "params"}
    assert group == {
        "lr": 1e-3,
        "base_lr": 1e-3,
        "betas": (0.9, 0.999),
        "final_lr": 0.1,
        "gamma": 1e-3,
        "eps": 1e-8,
        "weight_decay": 0.0,
        "amsbound": False,
        "maximize": False,
        "foreach": None,
        "capturable": False,
        "differentiable": False,
    }


@FORMS_BUT_FUSED
@pytest.mark.parametrize("ams", [False, True])
def test_is_adam_while_the_band_is_wide(ams, form):
    gradients = fading()
    bound = run(
        lambda p: AdaBound(
            p, lr=1e-2, betas=(0.9, 0.9), gamma=1e-12, eps=0.0, amsbound=ams, **form
        ),
        gradients,
        dropped,
    )
    adam = run(
        lambda p: torch.optim.Adam(p, betas=(0.9, 0.9), eps=0.0, amsgrad=ams, foreach=False),
        gradients,
        dropped,
    )
    np.testing.assert_allclose(bound, adam, rtol=1e-9, atol=1e-12)


@FORMS_BUT_FUSED
def test_becomes_sgd_at_the_final_lr(form):
    gradients = np.random.default_rng(1).standard_normal((1500, 1))
    options = {"betas": (0.0, 0.999), "final_lr": 0.05, "gamma": 0.999}
    path = run(lambda p: AdaBound(p, lr=1e-2, **form, **options), gradients, steady)
    steps = -np.diff(path, axis=0)[-200:]
    np.testing.assert_allclose(steps, 0.05 * gradients[-200:], rtol=2e-3)


def stepped(optimizer, param, lr):
    """How far one step with a small gradient moves the parameter."""
    before = param.detach().clone()
    optimizer.param_groups[0]["lr"] = lr
    param.grad = torch.full_like(param, 1e-3)
    optimizer.step()
    return (before - param.detach()).item()


@FORMS_BUT_FUSED
def test_the_base_lr_survives_a_checkpoint(form):
    """A new process builds the optimizer with another lr, loads, and goes on the same way."""
    options = {"betas": (0.0, 0.0), "gamma": 0.5, **form}
    first = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    running = AdaBound([first], lr=1e-2, **options)
    stepped(running, first, 1e-2)
    running.param_groups[0]["lr"] = 1e-3

    second = first.detach().clone().requires_grad_()
    resumed = AdaBound([second], lr=1e-3, **options)
    resumed.load_state_dict(copy.deepcopy(running.state_dict()))
    assert resumed.param_groups[0]["base_lr"] == 1e-2
    assert stepped(resumed, second, 1e-3) == stepped(running, first, 1e-3) != 0


def test_old_checkpoints_take_the_base_lr_from_the_scheduler():
    param = torch.zeros(1, requires_grad=True)
    optimizer = AdaBound([param], lr=1e-2)
    saved = optimizer.state_dict()
    del saved["param_groups"][0]["base_lr"]
    saved["param_groups"][0].update(lr=1e-4, initial_lr=1e-2)
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["base_lr"] == 1e-2
    del saved["param_groups"][0]["initial_lr"]
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["base_lr"] == 1e-4


def test_groups_added_later_have_their_own_base_lr():
    first, second = (torch.zeros(1, requires_grad=True) for _ in range(2))
    optimizer = AdaBound([first], lr=1e-2)
    optimizer.param_groups[0]["lr"] = 1e-5
    optimizer.add_param_group({"params": [second], "lr": torch.tensor(0.5)})
    assert [group["base_lr"] for group in optimizer.param_groups] == [1e-2, 0.5]


@FORMS_BUT_FUSED
def test_lr_zero_does_not_move_even_without_a_base(form):
    param = torch.ones(1, dtype=torch.float64, requires_grad=True)
    optimizer = AdaBound([param], lr=0.0, betas=(0.0, 0.0), gamma=0.5, eps=0.0, **form)
    assert stepped(optimizer, param, 0.0) == 0.0
    # rate 1e-6 / 1e-3 lies below the band, whose lower end is the unscaled 0.1 (1 - 1 / 2).
    assert stepped(optimizer, param, 1e-6) == pytest.approx(0.05 * 1e-3, rel=1e-9)


@FORMS_BUT_FUSED
def test_extreme_bounds_stay_finite(form):
    """In float16 size / low exceeds the largest number; a tiny final_lr underflows."""
    for dtype, final_lr, gamma in [
        (torch.float16, 1e-7, 1e-3),
        (torch.float64, 5e-324, 1e-3),
        (torch.float64, 0.1, 1e-17),
    ]:
        param = torch.ones(3, dtype=dtype, requires_grad=True)
        optimizer = AdaBound([param], lr=0.25, final_lr=final_lr, gamma=gamma, eps=1e-4, **form)
        for _ in range(3):
            param.grad = torch.tensor([1.0, 0.0, -1.0], dtype=dtype)
            optimizer.step()
        assert param.isfinite().all()


BAD = [
    ({"lr": -1.0}, r"lr must be a finite number >= 0, but is -1.0"),
    ({"lr": math.nan}, r"lr must .* nan"),
    ({"betas": (0.9, 1.0)}, r"betas\[1\] must be a number with 0 <= number < 1, but is 1.0"),
    ({"betas": (math.nan, 0.9)}, r"betas\[0\] must .* nan"),
    ({"final_lr": 0.0}, r"final_lr must be a finite number > 0, but is 0.0"),
    ({"final_lr": math.inf}, r"final_lr must .* inf"),
    ({"gamma": 0.0}, r"gamma must be a number with 0 < number < 1, but is 0.0"),
    ({"gamma": 1.0}, r"gamma must .* 1.0"),
    ({"gamma": math.nan}, r"gamma must .* nan"),
    ({"eps": -1.0}, r"eps must be a finite number >= 0, but is -1.0"),
    ({"weight_decay": -1.0}, r"weight_decay must be a finite number >= 0, but is -1.0"),
    ({"amsbound": "true"}, r"amsbound must be True or False, but is 'true'"),
    ({"maximize": None}, r"maximize must be True or False, but is None"),
    ({"foreach": 0}, r"foreach must be True, False or None, but is 0"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=lambda value: str(value)[:40])
def test_bad_arguments_are_refused(arguments, message):
    param = torch.zeros(1, requires_grad=True)
    with pytest.raises(ValueError, match=message) as error:
        AdaBound([param], **arguments)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=message):
        AdaBound([{"params": [param], **arguments}])


def test_a_bad_base_lr_is_refused():
    with pytest.raises(ValueError, match=r"base_lr must be a finite number >= 0, but is -1.0"):
        AdaBound([{"params": [torch.zeros(1, requires_grad=True)], "base_lr": -1.0}])


def test_bounds_of_the_graph_form_stay_in_range():
    for final_lr, gamma, dtype in (
        (5e-324, 1e-3, torch.float64), (1e-45, 1e-3, torch.float32), (0.1, 1e-17, torch.float64),
    ):  # fmt: skip
        param = torch.ones(1, dtype=dtype, requires_grad=True)
        optimizer = AdaBound([param], lr=0.25, final_lr=final_lr, gamma=gamma, capturable=True)
        (group,) = optimizer.param_groups
        tensors = adabound._Tensors([param], [], [], [], [], [stepping.new_step(param, group)])
        _, least, most = adabound._advance_in_graph(tensors, 0, group)
        assert 0 <= least <= most <= torch.finfo(dtype).max
