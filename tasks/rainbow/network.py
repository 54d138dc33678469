"""The networks of Rainbow: a convolutional or dense torso, noisy and dueling heads, C51's atoms."""

import copy
import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HIDDEN = 512
VECTOR_HIDDEN = 128


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x W' + b; where x has several rows as (W x' + b)', the faster order on a CPU."""
    if len(x) == 1:
        return F.linear(x, weight, bias)
    return torch.addmm(bias[:, None], weight, x.t()).t()


class NoisyLinear(nn.Module):
    """Linear layer whose weights carry factorised Gaussian noise (Fortunato et al. 2018).

    y = (W + S * (q p')) x + b + s * q, with p = f(e_in), q = f(e_out), computed as
    W x + b + q * (S (p * x) + s): for one input that is less work than to form the noisy weight,
    which `FormedLinear` does for many.

    The initialisation is that of Fortunato et al., but for the sigma of the bias, sigma / sqrt(out)
    as in the authors' code (and most others).
    """

    def __init__(self, inputs: int, outputs: int, sigma: float) -> None:
        super().__init__()
        bound = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(outputs, inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound))
        self.weight_sigma = nn.Parameter(torch.full((outputs, inputs), sigma / math.sqrt(inputs)))
        self.bias_sigma = nn.Parameter(torch.full((outputs,), sigma / math.sqrt(outputs)))

    @property
    def noise_size(self) -> int:
        return sum(self.weight.shape)

    def at(self, noise: Tensor, half: bool) -> "FormedLinear":
        """This layer under ``noise``, for many inputs; ``half``: these are bfloat16."""
        return FormedLinear(self, noise, half)

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        """``x``: (B, inputs); ``noise``: p and q in one vector of `noise_size`."""
        outputs, inputs = self.weight.shape
        p, q = noise.split([inputs, outputs])
        mean = linear(x, self.weight, self.bias)
        return torch.addcmul(mean, q, linear(x * p, self.weight_sigma, self.bias_sigma))


