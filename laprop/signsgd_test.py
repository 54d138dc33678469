"""SignSGD against a transcription of its update in Python floats, and its limits."""

import math

import numpy as np
import pytest
import torch

from laprop import SignSGD
from laprop.laprop_test import (
    FORMS_BUT_FUSED,
    SIZE,
    dropped,
    noise,
    run,
    steady,
    switched_off,
    warmed_up,
)


def with_zeros():
    gradients = noise()
    gradients[::5] = 0.0
    return gradients


def written_out(gradients, schedule, start, momentum=0.0, momentum_of="gradient", **options):
    """The path of one number."""
    position, path, average, weight = start, [], 0.0, 0.0
    for t, gradient in enumerate(gradients):
        lr = schedule(t)
        if options.get("maximize"):
            gradient = -gradient
        position = position * (1 - lr * options.get("weight_decay", 0.0))
        if momentum_of == "gradient":
            average = momentum * average + (1 - momentum) * gradient
            direction = float(np.sign(average))
        else:
            average = momentum * average + (1 - momentum) * lr * float(np.sign(gradient))
            weight = momentum * weight + (1 - momentum) * lr
            direction = average / weight if lr else 0.0
        position = position - lr * direction
        path.append(position)
    return path


# name: (gradients, schedule, options)
CASES = {
    "plain": (noise(), steady, {}),
    "lr dropped": (noise(), dropped, {}),
    "zeros": (with_zeros(), warmed_up, {}),
    "momentum": (noise(), steady, {"momentum": 0.9}),
    "momentum, gradients over 12 orders": (noise(orders=12), dropped, {"momentum": 0.9}),
    "momentum of gradients of 1e-7": (noise(scale=1e-7), dropped, {"momentum": 0.5}),
    "signs": (noise(), steady, {"momentum": 0.9, "momentum_of": "sign"}),
    "signs, lr dropped": (noise(), dropped, {"momentum": 0.9, "momentum_of": "sign"}),
    "signs, warm-up": (with_zeros(), warmed_up, {"momentum": 0.8, "momentum_of": "sign"}),
    "signs, lr zero": (noise(), switched_off, {"momentum": 0.8, "momentum_of": "sign"}),
    "signs, no momentum": (noise(), dropped, {"momentum_of": "sign"}),
    "decay": (noise(), dropped, {"weight_decay": 0.3}),
    "signs, decay": (
        noise(),
        dropped,
        {"momentum": 0.9, "momentum_of": "sign", "weight_decay": 0.3},
    ),
    "maximize": (noise(), steady, {"momentum": 0.9, "maximize": True}),
    "signs, maximize": (
        noise(),
        steady,
        {"momentum": 0.9, "momentum_of": "sign", "maximize": True},
    ),
}


@FORMS_BUT_FUSED
@pytest.mark.parametrize("case", CASES)
def test_follows_its_equations(case, form):
    gradients, schedule, options = CASES[case]
    start = np.linspace(-2.0, 2.0, SIZE)
    path = run(lambda params: SignSGD(params, **form, **options), gradients, schedule, start)
    expected = [
        written_out(gradients[:, i], schedule, start[i], **options) for i in range(start.size)
    ]
    np.testing.assert_allclose(path, np.transpose(expected), rtol=1e-11, atol=1e-12)


@FORMS_BUT_FUSED
def test_momentum_of_signs_is_bias_corrected(form):
    """With a constant sign every step has the size lr, from the first one on."""
    path = run(
        lambda p: SignSGD(p, momentum=0.99, momentum_of="sign", **form),
        np.full((30, 2), 1e-9),
        steady,
    )
    np.testing.assert_allclose(np.diff(path, axis=0, prepend=0.0), -1e-2, rtol=1e-10)


def test_the_two_momenta_differ():
    """One large gradient outweighs many small ones before the sign, and not after it."""
    gradients = np.array([[-100.0]] + [[1.0]] * 5)
    before = run(lambda p: SignSGD(p, momentum=0.9), gradients, steady)
    after = run(lambda p: SignSGD(p, momentum=0.9, momentum_of="sign"), gradients, steady)
    np.testing.assert_allclose(before[-1], 6e-2)
    assert after[-1] < after[0]


@FORMS_BUT_FUSED
def test_momentum_can_be_switched_on_later(form):
    param = torch.zeros(2, requires_grad=True)
    optimizer = SignSGD([param], lr=0.25, **form)
    for momentum in (0.0, 0.5):
        optimizer.param_groups[0]["momentum"] = momentum
        param.grad = torch.tensor([3.0, -3.0])
        optimizer.step()
    assert param.tolist() == [-0.5, 0.5]
    assert optimizer.state[param]["momentum_buffer"].tolist() == [1.5, -1.5]


def test_without_momentum_there_is_no_buffer():
    param = torch.zeros(2, requires_grad=True)
    optimizer = SignSGD([param])
    param.grad = torch.ones(2)
    optimizer.step()
    assert list(optimizer.state[param]) == ["step"]


BAD = [
    ({"lr": -1.0}, r"lr must be a finite number >= 0, but is -1.0"),
    ({"lr": math.nan}, r"lr must .* nan"),
    ({"momentum": 1.0}, r"momentum must be a number with 0 <= number < 1, but is 1.0"),
    ({"momentum": -0.5}, r"momentum must .* -0.5"),
    ({"momentum": math.nan}, r"momentum must .* nan"),
    ({"weight_decay": -1.0}, r"weight_decay must be a finite number >= 0, but is -1.0"),
    ({"momentum_of": "signs"}, r"momentum_of must be one of 'gradient', 'sign', but is 'signs'"),
    ({"momentum_of": None}, r"momentum_of must be one of .* None"),
    ({"maximize": 0}, r"maximize must be True or False, but is 0"),
    ({"foreach": 1}, r"foreach must be True, False or None, but is 1"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=lambda value: str(value)[:40])
def test_bad_arguments_are_refused(arguments, message):
    param = torch.zeros(1, requires_grad=True)
    with pytest.raises(ValueError, match=message) as error:
        SignSGD([param], **arguments)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=message):
        SignSGD([{"params": [param], **arguments}])
