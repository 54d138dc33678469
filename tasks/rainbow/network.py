"""The networks of Rainbow: a convolutional or dense torso, noisy and dueling heads, C51's atoms."""

import copy
import math
from collections.abc import Iterator, Sequence

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

    def at(self, noise: Tensor) -> "PlainLinear":
        """The linear layer that this one is under ``noise``: for many inputs with the same."""
        outputs, inputs = self.weight.shape
        # on no device: to be initialised would take long, and move the global random stream
        plain = PlainLinear(inputs, outputs, device="meta").to_empty(device=noise.device)
        self.hold(noise, plain.to(self.weight.dtype))
        return plain

    @torch.no_grad()
    def hold(self, noise: Tensor, plain: "PlainLinear") -> None:
        """Turn ``plain``, once made by `at`, into what `at` makes of ``noise``."""
        outputs, inputs = self.weight.shape
        p, q = noise.split([inputs, outputs])
        torch.mul(self.weight_sigma, p, out=plain.weight).mul_(q[:, None]).add_(self.weight)
        torch.addcmul(self.bias, self.bias_sigma, q, out=plain.bias)

    @torch.no_grad()
    def gradients(self, noise: Tensor, found: Sequence[Tensor], into: Sequence[Tensor]) -> None:
        """Write the parameters' gradients from those ``found`` of ``at(noise)``'s parameters."""
        outputs, inputs = self.weight.shape
        p, q = noise.split([inputs, outputs])
        weight, bias, weight_sigma, bias_sigma = into
        weight.copy_(found[0])
        bias.copy_(found[1])
        torch.mul(weight, p, out=weight_sigma).mul_(q[:, None])
        torch.mul(bias, q, out=bias_sigma)

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

    def hold(self, noise: Tensor, plain: "PlainLinear") -> None:
        pass

    @torch.no_grad()
    def gradients(self, noise: Tensor, found: Sequence[Tensor], into: Sequence[Tensor]) -> None:
        for held, own in zip(found, into, strict=True):
            own.copy_(held)

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
        """The network without noisy layers that this one is under ``noise`` (noise_size,).

        The torso is shared, the heads have parameters of their own.
        """
        parts = iter(noise.split(self._sizes))
        held = copy.copy(self)  # shares the torso
        held._modules = dict(self._modules)
        held.heads = nn.ModuleList(
            nn.ModuleList(layer.at(next(parts)) for layer in head)  # type: ignore[operator,union-attr]
            for head in self.heads
        )
        held.noise_size, held._sizes = 0, [0] * len(self._sizes)
        return held

    def hold(self, noise: Tensor, held: "Network") -> None:
        """Turn ``held``, once made by `at`, into what `at` makes of ``noise``."""
        for (layer, plain), part in zip(self._with(held), noise.split(self._sizes), strict=True):
            layer.hold(part, plain)  # type: ignore[operator]

    @torch.no_grad()
    def gradients(self, noise: Tensor, found: Sequence[Tensor], into: Sequence[Tensor]) -> None:
        """Write the parameters' gradients from those ``found`` of ``at(noise)``'s parameters.

        ``found`` and ``into`` are in the order of `parameters` of the two networks.
        """
        torso = len(list(self.torso.parameters()))
        for own, held in zip(into[:torso], found[:torso], strict=True):
            own.copy_(held)
        found, into = found[torso:], into[torso:]
        for (layer, _), part in zip(self._with(self), noise.split(self._sizes), strict=True):
            size = len(list(layer.parameters()))
            layer.gradients(part, found[:2], into[:size])  # type: ignore[operator]
            found, into = found[2:], into[size:]

    def _with(self, other: "Network") -> Iterator[tuple[nn.Module, nn.Module]]:
        """The layers of the heads, beside those of ``other``."""
        for mine, theirs in zip(self.heads, other.heads, strict=True):
            yield from zip(mine, theirs, strict=True)  # type: ignore[arg-type]

    def forward(self, observations: Tensor, noise: Tensor) -> Tensor:
        """Logits (B, actions, atoms).

        Args:
            observations: (B, stack, *shape), as the replay holds them: pixels are bytes.
            noise: (noise_size,), the same for the whole batch.
        """
        dtype = self.heads[0][0].weight.dtype  # type: ignore[index,union-attr]
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
