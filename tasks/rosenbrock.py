"""The noisy Rosenbrock function: the paper's toy task.

    f(x, y) = (1 - x + e1)^2 + 100 (y - x^2 + e2)^2,    e1, e2 ~ U(-sigma, sigma) anew every step

with its minimum (1, 1), start (0, 0). The paper's own constants are not published in code; these
are the function's usual ones. Noise levels and seeds are packed as replicas, in float64. The noise
of a seed is the same at every level up to the factor sigma, so levels are paired as well.

The time of a step is all overhead, the same for one replica and for a thousand. So the gradient
is written out, which spares autograd's engine, and on the CPU the formulas work on numpy views of
the parameter, whose operations cost a fraction of torch's.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from tasks.task import Task, check_flags, check_numbers, stream

STREAM_BLOCK = 2048  # steps of noise that a stream draws at once; part of its definition
TABLE_BLOCK = 256  # of these, how many lie scaled for all replicas at a time


Array = Any  # a numpy array (CPU) or a torch tensor (elsewhere): the formulas are the same


def noisy_rosenbrock(x: Array, y: Array, noise: Array, gradient: Array) -> Array:
    """The loss, shape (R,), and (df/dx, df/dy) into ``gradient``; ``noise`` is (e1, e2), (2, R)."""
    a = 1 - x + noise[0]
    b = y - x * x + noise[1]
    gradient[1] = 200 * b
    gradient[0] = -2 * (a + x * gradient[1])
    return a * a + 100 * (b * b)


def _numbers(value: Any) -> bool:
    return isinstance(value, Sequence) and all(type(v) in (int, float) for v in value)


class Rosenbrock(Task):
    """Replicas: every noise level with every seed.

    Args:
        seeds: one random stream each.
        sigma: different noise levels, each >= 0.
        start: where every replica begins, (x, y).
        tol: a replica has reached the minimum once its distance to (1, 1) is below this.
        path: whether ``evaluate`` also reports the position, for pictures.

    Metrics:
        distance: to (1, 1), now.
        steps_to_tol: optimizer steps until the distance first fell below ``tol``; NaN as long as
            it has not (a censored observation).
        x, y: the position, if ``path``.
    """

    steps_to_tol: Tensor
    goal: Tensor

    def __init__(
        self,
        seeds: Sequence[int],
        sigma: Sequence[float] = (0.0,),
        start: Sequence[float] = (0.0, 0.0),
        tol: float = 0.1,
        path: bool = False,
    ) -> None:
        super().__init__()
        finite = _numbers(sigma) and all(0 <= s < math.inf for s in sigma)
        if not finite or not sigma or len(set(sigma)) < len(sigma):
            raise ValueError(f"sigma={sigma}: a list of different finite levels >= 0 expected")
        check_numbers("a finite number > 0", lambda x: 0 < x < math.inf, tol=tol)
        if not _numbers(start) or len(start) != 2 or not all(map(math.isfinite, start)):
            raise ValueError(f"start={start}: a list of two finite coordinates expected")
        check_flags(path=path)
        self.replicas = [{"seed": seed, "sigma": level} for level in sigma for seed in seeds]
        self.seeds, self.sigma, self.path = tuple(seeds), tuple(sigma), path
        self.step = 0
        replicas = len(self.replicas)
        # (R, 2) in memory order (2, R): x and y are contiguous, which every operation likes.
        origin = torch.tensor(start, dtype=torch.float64)[:, None].repeat(1, replicas).t()
        self.xy = nn.Parameter(origin)
        self.register_buffer("steps_to_tol", torch.full((replicas,), math.nan, dtype=torch.float64))
        # squared distance below which a replica has newly reached the minimum; none once it has
        self.register_buffer("goal", torch.full((replicas,), tol * tol, dtype=torch.float64))
        self._noise = _Noise(self.seeds, self.sigma)
        self._views: tuple[nn.Parameter, Array, Array, Array] | None = None  # xy, x, y, goal
        self._gradient: Array = np.empty(0)  # of the last loss, shape (2, R)

    def loss(self) -> Tensor:
        xy, x, y, goal = self._views = self._views or self._make_views()
        noise = self._noise.at(self.step, like=x)
        self._gradient = torch.empty_like(noise) if isinstance(x, Tensor) else np.empty_like(noise)
        with np.errstate(over="ignore", invalid="ignore"):  # diverging is the loop's business
            near = _squared_distance(x, y) < goal
            loss = noisy_rosenbrock(x, y, noise, self._gradient)
        if near.any():  # at most once a replica
            self._note_reached()
        self.step += 1
        return _WithGradient.apply(xy, loss, self._gradient)  # pyright: ignore

    def backward(self, loss: Tensor, weight: Tensor) -> None:
        """What ``loss.backward(weight)`` does to ``xy.grad``, without the engine."""
        assert self._views is not None  # made by loss()
        self._views[0].grad = torch.as_tensor(self._gradient).mul(weight).t()

    def evaluate(self) -> dict[str, Tensor]:
        x, y = self.xy.detach().unbind(1)
        squared = _squared_distance(x, y)
        metrics = {
            "distance": squared.sqrt(),
            "steps_to_tol": self.steps_to_tol.masked_fill(squared < self.goal, self.step),
        }
        return metrics | ({"x": x.clone(), "y": y.clone()} if self.path else {})

    def get_extra_state(self) -> dict[str, int]:
        return {"step": self.step}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.step = state["step"]

    def _note_reached(self) -> None:
        x, y = self.xy.detach().unbind(1)
        reached = _squared_distance(x, y) < self.goal
        self.steps_to_tol[reached] = self.step
        self.goal[reached] = -1

    def _make_views(self) -> tuple[nn.Parameter, Array, Array, Array]:
        views = (*self.xy.detach().unbind(1), self.goal)
        x, y, goal = views if self.xy.is_cuda else (view.numpy() for view in views)
        return self.xy, x, y, goal

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Rosenbrock":
        self._views = None  # of tensors that this replaces
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_views": None}  # a copy must not look at the original


def _squared_distance(x: Array, y: Array) -> Array:
    dx, dy = x - 1, y - 1
    return dx * dx + dy * dy


class _WithGradient(torch.autograd.Function):
    """``loss`` as a function of ``xy`` whose gradient, shape (2, R), is already known."""

    @staticmethod
    def forward(ctx: Any, xy: Tensor, loss: Array, gradient: Array) -> Tensor:
        ctx.gradient = gradient
        return torch.as_tensor(loss)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        return torch.as_tensor(ctx.gradient).mul(grad_outputs[0]).t(), None, None


class _Noise:
    """The noise of every step for all replicas, drawn from the streams of the seeds."""

    def __init__(self, seeds: Sequence[int], sigma: Sequence[float]) -> None:
        self._seeds, self._sigma = seeds, np.asarray(sigma, dtype=np.float64)[:, None]
        self._block = self._table_block = -1
        self._uniform = np.empty(0)  # (STREAM_BLOCK, 2, 1, seeds)
        self._table: Array = np.empty(0)  # (TABLE_BLOCK, 2, R)

    def at(self, step: int, like: Array) -> Array:
        """(e1, e2) at ``step``, shape (2, R), an array of the kind of ``like``."""
        if step // TABLE_BLOCK != self._table_block:
            self._fill(step // TABLE_BLOCK)
            if isinstance(like, Tensor):
                self._table = torch.from_numpy(self._table).to(like.device)
        return self._table[step % TABLE_BLOCK]

    def _fill(self, table_block: int) -> None:
        first = table_block * TABLE_BLOCK
        if first // STREAM_BLOCK != self._block:
            self._block = first // STREAM_BLOCK
            draws = [
                stream(seed, "noise", self._block).uniform(-1, 1, (STREAM_BLOCK, 2))
                for seed in self._seeds
            ]
            self._uniform = np.stack(draws, axis=-1)[:, :, None, :]
        place = first % STREAM_BLOCK
        table = self._uniform[place : place + TABLE_BLOCK] * self._sigma
        self._table = table.reshape(TABLE_BLOCK, 2, -1)
        self._table_block = table_block
