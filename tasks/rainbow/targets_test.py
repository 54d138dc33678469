import math

import numpy as np
import pytest
import torch

from tasks.rainbow import targets

ATOMS = torch.linspace(-10, 10, 51, dtype=torch.float64)


def project_slowly(values, probabilities, atoms):
    """Algorithm 1 of Bellemare, Dabney and Munos (2017), one probability at a time, exact hits by
    a case of their own."""
    low, high = atoms[0], atoms[-1]
    spacing = (high - low) / (len(atoms) - 1)
    out = np.zeros((len(values), len(atoms)))
    for b, (row, weights) in enumerate(zip(values, probabilities, strict=True)):
        for value, p in zip(row, weights, strict=True):
            place = (min(max(value, low), high) - low) / spacing
            lower, upper = math.floor(place), math.ceil(place)
            if lower == upper:
                out[b, lower] += p
            else:
                out[b, lower] += p * (upper - place)
                out[b, upper] += p * (place - lower)
    return out


def random_distributions(rows, generator, width=51):
    return torch.rand(rows, width, generator=generator, dtype=torch.float64).softmax(-1)


def test_projection_against_a_slow_one():
    generator = torch.Generator().manual_seed(0)
    p = random_distributions(40, generator)
    rewards = torch.randint(-1, 2, (40,), generator=generator).double()
    discounts = torch.tensor([0.99, 0.99**3, 0.0, 1.0]).double().repeat(10)
    rewards[:4], discounts[:4] = torch.tensor([0.4, -0.4, 20, -20]), 1  # onto atoms, and beyond
    values = rewards[:, None] + discounts[:, None] * ATOMS
    got = targets.project(values, p, ATOMS)
    expected = project_slowly(values.numpy(), p.numpy(), ATOMS.numpy())
    np.testing.assert_allclose(got, expected, atol=1e-12)
    np.testing.assert_allclose(got.sum(1), 1, atol=1e-12)
    single = targets.project(values.float(), p.float(), ATOMS.float())
    np.testing.assert_allclose(single, expected, atol=2e-5)


def test_projection_keeps_the_mass_where_it_hits_an_atom_and_the_mean_inside_the_range():
    p = random_distributions(3, torch.Generator().manual_seed(1))
    # no reward, no discount: every value is an atom
    torch.testing.assert_close(
        targets.project(ATOMS.expand(3, -1), p, ATOMS), p, atol=1e-12, rtol=0
    )
    # a terminal state: all of the mass at the reward, on one atom and between two
    for reward, where in ((0.0, {25: 1.0}), (1.0, {27: 0.5, 28: 0.5}), (-10.0, {0: 1.0}),
                          (11.0, {50: 1.0})):  # fmt: skip
        got = targets.project(torch.full((3, 51), reward, dtype=torch.float64), p, ATOMS)
        expected = torch.zeros(3, 51, dtype=torch.float64)
        for atom, mass in where.items():
            expected[:, atom] = mass
        torch.testing.assert_close(got, expected, atol=1e-12, rtol=0)
    values = 0.3 + 0.9 * ATOMS
    mean = (targets.project(values.expand(3, -1), p, ATOMS) * ATOMS).sum(1)
    torch.testing.assert_close(mean, (p * values).sum(1))


def test_the_online_network_chooses_and_the_target_network_values():
    """Two actions on which the two networks disagree."""
    atoms = torch.tensor([0.0, 1.0])
    sure = torch.tensor([[0.0, 40.0], [40.0, 0.0]])  # logits of the returns 1 and 0
    online, other = sure[None], sure.flip(0)[None]
    reward, discount = torch.zeros(1), torch.ones(1)
    double = targets.target(other, online, reward, discount, atoms)
    alone = targets.target(other, other, reward, discount, atoms)
    assert double[0].argmax() == 0 and alone[0].argmax() == 1
    # without a distribution, logits are returns
    q_online, q_target = torch.tensor([[[3.0], [1.0]]]), torch.tensor([[[10.0], [20.0]]])
    one = torch.zeros(1)
    half = torch.full((1,), 0.5)
    assert targets.target(q_target, q_online, reward + 1, half, one).item() == 1 + 0.5 * 10
    assert targets.target(q_target, q_target, reward + 1, half, one).item() == 1 + 0.5 * 20
    assert targets.target(q_target, q_online, reward + 1, 0 * half, one).item() == 1


def test_losses_against_their_formulas():
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(5, 51, generator=generator)
    wanted = random_distributions(5, generator).float()
    wanted[0] = torch.nn.functional.one_hot(torch.tensor(3), 51)  # 0 log 0 counts as 0
    p, q = wanted.double().numpy(), logits.double().softmax(-1).numpy()
    kl = np.where(p > 0, p * np.log(np.where(p > 0, p, 1) / q), 0).sum(1)
    np.testing.assert_allclose(targets.losses(logits, wanted), kl, rtol=1e-5)
    huber = targets.losses(torch.tensor([[0.5], [3.0]]), torch.zeros(2, 1))
    assert huber.tolist() == pytest.approx([0.125, 2.5])


def test_values_of_actions():
    logits = torch.zeros(1, 2, 51)
    logits[0, 1, 50] = 100
    assert targets.q_values(logits, ATOMS.float())[0].tolist() == pytest.approx([0, 10], abs=1e-5)
    assert targets.choose(torch.arange(12.0).view(2, 3, 2), torch.tensor([2, 0])).tolist() == [
        [4.0, 5.0],
        [6.0, 7.0],
    ]
