import copy
import math

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch.nn import functional

from laprop import LaProp
from runners.config import CONF
from tasks.deep_fc import DeepFC, _Net

OPTIMIZERS = sorted(path.stem for path in (CONF / "optimizer").glob("*.yaml"))
SMALL = {"width": 16, "batch": 64, "dataset": "digits", "eval_size": 100}


def step(task, optimizer=None):
    loss = task.loss()
    task.backward(loss, torch.ones_like(loss))
    if optimizer is not None:
        optimizer.step()
    return loss


def plain(task, replica):
    """The same net as torch would have it, in float64."""
    layers = []
    matrices = [task.first[replica], *getattr(task, "hidden", task.first[:, :0])[replica]]
    biases = [task.first_bias[replica], *getattr(task, "hidden_bias", task.first[:, :0])[replica]]
    for matrix, bias in [
        *zip(matrices, biases, strict=True), (task.last[replica], task.last_bias[replica]),
    ]:  # fmt: skip
        layer = torch.nn.Linear(*matrix.shape, dtype=torch.float64)
        layer.weight.data, layer.bias.data = matrix.detach().double().t(), bias.detach().double()
        layers += [layer, torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])


@pytest.mark.parametrize("depth", [1, 2, 9])
def test_loss_and_gradients_are_autograds(depth):
    """Against nn.Sequential in float64; what is left is float32's rounding through the layers."""
    task = DeepFC(seeds=[0, 5, 9], depth=depth, **SMALL)
    with torch.no_grad():
        for name, parameter in task.named_parameters():  # biases that matter
            if "bias" in name:
                parameter.normal_(std=0.1)
    places = task._batch()
    loss = step(task)
    for replica in range(3):
        net = plain(task, replica)
        inputs, labels = task.inputs[places[replica]].double(), task.labels[places[replica]]
        expected = functional.cross_entropy(net(inputs), labels)
        expected.backward()
        torch.testing.assert_close(loss[replica].double(), expected.detach(), rtol=1e-6, atol=1e-6)
        linears = [layer for layer in net if isinstance(layer, torch.nn.Linear)]
        found = [task.first.grad[replica], task.last.grad[replica]]
        found += list(task.hidden.grad[replica]) if depth > 1 else []
        wanted = [linears[0].weight.grad.t(), linears[-1].weight.grad.t()]
        wanted += [layer.weight.grad.t() for layer in linears[1:-1]]
        bias = [task.first_bias.grad[replica], task.last_bias.grad[replica]]
        bias += list(task.hidden_bias.grad[replica]) if depth > 1 else []
        for got, want in [
            *zip(found, wanted, strict=True),
            *zip(bias, [layer.bias.grad for layer in (linears[0], linears[-1], *linears[1:-1])],
                 strict=True),
        ]:  # fmt: skip
            limit = 1e-5 * want.abs().max().item()
            torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=limit)


def test_evaluate_is_the_plain_nets_and_changes_nothing():
    task = DeepFC(seeds=[3, 4], depth=3, **SMALL)
    optimizer = LaProp(task.parameters(), lr=1e-2)
    step(task, optimizer)
    before = {name: value.clone() for name, value in task.state_dict().items()
              if isinstance(value, torch.Tensor)}  # fmt: skip
    metrics = task.evaluate()
    logits = plain(task, 1)(task.inputs[:100].double())
    expected = functional.cross_entropy(logits, task.labels[:100])
    assert metrics["loss"][1].item() == pytest.approx(expected.item(), rel=1e-5)
    right = (logits.argmax(1) == task.labels[:100]).double().mean()
    assert metrics["accuracy"][1].item() == pytest.approx(right.item())
    again = task.evaluate()
    assert all(torch.equal(metrics[name], again[name]) for name in metrics)
    assert all(torch.equal(value, task.state_dict()[name]) for name, value in before.items())
    assert task.step == 1


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_packed_equals_alone(name):
    """Up to rounding: a batched product may add in another order than a single one. A sign turns a
    difference in the last digit into one of twice the lr, so signsgd is compared early."""
    cfg = OmegaConf.load(CONF / "optimizer" / f"{name}.yaml")
    make = instantiate(cfg, _convert_="all")
    seeds = [0, 1, 7, 1_000_000]
    packed = DeepFC(seeds=seeds, depth=4, **SMALL)
    optimizer = make(packed.parameters(), lr=1e-4)
    steps = 2 if name == "signsgd" else 25
    losses = torch.stack([step(packed, optimizer) for _ in range(steps)])
    for place, seed in enumerate(seeds):
        alone = DeepFC(seeds=[seed], depth=4, **SMALL)
        optimizer = make(alone.parameters(), lr=1e-4)
        path = torch.stack([step(alone, optimizer) for _ in range(steps)])
        torch.testing.assert_close(losses[:, place], path[:, 0], rtol=2e-5, atol=2e-6)
        for one, other in zip(packed.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(one[place], other[0], rtol=1e-4, atol=2e-5)


def test_a_frozen_replica_gives_no_gradient_and_disturbs_no_other():
    task, whole = (DeepFC(seeds=[0, 1], depth=3, **SMALL) for _ in range(2))
    with torch.no_grad():
        task.hidden[0].fill_(torch.inf)
    loss = task.loss()
    assert loss.isfinite().tolist() == [False, True]
    task.backward(loss, torch.tensor([0.0, 1.0]))
    step(whole)
    for name, parameter in task.named_parameters():
        assert (parameter.grad[0] == 0).all()
        assert torch.equal(parameter.grad[1], dict(whole.named_parameters())[name].grad[1])
    task.backward(task.loss(), torch.tensor([0.0, 2.0]))
    assert task.first.grad[1].isfinite().all()


def test_bfloat16_stays_near_float32():
    exact, half = (DeepFC(seeds=[0, 1], depth=3, **SMALL) for _ in range(2))
    loss = step(exact)
    with torch.autocast("cpu", torch.bfloat16):
        rough = half.loss()
    half.backward(rough, torch.ones_like(rough))
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, loss, rtol=0.03, atol=0.03)
    for one, other in zip(exact.parameters(), half.parameters(), strict=True):
        assert other.grad.dtype == torch.float32
        assert (one.grad - other.grad).norm() < 0.05 * one.grad.norm()
        assert not torch.equal(one.grad, other.grad)


