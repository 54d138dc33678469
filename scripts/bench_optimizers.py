"""How long one step of each optimizer takes, beside torch's fused Adam and a copy of memory.

    python -m scripts.bench_optimizers [--rounds 40] [--device cpu|cuda] [--results-dir results]

All optimizers step in turn in every round, each on parameters of its own, and ratios are taken
within a round, so that a machine whose speed drifts does not decide. Gradients are written anew
before every step, outside the clock. Bytes are those that cannot be avoided: parameter, gradient
and two buffers read, three of them written. On a CPU a step can do better than the copy: a copy
also fetches what it overwrites, which does not count. LaProp of other libraries takes part where it
is installed (the extra ``peers``). Writes ``<results-dir>/bench_optimizers/<cpu|cuda>/`` where all took part.
"""

import argparse
import importlib.metadata
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from laprop import AdaBound, LaProp, SignSGD
from runners.collect import write_if_changed
from runners.provenance import code_version, hardware
from scripts.progress import progress

BASE = "torch Adam fused"
PEERS = ("timm LaProp", "pytorch_optimizer LaProp")
WARM_UP = 3  # steps before the clock: compilers, allocators, state
COPY_ELEMENTS = 1 << 24


def resnet50() -> list[tuple[int, ...]]:
    """Shapes of the 161 parameters of ResNet-50 (He et al. 2016): 25.6 million numbers."""
    shapes: list[tuple[int, ...]] = []

    def conv(inputs: int, outputs: int, size: int) -> None:
        shapes.extend([(outputs, inputs, size, size), (outputs,), (outputs,)])  # and its norm

    conv(3, 64, 7)
    inputs = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            conv(inputs, width, 1)
            conv(width, width, 3)
            conv(width, 4 * width, 1)
            if block == 0:
                conv(inputs, 4 * width, 1)
            inputs = 4 * width
    return [*shapes, (1000, 2048), (1000,)]


def transformer() -> list[tuple[int, ...]]:
    """Shapes of the IWSLT transformer with 8,848 shared target embeddings: 36 million numbers."""
    with torch.device("meta"):
        model = nn.Transformer(512, 4, 6, 6, 1024, batch_first=True)
    return [tuple(p.shape) for p in model.parameters()] + [(8848, 512)]


SETS: dict[str, Callable[[], list[tuple[int, ...]]]] = {
    "16 x 1M": lambda: [(1024, 1024)] * 16,
    "256 layers": lambda: [(256, 256), (256,)] * 256,
    "ResNet-50": resnet50,
    "transformer": transformer,
}


def optimizers() -> dict[str, Callable[[list[Tensor]], torch.optim.Optimizer]]:
    """Label: how to make it."""
    found: dict[str, Callable[[list[Tensor]], torch.optim.Optimizer]] = {
        BASE: lambda p: torch.optim.Adam(p, fused=True),
        "torch Adam foreach": lambda p: torch.optim.Adam(p, foreach=True),
        "torch Adam for-loop": lambda p: torch.optim.Adam(p, foreach=False),
        "LaProp fused": lambda p: LaProp(p, fused=True),
        "LaProp foreach": lambda p: LaProp(p, foreach=True),
        "LaProp for-loop": lambda p: LaProp(p, foreach=False),
        "AdaBound foreach": lambda p: AdaBound(p, foreach=True),
        "SignSGD foreach": lambda p: SignSGD(p, momentum=0.9, foreach=True),
    }
    try:
        import timm.optim  # pyright: ignore[reportMissingImports]

        found["timm LaProp"] = lambda p: timm.optim.LaProp(p)
    except ImportError:
        print("timm is not installed and takes no part", file=sys.stderr)
    try:
        import pytorch_optimizer  # pyright: ignore[reportMissingImports]

        found["pytorch_optimizer LaProp"] = lambda p: pytorch_optimizer.LaProp(p)
    except ImportError:
        print("pytorch_optimizer is not installed and takes no part", file=sys.stderr)
    return found


class Timed:
    """One optimizer on parameters of its own."""

    def __init__(
        self,
        make: Callable[[list[Tensor]], torch.optim.Optimizer],
        shapes: Iterable[tuple[int, ...]],
        device: torch.device,
    ) -> None:
        generator = torch.Generator().manual_seed(0)
        starts = [torch.randn(shape, generator=generator).to(device) for shape in shapes]
        self.params = [start.requires_grad_() for start in starts]
        self.gradients = [torch.randn_like(param) for param in self.params]
        for param in self.params:
            param.grad = torch.empty_like(param)
        self.optimizer = make(self.params)
        self.device = device

    def step(self) -> float:
        """Seconds of one step."""
        for param, gradient in zip(self.params, self.gradients, strict=True):
            assert param.grad is not None
            param.grad.copy_(gradient)
        return clocked(self.optimizer.step, self.device)


