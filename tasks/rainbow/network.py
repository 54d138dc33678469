"""The networks of Rainbow: a convolutional or dense torso, noisy and dueling heads, C51's atoms."""

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HIDDEN = 512
VECTOR_HIDDEN = 128


class NoisyLinear(nn.Module):
    """Linear layer whose weights carry factorised Gaussian noise (Fortunato et al. 2018).

    y = (W + S * (q p')) x + b + s * q, with p = f(e_in), q = f(e_out), computed as
    W x + b + q * (S (p * x) + s): the noisy weight itself is never formed.

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

    @torch.no_grad()
    def at(self, noise: Tensor) -> "PlainLinear":
        """The linear layer that this one is under ``noise``: for many inputs with the same."""
        outputs, inputs = self.weight.shape
        p, q = noise.split([inputs, outputs])
        plain = PlainLinear(inputs, outputs, device=noise.device, dtype=self.weight.dtype)
        plain.weight.copy_(torch.addcmul(self.weight, self.weight_sigma, q[:, None] * p))
        plain.bias.copy_(torch.addcmul(self.bias, self.bias_sigma, q))
        return plain

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        """``x``: (B, inputs); ``noise``: p and q in one vector of `noise_size`."""
        outputs, inputs = self.weight.shape
        p, q = noise.split([inputs, outputs])
        mean = F.linear(x, self.weight, self.bias)
        return torch.addcmul(mean, q, F.linear(x * p, self.weight_sigma, self.bias_sigma))


class PlainLinear(nn.Linear):
    """A layer without noise, called as a noisy one is."""

    noise_size = 0

    def at(self, noise: Tensor) -> "PlainLinear":
        return self

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x)


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
        if len(shape) == 2:
            self.torso = nn.Sequential(
                nn.Conv2d(stack, 32, 8, stride=4), nn.ReLU(),
                nn.Conv2d(32, 64, 4, stride=2), nn.ReLU(),
                nn.Conv2d(64, 64, 3, stride=1), nn.ReLU(),
                nn.Flatten(),
            )  # fmt: skip
            features, hidden = self.torso(torch.zeros(1, stack, *shape)).shape[1], HIDDEN
        else:
            features = hidden = VECTOR_HIDDEN
            self.torso = nn.Sequential(
                nn.Flatten(), nn.Linear(stack * shape[0], features), nn.ReLU()
            )
        self.pixels = len(shape) == 2

        def linear(inputs: int, outputs: int) -> NoisyLinear | PlainLinear:
            if noisy is None:
                return PlainLinear(inputs, outputs)
            return NoisyLinear(inputs, outputs, noisy)

        widths = [actions * atoms, atoms] if dueling else [actions * atoms]
        self.heads = nn.ModuleList(
            nn.ModuleList([linear(features, hidden), linear(hidden, width)]) for width in widths
        )
        self._sizes = [layer.noise_size for head in self.heads for layer in head]  # type: ignore[union-attr]
        self.noise_size = sum(self._sizes)

    def at(self, noise: Tensor) -> "Network":
        """The network without noisy layers that this one is under ``noise`` (noise_size,)."""
        parts = iter(noise.split(self._sizes))
        held = copy.copy(self)  # shares the torso
        held._modules = dict(self._modules)
        held.heads = nn.ModuleList(
            nn.ModuleList(layer.at(next(parts)) for layer in head)  # type: ignore[operator,union-attr]
            for head in self.heads
        )
        held.noise_size, held._sizes = 0, [0] * len(self._sizes)
        return held

    def forward(self, observations: Tensor, noise: Tensor) -> Tensor:
        """Logits (B, actions, atoms).

        Args:
            observations: (B, stack, *shape), as the replay holds them: pixels are bytes.
            noise: (noise_size,), the same for the whole batch.
        """
        dtype = next(self.parameters()).dtype
        if self.pixels:
            x = observations.to(dtype, memory_format=torch.channels_last).div_(255)
        else:
            x = observations.to(dtype)
        x = self.torso(x)
        parts = iter(noise.to(dtype).split(self._sizes))
        out = []
        for first, last in self.heads:  # type: ignore[misc]
            out.append(last(F.relu(first(x, next(parts))), next(parts)))
        logits = out[0].view(-1, self.actions, self.atoms)
        if self.dueling:
            logits = logits + out[1].unsqueeze(1) - logits.mean(1, keepdim=True)
        return logits
