"""Who computes what: optimizers of several libraries on the same gradients.

    python -m scripts.compare_implementations [--results-dir results]

Every implementation follows the same lists of gradients in float32, as it would be used; the
reference is the published update, transcribed below in float64. Reported is the largest deviation
from the reference over all steps and numbers, as a share of the largest distance travelled. Needs
the extra ``peers``. Writes ``<results-dir>/implementations/``.
"""

import argparse
import importlib.metadata
import math
import platform
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from laprop import AdaBound, LaProp
from runners.collect import write_if_changed
from runners.command import command
from runners.provenance import code_version

STEPS, SIZE = 240, 64
LR = 1e-2
Array = np.ndarray
Update = Callable[[float, Array, Array], Array]  # (lr, gradient, x) to x after the step


@dataclass(frozen=True)
class Case:
    """One situation: gradients (STEPS, SIZE), the lr of each step, and options of the update."""

    name: str
    gradients: Array
    lrs: Array
    options: dict[str, Any] = field(default_factory=dict)


def noise(scale: float = 1.0, orders: float = 0.0, drift: float = 0.3) -> Array:
    """Gaussian gradients with a mean; ``orders`` spreads their magnitude over powers of ten."""
    random = np.random.default_rng(20200212)
    magnitude = scale * 10.0 ** random.uniform(-orders / 2, orders / 2, (STEPS, SIZE))
    gradients = magnitude * (random.standard_normal((STEPS, SIZE)) + drift)
    return gradients.astype(np.float32).astype(np.float64)  # what every contestant sees


def fading() -> Array:
    """Large at first, then small: a maximum must remember."""
    return noise() * np.where(np.arange(STEPS) < 40, 8.0, 0.125)[:, None]


