"""What all three optimizers owe to torch.optim.Optimizer, in every variant and in both forms."""

import itertools

import pytest
import torch
from torch.optim.optimizer import _default_to_fused_or_foreach

from laprop import AdaBound, LaProp, SignSGD, adabound, fused, laprop, signsgd, stepping

# name: (class, options)
VARIANTS = {
    "laprop": (LaProp, {}),
    "laprop decay": (LaProp, {"weight_decay": 0.01}),
    "laprop decay by lr": (LaProp, {"weight_decay": 0.5, "decay_by_lr": True}),
    "laprop amsgrad": (LaProp, {"amsgrad": True, "betas": (0.9, 0.5)}),
    "laprop centered": (LaProp, {"centered": True, "betas": (0.8, 0.9), "eps": 1e-3}),
    "laprop both": (LaProp, {"centered": True, "amsgrad": True, "eps": 1e-3}),
    "adabound": (AdaBound, {}),
    "adabound decay": (AdaBound, {"weight_decay": 0.1}),
    "amsbound": (AdaBound, {"amsbound": True, "gamma": 0.1, "betas": (0.9, 0.5)}),
    "signsgd": (SignSGD, {}),
    "signsgd decay": (SignSGD, {"weight_decay": 0.5}),
    "signum": (SignSGD, {"momentum": 0.9}),
    "momentum of signs": (SignSGD, {"momentum": 0.9, "momentum_of": "sign"}),
}
EACH = pytest.mark.parametrize(("kind", "options"), VARIANTS.values(), ids=VARIANTS)
# The for-loop is the ground truth.
FORMS = {
    "single": {"foreach": False},
    "foreach": {"foreach": True},
    "capturable": {"capturable": True},
    "fused": {"fused": True},
}


ALL_SWITCHES = ("foreach", "capturable", "differentiable", "fused")


def has(kind, form):
    return form != "fused" or kind is LaProp


