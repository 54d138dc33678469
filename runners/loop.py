"""The training loop: the one place where a loss becomes steps, rows and an end."""

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from runners.record import COMPLETED, DIVERGED, INTERRUPTED
from tasks.task import Stopped, Task

Row = dict[str, Any]


@dataclass
class Progress:
    """Where a run stands, beside the states of task, optimizer and schedule.

    Attributes:
        step: optimizer steps done.
        train_seconds: time spent stepping; evaluations and checkpoints are off this clock.
        diverged: replica -> the step whose loss was no longer finite.
        evaluated: the step of the last row; -1: none yet.
    """

    step: int = 0
    train_seconds: float = 0.0
    diverged: dict[int, int] = field(default_factory=dict)
    evaluated: int = -1


def train(
    task: Task,
    optimizer: Optimizer,
    schedule: LRScheduler | None,
    progress: Progress,
    *,
    steps: int,
    eval_every: int,
    checkpoint_every: int,
    precision: str,
    write: Callable[[Row], None],
    checkpoint: Callable[[], None],
    stop: Callable[[], bool],
) -> str:
    """Step until ``steps``, until every replica diverged, or until ``stop()``.

    ``write`` gets a row at step 0, every ``eval_every`` steps and at the end; ``checkpoint`` is
    called every ``checkpoint_every`` steps before the last and at a stop, when ``progress`` and all
    states are those of a finished step, or of the place where `Task.loss` raised Stopped. Returns
    the status: completed, diverged or interrupted.

    A replica whose loss is no longer finite is frozen where it stands: its loss no longer counts,
    its parameters no longer move. Replicas do not see each other, so the others go on unchanged.
    After the last step, which no loss follows, it is the parameters that have to be finite.
    """
    device = next(task.parameters()).device
    half = precision == "bf16"
    # entering a disabled autocast costs as much as several operations
    autocast = torch.autocast(device.type, torch.bfloat16) if half else nullcontext()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    replicas = len(task.replicas)
    frozen = _Frozen(parameters, replicas, progress.diverged)

    def evaluate() -> None:
        if progress.evaluated == progress.step:  # before a stop, or before it was seen to diverge
            return
        progress.evaluated = progress.step
        metrics = {name: _values(name, value, replicas) for name, value in task.evaluate().items()}
        write({"step": progress.step, "train_seconds": progress.train_seconds, **metrics})

    if progress.step == 0:
        evaluate()
    clock = _Clock(device)
    while progress.step < steps:
        try:
            if stop():
                raise Stopped
            with autocast:
                loss = task.loss()
        except Stopped:
            progress.train_seconds += clock.read()
            checkpoint()
            return INTERRUPTED
        if loss.numel() != replicas:
            raise ValueError(_not_one_a_replica("loss()", loss, replicas))
        if not math.isfinite(frozen.total(loss)):
            frozen.add(loss, progress.step)
        if len(progress.diverged) == replicas:
            progress.train_seconds += clock.read()
            evaluate()
            return DIVERGED
        task.backward(loss, frozen.weights(loss))
        optimizer.step()
        frozen.hold()
        for parameter in parameters:
            parameter.grad = None
        if schedule is not None:
            schedule.step()
        progress.step += 1
        if progress.step == steps:
            frozen.add_broken(progress.step)
        due = progress.step % eval_every == 0 or progress.step == steps
        save = progress.step % checkpoint_every == 0 and progress.step < steps
        if due or save:
            progress.train_seconds += clock.read()
            if due:
                evaluate()
            if save:
                checkpoint()
            clock = _Clock(device)
    return DIVERGED if len(progress.diverged) == replicas else COMPLETED


class _Frozen:
    """The replicas that diverged: which, since when, and where they stand."""

    def __init__(self, parameters: list[Tensor], replicas: int, diverged: dict[int, int]) -> None:
        self.parameters, self.replicas, self.diverged = parameters, replicas, diverged
        self._dead: Tensor | None = None  # (R,), None as long as all live
        self._weights: Tensor | None = None
        self._stands: list[tuple[Tensor, Tensor, Tensor]] = []  # parameter, mask, where it stands
        if diverged:
            dead = torch.zeros(replicas, dtype=torch.bool)
            dead[list(diverged)] = True
            self._freeze(dead.to(parameters[0].device))

    def total(self, loss: Tensor) -> float:
        """The sum over the living; not finite if and only if one more diverged (or overflows)."""
        loss = loss.detach()
        return (loss if self._dead is None else loss.masked_fill(self._dead, 0)).sum().item()

    def add(self, loss: Tensor, step: int) -> None:
        """Note those whose ``loss`` at ``step`` is not finite."""
        self._add(~loss.detach().isfinite().reshape(-1), step)

    def add_broken(self, step: int) -> None:
        """Note those with a parameter that is not finite after ``step`` steps."""
        fine = [p.detach().isfinite().reshape(self.replicas, -1).all(1) for p in self.parameters]
        self._add(~torch.stack(fine).all(0), step)

    def _add(self, bad: Tensor, step: int) -> None:
        new = bad if self._dead is None else bad & ~self._dead
        if new.any():
            self.diverged.update(dict.fromkeys(new.nonzero().flatten().tolist(), step))
            self._freeze(new if self._dead is None else new | self._dead)

    def weights(self, loss: Tensor) -> Tensor:
        """The gradient to start backward from: one for the living, zero for the frozen."""
        if self._weights is None:
            self._weights = torch.ones_like(loss)
            if self._dead is not None:
                self._weights.masked_fill_(self._dead, 0)
        return self._weights

    def hold(self) -> None:
        """Undo what the step did to the frozen: momentum moves them without a gradient, too."""
        for parameter, mask, stand in self._stands:
            torch.where(mask, stand, parameter, out=parameter)

    def _freeze(self, dead: Tensor) -> None:
        if self.replicas == 1:
            return  # the run ends here
        self._dead, self._weights, self._stands = dead, None, []
        for parameter in self.parameters:
            mask = dead.view(-1, *[1] * (parameter.dim() - 1))
            self._stands.append((parameter.detach(), mask, parameter.detach().clone()))


class _Clock:
    """Seconds since it was made, with the device's queue drained at both ends."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._wait()
        self._start = time.perf_counter()

    def read(self) -> float:
        self._wait()
        return time.perf_counter() - self._start

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def _values(name: str, metric: Tensor, replicas: int) -> list[float]:
    if not isinstance(metric, Tensor):
        kind = type(metric).__name__
        raise TypeError(
            f"evaluate(): {name!r} is a {kind}; a tensor, one value a replica, expected"
        )
    if metric.numel() != replicas:
        raise ValueError(_not_one_a_replica(f"evaluate(): {name!r}", metric, replicas))
    return metric.detach().reshape(-1).double().cpu().tolist()


def _not_one_a_replica(what: str, values: Tensor, replicas: int) -> str:
    return f"{what} is of shape {tuple(values.shape)}; ({replicas},), one value a replica, expected"
