"""Sampling in proportion to priorities, for many at once."""

import torch
from torch import Tensor

FANOUT = 64


class SumTree:
    """A tree of sums over N weights, FANOUT children a node, in float64.

    Level 0 holds the weights; a node is the sum of its children, added up anew whenever one of
    them changes, so that no rounding accumulates. Finding a weight takes one vectorised look at
    FANOUT children a level: 4 levels for 500,000.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        self.size = size
        self.levels: list[Tensor] = []
        while True:
            nodes = -(-size // FANOUT)
            level = torch.zeros(nodes * FANOUT, dtype=torch.float64, device=device)
            self.levels.append(level)
            if nodes == 1:
                break
            size = nodes

    @property
    def weights(self) -> Tensor:
        """The weights, shape (N,)."""
        return self.levels[0][: self.size]

    def total(self) -> Tensor:
        return self.levels[-1].sum()

    def set(self, indices: Tensor, weights: Tensor) -> None:
        """``weights[k]`` becomes the weight of ``indices[k]``; equal indices need equal weights."""
        self.levels[0][indices] = weights
        for level, parents in zip(self.levels, self.levels[1:], strict=False):
            indices = indices // FANOUT
            parents[indices] = level.view(-1, FANOUT)[indices].sum(1)

    def find(self, fractions: Tensor) -> Tensor:
        """The index at each of ``fractions`` of the total weight, in [0, 1); shape as given.

        Index i is found for fractions from sum(weights[:i]) / total to sum(weights[:i+1]) / total.
        One with weight 0 is never found, unless all are 0.
        """
        node = torch.zeros_like(fractions, dtype=torch.int64)
        rest = fractions * self.total()
        for level in reversed(self.levels):
            sums = level.view(-1, FANOUT)[node].cumsum(-1)  # (B, FANOUT)
            # A parent's sum may exceed the last of these by rounding.
            below = torch.nextafter(sums[:, -1], torch.zeros_like(rest))
            rest = torch.minimum(rest, below)
            child = (sums <= rest[:, None]).sum(-1, keepdim=True).clamp_(max=FANOUT - 1)
            before = sums.gather(-1, (child - 1).clamp_(min=0)).squeeze(-1)
            rest = rest - torch.where(child.squeeze(-1) > 0, before, 0)
            node = node * FANOUT + child.squeeze(-1)
        return node

    def rebuild(self, weights: Tensor) -> None:
        """All weights at once, shape (N,)."""
        self.levels[0][: self.size] = weights
        for level, parents in zip(self.levels, self.levels[1:], strict=False):
            parents[: level.numel() // FANOUT] = level.view(-1, FANOUT).sum(1)
