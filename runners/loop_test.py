import math
import time

import pytest
import torch
from torch import nn

from runners.loop import Progress, train
from tasks.task import Stopped, Task


class Quadratic(Task):
    """|w - 1|^2, with knobs for what a loop has to deal with."""

    def __init__(self, packed=0):
        super().__init__()
        self.replicas = [{"seed": seed} for seed in range(packed or 1)]
        self.w = nn.Parameter(torch.zeros(packed, 2) if packed else torch.zeros(2))
        self.dtypes = set()

    def loss(self):
        product = self.w @ torch.eye(2)
        self.dtypes.add(product.dtype)
        return (self.w - 1).square().sum(-1)

    def evaluate(self):
        return {"loss": (self.w.detach() - 1).square().sum(-1)}


def run(task, optimizer=None, schedule=None, progress=None, stop=lambda: False, **changes):
    rows, checkpoints = [], []
    optimizer = optimizer or torch.optim.SGD(task.parameters(), lr=0.1)
    progress = progress or Progress()
    settings = {"steps": 10, "eval_every": 4, "checkpoint_every": 5, "precision": "fp32",
                "checkpoint": lambda: checkpoints.append(progress.step)} | changes  # fmt: skip
    status = train(task, optimizer, schedule, progress, write=rows.append, stop=stop, **settings)
    return status, progress, rows, checkpoints


def test_rows_and_checkpoints_come_when_they_are_due():
    status, progress, rows, checkpoints = run(Quadratic())
    assert status == "completed" and progress.step == 10
    assert [row["step"] for row in rows] == [0, 4, 8, 10]
    assert checkpoints == [5]  # one at the end would be deleted at once
    expected = [2 * 0.8 ** (2 * t) for t in (0, 4, 8, 10)]  # w - 1 shrinks by 1 - 2 lr a step
    assert [row["loss"][0] for row in rows] == pytest.approx(expected, rel=1e-5)


def test_the_steps_and_only_they_are_training_time_also_up_to_a_stop(monkeypatch):
    """By a clock on which a step takes 1 s, an evaluation 100 s and a checkpoint 1000 s."""
    task, progress, now, saved = Quadratic(), Progress(), [0.0], []
    loss, evaluate, answers = task.loss, task.evaluate, iter([False] * 6 + [True])

    def after(seconds, action):
        now[0] += seconds
        return action()

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    task.loss, task.evaluate = lambda: after(1, loss), lambda: after(100, evaluate)
    save = {"checkpoint": lambda: after(1000, lambda: saved.append(progress.train_seconds))}
    _, _, first, _ = run(task, progress=progress, stop=lambda: next(answers), **save)
    assert saved == [5, 6]
    _, _, second, _ = run(task, progress=progress, **save)
    assert [(row["step"], row["train_seconds"]) for row in first + second] == [
        (0, 0), (4, 4), (8, 8), (10, 10)
    ]  # fmt: skip


def test_schedule_steps_once_a_step():
    task = Quadratic()
    optimizer = torch.optim.SGD(task.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=10)
    run(task, optimizer, schedule)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-12)
    product = math.prod(1 - 2 * 0.1 * (1 - t / 10) for t in range(10))
    assert (1 - task.w[0]).item() == pytest.approx(product, rel=1e-5)


def test_stop_checkpoints_a_finished_step_and_going_on_gives_the_same():
    whole = Quadratic()
    _, _, whole_rows, _ = run(whole)
    task, answers = Quadratic(), iter([False] * 6 + [True])
    optimizer = torch.optim.SGD(task.parameters(), lr=0.1)
    status, progress, first, checkpoints = run(task, optimizer, stop=lambda: next(answers))
    assert status == "interrupted" and progress.step == 6 and checkpoints == [5, 6]
    status, _, second, _ = run(task, optimizer, progress=progress)
    assert status == "completed"
    assert [r["loss"] for r in first + second] == [r["loss"] for r in whole_rows]
    assert torch.equal(task.w, whole.w)


def test_a_loss_that_stops_in_the_middle_is_checkpointed_there():
    task = Quadratic()
    plain, calls = task.loss, iter(range(100))

    def loss():
        if next(calls) == 6:
            raise Stopped
        return plain()

    task.loss = loss
    optimizer = torch.optim.SGD(task.parameters(), lr=0.1)
    status, progress, first, checkpoints = run(task, optimizer)
    assert status == "interrupted" and progress.step == 6 and checkpoints == [5, 6]
    _, _, second, _ = run(task, optimizer, progress=progress)
    _, _, whole, _ = run(Quadratic())
    assert [r["loss"] for r in first + second] == [r["loss"] for r in whole]


