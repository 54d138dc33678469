"""3 x 3 convolutions with fewer multiplications, for processors that torch has no such form for.

Winograd's minimal filtering F(4 x 4, 3 x 3), as Lavin and Gray (2016, arXiv:1509.09308) apply it to
convolutional nets: a tile of 4 x 4 outputs comes from 6 x 6 inputs d and the filter g as

    y = A^T [(G g G^T) * (B^T d B)] A,

36 multiplications instead of 144, and over all tiles and channels 36 matrix products. The matrices
are those of polynomial interpolation at five POINTS and infinity. Rounding grows about threefold
against the direct form, less than at the usual points 0, +-1, +-2 (Barabasz et al. 2020,
arXiv:1803.10986, who search for the best ones).
"""

import functools

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

POINTS = (0.0, 1.0, -1.0, 0.5, -2.0, np.inf)
TILE, WINDOW = 4, 6
CHUNK = 1 << 21  # numbers in work at a time: what stays within a processor's caches


def transform(weight: Tensor) -> Tensor:
    """G g G^T of filters (3, 3, C, O): (36, C, O), four times as many numbers."""
    powers = _evaluation(POINTS, 3)
    matrix = torch.from_numpy(np.kron(powers, powers)).to(weight.device, weight.dtype)
    return (matrix @ weight.reshape(9, -1)).view(WINDOW**2, *weight.shape[2:])


def conv3x3(x: Tensor, filters: Tensor, adjoint: bool = False) -> Tensor:
    """The convolution with zero padding 1, or its adjoint (the gradient with respect to its input).

    Args:
        x: (N, H, W, C), channels last.
        filters: (36, C, O) from `transform`; with ``adjoint``, ``x`` has O channels, the result C.

    Returns (N, H, W, O).
    """
    outer, inner = (
        matrix.to(x.device, x.dtype) for matrix in _transforms(ADJOINT if adjoint else DIRECT)
    )
    if adjoint:
        filters = filters.mT
    images, height, width, _ = x.shape
    inputs, outputs = filters.shape[1:]
    rows, columns = -(-height // TILE), -(-width // TILE)  # of tiles
    padded = F.pad(x, (0, 0, 1, TILE * columns + 1 - width, 1, TILE * rows + 1 - height))
    a, b, c, d = padded.stride()
    windows = padded.as_strided(
        (WINDOW, WINDOW, images, rows, columns, inputs), (b, c, a, TILE * b, TILE * c, d)
    )
    result = x.new_empty(images, rows, TILE, columns, TILE, outputs)
    row = WINDOW**2 * columns * max(inputs, outputs)
    some_rows = min(rows, max(1, CHUNK // row))
    some_images = max(1, CHUNK // (row * rows))
    for i in range(0, images, some_images):
        for r in range(0, rows, some_rows):
            part = windows[:, :, i : i + some_images, r : r + some_rows]
            n, m = part.shape[2:4]
            transformed = inner @ part.reshape(WINDOW**2, -1)
            products = transformed.view(WINDOW**2, -1, inputs) @ filters
            tiles = (outer @ products.view(WINDOW**2, -1)).view(TILE, TILE, n, m, columns, outputs)
            result[i : i + n, r : r + m].copy_(tiles.permute(2, 3, 0, 4, 1, 5))
    whole = result.view(images, TILE * rows, TILE * columns, outputs)
    return whole[:, :height, :width].contiguous()


# The points of a convolution and the factors of its filters there. The adjoint convolves with the
# filters turned by half a turn. In one dimension these are g'(x) = x^2 g(1 / x), with the value of g
# at infinity at 0 and the other way round: the same transformed filters, at inverse points.
DIRECT = (POINTS, (1.0,) * WINDOW)
_INVERSE = tuple(np.inf if p == 0 else 1 / p for p in POINTS)
ADJOINT = (_INVERSE, tuple(1.0 if q in (0, np.inf) else q**2 for q in _INVERSE))


@functools.cache
def _transforms(kind: tuple[tuple[float, ...], tuple[float, ...]]) -> tuple[Tensor, Tensor]:
    """A^T (16, 36) and B^T (36, 36) in float64, for flattened tiles and windows."""
    points, factors = kind
    outer = _evaluation(points, TILE).T * np.asarray(factors)
    inner = np.linalg.inv(_evaluation(points, WINDOW).T)
    return torch.from_numpy(np.kron(outer, outer)), torch.from_numpy(np.kron(inner, inner))


def _evaluation(points: tuple[float, ...], size: int) -> np.ndarray:
    """Of polynomials with ``size`` coefficients at points; at infinity the leading one counts."""
    rows = [np.eye(size)[-1] if np.isinf(p) else p ** np.arange(size) for p in points]
    return np.array(rows)