class PlainLinear(nn.Linear):
    """A layer without noise, called as a noisy one is."""

    noise_size = 0

    def at(self, noise: Tensor, half: bool) -> "PlainLinear":
        return self

    def form(self, noise: Tensor) -> None:
        """Nothing to do: see `FormedLinear.form`."""

    def forward(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        return super().forward(x)


class FormedLinear(nn.Module):
    """A noisy layer under one noise: V x + c with V = W + S * (q p') and c = b + s * q, formed once.

    It has the parameters of the noisy layer, and their gradients.
    """

    noise_size = 0

    def __init__(self, layer: NoisyLinear, noise: Tensor, half: bool) -> None:
        super().__init__()
        self.layer = layer
        # Kept: memory that is taken anew at each update costs more than the arithmetic on it, and
        # several CUDA graphs read what one of them forms.
        self.outer, self.formed, self.weight_grad, self.weight_sigma_grad = (
            torch.empty_like(layer.weight, requires_grad=False) for _ in range(4)
        )
        self.rounded = self.formed.bfloat16() if half else self.formed
        self.rounded_bias = torch.empty_like(
            layer.bias, dtype=self.rounded.dtype, requires_grad=False
        )
        self.noise = torch.empty_like(noise)
        self.p, self.q = self.noise.split(layer.weight.shape[::-1])
        self.form(noise)

    @torch.no_grad()
    def form(self, noise: Tensor) -> None:
        """Form V and c from ``noise`` and the present parameters."""
        layer = self.layer
        self.noise.copy_(noise)
        torch.mul(self.q[:, None], self.p, out=self.outer)
        torch.addcmul(layer.weight, layer.weight_sigma, self.outer, out=self.formed)
        self.rounded.copy_(self.formed)
        self.rounded_bias.copy_(torch.addcmul(layer.bias, layer.bias_sigma, self.q))

    def forward(self, x: Tensor, noise: None = None) -> Tensor:
        return FormedProduct.apply(x, *self.layer.parameters(), self)


class FormedProduct(torch.autograd.Function):
    """V x + c, and the way back to W, b, S and s."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, weight_sigma: Tensor,
        bias_sigma: Tensor, layer: FormedLinear,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(x)
        ctx.layer = layer
        return linear(x, layer.rounded, layer.rounded_bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (x,), layer = ctx.saved_tensors, ctx.layer
        through = grad @ layer.rounded
        # sums over the batch in the parameters' type: as fast, and there is nothing to convert
        grad, x = grad.to(layer.formed.dtype), x.to(layer.formed.dtype)
        bias_grad = grad.sum(0)
        weight_grad = torch.mm(grad.t(), x, out=layer.weight_grad)
        # the chain rule through V, which costs a tenth of another product of matrices
        sigma_grad = torch.mul(weight_grad, layer.outer, out=layer.weight_sigma_grad)
        return through, weight_grad, bias_grad, sigma_grad, bias_grad * layer.q, None


class PixelConv2d(nn.Conv2d):
    """The first layer on pixels, bytes that stand for parts of 255.

    It is the weights that are divided by 255: there are fewer of them.
    """

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.weight / 255, self.bias)


class Network(nn.Module):
    """Logits of the distribution of returns (or, with one atom, returns) of each action.

    Args:
        shape: of an observation: (84, 84), or (n,).
        stack: observations in an input.
        noisy: sigma of the noisy layers; None: no noise.
    """

    def __init__(
        self, shape: Sequence[int], stack: int, actions: int, atoms: int, *, dueling: bool,
        noisy: float | None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.actions, self.atoms, self.dueling = actions, atoms, dueling
        self.in_half = False
        if len(shape) == 2:
            self.torso = nn.Sequential(
                PixelConv2d(stack, 32, 8, stride=4), nn.ReLU(inplace=True),
                nn.Conv2d(32, 64, 4, stride=2), nn.ReLU(inplace=True),
                nn.Conv2d(64, 64, 3, stride=1), nn.ReLU(inplace=True),
                nn.Flatten(),
            )  # fmt: skip
            self.torso.to(memory_format=torch.channels_last)  # as the pixels are; faster both ways
            features, hidden = self.torso(torch.zeros(1, stack, *shape)).shape[1], HIDDEN
        else:
            features = hidden = VECTOR_HIDDEN
            self.torso = nn.Sequential(
                nn.Flatten(), nn.Linear(stack * shape[0], features), nn.ReLU()
            )
        self.pixels = len(shape) == 2

        def layer(inputs: int, outputs: int) -> NoisyLinear | PlainLinear:
            if noisy is None:
                return PlainLinear(inputs, outputs)
            return NoisyLinear(inputs, outputs, noisy)

        widths = [actions * atoms, atoms] if dueling else [actions * atoms]
        self.heads = nn.ModuleList(
            nn.ModuleList([layer(features, hidden), layer(hidden, width)]) for width in widths
        )
        self._sizes = [layer.noise_size for head in self.heads for layer in head]  # type: ignore[union-attr]
        self.noise_size = sum(self._sizes)

    def at(self, noise: Tensor, half: bool = False) -> "Network":
        """This network under ``noise`` (noise_size,), for many inputs: the parameters are shared.

        ``half``: it computes in bfloat16; its parameters and their gradients remain as they are.
        """
        parts = iter(noise.split(self._sizes))
        formed = copy.copy(self)  # shares the torso
        formed._modules = dict(self._modules)
        formed.in_half = half
        formed.heads = nn.ModuleList(
            nn.ModuleList(layer.at(next(parts), half) for layer in head)  # type: ignore[operator,union-attr]
            for head in self.heads
        )
        return formed

    def form(self, noise: Tensor) -> None:
        """Of what `at` returned: be under another ``noise``, with the present parameters."""
        layers = (layer for head in self.heads for layer in head)  # type: ignore[union-attr]
        for layer, part in zip(layers, noise.split(self._sizes), strict=True):
            layer.form(part)  # type: ignore[operator]

    def in_type(self, observations: Tensor) -> Tensor:
        """``observations`` in the type of the arithmetic."""
        if self.pixels:  # to change the order of bytes is faster than that of numbers
            observations = observations.contiguous(memory_format=torch.channels_last)
        dtype = torch.bfloat16 if self.in_half else next(self.torso.parameters()).dtype
        return observations.to(dtype)

    def forward(self, observations: Tensor, noise: Tensor | None = None) -> Tensor:
        """Logits (B, actions, atoms).

        Args:
            observations: (B, stack, *shape), as the replay holds them (pixels are bytes), or
                `in_type` of that.
            noise: (noise_size,), the same for the whole batch; None: of what `at` returned.
        """
        x, sizes = self.in_type(observations), self._sizes
        parts = iter([None] * len(sizes) if noise is None else noise.to(x.dtype).split(sizes))
        # no cache: it must not outlive a CUDA graph
        half = torch.autocast(x.device.type, torch.bfloat16, cache_enabled=False)
        with half if self.in_half else nullcontext():
            x = self.torso(x)
            out = []
            for first, last in self.heads:  # type: ignore[misc]
                out.append(last(F.relu(first(x, next(parts))), next(parts)))
        logits = out[0].view(-1, self.actions, self.atoms)
        if self.dueling:
            logits = logits + out[1].unsqueeze(1) - logits.mean(1, keepdim=True)
        return logits
