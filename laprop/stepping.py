"""What the steps of all optimizers share: finding gradients, choosing the form, bucketing."""

# The foreach functions are public in use, not in name.
# pyright: reportPrivateImportUsage=false

from collections.abc import Callable, Hashable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import _default_to_fused_or_foreach

State = dict[str, Any]

# Adding a tensor takes half the time of adding a number, which is made into a tensor each time.
_ONE = torch.ones((), device="cpu")


def evaluate(closure: Callable[[], Any] | None) -> Any:
    """The loss of a step's closure, which needs the gradients that the step itself switches off."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def with_gradients(params: Iterable[Tensor], optimizer: str) -> list[Tensor]:
    """The parameters that take part in this step."""
    present = [param for param in params if param.grad is not None]
    # Corrections and counts are Python numbers: a captured graph would replay them frozen.
    if present and present[0].is_cuda and torch.cuda.is_current_stream_capturing():
        raise RuntimeError(f"{optimizer} cannot be captured in a CUDA graph")
    for param in present:
        if param.grad.layout != torch.strided:  # pyright: ignore[reportOptionalMemberAccess]
            raise RuntimeError(f"{optimizer} does not support sparse gradients")
    return present


def new_step() -> Tensor:
    """A zero in torch's own convention: 0-dim, on the CPU, of the default precision."""
    wide = torch.get_default_dtype() == torch.float64
    return torch.zeros((), dtype=torch.float64 if wide else torch.float32, device="cpu")


def count(state: State) -> Tensor:
    """Count a step of one parameter; returns the number of steps that it has taken."""
    return state["step"].add_(_ONE)


def restore_steps(state: dict[Any, State]) -> None:
    """Turn counts that are plain numbers, as older checkpoints have them, into tensors."""
    for entry in state.values():
        if "step" in entry and not isinstance(entry["step"], Tensor):
            entry["step"] = new_step() + float(entry["step"])


def use_foreach(params: list[Tensor], foreach: bool | None) -> bool:
    if foreach is not None:
        return foreach
    # Torch's rule never takes foreach for a CPU tensor; asking costs as much as two tensor ops.
    if params[0].is_cpu:
        return False
    return _default_to_fused_or_foreach(params, differentiable=False)[1]


def real(tensor: Tensor) -> Tensor:
    """A complex number is two real parameters, as in torch's own optimizers."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def buckets(
    params: list[Tensor], grads: list[Tensor], states: list[State], keys: Iterable[Hashable]
) -> list[tuple[Any, list[Tensor], list[Tensor], list[State]]]:
    """Split into runs of one device, dtype and key, so that each foreach call takes plain scalars.

    The key holds whatever differs between parameters that missed different steps; when none did,
    which is the rule, there is one bucket per device and dtype.
    """
    found: dict[Hashable, tuple[Any, list[Tensor], list[Tensor], list[State]]] = {}
    for param, grad, state, key in zip(params, grads, states, keys, strict=True):
        whole_key = (param.device, param.dtype, key)
        if whole_key not in found:
            found[whole_key] = (key, [], [], [])
        _, bucket_params, bucket_grads, bucket_states = found[whole_key]
        bucket_params.append(real(param))
        bucket_grads.append(real(grad))
        bucket_states.append(state)
    return list(found.values())


def column(states: list[State], name: str) -> list[Tensor]:
    return [real(state[name]) for state in states]


def scale_(tensors: list[Tensor], factor: float) -> None:
    """Multiply in place by a number, in full precision.

    On the CPU the foreach product first rounds a plain number to the dtype of the tensors, and in
    bfloat16 0.999 is 1: decays would vanish. A 0-dim tensor keeps its precision.
    """
    on_cpu = tensors[0].is_cpu
    exact = torch.tensor(factor, dtype=torch.float64, device="cpu") if on_cpu else factor
    torch._foreach_mul_(tensors, exact)
