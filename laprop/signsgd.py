"""signSGD and its two momenta: of the gradient before the sign, and of the sign itself.

The first is Signum; the second is the limit of LaProp as nu goes to 0, which is why it is here: it
keeps LaProp's convention for changes of the learning rate, so that the two agree under schedules.
"""

# The foreach functions are public in use, not in name.
# pyright: reportPrivateImportUsage=false

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT

from laprop import arguments, stepping
from laprop.stepping import State


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

    State of each parameter: ``step``; unless momentum is 0, ``momentum_buffer`` (m) and the float
    ``exp_avg_lr`` (c, used with the momentum of signs only).

    Raises:
        ValueError: an argument, in the constructor or in a parameter group, is out of its range.
        RuntimeError: a gradient is sparse, or the step is captured in a CUDA graph.

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
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "momentum_of": momentum_of,
            "maximize": maximize,
            "foreach": foreach,
        }
        super().__init__(params, _checked(defaults))

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group({**param_group, **_checked({**self.defaults, **param_group})})

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            group.setdefault("momentum_of", "gradient")
            group.setdefault("maximize", False)
            group.setdefault("foreach", None)
        stepping.restore_steps(self.state)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters once; returns the loss of the closure, if there is one."""
        loss = stepping.evaluate(closure)
        for group in self.param_groups:
            params = stepping.with_gradients(group["params"], "SignSGD")
            if not params:
                continue
            multi = stepping.use_foreach(params, group["foreach"])
            (_multi_tensor_signsgd if multi else _single_tensor_signsgd)(
                params,
                [param.grad for param in params],  # pyright: ignore[reportArgumentType]
                [self._state(param, group) for param in params],
                lr=float(group["lr"]),
                momentum=group["momentum"],
                weight_decay=group["weight_decay"],
                of_sign=group["momentum_of"] == "sign",
                maximize=group["maximize"],
            )
        return loss

    def _state(self, param: Tensor, group: dict[str, Any]) -> State:
        state = self.state[param]
        if not state:
            state["step"] = stepping.new_step()
        # Not with the step: momentum may be switched on in the middle of a run.
        if group["momentum"] and "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(param, memory_format=torch.preserve_format)
            # A float, because load_state_dict would cast a tensor to the parameter's precision.
            state["exp_avg_lr"] = 0.0
        return state


def _checked(group: dict[str, Any]) -> dict[str, Any]:
    return {
        "lr": arguments.learning_rate(group["lr"]),
        "momentum": arguments.decay_rate("momentum", group["momentum"]),
        "weight_decay": arguments.at_least_zero("weight_decay", group["weight_decay"]),
        "momentum_of": arguments.one_of("momentum_of", group["momentum_of"], ("gradient", "sign")),
        "maximize": arguments.flag("maximize", group["maximize"]),
        "foreach": arguments.foreach(group["foreach"]),
    }


def _advance(state: State, lr: float, momentum: float) -> float:
    """Count the step; returns c of the equations."""
    stepping.count(state)
    if not momentum:
        return lr
    state["exp_avg_lr"] = correction = momentum * state["exp_avg_lr"] + (1 - momentum) * lr
    return correction


def _single_tensor_signsgd(
    params: list[Tensor],
    grads: list[Tensor],
    states: list[State],
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    of_sign: bool,
    maximize: bool,
) -> None:
    for param, grad, state in zip(params, grads, states, strict=True):
        correction = _advance(state, lr, momentum)
        param, grad = stepping.real(param), stepping.real(grad)
        if maximize:
            grad = -grad

        if weight_decay:
            param.mul_(1 - lr * weight_decay)

        if not momentum:
            param.add_(grad.sign(), alpha=-lr)
            continue
        buffer = stepping.real(state["momentum_buffer"])
        if of_sign:
            buffer.mul_(momentum).add_(grad.sign(), alpha=(1 - momentum) * lr)
            if lr:
                param.add_(buffer, alpha=-lr / correction)
        else:
            buffer.lerp_(grad, 1 - momentum)
            param.add_(buffer.sign(), alpha=-lr)


def _multi_tensor_signsgd(
    params: list[Tensor],
    grads: list[Tensor],
    states: list[State],
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    of_sign: bool,
    maximize: bool,
) -> None:
    keys = [_advance(state, lr, momentum) for state in states]
    for key, some_params, some_grads, some_states in stepping.buckets(params, grads, states, keys):
        correction = key
        if maximize:
            some_grads = torch._foreach_neg(some_grads)

        if weight_decay:
            stepping.scale_(some_params, 1 - lr * weight_decay)

        if not momentum:
            torch._foreach_add_(some_params, torch._foreach_sign(some_grads), alpha=-lr)
            continue
        buffers = stepping.column(some_states, "momentum_buffer")
        if of_sign:
            stepping.scale_(buffers, momentum)
            torch._foreach_add_(buffers, torch._foreach_sign(some_grads), alpha=(1 - momentum) * lr)
            if lr:
                torch._foreach_add_(some_params, buffers, alpha=-lr / correction)
        else:
            torch._foreach_lerp_(buffers, some_grads, 1 - momentum)
            torch._foreach_add_(some_params, torch._foreach_sign(buffers), alpha=-lr)