def test_goes_on_from_its_state_dict_with_the_same_bits():
    def make():
        task = DeepFC(seeds=[2, 3], depth=3, **SMALL)
        return task, LaProp(task.parameters(), lr=1e-3)

    task, optimizer = make()
    for _ in range(30):  # into the second epoch
        step(task, optimizer)
    other, resumed = make()
    other.load_state_dict(task.state_dict())
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # else both share tensors
    assert not any("inputs" in name or "labels" in name for name in task.state_dict())
    for _ in range(10):
        assert torch.equal(step(task, optimizer), step(other, resumed))
    assert torch.equal(task.hidden, other.hidden)
    assert torch.equal(task.evaluate()["smoothed_loss"], other.evaluate()["smoothed_loss"])


def test_batches_are_keyed_by_seed_and_cover_each_epoch_once():
    one, other = DeepFC(seeds=[5], **SMALL), DeepFC(seeds=[4, 5], **SMALL)
    examples = len(one.labels)
    epochs = []
    for _ in range(2):
        seen = []
        for _ in range(examples // 64):
            mine, theirs = one._batch(), other._batch()
            assert torch.equal(mine[0], theirs[1]) and not torch.equal(theirs[0], theirs[1])
            seen += mine[0].tolist()
            one.step = other.step = one.step + 1
        assert len(set(seen)) == len(seen)
        epochs.append(seen)
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("init", ["kaiming", "rolnick_hanin"])
def test_initial_weights_have_variance_two_over_fan_in(init):
    task = DeepFC(seeds=[0], depth=20, **{**SMALL, "width": 64}, init=init)
    for matrix, fan_in in ((task.hidden, 64), (task.first, 64), (task.last, 64)):
        n = matrix.numel()
        assert matrix.var().item() == pytest.approx(2 / fan_in, rel=5 / math.sqrt(n))
        assert abs(matrix.mean().item()) < 5 * math.sqrt(2 / fan_in / n)
    largest = task.hidden.abs().max().item() * math.sqrt(64 / 2)
    assert (largest < 2.28) == (init == "rolnick_hanin")
    assert (task.hidden_bias == 0).all()


def test_memory_of_a_step_is_the_activations_and_gradients_once():
    """What a depth of 1,000 at width 256 and batch 1,024 needs follows from these shapes."""
    task = DeepFC(seeds=[0], depth=50, **SMALL)
    net = _Net(task, half=False)
    rooms = [*net.activations, *net._spare, net.x, *(gradient for _, gradient in net.gradients)]
    numbers = sum(room.numel() for room in rooms)
    parameters = sum(parameter.numel() for parameter in task.parameters())
    assert numbers == (50 + 2) * 64 * 16 + 64 * 64 + parameters


BAD = [
    ({"depth": 0}, "depth=0: a whole number >= 1 expected"),
    ({"width": 1.5}, "width=1.5: a whole number >= 1 expected"),
    ({"batch": True}, "batch=True: a whole number >= 1 expected"),
    ({"batch": 5000}, "batch=5000: at most 1,437 examples in digits"),
    ({"init": "xavier"}, "init=xavier: one of kaiming, rolnick_hanin expected"),
    ({"init": ["kaiming"]}, r"init=\['kaiming'\]: one of kaiming, rolnick_hanin expected"),
    ({"data_dir": 5}, "data_dir=5: a text expected"),
    ({"dataset": "digit"}, "dataset=digit: unknown data set; did you mean digits"),
    ({"dataset": ["digits"]}, r"dataset=\['digits'\]: unknown data set"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises((ValueError, OSError), match=f"^{message}"):
        DeepFC(seeds=[0], **{**SMALL, **arguments})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("half", [False, True])
def test_the_captured_step_is_the_eager_one(half):
    task = DeepFC(seeds=[0, 1], depth=6, **SMALL)
    there = DeepFC(seeds=[0, 1], depth=6, **SMALL).cuda()
    optimizers = LaProp(task.parameters(), lr=1e-3), LaProp(there.parameters(), lr=1e-3, fused=True)
    for _ in range(6):
        losses = []
        for net, optimizer in zip((task, there), optimizers, strict=True):
            with torch.autocast(net.first.device.type, torch.bfloat16, enabled=half):
                loss = net.loss()
            net.backward(loss, torch.ones_like(loss))
            optimizer.step()
            losses.append(loss.cpu())
        limit = 0.05 if half else 1e-4
        torch.testing.assert_close(losses[1], losses[0], rtol=limit, atol=limit)