def clocked(action: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def copy_rate(device: torch.device, rounds: int) -> float:
    """Bytes per second, read and written, of a plain copy."""
    source = torch.ones(COPY_ELEMENTS, device=device)
    target = torch.empty_like(source)
    times = [clocked(lambda: target.copy_(source), device) for _ in range(rounds + WARM_UP)]
    return 2 * 4 * COPY_ELEMENTS / statistics.median(times[WARM_UP:])


def measure(name: str, device: torch.device, rounds: int) -> list[dict[str, object]]:
    """Rows of the table for one parameter set."""
    shapes = SETS[name]()
    contestants = {label: Timed(make, shapes, device) for label, make in optimizers().items()}
    times: dict[str, list[float]] = {label: [] for label in contestants}
    order = random.Random(0)
    for round_ in progress(range(-WARM_UP, rounds), name):
        # In an order drawn anew: what lies in the cache, and how warm the machine is, a step owes to
        # the one before it, which must not be the same optimizer's every time.
        for label in order.sample(list(contestants), len(contestants)):
            seconds = contestants[label].step()
            if round_ >= 0:
                times[label].append(seconds)
    numbers = sum(param.numel() for param in contestants[BASE].params)
    rate = copy_rate(device, rounds)
    rows = []
    for label, seconds in times.items():
        ratios = [mine / base for mine, base in zip(seconds, times[BASE], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        median = statistics.median(seconds)
        rows.append(
            {
                "set": name,
                "optimizer": label,
                "numbers": numbers,
                "tensors": len(shapes),
                "ms": 1e3 * median,
                "ratio": middle,
                "ratio_q1": low,
                "ratio_q3": high,
                "of_copy": 7 * 4 * numbers / median / rate,
            }
        )
    return rows


def to_markdown(table: pd.DataFrame) -> str:
    wide = table.pivot(index="optimizer", columns="set", values="ratio")
    wide = wide.reindex(table["optimizer"].unique())[list(SETS)]
    lines = [f"| ratio to {BASE} | " + " | ".join(SETS) + " |", "| --- |" + " --- |" * len(SETS)]
    lines += [
        f"| {label} | " + " | ".join(f"{value:.2f}" for value in row) + " |"
        for label, row in zip(wide.index, wide.to_numpy(), strict=True)
    ]
    base = table[table["optimizer"] == BASE].set_index("set").loc[list(SETS)]
    lines.append(f"| *{BASE}, ms* | " + " | ".join(f"{v:.1f}" for v in base["ms"]) + " |")
    lines.append(
        "| *its bytes per second, of a copy's* | "
        + " | ".join(f"{v:.0%}" for v in base["of_copy"])
        + " |"
    )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40, help="timed steps of each (default 40)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default=None, help="default: a GPU")
    parser.add_argument("--results-dir", type=Path, default=Path("results"))
    arguments = parser.parse_args()
    if arguments.rounds < 2:
        parser.error(f"--rounds {arguments.rounds}: a whole number >= 2 expected")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: no CUDA device here")
    device = torch.device(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    rows = [row for name in SETS for row in measure(name, device, arguments.rounds)]
    table = pd.DataFrame(rows)
    text = to_markdown(table)
    print(text)
    folder = arguments.results_dir / "bench_optimizers" / device.type
    if missing := [label for label in PEERS if label not in set(table["optimizer"])]:
        print(
            f"\n{folder} stays as it is: without {' and '.join(missing)}; the extra peers has them"
        )
        return 0
    write_if_changed(folder / "table.csv", table.to_csv(index=False, float_format="%.5g").encode())
    found = hardware(device)
    versions = [
        f"{name} {importlib.metadata.version(name)}"
        for name in ("torch", "timm", "pytorch_optimizer")
        if any(label.startswith(name) for label in table["optimizer"])
    ]
    readme = f"""# Time of one step, {device.type}

{text}

Medians of {arguments.rounds} rounds, each in an order drawn anew; quartiles and times in `table.csv`.

    python -m scripts.bench_optimizers --rounds {arguments.rounds} --device {device.type}

- Code: commit {code_version()["commit"]}, digest {code_version()["digest"]}
- Packages: {", ".join(versions)}
- Hardware: {found["machine"]}, {found["cores"]} cores, {found.get("gpu", found["device"])}, \
{torch.get_num_threads()} threads
"""
    write_if_changed(folder / "README.md", readme.encode())
    print(f"\n{folder / 'README.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