STEADY = np.full(STEPS, LR)
DROPPED = np.where(np.arange(STEPS) < STEPS // 2, LR, LR / 10)
WARMED_UP = LR * np.minimum(1.0, np.arange(STEPS) / 50)

LAPROP_CASES = [
    Case("plain", noise(), STEADY),
    Case("lr x 0.1 midway", noise(), DROPPED),
    Case("lr warmed up from 0", noise(), WARMED_UP),
    Case("gradients of 1e-7", noise(scale=1e-7), STEADY),
    Case("gradients over 12 orders", noise(orders=12), STEADY),
    Case("eps 1e-2", noise(), STEADY, {"eps": 1e-2}),
    Case("betas (0.9, 0)", noise(), STEADY, {"betas": (0.9, 0.0)}),
    Case("betas (0, 0.999)", noise(), STEADY, {"betas": (0.0, 0.999)}),
    Case("decay 1e-2, unscaled", noise(), STEADY, {"weight_decay": 1e-2}),
    Case("decay 1e-2, times lr", noise(), STEADY, {"weight_decay": 1e-2, "decay_by_lr": True}),
    Case("amsgrad", fading(), STEADY, {"amsgrad": True, "betas": (0.9, 0.96)}),
    Case("centered", noise(drift=2.0), STEADY, {"centered": True, "betas": (0.9, 0.96)}),
]
ADAPTIVE_CASES = [
    Case("plain", noise(), STEADY),
    Case("lr x 0.1 midway", noise(), DROPPED),
    Case("gradients of 1e-7", noise(scale=1e-7), STEADY),
    Case("gradients over 12 orders", noise(orders=12), STEADY),
    Case("betas (0.9, 0.9), fading", fading(), STEADY, {"betas": (0.9, 0.9)}),
    Case("weight decay 1e-2 (L2)", noise(), STEADY, {"weight_decay": 1e-2}),
]


# ---- references


def laprop_reference(
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-15,
    weight_decay: float = 0.0,
    decay_by_lr: bool = False,
    amsgrad: bool = False,
    centered: bool = False,
) -> Update:
    """The authors' root file (Ziyin, Wang, Ueda 2020)."""
    mu, nu = betas
    n = h = m = largest = c = d = 0.0
    t = 0

    def update(lr: float, g: Array, x: Array) -> Array:
        nonlocal n, h, m, largest, c, d, t
        t += 1
        if decay_by_lr:
            x = x - lr * weight_decay * x
        n = nu * n + (1 - nu) * g * g
        h = nu * h + (1 - nu) * g
        c, d = mu * c + (1 - mu) * lr, nu * d + (1 - nu)
        normaliser = np.maximum(n - h * h, 0) if centered and t > 10 else n
        if amsgrad:
            normaliser = largest = np.maximum(largest, normaliser)
        m = mu * m + (1 - mu) * lr * g / (np.sqrt(normaliser / d) + eps)
        x = x - m * (lr / c) if lr else x
        return x if decay_by_lr else x - weight_decay * x

    return update


def amsgrad_reference(
    betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.0
) -> Update:
    """Reddi et al. 2018 with Adam's bias correction applied after the maximum, as in torch."""
    u, v = betas
    m = n = largest = 0.0
    t = 0

    def update(lr: float, g: Array, x: Array) -> Array:
        nonlocal m, n, largest, t
        t += 1
        g = g + weight_decay * x
        m, n = u * m + (1 - u) * g, v * n + (1 - v) * g * g
        largest = np.maximum(largest, n)
        return x - lr / (1 - u**t) * m / (np.sqrt(largest / (1 - v**t)) + eps)

    return update


def radam_reference(
    betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.0
) -> Update:
    """Liu et al. 2020, with the threshold of 5 of the authors' code."""
    u, v = betas
    m = n = 0.0
    t = 0
    longest = 2 / (1 - v) - 1

    def update(lr: float, g: Array, x: Array) -> Array:
        nonlocal m, n, t
        t += 1
        g = g + weight_decay * x
        m, n = u * m + (1 - u) * g, v * n + (1 - v) * g * g
        length = longest - 2 * t * v**t / (1 - v**t)
        if length <= 5:
            return x - lr / (1 - u**t) * m
        part = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
        return x - lr / (1 - u**t) * math.sqrt(part * (1 - v**t)) * m / (np.sqrt(n) + eps)

    return update


def adabound_reference(
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    final_lr: float = 0.1,
    gamma: float = 1e-3,
) -> Update:
    """The authors' code (Luo et al. 2019)."""
    u, v = betas
    m = n = 0.0
    t = 0

    def update(lr: float, g: Array, x: Array) -> Array:
        nonlocal m, n, t
        t += 1
        g = g + weight_decay * x
        m, n = u * m + (1 - u) * g, v * n + (1 - v) * g * g
        final = final_lr * lr / LR
        low, high = final * (1 - 1 / (gamma * t + 1)), final * (1 + 1 / (gamma * t))
        rate = lr * math.sqrt(1 - v**t) / (1 - u**t) / (np.sqrt(n) + eps)
        return x - np.clip(rate, low, high) * m

    return update


# ---- contestants: (parameters, options) to optimizer, or None where there is no such option

Make = Callable[[list[torch.Tensor], dict[str, Any]], torch.optim.Optimizer | None]


def _timm_laprop(params: list[torch.Tensor], options: dict[str, Any]) -> Any:
    import timm.optim  # pyright: ignore[reportMissingImports]

    options = dict(options)
    options.pop("decay_by_lr", None)  # always, it says; unscaled is not offered
    return None if options.keys() & {"amsgrad", "centered"} else timm.optim.LaProp(
        params, lr=LR, **options
    )  # fmt: skip


def _pytorch_optimizer_laprop(params: list[torch.Tensor], options: dict[str, Any]) -> Any:
    import pytorch_optimizer  # pyright: ignore[reportMissingImports]

    options = dict(options)
    options["fixed_decay"] = not options.pop("decay_by_lr", False)
    options["ams_bound"] = options.pop("amsgrad", False)
    return pytorch_optimizer.LaProp(params, lr=LR, **options)


def _heavyball_laprop(params: list[torch.Tensor], options: dict[str, Any]) -> Any:
    import heavyball  # pyright: ignore[reportMissingImports]

    heavyball.utils.compile_mode = None  # the same numbers, without a compiler
    options = {"betas": (0.9, 0.999), "eps": 1e-15, **options}
    options.pop("decay_by_lr", None)
    if options.keys() & {"amsgrad", "centered"}:
        return None
    return heavyball.LaProp(params, lr=LR, **options)


def _pytorch_optimizer(name: str, **fixed: Any) -> Make:
    def make(params: list[torch.Tensor], options: dict[str, Any]) -> Any:
        import pytorch_optimizer  # pyright: ignore[reportMissingImports]

        kind = getattr(pytorch_optimizer, name)
        return kind(params, lr=LR, weight_decouple=False, **fixed, **options)

    return make


@dataclass(frozen=True)
class Contest:
    reference: Callable[..., Update]
    cases: list[Case]
    contestants: dict[str, Make]


CONTESTS = {
    "LaProp": Contest(
        laprop_reference,
        LAPROP_CASES,
        {
            "ours, for-loop": lambda p, o: LaProp(p, lr=LR, foreach=False, **o),
            "ours, foreach": lambda p, o: LaProp(p, lr=LR, foreach=True, **o),
            "ours, capturable": lambda p, o: LaProp(p, lr=LR, capturable=True, **o),
            "ours, fused": lambda p, o: LaProp(p, lr=LR, fused=True, **o),
            "timm": _timm_laprop,
            "pytorch_optimizer": _pytorch_optimizer_laprop,
            "heavyball": _heavyball_laprop,
        },
    ),
    "AMSGrad": Contest(
        amsgrad_reference,
        ADAPTIVE_CASES,
        {
            "torch, for-loop": lambda p, o: torch.optim.Adam(
                p, lr=LR, amsgrad=True, foreach=False, **o
            ),
            "torch, foreach": lambda p, o: torch.optim.Adam(
                p, lr=LR, amsgrad=True, foreach=True, **o
            ),
            "torch, fused": lambda p, o: torch.optim.Adam(p, lr=LR, amsgrad=True, fused=True, **o),
        },
    ),
    "RAdam": Contest(
        radam_reference,
        ADAPTIVE_CASES,
        {
            "torch": lambda p, o: torch.optim.RAdam(p, lr=LR, **o),
            "pytorch_optimizer": _pytorch_optimizer("RAdam"),
            "pytorch_optimizer, degenerated_to_sgd": _pytorch_optimizer(
                "RAdam", degenerated_to_sgd=True
            ),
        },
    ),
    "AdaBound": Contest(
        adabound_reference,
        ADAPTIVE_CASES,
        {
            "ours, for-loop": lambda p, o: AdaBound(p, lr=LR, foreach=False, **o),
            "ours, foreach": lambda p, o: AdaBound(p, lr=LR, foreach=True, **o),
            "ours, capturable": lambda p, o: AdaBound(p, lr=LR, capturable=True, **o),
            "pytorch_optimizer": _pytorch_optimizer("AdaBound"),
        },
    ),
}


def reference_path(contest: Contest, case: Case, start: Array) -> Array:
    update, x, path = contest.reference(**case.options), start, []
    for lr, gradient in zip(case.lrs, case.gradients, strict=True):
        x = update(float(lr), gradient, x)
        path.append(x)
    return np.stack(path)


def path_of(make: Make, case: Case, start: Array) -> Array | None:
    """What an implementation does, shape (STEPS, SIZE); None where it lacks the option."""
    param = torch.tensor(start, dtype=torch.float32, requires_grad=True)
    optimizer = make([param], case.options)
    if optimizer is None:
        return None
    path = []
    for lr, gradient in zip(case.lrs, case.gradients, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = float(lr)
        param.grad = torch.tensor(gradient, dtype=torch.float32)
        optimizer.step()
        path.append(param.detach().double().numpy().copy())
    return np.stack(path)


def compare() -> Iterator[dict[str, Any]]:
    """Rows: optimizer, implementation, case, deviation (NaN: not offered; inf: not finite)."""
    for optimizer, contest in CONTESTS.items():
        for case in contest.cases:
            # from 0 where possible: beside a 1, float32 would lose steps of 1e-7
            width = 1.0 if "weight_decay" in case.options else 0.0
            start = np.linspace(-width, width, SIZE).astype(np.float32).astype(np.float64)
            reference = reference_path(contest, case, start)
            travelled = np.abs(reference - start).max()
            for implementation, make in contest.contestants.items():
                path = path_of(make, case, start)
                deviation = math.nan
                if path is not None:
                    deviation = float(np.abs(path - reference).max() / travelled)
                    deviation = deviation if math.isfinite(deviation) else math.inf
                yield {
                    "optimizer": optimizer,
                    "implementation": implementation,
                    "case": case.name,
                    "deviation": deviation,
                }


def share(value: float) -> str:
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "**not finite**"
    return f"**{value:.0%}**" if value >= 0.01 else f"{value:.0e}".replace("e-0", "e-")


def to_markdown(table: pd.DataFrame) -> str:
    parts = []
    for optimizer, rows in table.groupby("optimizer", sort=False):
        wide = rows.pivot(index="case", columns="implementation", values="deviation")
        wide = wide.loc[rows["case"].unique(), rows["implementation"].unique()]
        parts += [f"## {optimizer}\n", "| | " + " | ".join(wide.columns) + " |"]
        parts.append("| --- |" + " --- |" * len(wide.columns))
        parts += [
            f"| {case} | " + " | ".join(map(share, row)) + " |"
            for case, row in zip(wide.index, wide.to_numpy(), strict=True)
        ]
        parts.append("")
    return "\n".join(parts).rstrip()


@command
def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--results-dir", type=Path, default=Path("results"))
    options = parser.parse_args(arguments)
    peers = ("timm", "pytorch_optimizer", "heavyball")
    missing = [name for name in peers if not _installed(name)]
    if missing:
        print(f"error: {', '.join(missing)} not installed: "
              "pip install -e '.[peers]'", file=sys.stderr)  # fmt: skip
        return 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the peers' own deprecations
        table = pd.DataFrame(list(compare()))
    text = to_markdown(table)
    print(text)
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", *peers))
    folder = options.results_dir / "implementations"
    write_if_changed(
        folder / "deviations.csv", table.to_csv(index=False, float_format="%.3g").encode()
    )
    readme = f"""# Who computes what

Optimizers of several libraries on the same gradients, in float32, over {STEPS} steps at lr {LR:g}: the
largest deviation from the published update in float64, as a share of the largest distance
travelled. Rounding accounts for about 1e-6; **bold** is another algorithm. – the option does not
exist. `weight_decay` that can only be scaled by the lr is run that way in both rows.

{text}

pytorch_optimizer's AMSGrad is torch's own class.

    python -m scripts.compare_implementations

- Code: commit {code_version()["commit"]}, digest {code_version()["digest"]}
- Packages: {versions}; Python {platform.python_version()}, {platform.machine()}
"""
    write_if_changed(folder / "README.md", readme.encode())
    print(f"\n{folder / 'README.md'}")
    return 0


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
