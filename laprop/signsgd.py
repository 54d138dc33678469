"""signSGD and its two momenta: of the gradient before the sign, and of the sign itself.

The first is Signum; the second is the limit of LaProp as nu goes to 0, which is why it is here: it
keeps LaProp's convention for changes of the learning rate, so that the two agree under schedules.
"""

# The foreach functions are public in use, not in name.
# pyright: reportPrivateImportUsage=false

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT, _use_grad_for_differentiable

from laprop import arguments, stepping

# c of the equations, in the state
CORRECTIONS = ("exp_avg_lr",)


class SignSGD(Optimizer):
    r"""signSGD (Bernstein et al. 2018, https://arxiv.org/abs/1802.04434) and its momenta.

    With the gradient g, momentum mu, and m, c zero at first, one step is::

        momentum = 0:              p = p - lr sign(g)                  signSGD
        momentum_of = "gradient":  m = mu m + (1 - mu) g
                                   p = p - lr sign(m)                  Signum
        momentum_of = "sign":      m = mu m + (1 - mu) lr sign(g)
                                   c = mu c + (1 - mu) lr              lr (1 - mu^t)
                                   p = p - (lr / c) m                  LaProp at nu = 0

    The bias correction c belongs to the last form alone: sign(m) does not depend on the scale of
    m. sign(0) is 0, and so is torch's sign(NaN): a gradient that is not a number does not move
    its parameter (with momentum of the gradient, it stops it for good); watch the loss for it.

    **Changes of lr** act at once. In the last form, past signs weigh as much as the lr they were
    seen with, as in LaProp; a step at lr = 0 does not move the parameters.

    **Weight decay** is decoupled and scaled by the lr: p is multiplied by ``1 - lr * weight_decay``
    before the step.

    Args:
        params: parameters, or dictionaries that define parameter groups.
        lr: learning rate, >= 0; a tensor of one number is read at each step.
        momentum: mu, in [0, 1).
        weight_decay: strength of the decay, >= 0.
        momentum_of: "gradient" or "sign", see above.
        maximize: ascend instead of descending.
        foreach: whether to update all parameters of a group together; None: as torch does, only
            where all are on an accelerator.
        capturable: whether the step can be captured in a CUDA graph; a for-loop then, like
        differentiable: whether autograd can go through the step (not through the sign, whose
            gradient is 0).

    State of each parameter: ``step``; unless momentum is 0, ``momentum_buffer`` (m) and
    ``exp_avg_lr`` (c, used with the momentum of signs only; a number in a state dict).

    Raises:
        ValueError: an argument, in the constructor or in a parameter group, is out of its range.
        RuntimeError: a gradient is sparse, or the step is captured in a CUDA graph while not
            capturable.

    Example::

        optimizer = SignSGD(model.parameters(), lr=1e-3, momentum=0.9, momentum_of="sign")
        optimizer.zero_grad()
        loss_function(model(inputs), targets).backward()
        optimizer.step()
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        *,
        momentum_of: Literal["gradient", "sign"] = "gradient",
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "momentum_of": momentum_of,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
            "differentiable": differentiable,
        }
        super().__init__(params, _checked(defaults))

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group({**param_group, **_checked({**self.defaults, **param_group})})

    def state_dict(self) -> dict[str, Any]:
        """As torch's, with the bias correction c as a number.

        As a tensor, ``load_state_dict`` would cast it to the precision of the parameter.
        """
        return stepping.with_numbers(super().state_dict(), CORRECTIONS)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            group.setdefault("momentum_of", "gradient")
            group.setdefault("maximize", False)
            stepping.restore_form(group)
        stepping.restore_numbers(self.param_groups, self.state, CORRECTIONS)

    @_use_grad_for_differentiable
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters once; returns the loss of the closure, if there is one."""
        loss = stepping.evaluate(closure)
        for group in self.param_groups:
            tensors = _Tensors([], [], [], [], [])
            self._init_group(group, *tensors)
            if tensors.params:
                _FORMS[stepping.form(tensors.params, group)](tensors, group)
        return loss

    def _init_group(
        self,
        group: dict[str, Any],
        params: list[Tensor],
        grads: list[Tensor],
        buffers: list[Tensor],
        steps: list[Tensor],
        corrections: list[Tensor],
    ) -> None:
        """Append what takes part in this step; state that is missing is made."""
        present, gradients = stepping.with_gradients(group, "SignSGD")
        params.extend(present)
        grads.extend(gradients)
        for param in params:
            state = self.state[param]
            if not state:
                state["step"] = stepping.new_step(param, group)
            # Not with the step: momentum may be switched on in the middle of a run.
            if group["momentum"] and "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(
                    param, memory_format=torch.preserve_format
                )
                state["exp_avg_lr"] = stepping.new_number(0.0, param, group)
            steps.append(state["step"])
            if group["momentum"]:
                buffers.append(state["momentum_buffer"])
                corrections.append(state["exp_avg_lr"])


def _checked(group: dict[str, Any]) -> dict[str, Any]:
    return {
        "lr": arguments.learning_rate(group["lr"]),
        "momentum": arguments.decay_rate("momentum", group["momentum"]),
        "weight_decay": arguments.at_least_zero("weight_decay", group["weight_decay"]),
        "momentum_of": arguments.one_of("momentum_of", group["momentum_of"], ("gradient", "sign")),
        "maximize": arguments.flag("maximize", group["maximize"]),
        **arguments.form(group),
    }


