"""One training step of the packed deep net against as many separate nn.Sequential nets.

    python -m scripts.bench_deep_fc [--rounds 7]

Both sides train with torch's fused Adam on batches that are already drawn; they take turns, and the
ratio is taken within a round. The arithmetic floor is the time of the matrix products alone.
"""

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import nn

from scripts.progress import progress
from tasks.deep_fc import DeepFC

# replicas, depth, width, batch, most that the ratio may be
SETTINGS = [(8, 100, 64, 256, 0.5), (8, 20, 256, 1024, 1.05), (1, 100, 64, 256, 1.05),
            (1, 20, 256, 1024, 1.05)]  # fmt: skip


def seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def sequential(depth: int, width: int, features: int, classes: int = 10) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise([features, *[width] * depth]):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    net = nn.Sequential(*layers, nn.Linear(width, classes))
    for layer in net:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
    return net


def measure(
    replicas: int, depth: int, width: int, batch: int, rounds: int, device: torch.device
) -> tuple[float, float, float, float]:
    """Medians: seconds packed, separate, products alone; and the ratio of the first two."""
    task = DeepFC(range(replicas), depth, width, batch, "digits").to(device)
    optimizer = torch.optim.Adam(task.parameters(), lr=1e-6, fused=True)
    nets = [sequential(depth, width, task.inputs.shape[1]).to(device) for _ in range(replicas)]
    optimizers = [torch.optim.Adam(net.parameters(), lr=1e-6, fused=True) for net in nets]
    places = task._batch()
    inputs, labels = task.inputs[places], task.labels[places]
    weight = torch.ones(replicas, device=device)
    h, matrix = (torch.randn(replicas, rows, width, device=device) for rows in (batch, width))

    def packed() -> None:
        task.backward(task.loss(), weight)
        optimizer.step()

    def separate() -> None:
        for net, own, x, y in zip(nets, optimizers, inputs, labels, strict=True):
            own.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            own.step()

    def products() -> None:
        for _ in range(depth):
            delta = torch.bmm(h, matrix)
            torch.bmm(h.mT, delta)
            torch.bmm(delta, matrix.mT)

    times = []
    for round_ in progress(range(-2, rounds), f"{replicas} x depth {depth} x {width}"):
        turn = [seconds(action) for action in (packed, separate, products)]
        if round_ >= 0:
            times.append(turn)
    ratio = statistics.median(mine / theirs for mine, theirs, _ in times)
    return *(statistics.median(column) for column in zip(*times, strict=True)), ratio  # type: ignore[return-value]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="timed steps of each (default 7)")
    rounds = parser.parse_args().rounds
    if rounds < 1:
        parser.error(f"--rounds {rounds}: a whole number >= 1 expected")
    torch.set_flush_denormal(True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads")
    print(f"{'R':>3}{'depth':>7}{'width':>7}{'batch':>7}{'packed ms':>12}{'separate ms':>13}"
          f"{'products ms':>13}{'ratio':>8}{'aim':>7}")  # fmt: skip
    for replicas, depth, width, batch, aim in SETTINGS:
        packed, separate, products, ratio = measure(replicas, depth, width, batch, rounds, device)
        print(f"{replicas:3}{depth:7,}{width:7,}{batch:7,}"
               f"{1e3 * packed:12.1f}{1e3 * separate:13.1f}{1e3 * products:13.1f}{ratio:8.2f}"
              f"{aim:7.2f}", flush=True)  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
