import pytest
import torch
from scipy import stats

from tasks.rainbow.sum_tree import FANOUT, SumTree

CPU = torch.device("cpu")


def filled(weights):
    tree = SumTree(len(weights), CPU)
    tree.rebuild(weights)
    return tree


@pytest.mark.parametrize("size", [1, FANOUT, FANOUT + 1, 5 * FANOUT**2 + 7])
def test_an_index_is_found_for_its_share_of_the_total(size):
    """Against the cumulative sums, a search in which is what the tree stands for."""
    generator = torch.Generator().manual_seed(size)
    weights = torch.randint(0, 4, (size,), generator=generator).double()  # sums without rounding
    weights[0] = 1
    tree = filled(weights)
    edges = weights.cumsum(0)
    fractions = (torch.arange(int(edges[-1])) + 0.5) / edges[-1]
    expected = torch.searchsorted(edges, fractions * edges[-1], right=True)
    assert torch.equal(tree.find(fractions), expected)
    # the first of each share belongs to it, and nothing of weight 0 is ever found
    starts = ((edges - weights)[weights > 0] / edges[-1]).unique()
    found = tree.find(starts + 1e-15)
    assert torch.equal(found, torch.nonzero(weights)[:, 0])


def test_no_fraction_finds_a_weight_of_zero_whatever_the_rounding():
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(3000, generator=generator, dtype=torch.float64) ** 20
    weights[torch.rand(3000, generator=generator) < 0.7] = 0
    tree = filled(weights)
    fractions = torch.cat([torch.rand(100_000, generator=generator, dtype=torch.float64),
                           torch.tensor([0.0, 1 - 2**-53])])  # fmt: skip
    assert (weights[tree.find(fractions)] > 0).all()


def test_frequencies_are_those_of_the_weights():
    generator = torch.Generator().manual_seed(1)
    weights = torch.rand(300, generator=generator, dtype=torch.float64) + 0.05
    tree = SumTree(300, CPU)
    for part in torch.randperm(300, generator=generator).split(7):
        tree.set(part, weights[part])
    seen = sum(
        tree.find(torch.rand(100_000, generator=generator, dtype=torch.float64)).bincount(
            minlength=300
        )
        for _ in range(20)
    ).numpy()
    expected = (weights / weights.sum()).numpy() * 2_000_000
    assert stats.chisquare(seen, expected).pvalue > 1e-3
    # and the test would notice 5% more of every tenth
    expected[::10] *= 1.05
    assert stats.chisquare(seen, expected * seen.sum() / expected.sum()).pvalue < 1e-3


def test_changes_one_by_one_lead_to_the_same_bits_as_all_at_once():
    """A resumed run rebuilds its tree; its samples must not move by a rounding."""
    generator = torch.Generator().manual_seed(2)
    size = 9000
    tree, weights = SumTree(size, CPU), torch.zeros(size, dtype=torch.float64)
    for many in [1, 2, 3, 32, 64, 1000] * 8:
        indices = torch.randint(0, size, (many,), generator=generator)
        new = torch.rand(size, generator=generator, dtype=torch.float64) * 10.0 ** (many % 7 - 3)
        weights[indices] = new[indices]
        tree.set(indices, new[indices])
    for level, anew in zip(tree.levels, filled(weights).levels, strict=True):
        assert torch.equal(level, anew)
    assert float(tree.total()) == pytest.approx(float(weights.sum()), rel=1e-14)
