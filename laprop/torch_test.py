"""All three optimizers in the company that torch's own keep: compilers, scalers, schedulers,
distributed training, autograd through the step."""

import copy
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch.optim import lr_scheduler

from laprop import AdaBound, LaProp, SignSGD
from laprop.contract_test import (
    EACH,
    EACH_AND_FORM,
    EACH_CLASS_AND_FORM,
    equal,
    give_gradients,
    parameters,
    train,
    values,
)

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.filterwarnings("ignore:Casting complex values to real")


# Every scheduler that torch exports, with the arguments that it needs.
SCHEDULERS = {
    "LambdaLR": {"lr_lambda": lambda t: 0.9**t},
    "MultiplicativeLR": {"lr_lambda": lambda t: 0.9},
    "StepLR": {"step_size": 3},
    "MultiStepLR": {"milestones": [2, 5]},
    "ConstantLR": {"total_iters": 4},
    "LinearLR": {"total_iters": 4},
    "ExponentialLR": {"gamma": 0.9},
    "CosineAnnealingLR": {"T_max": 8},
    "CosineAnnealingWarmRestarts": {"T_0": 3},
    "PolynomialLR": {"total_iters": 8},
    "CyclicLR": {"base_lr": 0.001, "max_lr": 0.1, "step_size_up": 3},
    "OneCycleLR": {"max_lr": 0.1, "total_steps": 20},
    "ReduceLROnPlateau": {"patience": 2},
    "ChainedScheduler": {},
    "SequentialLR": {},
}


def schedule(name, optimizer):
    kind = getattr(lr_scheduler, name)
    parts = [
        lr_scheduler.LinearLR(optimizer, total_iters=4)
        if name in ("ChainedScheduler", "SequentialLR")
        else None,
        lr_scheduler.ExponentialLR(optimizer, 0.9) if name == "ChainedScheduler" else None,
    ]
    if name == "ChainedScheduler":
        return kind(parts, optimizer=optimizer)
    if name == "SequentialLR":
        return kind(optimizer, [parts[0], lr_scheduler.ExponentialLR(optimizer, 0.9)], [4])
    arguments = dict(SCHEDULERS[name])
    if name in ("CyclicLR", "OneCycleLR"):
        # These two would cycle the momentum as well, which torch does to its own Adam's betas.
        arguments["cycle_momentum"] = "betas" in optimizer.defaults and name == "OneCycleLR"
    return kind(optimizer, **arguments)


def test_the_list_of_schedulers_is_complete():
    exported = {name for name in lr_scheduler.__all__ if name != "LRScheduler"}
    assert exported - {"SWALR"} <= set(SCHEDULERS)


