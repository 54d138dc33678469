"""LaProp against a transcription of its published update, closed forms and limits.

The transcription is in Python floats, one number at a time, and shares no code with the library.
"""

import math

import numpy as np
import pytest
import torch

from laprop import LaProp, SignSGD

STEPS = 240
SIZE = 6


def steady(t):
    return 1e-2


def dropped(t):
    return 1e-2 if t < 100 else 1e-4


def warmed_up(t):
    return 1e-2 * min(1.0, t / 50)


def switched_off(t):
    return 0.0 if 80 <= t < 90 else 1e-2


def noise(scale=1.0, orders=0.0, drift=0.3, seed=0):
    random = np.random.default_rng(seed)
    magnitude = scale * 10.0 ** random.uniform(-orders / 2, orders / 2, (STEPS, SIZE))
    return magnitude * (random.standard_normal((STEPS, SIZE)) + drift)


def fading():
    """Large at first, then small: the maximum of AMSGrad must remember."""
    return noise() * np.where(np.arange(STEPS) < 40, 10.0, 0.1)[:, None]


def published(gradients, schedule, start, betas, eps, **options):
    """The path of one number under the published update."""
    mu, nu = betas
    weight_decay = options.get("weight_decay", 0.0)
    momentum = second = mean = largest = weight_1 = weight_2 = 0.0
    position, path = start, []
    for t, gradient in enumerate(gradients):
        lr = schedule(t)
        if options.get("maximize"):
            gradient = -gradient
        if options.get("decay_by_lr"):
            position = position - lr * weight_decay * position
        second = nu * second + (1 - nu) * gradient**2
        mean = nu * mean + (1 - nu) * gradient
        weight_1 = mu * weight_1 + (1 - mu) * lr
        weight_2 = nu * weight_2 + (1 - nu)
        normaliser = second
        settled = not options.get("centered") or t + 1 > 10
        if options.get("centered") and settled:
            normaliser = max(second - mean**2, 0.0)
        if options.get("amsgrad") and settled:
            normaliser = largest = max(largest, normaliser)
        momentum = mu * momentum + (1 - mu) * lr * gradient / (
            math.sqrt(normaliser / weight_2) + eps
        )
        if lr > 0:
            position = position - momentum / (weight_1 / lr)
            if not options.get("decay_by_lr"):
                position = position - weight_decay * position
        path.append(position)
    return path


# name: (gradients, schedule, options)
CASES = {
    "plain": (noise(), steady, {}),
    "lr dropped": (noise(), dropped, {}),
    "lr warmed up from zero": (noise(), warmed_up, {}),
    "lr zero for a while": (noise(), switched_off, {}),
    "gradients of 1e-7": (noise(scale=1e-7), steady, {}),
    "gradients of 1e-7, eps 1e-7": (noise(scale=1e-7), steady, {"eps": 1e-7}),
    "gradients over 12 orders": (noise(orders=12), steady, {}),
    "eps 1e-2": (noise(), steady, {"eps": 1e-2}),
    "decay": (noise(), dropped, {"weight_decay": 1e-3}),
    "decay at lr zero": (noise(), switched_off, {"weight_decay": 1e-3}),
    "decay by lr": (noise(), dropped, {"weight_decay": 0.3, "decay_by_lr": True}),
    "amsgrad": (fading(), steady, {"amsgrad": True, "betas": (0.9, 0.8)}),
    "centered": (noise(drift=2.0), steady, {"centered": True, "betas": (0.9, 0.96)}),
    "centered amsgrad": (
        fading(),
        dropped,
        {"centered": True, "amsgrad": True, "betas": (0.9, 0.8)},
    ),
    "mu 0": (noise(), dropped, {"betas": (0.0, 0.99)}),
    "nu 0": (noise(), dropped, {"betas": (0.9, 0.0)}),
    "mu and nu 0": (noise(), dropped, {"betas": (0.0, 0.0)}),
    "nu below mu": (noise(), warmed_up, {"betas": (0.99, 0.5)}),
    "maximize": (noise(), steady, {"maximize": True, "amsgrad": True}),
}
SWITCHES = [{"foreach": False}, {"foreach": True}, {"capturable": True}, {"fused": True}]
SWITCH_NAMES = ["single", "foreach", "capturable", "fused"]
FORMS = pytest.mark.parametrize("form", SWITCHES, ids=SWITCH_NAMES)
FORMS_BUT_FUSED = pytest.mark.parametrize("form", SWITCHES[:-1], ids=SWITCH_NAMES[:-1])


