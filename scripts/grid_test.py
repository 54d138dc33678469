import numpy as np
import pytest

from scripts import grid, statistics

SEEDS = np.random.default_rng(0).normal(size=20)  # what all learning rates share


def chosen(ends, **more):
    """From one value a seed, of each learning rate."""
    means = {lr: float(values.mean()) for lr, values in ends.items()}
    return grid.choose(means, lambda a, b: statistics.mean_interval(ends[a] - ends[b]), **more)


def noisy(mean, place):
    return SEEDS + mean + np.random.default_rng(place).normal(scale=0.1, size=20)


def test_the_best_is_inside():
    found = chosen({0.1: noisy(1.0, 1), 0.2: noisy(0.0, 2), 0.3: noisy(1.0, 3)})
    assert found == (0.2, frozenset({0.2}), False)


@pytest.mark.parametrize("end", [0.1, 0.3])
def test_the_best_is_at_an_end(end):
    ends = {lr: noisy(0.0 if lr == end else 1.0, int(10 * lr)) for lr in (0.1, 0.2, 0.3)}
    assert chosen(ends) == (end, frozenset({end}), True)


def test_a_tie_with_one_inside_is_no_edge():
    # 0.1 is better by the mean, at one seed of twenty
    lucky = SEEDS.copy()
    lucky[3] -= 5
    found = chosen({0.1: lucky, 0.2: SEEDS, 0.3: noisy(3.0, 3)})
    assert found == (0.1, frozenset({0.1, 0.2}), False)


def test_a_tie_of_both_ends_is_an_edge():
    found = chosen({0.1: SEEDS, 0.2: noisy(3.0, 2), 0.3: SEEDS})
    assert found == (0.1, frozenset({0.1, 0.3}), True)


def test_few_seeds_tie_only_where_they_are_equal():
    few = statistics.MIN_SEEDS - 1
    near = chosen(
        {lr: noisy(0.01 * place, place)[:few] for place, lr in enumerate((0.1, 0.2, 0.3))}
    )
    assert len(near.tied) == 1
    equal = chosen(dict.fromkeys((0.1, 0.2, 0.3), SEEDS[:few]))
    assert equal == (0.1, frozenset({0.1, 0.2, 0.3}), False)


def test_of_equal_ones_the_preferred():
    found = chosen(dict.fromkeys((0.1, 0.2, 0.3), SEEDS), preferred=lambda lr: abs(lr - 0.2))
    assert found.lr == 0.2


def test_a_grid_of_one_is_an_edge():
    assert chosen({0.1: SEEDS}).on_edge