@EACH_CLASS_AND_FORM
@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_scheduler_sets_the_lr_of_the_next_step(kind, form, name):
    """Against the same lrs (and betas) written into a float64 for-loop by hand."""
    params, twins = parameters(torch.float64), parameters(torch.float64)
    optimizer, by_hand = kind(params, lr=0.01, **form), kind(twins, lr=0.01, foreach=False)
    scheduler = schedule(name, optimizer)
    lrs = set()
    for step in range(12):
        (group,) = optimizer.param_groups
        lrs.add(float(group["lr"]))
        by_hand.param_groups[0].update({key: group[key] for key in ("lr", "betas") if key in group})
        train(optimizer, params, 1, first=step)
        train(by_hand, twins, 1, first=step)
        scheduler.step(*([1.0] if name == "ReduceLROnPlateau" else []))
    assert len(lrs) > 1
    for one, other in zip(params, twins, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@EACH_AND_FORM
def test_a_compiled_step_does_what_the_eager_one_does(kind, options):
    """And is compiled once for many steps and lrs: what changes with a step must be a tensor."""
    torch._dynamo.reset()
    compiled = CompileCounter()
    ends = []
    for compile in (False, True):
        params = parameters(torch.float64)
        lr = torch.tensor(0.01, dtype=torch.float64)
        optimizer = kind(params, lr=lr, **options)
        step = torch.compile(optimizer.step, backend=compiled) if compile else optimizer.step
        for t in range(14):
            give_gradients(params, t)
            step()
            lr.mul_(0.9)
        ends.append(values(params))
    for one, other in zip(*ends, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)
    assert compiled.frame_count <= 4


@pytest.mark.compiler
@pytest.mark.parametrize("kind", [LaProp, AdaBound, SignSGD])
def test_inductor_compiles_the_step(kind):
    """A real compiler, for one variant; the test above covers all with the tracer alone."""
    torch._dynamo.reset()
    params, twins = parameters(torch.float32), parameters(torch.float32)
    optimizer, eager = kind(params, lr=0.01), kind(twins, lr=0.01)
    step = torch.compile(optimizer.step)
    for t in range(3):
        give_gradients(params, t)
        give_gradients(twins, t)
        step()
        eager.step()
    for one, other in zip(params, twins, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@EACH_AND_FORM
def test_a_grad_scaler_skips_steps_that_overflow(kind, options):
    params, twins = parameters(torch.float32), parameters(torch.float32)
    optimizer, plain = kind(params, lr=0.01, **options), kind(twins, lr=0.01, **options)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1000)
    real = slice(0, 1)  # the scaler does not know complex numbers
    for step in range(6):
        for some in (params, twins):
            give_gradients(some[real], step)
        overflow = step in (0, 3)
        scale = scaler.scale(torch.ones(())).item()
        for param in params[real]:
            param.grad.mul_(scale)
            if overflow:
                param.grad[0, 0] = torch.inf
        before = copy.deepcopy(optimizer.state_dict()["state"]), values(params)
        scaler.step(optimizer)
        scaler.update()
        if overflow:
            assert equal(values(params), before[1])
            after = optimizer.state_dict()["state"]
            assert str(after) == str(before[0])
        else:
            plain.step()
        for param in params:
            param.grad = None
    for one, other in zip(params, twins, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


DIFFERENTIABLE = {
    "laprop": (LaProp, {"eps": 1e-3}),
    "laprop decay by lr": (LaProp, {"eps": 1e-3, "weight_decay": 0.1, "decay_by_lr": True}),
    "laprop amsgrad": (LaProp, {"eps": 1e-1, "amsgrad": True}),
    "laprop amsgrad centered": (
        LaProp,
        {"eps": 1e-1, "amsgrad": True, "centered": True, "weight_decay": 0.1},
    ),
    "adabound": (AdaBound, {"gamma": 0.1, "weight_decay": 0.1}),
    "amsbound": (AdaBound, {"amsbound": True}),
    "momentum of signs": (
        SignSGD,
        {"momentum": 0.9, "momentum_of": "sign", "weight_decay": 0.1},
    ),
}


@pytest.mark.parametrize(("kind", "options"), DIFFERENTIABLE.values(), ids=DIFFERENTIABLE)
def test_autograd_goes_through_many_steps(kind, options):
    """Numerical derivatives of the end point by start, gradients and lr."""
    steps = 13 if options.get("centered") else 3

    def end(start, gradients, lr):
        param = start.clone()
        optimizer = kind([param], lr=lr, differentiable=True, **options)
        for gradient in gradients:
            param.grad = gradient
            optimizer.step()
        return param

    generator = torch.Generator().manual_seed(3)
    start = torch.randn(2, generator=generator, dtype=torch.float64, requires_grad=True)
    gradients = torch.randn(steps, 2, generator=generator, dtype=torch.float64)
    lr = torch.tensor(0.05, dtype=torch.float64, requires_grad=kind is not AdaBound)
    assert torch.autograd.gradcheck(end, (start, gradients.requires_grad_(), lr))


@EACH
def test_differentiable_does_not_change_the_numbers(kind, options):
    params = parameters(torch.float64)
    optimizer = kind(params, foreach=False, **options)
    followed = [param.detach().clone() for param in params]
    other = kind(followed, differentiable=True, **options)
    for step in range(14):
        give_gradients(params, step)
        give_gradients(followed, step)
        optimizer.step()
        other.step()
    for one, two in zip(params, followed, strict=True):
        torch.testing.assert_close(one.detach(), two, rtol=1e-11, atol=1e-12)


@pytest.mark.compiler
def test_distributed_training_equals_training_alone(tmp_path):
    """Two processes, DistributedDataParallel, and each optimizer's state sharded over them."""
    program = tmp_path / "train.py"
    program.write_text(
        textwrap.dedent("""
        import os, sys
        import torch, torch.distributed as dist
        from torch.distributed.optim import ZeroRedundancyOptimizer
        from torch.nn.parallel import DistributedDataParallel
        from laprop import AdaBound, LaProp, SignSGD

        torch.set_num_threads(1)
        rank = int(sys.argv[1])
        dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
        cases = [(LaProp, {}), (LaProp, {"fused": True}), (AdaBound, {}),
                 (SignSGD, {"momentum": 0.9})]
        for kind, options in cases:
            torch.manual_seed(0)
            def net():
                torch.manual_seed(0)
                return torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Tanh(),
                                           torch.nn.Linear(7, 2)).double()
            alone, shared = net(), DistributedDataParallel(net())
            one = kind(alone.parameters(), lr=0.01, **options)
            zero = ZeroRedundancyOptimizer(shared.parameters(), kind, lr=0.01, **options)
            for step in range(8):
                generator = torch.Generator().manual_seed(step)
                inputs = torch.randn(6, 5, generator=generator).double()
                for model, data, optimizer in (
                    (alone, inputs, one), (shared, inputs[rank::2], zero)
                ):
                    optimizer.zero_grad()
                    model(data).square().mean().backward()
                    optimizer.step()
            for a, b in zip(alone.parameters(), shared.parameters()):
                torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)
            zero.consolidate_state_dict(to=0)
            if rank == 0:
                saved = zero.state_dict()["state"]
                assert len(saved) == 4 and all(entry["step"] == 8 for entry in saved.values())
        print("all equal", flush=True)
        try:
            dist.barrier()  # the other may still be receiving
        except RuntimeError:
            pass
        os._exit(0)  # gloo's threads may abort a process that takes them down
    """)
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment |= {"GLOO_SOCKET_IFNAME": "lo"}
    both = [
        subprocess.Popen(
            [sys.executable, program, str(rank), tmp_path / "meet"],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    try:
        outputs = [process.communicate(timeout=300)[0] for process in both]
    finally:
        for process in both:
            process.kill()
    assert all(output.endswith("all equal\n") for output in outputs), "\n".join(outputs)