CLASSES = pytest.mark.parametrize("kind", [LaProp, AdaBound, SignSGD])
EACH_CLASS_AND_FORM = pytest.mark.parametrize(
    ("kind", "form"),
    [
        (kind, FORMS[form])
        for kind in (LaProp, AdaBound, SignSGD)
        for form in FORMS
        if has(kind, form)
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else next(iter(value)),
)
EACH_AND_FORM = pytest.mark.parametrize(
    ("kind", "options"),
    [
        pytest.param(kind, {**options, **FORMS[form]}, id=f"{name}-{form}")
        for name, (kind, options) in VARIANTS.items()
        for form in FORMS
        if has(kind, form)
    ],
)


def parameters(*dtypes, seed=0):
    """Two parameters of each dtype, one of them not contiguous."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for dtype in dtypes:
        made.append(torch.randn(3, 4, generator=generator, dtype=torch.complex128).to(dtype))
        made.append(torch.randn(5, 2, generator=generator, dtype=torch.complex128).to(dtype).t())
    return [tensor.requires_grad_() for tensor in made]


def give_gradients(params, step, seed=7):
    generator = torch.Generator().manual_seed(1000 * seed + step)
    for param in params:
        noise = torch.randn(param.shape, generator=generator, dtype=torch.complex128)
        param.grad = (noise + 0.3).to(param.dtype)


def train(optimizer, params, steps, first=0):
    for step in range(first, first + steps):
        give_gradients(params, step)
        optimizer.step()


def values(params):
    return [param.detach().clone() for param in params]


def equal(some, others):
    return all(torch.equal(one, other) for one, other in zip(some, others, strict=True))


pytestmark = pytest.mark.filterwarnings("ignore:Casting complex values to real")


def eventful(kind, options, maximize=False):
    """Mixed dtypes, groups with their own lr, changes of lr, parameters that miss some steps;
    returns parameters and state at the end."""
    dtypes = (torch.float32, torch.float64, torch.bfloat16, torch.complex64)
    params = parameters(*dtypes)
    groups = [{"params": params[:5]}, {"params": params[5:], "lr": 0.03}]
    optimizer = kind(groups, lr=0.01, maximize=maximize, **options)
    for step in range(25):
        give_gradients(params, step)
        for param in params[step % 3 :: 3][: step % 4]:
            param.grad = None
        optimizer.param_groups[0]["lr"] = 0.01 if step < 12 else 0.002
        optimizer.step()
    return [(param.detach(), dict(optimizer.state[param])) for param in params]


@EACH
@pytest.mark.parametrize("maximize", [False, True])
def test_foreach_gives_the_same_bits(kind, options, maximize):
    ends = [eventful(kind, {**options, **FORMS[form]}, maximize) for form in ("single", "foreach")]
    for (one, state), (other, other_state) in zip(*ends, strict=True):
        assert torch.equal(one, other)
        assert state.keys() == other_state.keys()
        assert all(torch.equal(state[name], other_state[name]) for name in state)
        assert one.isfinite().all()


@EACH_AND_FORM
@pytest.mark.parametrize("maximize", [False, True])
def test_every_form_follows_the_for_loop(kind, options, maximize):
    """Up to rounding, in which compiled arithmetic differs; half precision rounds at each op."""
    plain = {name: options[name] for name in options if name not in ALL_SWITCHES}
    ends = [eventful(kind, each, maximize) for each in ({**plain, "foreach": False}, options)]
    for (one, state), (other, other_state) in zip(*ends, strict=True):
        tolerance = {torch.float64: 1e-11, torch.bfloat16: 0.05}.get(one.dtype, 1e-4)
        torch.testing.assert_close(other, one, rtol=tolerance, atol=tolerance)
        assert state.keys() == other_state.keys()
        for name, value in state.items():
            torch.testing.assert_close(
                other_state[name], value, rtol=tolerance, atol=tolerance, check_dtype=True
            )


@pytest.mark.compiler
@CLASSES
def test_switches_choose_the_form(kind, monkeypatch):
    module = {LaProp: laprop, AdaBound: adabound, SignSGD: signsgd}[kind]
    called = []
    for form in module._FORMS:
        monkeypatch.setitem(
            module._FORMS, form, lambda tensors, group, form=form: called.append(form)
        )
    monkeypatch.setattr(fused, "step", lambda *_: called.append("fused"))
    for name in [name for name in FORMS if has(kind, name)]:
        params = parameters(torch.float32)
        train(kind(params, **FORMS[name]), params, 1)
    train(kind(params), params, 1)
    train(kind(params, differentiable=True), params, 1)
    forms = ["single", "foreach", "graph", "fused", "single", "graph"]
    assert called == [form for form in forms if has(kind, form)]
    if kind is LaProp:
        for other in ("foreach", "differentiable"):
            with pytest.raises(ValueError, match=f"fused and {other} must not both be True"):
                LaProp(params, fused=True, **{other: True})


def test_the_default_form_is_torchs_choice():
    """A parameter that claims to be elsewhere is referred to torch's own rule."""
    cpu, meta = torch.zeros(2), torch.zeros(2, device="meta")
    for params in ([cpu], [cpu, meta], [meta], [meta, cpu]):
        _, expected = _default_to_fused_or_foreach(params, False)
        assert stepping.use_foreach(params, None) == expected


@EACH_AND_FORM
def test_parameters_without_gradients_are_skipped(kind, options):
    params = parameters(torch.float64)
    optimizer = kind(params, **options)
    before = values(params)
    optimizer.step()
    assert not optimizer.state
    give_gradients(params, 0)
    params[0].grad = None
    optimizer.step()
    assert torch.equal(params[0], before[0])
    assert not torch.equal(params[1], before[1])
    assert list(optimizer.state) == [params[1]]


@EACH_CLASS_AND_FORM
def test_sparse_gradients_are_refused(kind, form):
    param = torch.zeros(2, 2, requires_grad=True)
    optimizer = kind([param], **form)
    param.grad = torch.eye(2).to_sparse()
    with pytest.raises(RuntimeError, match=f"{kind.__name__} does not support sparse gradients"):
        optimizer.step()


@CLASSES
def test_graph_capture_is_refused(kind, monkeypatch):
    class OnCuda(torch.Tensor):
        is_cuda = True

    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    param = torch.zeros(3).as_subclass(OnCuda).requires_grad_()
    optimizer = kind([param])
    param.grad = torch.ones(3).as_subclass(OnCuda)
    with pytest.raises(RuntimeError, match="cannot be captured"):
        optimizer.step()


@EACH_AND_FORM
def test_a_complex_parameter_is_two_real_ones(kind, options):
    (whole, _), steps = parameters(torch.complex128), 15
    halves = torch.view_as_real(whole.detach()).clone().requires_grad_()
    optimizers = [kind([param], **options) for param in (whole, halves)]
    for step in range(steps):
        give_gradients([whole], step)
        halves.grad = torch.view_as_real(whole.grad).clone()
        for optimizer in optimizers:
            optimizer.step()
    assert torch.equal(torch.view_as_real(whole), halves)


@EACH_AND_FORM
def test_maximize_is_minimize_of_the_negative(kind, options):
    ends = []
    for maximize in (False, True):
        params = parameters(torch.float64)
        optimizer = kind(params, maximize=maximize, **options)
        for step in range(15):
            give_gradients(params, step)
            for param in params:
                param.grad = -param.grad if maximize else param.grad
            optimizer.step()
        ends.append(values(params))
    assert equal(*ends)


@EACH_AND_FORM
def test_a_closure_runs_once_with_gradients_on(kind, options):
    param = torch.tensor([2.0, -1.0], requires_grad=True)
    optimizer = kind([param], lr=0.01, **options)
    losses = []

    def closure():
        optimizer.zero_grad()
        loss = (param**2).sum()
        loss.backward()
        losses.append(loss)
        return loss

    assert optimizer.step(closure) is losses[0]
    assert len(losses) == 1
    assert losses[0] == 5.0
    assert (param.detach().abs() < torch.tensor([2.0, 1.0])).all()
    assert param.requires_grad and param.is_leaf


@EACH_AND_FORM
def test_gradients_are_left_alone(kind, options):
    for maximize in (False, True):
        params = parameters(torch.float32, torch.complex64)
        optimizer = kind(params, maximize=maximize, **options)
        give_gradients(params, 0)
        before = [param.grad.clone() for param in params]
        optimizer.step()
        assert equal(before, [param.grad for param in params])


@EACH_AND_FORM
def test_groups_are_separate_optimizers(kind, options):
    """One group comes later; it counts its own steps."""
    options = {**options}
    together, apart = parameters(torch.float64), parameters(torch.float64)
    joint = kind(together[:1], lr=0.01, **options)
    single = [kind(apart[:1], lr=0.01, **options), kind(apart[1:], lr=0.1, **options)]
    train(joint, together[:1], 3)
    train(single[0], apart[:1], 3)
    joint.add_param_group({"params": together[1:], "lr": 0.1})
    for step in range(3, 18):
        give_gradients(together, step)
        give_gradients(apart, step)
        for optimizer in (joint, *single):
            optimizer.step()
    assert equal(values(together), values(apart))


@EACH_AND_FORM
def test_packed_replicas_follow_separate_paths(kind, options):
    """The leading dimension holds copies of the problem, one of which is not a number."""
    packed = parameters(torch.float64)[0]
    rows = [row.detach().clone().requires_grad_() for row in packed]
    optimizers = [kind([param], **options) for param in (packed, *rows)]
    for step in range(20):
        give_gradients([packed], step)
        packed.grad[1] = torch.nan
        for row, gradient in zip(rows, packed.grad, strict=True):
            row.grad = gradient.clone()
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(packed, torch.stack(rows), rtol=1e-13, atol=0, equal_nan=True)
    assert packed[[0, 2]].isfinite().all()


@EACH_AND_FORM
def test_a_tensor_lr_follows_its_schedule(kind, options):
    ends = []
    for lr in (0.01, torch.tensor(0.01, dtype=torch.float64)):
        params = parameters(torch.float64)
        optimizer = kind(params, lr=lr, **options)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: min(1.0, t / 8))
        before = values(params)
        for step in range(20):
            train(optimizer, params, 1, first=step)
            if step == 0:
                assert equal(before, values(params)), "the first step has lr 0"
            schedule.step()
        assert isinstance(optimizer.param_groups[0]["lr"], type(lr))
        assert optimizer.param_groups[0]["lr"] == 0.01
        ends.append(values(params))
    assert equal(*ends)


