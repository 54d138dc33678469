"""What only a GPU can show; skipped where there is none."""

import pytest
import torch

from laprop import AdaBound, LaProp, SignSGD, fused
from laprop.contract_test import (
    EACH_AND_FORM,
    EACH_CLASS_AND_FORM,
    VARIANTS,
    give_gradients,
    parameters,
    train,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.filterwarnings("ignore:Casting complex values to real"),
]
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64)
VARIANT_OPTIONS = {name for _, options in VARIANTS.values() for name in options}
GRAPH_FORMS = [
    pytest.param(kind, {**options, **form}, id=f"{name}-{next(iter(form))}")
    for name, (kind, options) in VARIANTS.items()
    for form in ({"capturable": True}, {"fused": True})
    if kind is LaProp or "fused" not in form
]


def on_gpu(params):
    return [param.detach().cuda().requires_grad_() for param in params]


def give_gradients_on_gpu(params, step):
    """The same numbers as on the CPU."""
    stand_ins = [torch.empty(param.shape, dtype=param.dtype) for param in params]
    give_gradients(stand_ins, step)
    for param, stand_in in zip(params, stand_ins, strict=True):
        param.grad = stand_in.grad.cuda()


def tolerance(dtype):
    return {torch.float64: 1e-11, torch.bfloat16: 0.05, torch.float16: 0.02}.get(dtype, 1e-4)


@EACH_AND_FORM
def test_every_form_does_on_cuda_what_the_for_loop_does_on_the_cpu(kind, options):
    half = {"eps": 1e-3} if kind is not SignSGD else {}  # float16 has no smaller one to divide by
    plain = {name: value for name, value in options.items() if name in VARIANT_OPTIONS}
    params, twins = parameters(*DTYPES), on_gpu(parameters(*DTYPES))
    on_cpu = kind(params, lr=0.01, foreach=False, **{**plain, **half})
    there = kind(twins, lr=0.01, **{**options, **half})
    for step in range(15):
        give_gradients(params, step)
        for param, twin in zip(params, twins, strict=True):
            twin.grad = param.grad.cuda()
        on_cpu.step()
        there.step()
    for one, other in zip(params, twins, strict=True):
        limit = tolerance(one.dtype)
        torch.testing.assert_close(other.detach().cpu(), one.detach(), rtol=limit, atol=limit)


@EACH_CLASS_AND_FORM
def test_one_group_may_lie_on_two_devices(kind, form):
    params = parameters(torch.float64)
    twins = parameters(torch.float64)
    mixed = [twins[0], *on_gpu(twins[1:])]
    train(kind(params, lr=0.01, foreach=False), params, 8)
    optimizer = kind(mixed, lr=0.01, **form)
    for step in range(8):
        give_gradients(twins, step)
        mixed[1].grad = twins[1].grad.cuda()
        optimizer.step()
    for one, other in zip(params, mixed, strict=True):
        torch.testing.assert_close(other.detach().cpu(), one.detach(), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(("kind", "options"), GRAPH_FORMS)
def test_a_captured_step_replays_as_it_would_run(kind, options):
    """Gradients and lr change between replays: both are read from where they lie."""
    plain = {name: value for name, value in options.items() if name in VARIANT_OPTIONS}
    starts = parameters(torch.float32)
    eager_params, params = on_gpu(starts), on_gpu(starts)
    lr = torch.tensor(0.01, device="cuda")
    eager = kind(eager_params, lr=0.01, foreach=False, **plain)
    optimizer = kind(params, lr=lr, **options)

    def gradients(step):
        give_gradients_on_gpu(eager_params, step)
        for param, twin in zip(eager_params, params, strict=True):
            if twin.grad is None:
                twin.grad = torch.empty_like(twin)
            twin.grad.copy_(param.grad)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # warm-up makes state and kernels
        for step in range(3):
            gradients(step)
            eager.step()
            optimizer.step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    for step in range(3, 20):
        gradients(step)
        lr.fill_(0.01 if step < 12 else 0.002)
        eager.param_groups[0]["lr"] = lr.item()
        eager.step()
        graph.replay()
    torch.cuda.synchronize()
    for one, other in zip(eager_params, params, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5)
    assert optimizer.state[params[0]]["step"].item() == 20


@pytest.mark.parametrize("kind", [LaProp, AdaBound])
def test_a_capture_that_would_freeze_the_numbers_is_refused(kind):
    (param,) = on_gpu([torch.zeros(3)])
    optimizer = kind([param], foreach=True)
    param.grad = torch.ones_like(param)
    optimizer.step()
    torch.cuda.synchronize()
    with pytest.raises(RuntimeError, match="unless capturable=True"):  # noqa: SIM117
        with torch.cuda.graph(torch.cuda.CUDAGraph()):
            optimizer.step()


def test_a_large_parameter_is_updated_to_its_last_element():
    """More elements than one wave of blocks, and a count that no block size divides."""
    params = [torch.randn(3_000_017, dtype=torch.float64), torch.randn(5, dtype=torch.float64)]
    twins = on_gpu(params)
    params = [param.requires_grad_() for param in params]
    optimizers = LaProp(params, foreach=False), LaProp(twins, fused=True)
    for step in range(4):
        torch.manual_seed(step)
        for param, twin in zip(params, twins, strict=True):
            param.grad = torch.randn_like(param)
            twin.grad = param.grad.cuda()
        for optimizer in optimizers:
            optimizer.step()
    for one, other in zip(params, twins, strict=True):
        torch.testing.assert_close(other.detach().cpu(), one.detach(), rtol=1e-12, atol=1e-13)


def test_more_tensors_than_the_small_call_takes():
    """Kernels for few tensors and for many, and a group whose gradients come and go."""
    for count in (fused.FEW, fused.FEW + 1, fused.CAPACITY + 1):
        params = [torch.randn(3, dtype=torch.float64) for _ in range(count)]
        twins = on_gpu(params)
        params = [param.requires_grad_() for param in params]
        optimizers = LaProp(params, foreach=False), LaProp(twins, fused=True)
        for step in range(4):
            for place, (param, twin) in enumerate(zip(params, twins, strict=True)):
                missing = step == 2 and place % 2
                param.grad = None if missing else torch.full_like(param, place + step + 1.0)
                twin.grad = None if missing else param.grad.cuda()
            for optimizer in optimizers:
                optimizer.step()
        for one, other in zip(params, twins, strict=True):
            torch.testing.assert_close(other.detach().cpu(), one.detach(), rtol=1e-12, atol=1e-13)


def test_foreach_is_the_default_on_cuda(monkeypatch):
    from laprop import laprop

    called = []
    monkeypatch.setitem(laprop._FORMS, "foreach", lambda *_: called.append("foreach"))
    params = on_gpu(parameters(torch.float32))
    give_gradients_on_gpu(params, 0)
    LaProp(params).step()
    assert called == ["foreach"]