def run(make, gradients, schedule, start=None):
    """The path of a parameter whose gradients are given; its shape is (steps, size)."""
    start = np.zeros(gradients.shape[1]) if start is None else start
    param = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    optimizer = make([param])
    path = []
    for t, gradient in enumerate(torch.tensor(gradients)):
        optimizer.param_groups[0]["lr"] = schedule(t)
        param.grad = gradient.clone()
        optimizer.step()
        path.append(param.detach().clone())
    return torch.stack(path).numpy()


@FORMS
@pytest.mark.parametrize("case", CASES)
def test_follows_the_published_update(case, form):
    gradients, schedule, options = CASES[case]
    options = {"betas": (0.9, 0.999), "eps": 1e-15, **options}
    start = np.linspace(-2.0, 2.0, SIZE)
    path = run(lambda params: LaProp(params, **form, **options), gradients, schedule, start)
    expected = [
        published(gradients[:, i], schedule, start[i], **options) for i in range(start.size)
    ]
    np.testing.assert_allclose(path, np.transpose(expected), rtol=1e-11, atol=1e-12)


def test_defaults_are_the_published_ones():
    optimizer = LaProp([torch.zeros(1, requires_grad=True)])
    group = {key: value for key, value in optimizer.param_groups[0].items() if key != "params"}
    assert group == {
        "lr": 4e-4,
        "betas": (0.9, 0.999),
        "eps": 1e-15,
        "weight_decay": 0.0,
        "decay_by_lr": False,
        "amsgrad": False,
        "centered": False,
        "maximize": False,
        "foreach": None,
        "capturable": False,
        "differentiable": False,
        "fused": None,
    }


@FORMS
def test_update_is_a_weighted_mean_of_normalised_gradients(form):
    """The closed form: no recursion, all of the past summed anew at each step."""
    mu, nu = 0.9, 0.97
    gradients, lrs = noise(), np.array([dropped(t) for t in range(STEPS)])
    path = run(lambda p: LaProp(p, betas=(mu, nu), eps=0.0, **form), gradients, dropped)
    normalised = np.empty_like(gradients)
    for t in range(STEPS):
        weights = nu ** np.arange(t, -1, -1)[:, None]
        mean_square = (weights * gradients[: t + 1] ** 2).sum(0) / weights.sum()
        normalised[t] = gradients[t] / np.sqrt(mean_square)
        weights = (mu ** np.arange(t, -1, -1) * lrs[: t + 1])[:, None]
        update = lrs[t] * (weights * normalised[: t + 1]).sum(0) / weights.sum()
        before = path[t - 1] if t else 0.0
        np.testing.assert_allclose(before - path[t], update, rtol=1e-9, atol=1e-12)


@FORMS
@pytest.mark.parametrize("schedule", [steady, dropped, warmed_up, switched_off])
def test_is_momentum_of_signs_at_nu_0(schedule, form):
    gradients = noise(orders=6)
    gradients[::7] = 0.0
    laprop = run(lambda p: LaProp(p, betas=(0.8, 0.0), eps=1e-200, **form), gradients, schedule)
    signs = run(lambda p: SignSGD(p, momentum=0.8, momentum_of="sign"), gradients, schedule)
    np.testing.assert_allclose(laprop, signs, rtol=1e-12, atol=1e-13)


@FORMS
def test_is_sign_sgd_at_mu_and_nu_0(form):
    gradients = noise(orders=6)
    laprop = run(lambda p: LaProp(p, betas=(0.0, 0.0), eps=0.0, **form), gradients, dropped)
    signs = run(SignSGD, gradients, dropped)
    np.testing.assert_allclose(laprop, signs, rtol=1e-12, atol=1e-13)


