import math

import pytest
import torch
from torch.nn import functional as F

from tasks.rainbow.network import Network, NoisyLinear
from tasks.rainbow.random_rows import Rows, factor_noise, uniform

CPU = torch.device("cpu")


def build(**changes):
    settings = {"shape": (84, 84), "stack": 4, "actions": 3, "atoms": 51, "dueling": False,
                "noisy": 0.5} | changes  # fmt: skip
    return Network(**settings)


def test_a_noisy_layer_is_the_linear_layer_with_the_noisy_weight():
    torch.manual_seed(0)
    layer = NoisyLinear(7, 5, 0.5).double()
    x, noise = torch.randn(4, 7).double(), torch.randn(12).double()
    p, q = noise[:7], noise[7:]
    weight = layer.weight + layer.weight_sigma * torch.outer(q, p)
    expected = F.linear(x, weight, layer.bias + layer.bias_sigma * q)
    torch.testing.assert_close(layer(x, noise), expected)


def test_mean_and_variance_over_the_noise():
    """Of y = (W + S * q p') x + b + s q, with p and q independent of mean 0 and E f^2 = E|e|."""
    torch.manual_seed(1)
    layer = NoisyLinear(6, 3, 2.0).double()
    x = torch.randn(1, 6).double()
    rows = Rows(0, "noise", factor_noise(9, CPU), 40_000)
    y = torch.cat([layer(x, rows(i).double()) for i in range(40_000)]).detach()
    square = math.sqrt(2 / math.pi)
    variance = square**2 * ((layer.weight_sigma * x) ** 2).sum(1) + square * layer.bias_sigma**2
    mean = F.linear(x, layer.weight, layer.bias)[0]
    error = (variance / len(y)).sqrt()
    assert ((y.mean(0) - mean).abs() < 4 * error).all()
    torch.testing.assert_close(y.var(0), variance.detach(), rtol=0.05, atol=0)


def test_shapes_and_sizes():
    net = build()
    # the authors' network: torso of Mnih et al. (2015), one hidden layer of 512, means and sigmas
    torso = 4 * 64 * 32 + 32 + 32 * 16 * 64 + 64 + 64 * 9 * 64 + 64
    head = 3136 * 512 + 512 + 512 * 153 + 153
    assert sum(p.numel() for p in net.parameters()) == torso + 2 * head
    pixels = torch.randint(0, 256, (2, 4, 84, 84), dtype=torch.uint8)
    assert net(pixels, torch.randn(net.noise_size)).shape == (2, 3, 51)
    vector = build(shape=(4,), stack=1, noisy=None, atoms=1)
    assert vector(torch.randn(5, 1, 4), torch.empty(0)).shape == (5, 3, 1)


def test_dueling_adds_a_value_to_centred_advantages():
    net = build(shape=(4,), stack=1, dueling=True, noisy=None, atoms=7)
    out = net(torch.randn(6, 1, 4), torch.empty(0))
    x = net.torso(torch.zeros(1, 1, 4))
    hidden, last = net.heads[1]
    value = last(F.relu(hidden(x, None)), None)
    torch.testing.assert_close(net(torch.zeros(1, 1, 4), torch.empty(0)).mean(1), value)
    assert out.shape == (6, 3, 7) and len(net.heads) == 2


@pytest.mark.parametrize("dueling", [False, True])
def test_a_network_at_a_given_noise_is_the_noisy_network_and_so_are_its_gradients(dueling):
    net = build(dueling=dueling).double()
    noise = torch.randn(net.noise_size).double()
    pixels = torch.randint(0, 256, (2, 4, 84, 84), dtype=torch.uint8)
    formed = net.at(noise)
    torch.testing.assert_close(formed(pixels), net(pixels, noise))
    noise = torch.randn(net.noise_size).double()
    formed.form(noise)
    torch.testing.assert_close(formed(pixels), net(pixels, noise))
    # parameters and gradients are those of the noisy network
    parameters = list(net.parameters())
    assert [id(p) for p in formed.parameters()] == [id(p) for p in parameters]
    wanted = torch.autograd.grad(net(pixels, noise).square().sum(), parameters)
    found = torch.autograd.grad(formed(pixels).square().sum(), parameters)
    torch.testing.assert_close(found, wanted)
    plain = build(noisy=None)
    torch.testing.assert_close(plain.at(torch.empty(0))(pixels),
                               plain(pixels, torch.empty(0)))  # fmt: skip


def test_a_network_in_half_precision_has_nearly_the_same_gradients():
    torch.manual_seed(0)
    net = build(dueling=True)
    noise, parameters = torch.randn(net.noise_size), list(net.parameters())
    pixels = torch.randint(0, 256, (8, 4, 84, 84), dtype=torch.uint8)
    outputs, gradients = [], []
    for half in (False, True):
        out = net.at(noise, half)(pixels).float()
        found = torch.autograd.grad(out.square().sum(), parameters)
        assert {g.dtype for g in found} == {torch.float32}
        outputs.append(out)
        gradients.append([g.clone() for g in found])
    assert 0 < (outputs[0] - outputs[1]).norm() < 0.02 * outputs[0].norm()
    for exact, rough in zip(*gradients, strict=True):
        assert 0 < (exact - rough).norm() < 0.1 * exact.norm()


def test_a_row_of_random_numbers_depends_on_its_number_alone():
    forward, backward = (Rows(3, "replay", uniform(4), 16) for _ in range(2))
    there = [forward(i) for i in range(50)]
    back = [backward(i) for i in reversed(range(50))][::-1]
    assert torch.equal(torch.stack(there), torch.stack(back))
    assert len({tuple(row.tolist()) for row in there}) == 50
    assert not torch.equal(Rows(4, "replay", uniform(4), 16)(0), there[0])
    assert not torch.equal(Rows(3, "noise", uniform(4), 16)(0), there[0])
    table = torch.stack([Rows(0, "e", factor_noise(2000, CPU), 8)(i) for i in range(8)])
    assert table.pow(2).mean().item() == pytest.approx(math.sqrt(2 / math.pi), rel=0.03)