@EACH_AND_FORM
def test_a_tensor_lr_may_have_a_dimension(kind, options):
    ends = []
    for lr in (torch.tensor(0.01), torch.tensor([0.01])):
        params = parameters(torch.float64)
        train(kind(params, lr=lr, **options), params, 5)
        ends.append(values(params))
    assert equal(*ends)


@EACH_AND_FORM
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_stays_near_single(kind, options, dtype):
    options = {**options, "lr": 0.01}
    if kind is not SignSGD:
        options["eps"] = 1e-3
    ends = []
    for precision in (torch.float32, dtype):
        params = [param.detach().to(precision).requires_grad_() for param in parameters(dtype)]
        optimizer = kind(params, **options)
        for step in range(12):
            give_gradients(params, step)
            for param in params:
                param.grad = param.grad.to(dtype).to(precision)
            optimizer.step()
        assert all(param.dtype == precision for param in params)
        ends.append([param.detach().float() for param in params])
    for single, half in zip(*ends, strict=True):
        torch.testing.assert_close(half, single, rtol=0.02, atol=0.04)


@EACH
def test_step_hooks_run(kind, options):
    params = parameters(torch.float32)
    optimizer, order = kind(params, **options), []
    optimizer.register_step_pre_hook(lambda *_: order.append("before"))
    optimizer.register_step_post_hook(lambda *_: order.append("after"))
    train(optimizer, params, 2)
    assert order == ["before", "after"] * 2


