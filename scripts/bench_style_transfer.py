"""A step of style transfer against a straightforward implementation in PyTorch.

    python -m scripts.bench_style_transfer [--rounds 7]

The other side is built as PyTorch's tutorial on neural transfer is: a sequence of torchvision's
layers with modules in between that keep their loss, and autograd. Both have the same losses,
weights and optimizer, and take turns; the ratio is taken within a round. Memory is the largest
that a process of its own takes for a few steps, less that of one that only imports what it needs.
"""

import argparse
import importlib
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scripts.progress import progress
from tasks.style_transfer import pictures, vgg
from tasks.style_transfer.task import StyleTransfer

CONTENT, STYLE = "relu4_2", ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
CONTENT_WEIGHT, STYLE_WEIGHT = 1.0, 1e6
LR = 0.02
SPEED_SIZE, MEMORY_SIZE, MEMORY_STEPS = 256, 512, 3
SPEED_AIM, MEMORY_AIM = 1.3, 1.0


def gram(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    rows = x.view(n * c, h * w)
    return rows @ rows.t() / (n * c * h * w)


class Normalization(nn.Module):
    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(vgg.MEAN).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(vgg.STD).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class Loss(nn.Module):
    """Keeps the distance of what passes through it from what passed when it was made."""

    def __init__(self, target: Tensor, weight: float, of: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.of, self.weight, self.target = of, weight, of(target).detach()

    def forward(self, x: Tensor) -> Tensor:
        self.loss = self.weight * F.mse_loss(self.of(x), self.target)
        return x


def straightforward(net: str, content: Tensor, style: Tensor) -> tuple[nn.Module, list[Loss]]:
    """The sequence, cut after the last loss; pictures have the shape (1, 3, H, W)."""
    import torchvision

    features = getattr(torchvision.models, net)(weights=None).features
    for name, (weight, bias) in vgg.load_weights("random", net, STYLE, "").items():
        layer = features[vgg.layer_names(net).index(name)]
        layer.weight.data, layer.bias.data = weight, bias
    features.requires_grad_(False).eval()
    model, losses = nn.Sequential(Normalization()), []
    for name, layer in zip(vgg.up_to(net, STYLE), features, strict=False):
        # as the tutorial has it: a loss in between would not bear a rectification in place
        model.append(nn.ReLU(inplace=False) if isinstance(layer, nn.ReLU) else layer)
        if name == CONTENT:
            losses.append(Loss(model(content), CONTENT_WEIGHT, lambda x: x))
            model.append(losses[-1])
        if name in STYLE:
            losses.append(Loss(model(style), STYLE_WEIGHT, gram))
            model.append(losses[-1])
    return model, losses


def their_step(net: str, size: int) -> Callable[[], float]:
    content, style = (pictures.load(name, (size, size))[None] for name in ("china", "flower"))
    model, losses = straightforward(net, content, style)
    image = nn.Parameter(content.clone())
    optimizer = torch.optim.Adam([image], lr=LR)

    def step() -> float:
        with torch.no_grad():
            image.clamp_(0, 1)
        optimizer.zero_grad()
        model(image)
        total = torch.stack([loss.loss for loss in losses]).sum()
        total.backward()
        optimizer.step()
        return total.item()

    return step


def our_step(net: str, size: int) -> Callable[[], float]:
    task = StyleTransfer([0], size=[size, size], net=net, weights="random", content_layers=[CONTENT],
                         style_layers=STYLE, content_weight=CONTENT_WEIGHT,
                         style_weight=STYLE_WEIGHT)  # fmt: skip
    optimizer = torch.optim.Adam(task.parameters(), lr=LR)
    weight = torch.ones(1)

    def step() -> float:
        loss = task.loss()
        task.backward(loss, weight)
        optimizer.step()
        return loss.item()

    return step


SIDES = {"ours": our_step, "theirs": their_step}


def peak_mib(side: str, net: str) -> float:
    """Largest memory of a process that takes some steps on one side ("none": that only imports)."""
    command = [sys.executable, "-m", "scripts.bench_style_transfer", "--memory-of", side,
               "--net", net]  # fmt: skip
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def own_peak_mib(side: str, net: str) -> float:
    importlib.import_module("torchvision")  # which both sides hold

    if side in SIDES:
        step = SIDES[side](net, MEMORY_SIZE)
        for _ in range(MEMORY_STEPS):
            step()
    # not getrusage: that counts what the process had been forked from, too
    status = Path("/proc/self/status")
    if not status.exists():
        raise SystemExit("memory is measured on Linux alone")
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="timed steps of each (default 7)")
    parser.add_argument("--net", choices=tuple(vgg.BLOCKS), default="vgg19")
    parser.add_argument("--memory-of", choices=(*SIDES, "none"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error(f"--rounds {arguments.rounds}: a whole number >= 1 expected")
    torch.set_flush_denormal(True)
    if arguments.memory_of:
        print(own_peak_mib(arguments.memory_of, arguments.net))
        return 0
    print(f"torch {torch.__version__}, {platform.machine()}, {torch.get_num_threads()} threads")
    steps = {side: make(arguments.net, SPEED_SIZE) for side, make in SIDES.items()}
    times: list[dict[str, float]] = []
    for round_ in progress(range(-2, arguments.rounds), f"{arguments.net}, {SPEED_SIZE} px"):
        turn, losses = {}, {}
        for side, step in steps.items():
            start = time.perf_counter()
            losses[side] = step()
            turn[side] = time.perf_counter() - start
        if round_ == -2 and abs(losses["ours"] / losses["theirs"] - 1) > 1e-5:
            print(f"error: the losses differ, {losses}", file=sys.stderr)
            return 1
        if round_ >= 0:
            times.append(turn)
    ours, theirs = (statistics.median(turn[side] for turn in times) for side in SIDES)
    ratio = statistics.median(turn["theirs"] / turn["ours"] for turn in times)
    print(f"{SPEED_SIZE} px: {1 / ours:.2f} iterations/s, straightforward {1 / theirs:.2f}, "
          f"ratio {ratio:.2f} (aim {SPEED_AIM})")  # fmt: skip
    base = peak_mib("none", arguments.net)
    mine, other = (peak_mib(side, arguments.net) - base for side in SIDES)
    print(
        f"{MEMORY_SIZE} px: {mine:,.0f} MiB, straightforward {other:,.0f}, "
        f"ratio {mine / other:.2f} (aim at most {MEMORY_AIM}); {base:,.0f} MiB for the libraries"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
