import copy
import math

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from runners.config import CONF
from runners.loop import Progress, train
from tasks.gradient_sequence import HUGE, KINDS, STREAM_BLOCK, TINY, GradientSequence
from tasks.task import stream

OPTIMIZERS = sorted(path.stem for path in (CONF / "optimizer").glob("*.yaml"))
RATIOS = (0.01, 0.9, 1.0, 3.0, 1000.0)
LR, U, V = 1e-3, 0.9, 0.95
STEPS = STREAM_BLOCK + 90  # into the second block of the streams


def make(seeds=(0, 7), **changes):
    return GradientSequence(seeds=seeds, **{"ratios": RATIOS, "silence": 40} | changes)


def make_optimizer(name, task):
    cfg = OmegaConf.load(CONF / "optimizer" / f"{name}.yaml")
    changes = {"lr": LR, "betas": [U, V], "eps": 0.0}
    known = {key: value for key, value in changes.items() if key == "lr" or key in cfg}
    return instantiate(OmegaConf.merge(cfg, known), _convert_="all")(task.parameters())


def steps(task, optimizer, count):
    """Plain stepping, as anybody would write it."""
    for _ in range(count):
        optimizer.zero_grad()
        task.loss().sum().backward()
        optimizer.step()


def gradients(replica, count, silence=40):
    """The sequence of one replica, by products and an if."""
    if replica["kind"] in ("normal", "cauchy"):
        blocks = range(-(-count // STREAM_BLOCK))
        draw = {"normal": "standard_normal", "cauchy": "standard_cauchy"}[replica["kind"]]
        streams = [stream(replica["seed"], replica["kind"], block) for block in blocks]
        return np.concatenate([getattr(s, draw)(STREAM_BLOCK) for s in streams])[:count]
    if replica["kind"] == "spike":
        return np.array([HUGE if t == silence else TINY for t in range(count)])
    values, ratio = [], replica["ratio"]
    now = TINY if ratio > 1 else HUGE
    for t in range(count):
        values.append(now)
        if replica["kind"] == "geometric" or t >= silence:
            now = min(max(now * ratio, TINY), HUGE)
    return np.array(values)


def largest_update(name, g):
    """The largest |update| / lr of float64 LaProp or Adam without eps, from the equations."""
    m = n = largest = 0.0
    for t, value in enumerate(g.tolist(), 1):
        n = V * n + (1 - V) * value * value
        root = math.sqrt(n / (1 - V**t))
        m = U * m + (1 - U) * (value / root if name == "laprop" else value)
        update = m / (1 - U**t)
        largest = max(largest, abs(update if name == "laprop" else update / root))
    return largest


@pytest.mark.parametrize("name", ["laprop", "adam"])
def test_largest_move_is_the_largest_update_of_the_equations(name):
    task, rows = make(), []
    train(
        task, make_optimizer(name, task), None, Progress(), steps=STEPS, eval_every=STEPS,
        checkpoint_every=STEPS, precision="fp32", write=rows.append, checkpoint=lambda: None,
        stop=lambda: False,
    )  # fmt: skip
    assert rows[0]["largest_move"] == [0.0] * len(task.replicas)
    for replica, move in zip(task.replicas, rows[-1]["largest_move"], strict=True):
        expected = LR * largest_update(name, gradients(replica, STEPS))
        assert move == pytest.approx(expected, rel=1e-9), replica


def test_the_gradient_is_the_sequence_wherever_x_is_and_backward_is_autograds():
    task = make()
    expected = np.stack([gradients(r, STEPS) for r in task.replicas], axis=1)
    weight = torch.linspace(-1, 2, len(task.replicas), dtype=torch.float64)
    for t in range(STEPS):
        with torch.no_grad():
            task.x.normal_()
        loss = task.loss()
        loss.backward(weight)
        by_autograd, task.x.grad = task.x.grad, None
        task.backward(loss, weight)
        assert torch.equal(task.x.grad, by_autograd)
        np.testing.assert_allclose(by_autograd / weight, expected[t], rtol=1e-10)
        task.x.grad = None


def test_every_kind_is_there_and_only_the_random_ones_go_by_the_seed():
    kinds = [replica["kind"] for replica in make(seeds=(3, 4, 5)).replicas]
    assert {kind: kinds.count(kind) for kind in KINDS} == {
        "normal": 3, "cauchy": 3, "spike": 1, "geometric": 5, "burst": 2}  # fmt: skip
    one, other = make(seeds=(3, 4)), make(seeds=(4,))
    first, second = one.loss() * 0, other.loss() * 0
    (first.sum() + second.sum()).backward()
    for place, replica in enumerate(one.replicas):
        if replica["kind"] not in ("normal", "cauchy"):
            replica = {**replica, "seed": 4}
        if replica in other.replicas:
            assert one._table[:, place].equal(other._table[:, other.replicas.index(replica)])


def test_squares_stay_normal_numbers_of_float64():
    task = make(ratios=(1e-9, 1e9))
    task.loss()
    assert task._table.abs().max() <= HUGE * (1 + 1e-9) and HUGE**2 < np.finfo(float).max / 1e6
    steady = [i for i, r in enumerate(task.replicas) if r["kind"] not in ("normal", "cauchy")]
    assert task._table[:, steady].min() >= TINY * (1 - 1e-9)
    assert TINY**2 * 1e-6 > np.finfo(float).tiny


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_packed_equals_alone(name):
    packed = make(seeds=range(20))
    steps(packed, make_optimizer(name, packed), STEPS)
    for changes in ({"seeds": (7,), "kinds": ["cauchy"]}, {"kinds": ["burst"], "ratios": (3.0,)},
                    {"kinds": ["geometric"], "ratios": (0.9,)}):  # fmt: skip
        alone = make(**{"seeds": (0,)} | changes)
        steps(alone, make_optimizer(name, alone), STEPS)
        place = packed.replicas.index(alone.replicas[0])
        # one part in 1e12: packed and alone may be vectorised differently
        torch.testing.assert_close(packed.x[place], alone.x[0], rtol=1e-12, atol=0)
        moves = (packed.evaluate()["largest_move"][place], alone.evaluate()["largest_move"][0])
        torch.testing.assert_close(*moves, rtol=1e-9, atol=0)
        assert LR / 100 < moves[1] < math.inf  # it did move


def test_evaluate_changes_nothing():
    task, other = make(), make()
    for one, each in ((task, True), (other, False)):
        optimizer = make_optimizer("laprop", one)
        for _ in range(60):
            steps(one, optimizer, 1)
            if each:
                one.evaluate()
    assert task.x.equal(other.x) and task.last.equal(other.last)
    assert task.evaluate()["largest_move"].equal(other.evaluate()["largest_move"])


def test_going_on_from_a_state_dict_gives_the_same_bits():
    whole = make()
    optimizer = make_optimizer("adam", whole)
    steps(whole, optimizer, STREAM_BLOCK - 3)
    saved, moments = copy.deepcopy((whole.state_dict(), optimizer.state_dict()))
    again = make()
    again.load_state_dict(saved)
    resumed = make_optimizer("adam", again)
    resumed.load_state_dict(moments)
    for task, opt in ((whole, optimizer), (again, resumed)):
        steps(task, opt, 50)
    assert whole.x.equal(again.x)
    assert whole.evaluate()["largest_move"].equal(again.evaluate()["largest_move"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kinds": []}, "kinds"),
        ({"kinds": ["gaussian"]}, "kinds=.*normal, cauchy"),
        ({"kinds": ["spike", "spike"]}, "kinds"),
        ({"ratios": [0.0]}, "ratios"),
        ({"ratios": [math.inf]}, "ratios"),
        ({"ratios": [2.0, 2.0]}, "ratios"),
        ({"kinds": ["burst"], "ratios": [0.5]}, "ratios"),
        ({"silence": -1}, "silence"),
        ({"silence": 2.5}, "silence"),
        ({"silence": True}, "silence"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}") as caught:
        make(**arguments)
    assert "\n" not in str(caught.value)
