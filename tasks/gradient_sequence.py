"""Gradients that are given beforehand: how far does an optimizer step on them?

    loss = g_t x,    so that the gradient is g_t wherever x is

Replicas are sequences g_1, g_2, ..., among them the worst cases of optimizers that divide by a
running root mean square: a gradient that dwarfs all before it, and gradients that grow or shrink
by a constant factor. All lie within [TINY, HUGE] in absolute value, so that their squares are
normal numbers of float64, and none is zero: no eps is needed. A sequence that has come to the end
of this range stays there.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tasks.task import Task, check_counts, stream

TINY, HUGE = 1e-150, 1e150
STREAM_BLOCK = 512  # steps that a stream draws at once; part of its definition
KINDS = ("normal", "cauchy", "spike", "geometric", "burst")
RANDOM = ("normal", "cauchy")  # one sequence a seed; the others are one and the same for all seeds


def geometric(steps: np.ndarray, ratio: float) -> np.ndarray:
    """TINY ratio^t for a ratio > 1 and HUGE ratio^t otherwise, held within [TINY, HUGE]."""
    start = math.log10(TINY if ratio > 1 else HUGE)
    return 10 ** np.clip(start + steps * math.log10(ratio), math.log10(TINY), math.log10(HUGE))


def sequence(replica: dict[str, Any], silence: int, block: int) -> np.ndarray:
    """The gradients of one replica in its ``block``-th STREAM_BLOCK of steps, shape (STREAM_BLOCK,).

    normal, cauchy: independent draws from the standard distribution.
    spike: TINY, but HUGE once, after ``silence`` steps.
    geometric: each gradient is ``ratio`` times the one before.
    burst: TINY for ``silence`` steps, then geometric.
    """
    kind, ratio = replica["kind"], replica.get("ratio", math.nan)
    if kind in RANDOM:
        draws = stream(replica["seed"], kind, block)
        normal = kind == "normal"
        return (
            draws.standard_normal(STREAM_BLOCK) if normal else draws.standard_cauchy(STREAM_BLOCK)
        )
    steps = np.arange(STREAM_BLOCK) + block * STREAM_BLOCK
    if kind == "spike":
        return np.where(steps == silence, HUGE, TINY)
    return geometric(steps if kind == "geometric" else np.maximum(steps - silence, 0), ratio)


class GradientSequence(Task):
    """Replicas: each random kind with every seed, each other kind once (with every ratio).

    Those that are not random carry the first seed, on which they do not depend.

    Args:
        seeds: one random stream each.
        kinds: of KINDS, see ``sequence``.
        ratios: of neighbouring gradients in the geometric sequences, each > 0; a burst takes those
            above 1.
        silence: steps before a spike or a burst.

    Metrics:
        largest_move: the largest |x_{t+1} - x_t| so far, as measured at x; 0 before the first step.
    """

    last: Tensor
    largest: Tensor

    def __init__(
        self,
        seeds: Sequence[int],
        kinds: Sequence[str] = KINDS,
        ratios: Sequence[float] = (),
        silence: int = 0,
    ) -> None:
        super().__init__()
        _check(kinds, ratios)
        check_counts(0, silence=silence)
        self.replicas = []
        for kind in kinds:
            if kind in RANDOM:
                self.replicas += [{"seed": seed, "kind": kind} for seed in seeds]
            elif kind == "spike":
                self.replicas += [{"seed": seeds[0], "kind": kind}]
            else:
                taken = [ratio for ratio in ratios if kind == "geometric" or ratio > 1]
                self.replicas += [{"seed": seeds[0], "kind": kind, "ratio": r} for r in taken]
        if not self.replicas:
            raise ValueError(f"ratios={ratios}: no sequence of kinds={kinds} is left to run")
        self.silence = silence
        self.step = 0
        zeros = torch.zeros(len(self.replicas), dtype=torch.float64)
        self.x = nn.Parameter(zeros.clone())
        self.register_buffer("last", zeros.clone())  # x at the last loss
        self.register_buffer("largest", zeros.clone())  # of the moves before it
        self._block, self._table = -1, zeros  # of gradients, (STREAM_BLOCK, R)

    def loss(self) -> Tensor:
        x = self.x.detach()
        torch.maximum(self.largest, (x - self.last).abs_(), out=self.largest)
        self.last.copy_(x)
        loss = self._gradient() * self.x
        self.step += 1
        return loss

    def backward(self, loss: Tensor, weight: Tensor) -> None:
        """What ``loss.backward(weight)`` does to ``x.grad``, without the engine."""
        self.x.grad = self._table[(self.step - 1) % STREAM_BLOCK] * weight

    def evaluate(self) -> dict[str, Tensor]:
        moved = (self.x.detach() - self.last).abs()
        return {"largest_move": torch.maximum(self.largest, moved)}

    def get_extra_state(self) -> dict[str, int]:
        return {"step": self.step}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.step = state["step"]

    def _gradient(self) -> Tensor:
        block = self.step // STREAM_BLOCK
        if block != self._block or self._table.device != self.x.device:
            rows = [sequence(replica, self.silence, block) for replica in self.replicas]
            self._table = torch.from_numpy(np.stack(rows, axis=1)).to(self.x.device)
            self._block = block
        return self._table[self.step % STREAM_BLOCK]


def _check(kinds: Any, ratios: Any) -> None:
    known = isinstance(kinds, Sequence) and all(kind in KINDS for kind in kinds)
    if not known or not kinds or len(set(kinds)) < len(kinds):
        raise ValueError(f"kinds={kinds}: a list of different ones of {', '.join(KINDS)} expected")
    numbers = isinstance(ratios, Sequence) and all(type(r) in (int, float) for r in ratios)
    if not numbers or not all(0 < r < math.inf for r in ratios) or len(set(ratios)) < len(ratios):
        raise ValueError(f"ratios={ratios}: a list of different finite numbers > 0 expected")
