"""Random numbers of the i-th step, for any i, without keeping what was drawn before."""

from collections.abc import Callable

import torch
from torch import Tensor

from tasks.task import stream


class Rows:
    """Row i of an endless table of random numbers, drawn in blocks.

    The table depends on (seed, purpose) alone: the state of such a stream is the number of the next
    row, and a row can be drawn again.
    """

    def __init__(
        self, seed: int, purpose: str, draw: Callable[[torch.Generator, int], Tensor], block: int
    ) -> None:
        self._key, self._draw, self._block = (seed, purpose), draw, block
        self._present = (-1, torch.empty(0))

    def __call__(self, i: int) -> Tensor:
        number, place = divmod(i, self._block)
        if self._present[0] != number:
            key = int(stream(*self._key, number).integers(2**63))
            drawn = self._draw(torch.Generator().manual_seed(key), self._block)
            self._present = (number, drawn)
        return self._present[1][place]


def uniform(columns: int) -> Callable[[torch.Generator, int], Tensor]:
    """Uniform in [0, 1), float64."""

    def draw(generator: torch.Generator, rows: int) -> Tensor:
        return torch.rand(rows, columns, generator=generator, dtype=torch.float64)

    return draw


def factor_noise(columns: int, device: torch.device) -> Callable[[torch.Generator, int], Tensor]:
    """f(x) = sign(x) sqrt|x| of standard normals, the factors of a noisy layer's noise."""

    def draw(generator: torch.Generator, rows: int) -> Tensor:
        normal = torch.randn(rows, columns, generator=generator)
        return normal.abs().sqrt_().copysign_(normal).to(device)

    return draw