@FORMS
@pytest.mark.parametrize("amsgrad", [False, True])
def test_is_adam_at_mu_0(amsgrad, form):
    options = {"betas": (0.0, 0.9), "eps": 1e-3, "amsgrad": amsgrad}
    gradients = fading()
    laprop = run(lambda p: LaProp(p, **form, **options), gradients, dropped)
    adam = run(lambda p: torch.optim.Adam(p, foreach=False, **options), gradients, dropped)
    np.testing.assert_allclose(laprop, adam, rtol=1e-11, atol=1e-13)


@FORMS
def test_is_not_adam_otherwise(form):
    """Guards the test above: with momentum, the order of averaging and normalising matters."""
    gradients = fading()
    laprop = run(lambda p: LaProp(p, betas=(0.9, 0.9), **form), gradients, steady)
    adam = run(lambda p: torch.optim.Adam(p, betas=(0.9, 0.9), foreach=False), gradients, steady)
    assert np.abs(laprop - adam).max() > 1e-3


@FORMS
def test_a_constant_gradient_gives_steps_of_lr(form):
    path = run(lambda p: LaProp(p, betas=(0.9, 0.99), **form), np.full((60, 2), -3e-5), steady)
    np.testing.assert_allclose(np.diff(path, axis=0), 1e-2, rtol=1e-8)


def wild():
    """300 paths whose gradients span 200 orders and are zero a third of the time."""
    random = np.random.default_rng(5)
    return 10.0 ** random.uniform(-100, 100, (40, 300)) * random.choice([-1, 0, 1], (40, 300))


