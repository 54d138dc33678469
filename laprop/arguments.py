"""Checks of the optimizers' arguments: each returns the value in the form that is stored.

Numbers become plain Python floats, because whatever stands in a parameter group ends up in the
state dict, and ``torch.load(weights_only=True)`` refuses NumPy scalars and configuration objects.
"""

import math
from collections.abc import Callable, Iterable
from numbers import Real
from typing import Any

from torch import Tensor


def _number(name: str, value: object, allowed: str, holds: Callable[[float], bool]) -> float:
    # NaN fails every comparison, so no check below needs to name it.
    if isinstance(value, Real) and not isinstance(value, bool) and holds(float(value)):
        return float(value)
    raise ValueError(f"{name} must be {allowed}, but is {value!r}")


def at_least_zero(name: str, value: object) -> float:
    return _number(name, value, "a finite number >= 0", lambda x: 0.0 <= x < math.inf)


def above_zero(name: str, value: object) -> float:
    return _number(name, value, "a finite number > 0", lambda x: 0.0 < x < math.inf)


def between_zero_and_one(name: str, value: object) -> float:
    return _number(name, value, "a number with 0 < number < 1", lambda x: 0.0 < x < 1.0)


def decay_rate(name: str, value: object) -> float:
    return _number(name, value, "a number with 0 <= number < 1", lambda x: 0.0 <= x < 1.0)


def betas(value: object) -> tuple[float, float]:
    numbers = tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else ()
    if len(numbers) != 2:
        raise ValueError(f"betas must be two numbers, each with 0 <= number < 1, but is {value!r}")
    return decay_rate("betas[0]", numbers[0]), decay_rate("betas[1]", numbers[1])


def learning_rate(value: object) -> float | Tensor:
    """A tensor is kept as it is: schedulers write into it, and every step reads it anew."""
    if not isinstance(value, Tensor):
        return at_least_zero("lr", value)
    if value.numel() != 1 or value.is_complex():
        raise ValueError(f"lr must be a number or a tensor of one real number, but is {value!r}")
    at_least_zero("lr", value.item())
    return value


def flag(name: str, value: object) -> bool:
    # A string such as "false" would be true: refuse rather than guess.
    if isinstance(value, bool):
        return value
    raise ValueError(f"{name} must be True or False, but is {value!r}")


def form(group: dict[str, Any]) -> dict[str, bool | None]:
    """The switches between the forms of a step; fused where the optimizer has it."""
    chosen: dict[str, bool | None] = {}
    for name in ("foreach", "fused"):
        if name in group:
            chosen[name] = value = group[name]
            if value is not None and not isinstance(value, bool):
                raise ValueError(f"{name} must be True, False or None, but is {value!r}")
    for name in ("capturable", "differentiable"):
        chosen[name] = flag(name, group[name])
    for other in ("foreach", "differentiable"):
        if chosen.get("fused") and chosen[other]:
            raise ValueError(f"fused and {other} must not both be True")
    return chosen


def one_of(name: str, value: Any, choices: tuple[str, ...]) -> str:
    if value in choices:
        return value
    raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, but is {value!r}")
