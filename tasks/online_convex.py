"""Online convex optimization on a box, the counterexample on which Adam fails among its problems.

In round t the optimizer plays x_t in [-1, 1]^d and then meets a convex loss f_t. Its regret is

    R(T) = sum_{t<=T} f_t(x_t) - min_{x in box} sum_{t<=T} f_t(x),

and every loss is phi(a . x, b) with features a in R^d and a target b:

    problem           phi(z, b)            losses
    reddi             z                    d = 1; a = C, -1, -1, C, -1, -1, ...: nothing random
    reddi_stochastic  z                    d = 1; a = C with probability (1 + s) / (C + 1), else -1
    least_squares     (z - b)^2 / 2        d = 3; a ~ N(0, 1), b = a . w + N(0, 1) / 2
    logistic          log(1 + exp(-b z))   d = 3; a ~ N(0, 1), b = 1 with probability
                                           1 / (1 + exp(-2 a . w)), else -1

with w uniform in the box. The first two are from Reddi, Kale and Kumar (2018, arXiv:1904.09237),
theorems 1 and 3; the mean of their gradients is (C - 2) / 3 and s, both positive, so that x = -1 is
the best point in the long run. The other two draw their rounds, with replacement, from a sample of
ITEMS losses for each seed. So all problems have a small pool of losses, and how often each has been
met is all that the best fixed point in hindsight depends on.

Problems and seeds are packed as replicas, in float64 and in numpy: a step is all overhead. Those
of one dimension have features 0 in the others, which decide nothing and follow the first.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tasks.task import Task, check_numbers, stream

ITEMS = 64  # losses in the sample of a seed
DIMENSIONS = 3
STREAM_BLOCK = 1024  # rounds that a stream draws at once; part of its definition
GAP = 1e-10  # the best fixed point is known to this much of its average loss
NEWTON_STEPS = 100

Floats = NDArray[np.float64]


class Link(NamedTuple):
    """phi(z, b), and its first and second derivative by z."""

    value: Callable[[Floats, Floats], Floats]
    slope: Callable[[Floats, Floats], Floats]
    curvature: Callable[[Floats, Floats], Floats]


def _sigmoid(z: Floats) -> Floats:
    return 0.5 + 0.5 * np.tanh(0.5 * z)


LINEAR = Link(lambda z, b: z, lambda z, b: np.ones_like(z), lambda z, b: np.zeros_like(z))
SQUARED = Link(lambda z, b: 0.5 * (z - b) ** 2, lambda z, b: z - b, lambda z, b: np.ones_like(z))
LOGISTIC = Link(
    lambda z, b: np.logaddexp(0.0, -b * z),
    lambda z, b: -b * _sigmoid(-b * z),
    lambda z, b: _sigmoid(z) * _sigmoid(-z),
)
LINKS = {
    "reddi": LINEAR,
    "reddi_stochastic": LINEAR,
    "least_squares": SQUARED,
    "logistic": LOGISTIC,
}


class OnlineConvex(Task):
    """Replicas: every problem with every seed; ``reddi``, which has nothing random, once.

    The box is kept by the task: ``loss`` projects x onto it before it plays the round, because
    the loop owns the stepping. Every replica starts at the corner (1, ..., 1), the far end from
    where the counterexamples have their minimum.

    Args:
        seeds: one random stream each; the one replica of ``reddi`` bears the first.
        problem: names of problems, see the module.
        reddi_large: C of ``reddi``, > 2.
        stochastic_large: C of ``reddi_stochastic``, > 1.
        stochastic_surplus: s, the mean of its gradients, in (0, C).

    Metrics:
        average_regret: R(T) / T over the T rounds so far; NaN before the first.
        x: the first coordinate of the point that would be played next.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        problem: Sequence[str] = ("reddi",),
        reddi_large: float = 3.0,
        stochastic_large: float = 101.0,
        stochastic_surplus: float = 0.3,
    ) -> None:
        super().__init__()
        known = isinstance(problem, Sequence) and not isinstance(problem, str)
        if not known or not problem or any(name not in list(LINKS) for name in problem):
            raise ValueError(f"problem={problem}: a list of some of {', '.join(LINKS)} expected")
        if len(set(problem)) < len(problem):
            raise ValueError(f"problem={problem}: each problem once expected")
        check_numbers("a finite number > 2", lambda x: 2 < x < math.inf, reddi_large=reddi_large)
        check_numbers(
            "a finite number > 1", lambda x: 1 < x < math.inf, stochastic_large=stochastic_large
        )
        check_numbers(
            "a finite number > 0", lambda x: 0 < x < math.inf, stochastic_surplus=stochastic_surplus
        )
        if stochastic_surplus >= stochastic_large:
            raise ValueError(
                f"stochastic_surplus={stochastic_surplus}: a number below stochastic_large="
                f"{stochastic_large} expected"
            )
        self._large = {"reddi": reddi_large, "reddi_stochastic": stochastic_large}
        self._probability = (1 + stochastic_surplus) / (stochastic_large + 1)
        self.replicas = [
            {"seed": seed, "problem": name}
            for name in problem
            for seed in (seeds[:1] if name == "reddi" else seeds)
        ]
        names = [str(replica["problem"]) for replica in self.replicas]
        self._parts = [
            (LINKS[name], slice(names.index(name), names.index(name) + names.count(name)))
            for name in problem
        ]
        pools = [self._pool(replica) for replica in self.replicas]
        self._features: Floats = np.stack([features for features, _ in pools])  # (R, ITEMS, d)
        self._targets: Floats = np.stack([targets for _, targets in pools])  # (R, ITEMS)
        self._unused = ~self._features.any(axis=1)  # (R, d)
        self._rows = np.arange(len(pools))
        self._block, self._table = -1, []  # of a block: items, features and targets of each round
        self.step = 0
        self._total = np.zeros(len(pools))  # of the losses met
        self._counts = np.zeros((len(pools), ITEMS))  # how often each was met
        dimensions = self._features.shape[2]
        self.x = nn.Parameter(torch.ones(len(pools), dimensions, dtype=torch.float64))
        self._gradient = self.x.detach()  # of the last loss

    def loss(self) -> Tensor:
        with torch.no_grad():
            self.x.clamp_(-1, 1)
        items, features, targets = self._round(self.step)
        z = np.einsum("rd,rd->r", features, self.x.detach().cpu().numpy())
        loss, slope = np.empty_like(z), np.empty_like(z)
        for link, part in self._parts:
            loss[part] = link.value(z[part], targets[part])
            slope[part] = link.slope(z[part], targets[part])
        self._total += loss
        self._counts[self._rows, items] += 1
        self.step += 1
        gradient = features * slope[:, None]
        # at 0 an optimizer whose eps is 0 would make them NaN, and the replica one that diverged
        np.copyto(gradient, gradient[:, :1], where=self._unused)
        self._gradient = torch.from_numpy(gradient).to(self.x.device)
        # a function of x with this value and this gradient
        tangent = (self.x * self._gradient).sum(dim=1)
        return tangent + (torch.from_numpy(loss).to(self.x.device) - tangent.detach())

    def backward(self, loss: Tensor, weight: Tensor) -> None:
        """What ``loss.backward(weight)`` does to ``x.grad``, without the engine."""
        self.x.grad = self._gradient * weight[:, None]

    def evaluate(self) -> dict[str, Tensor]:
        regret = np.full(len(self._rows), math.nan)
        if self.step:
            regret = self._total / self.step - self.best_average_loss()
        return {
            "average_regret": torch.from_numpy(regret),
            "x": self.x.detach()[:, 0].clamp(-1, 1),
        }

    def best_average_loss(self) -> Floats:
        """min over the box of the average of the losses met so far, shape (R,)."""
        weights = self._counts / self.step
        best = [
            minimum_on_box(link, self._features[part], self._targets[part], weights[part])
            for link, part in self._parts
        ]
        return np.concatenate(best)

    def get_extra_state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "total": torch.from_numpy(self._total.copy()),
            "counts": torch.from_numpy(self._counts.copy()),
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        self._total = state["total"].numpy().copy()
        self._counts = state["counts"].numpy().copy()

    def _pool(self, replica: dict[str, Any]) -> tuple[Floats, Floats]:
        """Features (ITEMS, d) and targets (ITEMS,) of one replica; what is not drawn is zero."""
        name, seed = replica["problem"], replica["seed"]
        features, targets = np.zeros((ITEMS, DIMENSIONS)), np.zeros(ITEMS)
        if LINKS[name] is LINEAR:
            features[:2, 0] = self._large[name], -1
            return features, targets
        draw = stream(seed, f"{name} pool")
        w = draw.uniform(-1, 1, DIMENSIONS)
        features = draw.standard_normal((ITEMS, DIMENSIONS))
        if name == "least_squares":
            return features, features @ w + 0.5 * draw.standard_normal(ITEMS)
        likely = _sigmoid(2 * features @ w)
        return features, np.where(draw.uniform(size=ITEMS) < likely, 1.0, -1.0)

    def _round(self, step: int) -> tuple[NDArray[np.int64], Floats, Floats]:
        """The loss that each replica meets after ``step`` steps: place in its pool, a and b."""
        if step // STREAM_BLOCK != self._block:
            self._block = step // STREAM_BLOCK
            items = np.stack([self._draw(r, self._block) for r in self.replicas], axis=1)
            features, targets = self._features[self._rows, items], self._targets[self._rows, items]
            self._table = list(zip(items, features, targets, strict=True))
        return self._table[step % STREAM_BLOCK]

    def _draw(self, replica: dict[str, Any], block: int) -> NDArray[np.int64]:
        name, seed = replica["problem"], replica["seed"]
        if name == "reddi":  # C in the rounds t = 1, 4, 7, ...
            steps = np.arange(block * STREAM_BLOCK, (block + 1) * STREAM_BLOCK)
            return (steps % 3 != 0).astype(np.int64)
        draw = stream(seed, f"{name} rounds", block)
        if name == "reddi_stochastic":
            return (draw.uniform(size=STREAM_BLOCK) >= self._probability).astype(np.int64)
        return draw.integers(0, ITEMS, STREAM_BLOCK)