@FORMS
@pytest.mark.parametrize("nu", [0.0, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("mu", [0.0, 0.5, 0.99])
def test_updates_are_bounded(mu, nu, form):
    path = run(lambda p: LaProp(p, betas=(mu, nu), **form), wild(), steady)
    updates = np.abs(np.diff(path, axis=0, prepend=0.0))
    bound = 1e-2 * np.sqrt((1 - nu ** np.arange(1, 41)) / (1 - nu))
    assert bound[-1] <= 1e-2 / math.sqrt(1 - nu)
    assert (updates.max(axis=1) <= bound * (1 + 1e-9)).all()


def test_adam_is_not_bounded_at_nu_below_mu():
    """Guards the test above: the gradients are wild enough to tell the two apart."""
    path = run(lambda p: torch.optim.Adam(p, betas=(0.99, 0.5), eps=1e-15), wild(), steady)
    updates = np.abs(np.diff(path, axis=0, prepend=0.0))
    assert updates.max() > 10 * 1e-2 / math.sqrt(1 - 0.5)


@FORMS
def test_the_bound_is_reached(form):
    """One gradient after a long silence, with mu = 0."""
    gradients = np.zeros((2000, 1))
    gradients[-1] = 5.0
    path = run(lambda p: LaProp(p, betas=(0.0, 0.99), **form), gradients, steady)
    np.testing.assert_allclose(-path[-1], 1e-2 / math.sqrt(1 - 0.99), rtol=1e-7)


@FORMS
def test_centering_starts_after_ten_steps(form):
    gradients = noise(drift=2.0)[:14]
    options = {"betas": (0.0, 0.9), **form}
    centered = run(lambda p: LaProp(p, centered=True, **options), gradients, steady)
    plain = run(lambda p: LaProp(p, **options), gradients, steady)
    np.testing.assert_array_equal(centered[:10], plain[:10])
    assert (np.abs(centered[10] - plain[10]) > 1e-3).all()


@FORMS
def test_a_negative_variance_counts_as_zero(form):
    """Long constant gradients: rounding makes n - h^2 negative for some of these numbers."""
    gradients = np.broadcast_to(np.linspace(0.1, 10.0, 400), (150, 400))
    second, mean, negative = 0.0, 0.0, 0
    for gradient in gradients:
        second, mean = second * 0.5 + gradient**2 * 0.5, mean + 0.5 * (gradient - mean)
        negative += int((second - mean**2 < 0).sum())
    assert negative > 0, "the test has lost its point"
    path = run(
        lambda p: LaProp(p, betas=(0.9, 0.5), eps=1e-3, centered=True, **form),
        gradients,
        steady,
    )
    assert np.isfinite(path).all()


@FORMS
def test_lr_zero_does_not_move_but_remembers(form):
    param = torch.ones(3, dtype=torch.float64, requires_grad=True)
    optimizer = LaProp([param], lr=1e-2, **form)
    for lr in (1e-2, 0.0):
        optimizer.param_groups[0]["lr"] = lr
        before = param.detach().clone()
        param.grad = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
        optimizer.step()
    assert torch.equal(param, before)
    assert optimizer.state[param]["step"] == 2
    assert optimizer.state[param]["exp_avg_lr_1"] == pytest.approx(0.9 * 0.1 * 1e-2)


@FORMS
def test_state_follows_a_written_out_first_step(form):
    param = torch.tensor([1.0, 1.0], dtype=torch.float64, requires_grad=True)
    optimizer = LaProp([param], lr=0.1, betas=(0.9, 0.99), **form)
    param.grad = torch.tensor([3.0, -4.0], dtype=torch.float64)
    optimizer.step()
    state = optimizer.state[param]
    assert state["exp_avg_sq"].tolist() == pytest.approx([0.09, 0.16])
    assert state["exp_avg"].tolist() == pytest.approx([0.01, -0.01])
    assert state["exp_avg_lr_1"] == pytest.approx(0.01)
    assert state["exp_avg_lr_2"] == pytest.approx(0.01)
    assert param.tolist() == pytest.approx([0.9, 1.1])


BAD = [
    ({"lr": -1e-3}, r"lr must be a finite number >= 0, but is -0.001"),
    ({"lr": math.inf}, r"lr must .* inf"),
    ({"lr": math.nan}, r"lr must .* nan"),
    ({"lr": "1e-3"}, r"lr must .* '1e-3'"),
    ({"lr": torch.tensor(-1.0)}, r"lr must .* -1.0"),
    ({"lr": torch.ones(2)}, r"lr must be a number or a tensor of one"),
    ({"betas": (1.0, 0.9)}, r"betas\[0\] must be a number with 0 <= number < 1, but is 1.0"),
    ({"betas": (0.9, 1.0)}, r"betas\[1\] must .* 1.0"),
    ({"betas": (-0.1, 0.9)}, r"betas\[0\] must .* -0.1"),
    ({"betas": (0.9, math.nan)}, r"betas\[1\] must .* nan"),
    ({"betas": (0.9,)}, r"betas must be two numbers"),
    ({"betas": 0.9}, r"betas must be two numbers"),
    ({"betas": "ab"}, r"betas must be two numbers"),
    ({"eps": -1e-8}, r"eps must be a finite number >= 0, but is -1e-08"),
    ({"eps": math.nan}, r"eps must .* nan"),
    ({"weight_decay": -1e-4}, r"weight_decay must be a finite number >= 0, but is -0.0001"),
    ({"weight_decay": math.nan}, r"weight_decay must .* nan"),
    ({"decay_by_lr": "false"}, r"decay_by_lr must be True or False, but is 'false'"),
    ({"amsgrad": 1}, r"amsgrad must be True or False, but is 1"),
    ({"centered": None}, r"centered must be True or False, but is None"),
    ({"maximize": "no"}, r"maximize must be True or False"),
    ({"foreach": "yes"}, r"foreach must be True, False or None, but is 'yes'"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=lambda value: str(value)[:40])
def test_bad_arguments_are_refused(arguments, message):
    param = torch.zeros(1, requires_grad=True)
    with pytest.raises(ValueError, match=message) as error:
        LaProp([param], **arguments)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=message):
        LaProp([{"params": [param], **arguments}])
