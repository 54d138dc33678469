"""The contract between a task and the training loop."""

import zlib
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn


class CorruptState(ValueError):
    """A state that refers to files of ``Task.folder`` which are not what they were."""


class Stopped(Exception):
    """From `loss`, where ``Task.stopping()`` was true: the state dict holds all that was done so far,
    and a later `loss` goes on from there to the same numbers."""


class Task(nn.Module):
    """A training problem, or R independent copies of it packed into one.

    A task draws its own data and holds its own trainable parameters; the loop owns the stepping.
    What is needed to go on after a kill belongs into the state dict (buffers, or
    ``get_extra_state`` for cursors and random streams).

    Packing: with R replicas every trainable parameter has a leading dimension R, and ``loss`` and
    ``evaluate`` return shape ``(R,)``. Replicas never see each other, so R packed replicas follow
    the same paths as R separate runs.

    Attributes:
        replicas: one dict a replica, with its ``seed`` and whatever else tells it from the others
            (for instance ``{"seed": 3, "sigma": 0.08}``), numbers and short names; they become
            columns of the tables.
        folder: where a task may keep state that is too large to be written anew at every
            checkpoint; its state dict then says which of the files there belong to it. The runner
            sets it before a state is loaded and before the first step, asks for a state dict only
            to save it, deletes the folder when a run starts anew and when it is finished. The task
            keeps what the last two state dicts need: the last may never have been saved.
            ``set_extra_state`` raises CorruptState, before it changes anything, where the files are
            not as they were. None: there is no such place, the state dict holds everything.
        stopping: whether the run is about to stop; the runner sets it. A loss that can take minutes
            asks now and then, and raises Stopped.
    """

    replicas: Sequence[dict[str, int | float | str]]
    folder: Path | None = None
    stopping: Callable[[], bool] = staticmethod(lambda: False)
    distributed = False  # whether several processes of torch.distributed may share its steps

    def loss(self) -> Tensor:
        """Draw the next batch and return the loss, shape ``(R,)``, for R = 1 also ``()``; one call is
        one step."""
        raise NotImplementedError

    def backward(self, loss: Tensor, weight: Tensor) -> None:
        """Gradients of ``(loss * weight).sum()`` into the parameters, which have none before.

        ``loss`` is what ``loss()`` just returned. A task overrides this only where it can do the
        same faster than autograd.
        """
        loss.backward(weight)

    def evaluate(self) -> dict[str, Tensor]:
        """Metrics of the present state, each of the shape of the loss; changes nothing."""
        raise NotImplementedError

    def artifacts(self) -> dict[str, bytes]:
        """Files for people to look at, of the present state: name -> content; changes nothing.

        They are written into the run's folder after every evaluation and where a run is stopped,
        over the ones before; images (.png, .jpg) go to W&B at the end. A batch system gives a run
        that it stops a minute or two: what takes long is of the last evaluation.
        """
        return {}


def stream(seed: int, purpose: str, block: int = 0) -> np.random.Generator:
    """The random stream of one seed for one purpose, from its ``block``-th block on.

    Keyed by (seed, purpose, block) alone, never by a place in a pack or by the optimizer, so two
    optimizers on the same seed see the same noise, and any block can be drawn again after a kill.
    """
    return np.random.default_rng([seed, zlib.crc32(purpose.encode()), block])


# Arguments: each check takes them by name and raises ValueError, one line, for the first bad one.
# A flag of 5 or a count of True is a slip: refuse rather than guess.


def check_flags(**values: Any) -> None:
    _check("true or false", lambda value: isinstance(value, bool), values)


def check_counts(least: int, **values: Any) -> None:
    def holds(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value >= least

    _check(f"a whole number >= {least}", holds, values)


def check_numbers(allowed: str, within: Callable[[float], bool], **values: Any) -> None:
    """``allowed`` says in words what is ``within``, which NaN should not be."""

    def holds(value: Any) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool) and within(value)

    _check(allowed, holds, values)


def check_choice(known: Collection[str], **values: Any) -> None:
    _check(f"one of {', '.join(known)}", lambda value: value in list(known), values)


def check_texts(**values: Any) -> None:
    """Names and paths."""
    _check("a text", lambda value: isinstance(value, str | Path), values)


def _check(allowed: str, holds: Callable[[Any], bool], values: dict[str, Any]) -> None:
    for name, value in values.items():
        if not holds(value):
            raise ValueError(f"{name}={value}: {allowed} expected")