def minimum_on_box(link: Link, features: Floats, targets: Floats, weights: Floats) -> Floats:
    """min over [-1, 1]^d of h(x) = sum_k weights_k phi(a_k . x, b_k), shape (R,), within GAP.

    Newton's method with projection (Bertsekas 1982, SIAM J. Control Optim. 20), a step halved until
    it does not ascend. By convexity h(x) - min h <= sum_i (g_i x_i + |g_i|) with the gradient g,
    and that is what ends the search; RuntimeError where it does not end.

    Args:
        features: a, shape (R, K, d).
        targets: b, shape (R, K).
        weights: >= 0, shape (R, K).
    """
    if link is LINEAR:
        return -np.abs(np.einsum("rk,rkd->rd", weights, features)).sum(axis=1)

    def height(x: Floats) -> Floats:
        return (weights * link.value(np.einsum("rkd,rd->rk", features, x), targets)).sum(axis=1)

    x = np.zeros((len(features), features.shape[2]))
    diagonal = np.eye(features.shape[2])
    for _ in range(NEWTON_STEPS):
        z = np.einsum("rkd,rd->rk", features, x)
        gradient = np.einsum("rk,rkd->rd", weights * link.slope(z, targets), features)
        gap = (gradient * x + np.abs(gradient)).sum(axis=1)
        if (gap <= GAP).all():
            return height(x)
        held = ((x >= 1) & (gradient < 0)) | ((x <= -1) & (gradient > 0))
        scaled = features * (weights * link.curvature(z, targets))[:, :, None]
        hessian = np.where(
            held[:, :, None] | held[:, None, :],
            diagonal,
            # few rounds may leave directions without curvature
            np.einsum("rki,rkj->rij", scaled, features) + 1e-9 * diagonal,
        )
        move = np.linalg.solve(hessian, np.where(held, 0.0, gradient)[:, :, None])[:, :, 0]
        x = _descend(height, x, move)
    raise RuntimeError(f"best fixed point: gap {gap.max():.1e} after {NEWTON_STEPS} Newton steps")


def _descend(height: Callable[[Floats], Floats], x: Floats, move: Floats) -> Floats:
    """x - move on the box, with the move halved where it would ascend."""
    size, start = np.ones((len(x), 1)), height(x)
    for _ in range(30):
        there = np.clip(x - size * move, -1, 1)
        ascends = height(there) > start + 1e-15
        if not ascends.any():
            return there
        size[ascends] /= 2
    return there
