"""Replica-steps per second of a packed run against a plain loop of one run at a time.

    python -m scripts.bench_rosenbrock [--replicas 20000] [--steps 1000] [--repeats 5]

The plain loop is what one would write without this harness: a two-element float64 parameter, the
noisy function in autograd, backward, the same optimizer, one seed. The two take turns, and the
ratio is taken within each turn, so that a machine whose speed drifts does not decide.
"""

import argparse
import statistics
import sys
import time

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from runners.config import CONF
from runners.loop import Progress, train
from tasks.rosenbrock import Rosenbrock

OPTIMIZERS = ("laprop", "adam", "amsgrad", "radam", "adabound", "signsgd")
SIGMA = 0.08


def make_optimizer(name: str, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    cfg = OmegaConf.load(CONF / "optimizer" / f"{name}.yaml")
    # small enough that nothing diverges: a diverged run would be timed short
    bound = {"final_lr": 1e-4} if name == "adabound" else {}
    return instantiate(cfg, _convert_="all")(parameters, lr=1e-3, **bound)


def plain_rate(name: str, steps: int) -> float:
    """Steps per second of one run at a time."""
    xy = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
    optimizer = make_optimizer(name, [xy])
    stream = torch.Generator().manual_seed(0)
    start = time.perf_counter()
    for _ in range(steps):
        noise = SIGMA * (2 * torch.rand(2, generator=stream, dtype=torch.float64) - 1)
        x, y = xy
        loss = (1 - x + noise[0]) ** 2 + 100 * (y - x**2 + noise[1]) ** 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        torch.dist(xy.detach(), torch.ones_like(xy)).item()
    return steps / (time.perf_counter() - start)


def packed_rate(name: str, replicas: int, steps: int) -> float:
    """Replica-steps per second of the packed task in the harness's loop, its noise included."""
    task = Rosenbrock(seeds=range(replicas), sigma=[SIGMA])
    optimizer = make_optimizer(name, list(task.parameters()))
    start = time.perf_counter()
    status = train(
        task, optimizer, None, Progress(), steps=steps, eval_every=steps, checkpoint_every=steps,
        precision="fp32", write=lambda row: None, checkpoint=lambda: None, stop=lambda: False,
    )  # fmt: skip
    if status != "completed":
        raise RuntimeError(f"{name}: the packed run {status}; its time would mean nothing")
    return replicas * steps / (time.perf_counter() - start)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--replicas", type=int, default=20_000)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    if min(arguments.replicas, arguments.steps, arguments.repeats) < 1:
        parser.error("--replicas, --steps and --repeats: whole numbers >= 1 expected")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, "
          f"{arguments.replicas:,} replicas packed")  # fmt: skip
    print(f"{'':10}{'plain /s':>12}{'packed /s':>14}{'ratio':>9}{'  (lowest to highest)'}")
    for name in OPTIMIZERS:
        plain_rate(name, 50)
        packed_rate(name, arguments.replicas, 50)
        turns = []
        for _ in range(arguments.repeats):
            plain = plain_rate(name, arguments.steps)
            turns.append((plain, packed_rate(name, arguments.replicas, arguments.steps)))
        ratios = [packed / plain for plain, packed in turns]
        plain, packed = (statistics.median(column) for column in zip(*turns, strict=True))
        print(f"{name:10}{plain:12,.0f}{packed:14,.0f}{statistics.median(ratios):9,.0f}"
              f"  ({min(ratios):,.0f} to {max(ratios):,.0f})", flush=True)  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