class _Tensors(NamedTuple):
    """What takes part in the step of a group, parameter by parameter."""

    params: list[Tensor]
    grads: list[Tensor]
    buffers: list[Tensor]  # empty without momentum, as are the corrections
    steps: list[Tensor]
    corrections: list[Tensor]


def _advance(tensors: _Tensors, i: int, lr: float, momentum: float) -> float:
    """Count the step; returns lr / c of the equations, and 0 at lr = 0."""
    tensors.steps[i].add_(stepping.ONE)
    if not momentum:
        return 1.0
    c, rate = _corrected(tensors.corrections[i].item(), lr, momentum)
    tensors.corrections[i].fill_(c)
    return rate


def _advance_all(tensors: _Tensors, lr: float, momentum: float) -> list[float]:
    """The same for all parameters."""
    stepping.count_(tensors.steps)
    if not momentum:
        return [1.0] * len(tensors.steps)
    after = [_corrected(c, lr, momentum) for c in stepping.read(tensors.corrections)]
    stepping.write_(tensors.corrections, [c for c, _ in after])
    return [rate for _, rate in after]


def _corrected(c: float, lr: float, momentum: float) -> tuple[float, float]:
    """c of this step, and what the momentum is multiplied with."""
    c = momentum * c + (1 - momentum) * lr
    return c, lr / c if lr else 0.0


def _advance_in_graph(
    tensors: _Tensors, i: int, lr: float | Tensor, momentum: float
) -> float | Tensor:
    """The same without reading a number."""
    tensors.steps[i].add_(1)
    if not momentum:
        return 1.0
    c = tensors.corrections[i].mul_(momentum).add_(lr * (1 - momentum))
    return torch.where(c > 0, c, 1).reciprocal() * lr  # c = 0 says that every lr so far was 0


def _single_tensor_signsgd(tensors: _Tensors, group: dict[str, Any]) -> None:
    lr, momentum, weight_decay = float(group["lr"]), group["momentum"], group["weight_decay"]
    for i, param in enumerate(tensors.params):
        rate = _advance(tensors, i, lr, momentum)
        param, grad = stepping.real(param), stepping.real(tensors.grads[i])
        if group["maximize"]:
            grad = -grad

        if weight_decay:
            param.mul_(1 - lr * weight_decay)

        if not momentum:
            param.add_(grad.sign(), alpha=-lr)
            continue
        buffer = stepping.real(tensors.buffers[i])
        if group["momentum_of"] == "sign":
            buffer.mul_(momentum).add_(grad.sign(), alpha=(1 - momentum) * lr)
            if lr:
                param.add_(buffer, alpha=-rate)
        else:
            buffer.lerp_(grad, 1 - momentum)
            param.add_(buffer.sign(), alpha=-lr)


def _graph_signsgd(tensors: _Tensors, group: dict[str, Any]) -> None:
    """The for-loop form in tensors alone, which a CUDA graph, a compiler and autograd can follow.

    Autograd must find what it has saved unchanged, so that it gets copies of the buffers.
    """
    saved = torch.clone if group["differentiable"] else stepping.itself
    lr, momentum = stepping.scalar(group["lr"]), group["momentum"]
    weight_decay = group["weight_decay"]
    for i, param in enumerate(tensors.params):
        rate = _advance_in_graph(tensors, i, lr, momentum)
        param, grad = stepping.real(param), stepping.real(tensors.grads[i])
        # A half-precision tensor would round the factors before it uses them.
        wide = torch.promote_types(param.dtype, torch.float32)
        if group["maximize"]:
            grad = -grad

        if weight_decay:
            param.sub_(saved(param).to(wide) * (lr * weight_decay))

        if not momentum:
            param.sub_(grad.sign().to(wide) * lr)
            continue
        buffer = stepping.real(tensors.buffers[i])
        if group["momentum_of"] == "sign":
            buffer.mul_(momentum).add_(grad.sign().to(wide) * lr * (1 - momentum))
            param.sub_(saved(buffer).to(wide) * rate)
        else:
            buffer.lerp_(grad, 1 - momentum)
            param.sub_(buffer.sign().to(wide) * lr)


def _multi_tensor_signsgd(tensors: _Tensors, group: dict[str, Any]) -> None:
    lr, momentum, weight_decay = float(group["lr"]), group["momentum"], group["weight_decay"]
    rates = _advance_all(tensors, lr, momentum)
    for rate, (params, grads, buffers) in stepping.buckets(tensors[:3], rates):
        if group["maximize"]:
            grads = torch._foreach_neg(grads)

        if weight_decay:
            stepping.scale_(params, 1 - lr * weight_decay)

        if not momentum:
            torch._foreach_add_(params, torch._foreach_sign(grads), alpha=-lr)
            continue
        if group["momentum_of"] == "sign":
            stepping.scale_(buffers, momentum)
            torch._foreach_add_(buffers, torch._foreach_sign(grads), alpha=(1 - momentum) * lr)
            if lr:
                torch._foreach_add_(params, buffers, alpha=-rate)
        else:
            torch._foreach_lerp_(buffers, grads, 1 - momentum)
            torch._foreach_add_(params, torch._foreach_sign(buffers), alpha=-lr)


_FORMS = {
    "single": _single_tensor_signsgd,
    "graph": _graph_signsgd,
    "foreach": _multi_tensor_signsgd,
}
