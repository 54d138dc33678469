"""What the steps of all optimizers share: gradients, the form, numbers in the state, buckets."""

# The foreach functions are public in use, not in name.
# pyright: reportPrivateImportUsage=false

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import _default_to_fused_or_foreach

State = dict[str, Any]

# Adding a tensor takes half the time of adding a number, which is made into a tensor each time.
ONE = torch.ones((), device="cpu")


def evaluate(closure: Callable[[], Any] | None) -> Any:
    """The loss of a step's closure, which needs the gradients that the step itself switches off."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def with_gradients(group: dict[str, Any], optimizer: str) -> tuple[list[Tensor], list[Tensor]]:
    """The parameters of a group that take part in this step, and their gradients."""
    present = [(param, grad) for param in group["params"] if (grad := param.grad) is not None]
    params: list[Tensor] = [param for param, _ in present]
    grads: list[Tensor] = [grad for _, grad in present]
    # Elsewhere corrections are Python's numbers, which a captured graph would replay frozen.
    in_graph = params and params[0].is_cuda and torch.cuda.is_current_stream_capturing()
    if in_graph and not (group.get("capturable") or group.get("fused")):
        raise RuntimeError(f"{optimizer} cannot be captured in a CUDA graph unless capturable=True")
    if any(grad.layout is not torch.strided for grad in grads):
        raise RuntimeError(f"{optimizer} does not support sparse gradients")
    if any(map(Tensor.is_conj, grads)):  # has no view as real numbers
        grads = list(map(Tensor.resolve_conj, grads))
    return params, grads


def form(params: list[Tensor], group: dict[str, Any]) -> str:
    """Which form of the step serves the group: fused, graph, foreach or single."""
    if group.get("fused"):
        return "fused"
    # A compiler would take the numbers that the other forms read for constants, and compile again
    # at every step.
    if group["capturable"] or group["differentiable"] or torch.compiler.is_compiling():
        return "graph"
    return "foreach" if use_foreach(params, group["foreach"]) else "single"


def use_foreach(params: list[Tensor], foreach: bool | None) -> bool:
    if foreach is not None:
        return foreach
    # Torch's rule never takes foreach for a CPU tensor; asking costs as much as two tensor ops.
    if params[0].is_cpu:
        return False
    return _default_to_fused_or_foreach(params, differentiable=False)[1]


# ---- numbers in the state: the count of steps, bias corrections


def new_step(param: Tensor, group: dict[str, Any], value: float = 0.0) -> Tensor:
    """A count in torch's own convention: 0-dim; beside the parameter where a kernel counts, else
    on the CPU and of the default precision."""
    if _beside_parameter(group):
        return torch.full((), value, dtype=torch.float32, device=param.device)
    wide = torch.get_default_dtype() == torch.float64
    return torch.full((), value, dtype=torch.float64 if wide else torch.float32, device="cpu")


def new_number(value: float, param: Tensor, group: dict[str, Any]) -> Tensor:
    """A number that a parameter's elements share; at full precision whatever the parameter's."""
    device = param.device if _beside_parameter(group) else "cpu"
    return torch.full((), value, dtype=torch.float64, device=device)


def _beside_parameter(group: dict[str, Any]) -> bool:
    return bool(group.get("fused") or group.get("capturable") or group.get("differentiable"))


def count_(steps: list[Tensor]) -> None:
    """One step more, in all at once."""
    torch._foreach_add_(steps, ONE, alpha=1)  # without alpha each would read the number first


def read(numbers: list[Tensor]) -> list[float]:
    """0-dim tensors as Python's numbers."""
    return list(map(Tensor.item, numbers))


def write_(numbers: list[Tensor], values: list[float]) -> None:
    """Python's numbers into 0-dim tensors; equal ones, which is the rule, are made into one."""
    made = {v: torch.tensor(v, dtype=torch.float64, device="cpu") for v in set(values)}
    torch._foreach_copy_(numbers, [made[value] for value in values])


def with_numbers(state_dict: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """A state dict with these entries as plain numbers instead of tensors."""
    entries = {
        key: {
            name: value.item() if name in names and isinstance(value, Tensor) else value
            for name, value in entry.items()
        }
        for key, entry in state_dict["state"].items()
    }
    return {**state_dict, "state": entries}


def restore_numbers(
    groups: list[dict[str, Any]], state: dict[Any, State], names: Iterable[str] = ()
) -> None:
    """Turn plain numbers, as checkpoints have them, into tensors; the older ones the count too."""
    for group in groups:
        for param in group["params"]:
            entry = state.get(param, {})
            if "step" in entry and not isinstance(entry["step"], Tensor):
                entry["step"] = new_step(param, group, float(entry["step"]))
            for name in names:
                if name in entry and not isinstance(entry[name], Tensor):
                    entry[name] = new_number(float(entry[name]), param, group)


def restore_form(group: dict[str, Any]) -> None:
    """The switches between forms that a checkpoint of an earlier version lacks."""
    group.setdefault("foreach", None)
    group.setdefault("capturable", False)
    group.setdefault("differentiable", False)


def real(tensor: Tensor) -> Tensor:
    """A complex number is two real parameters, as in torch's own optimizers."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def scalar(lr: float | Tensor) -> float | Tensor:
    """A tensor of one number, whatever its shape, without dimensions."""
    return lr.reshape(()) if isinstance(lr, Tensor) else lr


def itself(tensor: Tensor) -> Tensor:
    return tensor


def buckets(
    tables: Sequence[list[Tensor]], keys: Iterable[Hashable]
) -> list[tuple[Any, list[list[Tensor]]]]:
    """Split into runs of one device, dtype and key, so that each foreach call takes plain scalars.

    The key holds whatever differs between parameters that missed different steps; when none did,
    which is the rule, there is one bucket per device and dtype. ``tables`` has the parameters
    first; a table may be empty. Complex tensors come out as real ones.
    """
    found: dict[tuple[torch.device, torch.dtype, Any], list[int]] = {}
    for place, (param, key) in enumerate(zip(tables[0], keys, strict=True)):
        found.setdefault((param.device, param.dtype, key), []).append(place)
    made = []
    for (_, dtype, key), places in found.items():
        bucket = list(tables)
        if len(found) > 1:
            bucket = [[table[place] for place in places] if table else [] for table in tables]
        if dtype.is_complex:
            bucket = [list(map(real, table)) for table in bucket]
        made.append((key, bucket))
    return made


def scale_(tensors: list[Tensor], factor: float) -> None:
    """Multiply in place by a number, in full precision.

    On the CPU the foreach product first rounds a plain number to the dtype of the tensors, and in
    bfloat16 0.999 is 1: decays would vanish. A 0-dim tensor keeps its precision.
    """
    on_cpu = tensors[0].is_cpu
    exact = torch.tensor(factor, dtype=torch.float64, device="cpu") if on_cpu else factor
    torch._foreach_mul_(tensors, exact)