@EACH_CLASS_AND_FORM
def test_lr_zero_does_not_move_even_where_the_gradient_is_not_finite(kind, form):
    param = torch.ones(2, dtype=torch.float64, requires_grad=True)
    optimizer = kind([param], lr=0.0, **form)
    param.grad = torch.tensor([torch.nan, torch.inf], dtype=torch.float64)
    optimizer.step()
    assert param.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("kind", "options", "limit"),
    [(LaProp, {"eps": 1e-3, "decay_by_lr": True}, 3e-4), (SignSGD, {}, 1e-4)],
)
def test_capturable_keeps_its_factors_in_full_precision(kind, options, limit):
    """In bfloat16, a factor that is rounded shifts every step by up to half a percent."""
    ends = []
    for form in (FORMS["single"], FORMS["capturable"]):
        generator = torch.Generator().manual_seed(0)
        param = torch.randn(4000, generator=generator).bfloat16().requires_grad_()
        optimizer = kind([param], lr=0.0123, weight_decay=0.3, **options, **form)
        for _ in range(10):
            param.grad = torch.randn(4000, generator=generator).bfloat16()
            optimizer.step()
        ends.append(param.detach().float())
    assert (ends[0] - ends[1]).abs().mean() < limit


@pytest.mark.parametrize("kind", [LaProp, SignSGD])
def test_corrections_are_numbers_in_a_state_dict_and_counts_are_tensors(kind):
    params = parameters(torch.float32)
    optimizer = kind(params, **({"momentum": 0.9} if kind is SignSGD else {}))
    train(optimizer, params, 1)
    for entry in optimizer.state_dict()["state"].values():
        assert isinstance(entry["step"], torch.Tensor)
        numbers = [value for name, value in entry.items() if name.startswith("exp_avg_lr")]
        assert numbers and all(isinstance(value, float) for value in numbers)


@pytest.mark.parametrize("switches", [{"capturable": True}, {"capturable": False, "fused": True}])
def test_a_capture_is_allowed_where_nothing_is_frozen(switches, monkeypatch):
    class OnCuda(torch.Tensor):
        is_cuda = True

    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    param = torch.zeros(3).as_subclass(OnCuda).requires_grad_()
    param.grad = torch.ones(3).as_subclass(OnCuda)
    params, _ = stepping.with_gradients({"params": [param], **switches}, "LaProp")
    assert params[0] is param


@CLASSES
def test_counts_have_torchs_own_precision(kind, monkeypatch):
    torch.set_default_dtype(torch.float64)
    try:
        for form, expected in (
            (FORMS["single"], torch.float64),
            ({"capturable": True}, torch.float32),
        ):
            params = parameters(torch.float64)
            ours, torchs = kind(params, **form), torch.optim.Adam(parameters(torch.float64), **form)
            train(ours, params, 1)
            give_gradients(torchs.param_groups[0]["params"], 0)
            if not form.get("capturable"):  # torch refuses it on a CPU
                torchs.step()
                (entry, *_) = torchs.state.values()
                assert entry["step"].dtype == expected
            assert ours.state[params[0]]["step"].dtype == expected
    finally:
        torch.set_default_dtype(torch.float32)


def test_variants_differ():
    """Guards the table: an option without effect would pass every test above."""
    ends = []
    for kind, options in VARIANTS.values():
        params = parameters(torch.float64)
        train(kind(params, lr=0.01, **options), params, 20)
        ends.append(values(params))
    assert not any(equal(one, other) for one, other in itertools.combinations(ends, 2))