def test_an_unpacked_run_that_diverges_ends_there():
    task = Quadratic()
    status, progress, rows, _ = run(task, torch.optim.SGD(task.parameters(), lr=1e30), steps=50)
    assert status == "diverged" and progress.diverged == {0: progress.step}
    assert rows[-1]["step"] == progress.step < 50


def test_a_diverged_replica_stays_where_it_stood_after_a_stop_too():
    """Its loss is NaN once, at step 3; momentum and later losses would move it."""

    def start():
        task, steps = Quadratic(packed=2), iter(range(100))
        plain = task.loss
        task.loss = lambda: plain() * torch.tensor([math.nan if next(steps) == 3 else 1.0, 1.0])
        return task, torch.optim.SGD(task.parameters(), lr=0.1, momentum=0.9)

    task, optimizer = start()
    run(task, optimizer, steps=3)
    stood = task.w[0].clone()
    (whole, optimizer), progress = start(), Progress()
    _, _, whole_rows, _ = run(whole, optimizer)
    (task, optimizer), answers = start(), iter([False] * 6 + [True])
    _, _, first, _ = run(task, optimizer, progress=progress, stop=lambda: next(answers))
    status, _, second, _ = run(task, optimizer, progress=progress)
    assert status == "completed" and progress.diverged == {0: 3}
    assert torch.equal(task.w[0], stood) and torch.equal(task.w[1], whole.w[1])
    assert [r["loss"] for r in first + second] == [r["loss"] for r in whole_rows]


def test_a_sum_that_overflows_is_no_divergence():
    task = Quadratic(packed=2)
    with torch.no_grad():
        task.w.fill_(1.2e19)  # each loss is finite in float32, their sum is not
    assert task.loss().isfinite().all() and not task.loss().sum().isfinite()
    status, progress, _, _ = run(task, torch.optim.SGD(task.parameters(), lr=0.0), steps=3)
    assert status == "completed" and progress.diverged == {}


def test_bf16_runs_under_autocast():
    task = Quadratic()
    run(task, precision="bf16")
    assert task.dtypes == {torch.bfloat16}


def test_a_stop_before_the_first_step_leaves_one_row_of_step_0():
    task, answers = Quadratic(), iter([True])
    optimizer = torch.optim.SGD(task.parameters(), lr=0.1)
    status, progress, first, checkpoints = run(task, optimizer, stop=lambda: next(answers))
    assert status == "interrupted" and checkpoints == [0]
    _, _, second, _ = run(task, optimizer, progress=progress)
    assert [row["step"] for row in first + second] == [0, 4, 8, 10]


def test_a_divergence_at_an_evaluation_has_one_row_of_that_step():
    task = Quadratic()
    status, _, rows, _ = run(task, torch.optim.SGD(task.parameters(), lr=1e38), eval_every=1)
    assert status == "diverged"
    assert len({row["step"] for row in rows}) == len(rows)


@pytest.mark.parametrize("packed", [0, 2])
def test_what_blows_up_in_the_last_step_diverged(packed):
    task = Quadratic(packed)
    if packed:
        with torch.no_grad():
            task.w[1] = 1.0  # at its minimum, and stays there
    status, progress, rows, _ = run(task, torch.optim.SGD(task.parameters(), lr=3e38), steps=1)
    assert progress.diverged == {0: 1} and rows[-1]["step"] == 1
    assert status == ("completed" if packed else "diverged")


@pytest.mark.parametrize("method", ["loss", "evaluate"])
@pytest.mark.parametrize(("replicas", "given"), [(2, ()), (2, (3,)), (1, (2,))])
def test_not_one_value_a_replica_is_refused(monkeypatch, method, replicas, given):
    """A mean over replicas would train each with a part of its gradient, and nobody would see it."""
    task = Quadratic(packed=replicas)
    wrong = torch.ones(given)
    monkeypatch.setattr(task, method, lambda: wrong if method == "loss" else {"error": wrong})
    with pytest.raises(
        ValueError, match=rf"\({replicas},\), one value a replica, expected"
    ) as told:
        run(task)
    assert str(told.value).startswith("loss() is" if method == "loss" else "evaluate(): 'error' is")
    assert f"of shape {given}" in str(told.value)


def test_a_metric_that_is_no_tensor_is_named():
    task = Quadratic()
    task.evaluate = lambda: {"distance": 1.0}
    with pytest.raises(
        TypeError, match=r"evaluate\(\): 'distance' is a float; a tensor, one value"
    ):
        run(task)
