"""AdaBound and AMSBound: Adam whose step sizes are clipped to a band that narrows to SGD's.

The numbers are those of the authors' implementation. What differs is bookkeeping: the learning rate
that schedules are measured against is kept in each parameter group, where a checkpoint finds it.
"""

# The foreach functions are public in use, not in name.
# pyright: reportPrivateImportUsage=false

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT

from laprop import arguments, stepping
from laprop.stepping import State


class AdaBound(Optimizer):
    r"""AdaBound (Luo et al. 2019, https://openreview.net/forum?id=Bkg3g2R9FX).

    With the gradient g, ``betas`` = (b1, b2), m and n zero at first, step t = 1, 2, ... is::

        g = g + weight_decay p
        m = b1 m + (1 - b1) g
        n = b2 n + (1 - b2) g^2
        final = final_lr lr / base_lr
        low  = final (1 - 1 / (gamma t + 1))
        high = final (1 + 1 / (gamma t))
        rate = lr sqrt(1 - b2^t) / (1 - b1^t) / (sqrt(n) + eps), clipped to [low, high]
        p = p - rate m

    The band [low, high] starts as [0, inf) and closes on ``final``: first Adam, at last SGD with
    momentum. Note that eps is added before the bias correction, unlike in torch's Adam.

    **Changes of lr.** A schedule scales the band too: ``base_lr`` is the lr of the parameter group
    when it was added, and is saved with it. A group that was added with lr 0 has no base; its
    band is then not scaled. At lr = 0 the step does not move the parameters.

    **Weight decay** is the L2 penalty of the original: it enters the gradient and so the moments.

    Args:
        params: parameters, or dictionaries that define parameter groups.
        lr: learning rate of the early, adaptive phase, >= 0; a tensor of one number is read at
            each step.
        betas: (b1, b2), each in [0, 1).
        final_lr: learning rate of the late, SGD-like phase, > 0.
        gamma: speed at which the band closes, strictly between 0 and 1.
        eps: added to the square root, >= 0.
        weight_decay: strength of the L2 penalty, >= 0.
        amsbound: use the largest n (before its bias correction) seen so far.
        maximize: ascend instead of descending.
        foreach: whether to update all parameters of a group together; None: as torch does, only
            where all are on an accelerator.

    State of each parameter: ``step`` (t), ``exp_avg`` (m), ``exp_avg_sq`` (n), and with amsbound
    ``max_exp_avg_sq``.

    Raises:
        ValueError: an argument, in the constructor or in a parameter group, is out of its range.
        RuntimeError: a gradient is sparse, or the step is captured in a CUDA graph.

    Example::

        optimizer = AdaBound(model.parameters(), lr=1e-3, final_lr=0.1)
        optimizer.zero_grad()
        loss_function(model(inputs), targets).backward()
        optimizer.step()
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        final_lr: float = 0.1,
        gamma: float = 1e-3,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        amsbound: bool = False,
        maximize: bool = False,
        foreach: bool | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "final_lr": final_lr,
            "gamma": gamma,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsbound": amsbound,
            "maximize": maximize,
            "foreach": foreach,
        }
        super().__init__(params, _checked(defaults))

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        group = {**param_group, **_checked({**self.defaults, **param_group})}
        base_lr = param_group.get("base_lr", float(group["lr"]))
        super().add_param_group({**group, "base_lr": arguments.at_least_zero("base_lr", base_lr)})

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            group.setdefault("amsbound", False)
            group.setdefault("maximize", False)
            group.setdefault("foreach", None)
            # The published implementation does not save it; schedulers save the same number.
            group.setdefault("base_lr", float(group.get("initial_lr", group["lr"])))
        stepping.restore_steps(self.state)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters once; returns the loss of the closure, if there is one."""
        loss = stepping.evaluate(closure)
        for group in self.param_groups:
            params = stepping.with_gradients(group["params"], "AdaBound")
            if not params:
                continue
            multi = stepping.use_foreach(params, group["foreach"])
            lr, base_lr = float(group["lr"]), group["base_lr"]
            beta1, beta2 = group["betas"]
            (_multi_tensor_adabound if multi else _single_tensor_adabound)(
                params,
                [param.grad for param in params],  # pyright: ignore[reportArgumentType]
                [self.state[param] or self._new_state(param, group) for param in params],
                lr=lr,
                beta1=beta1,
                beta2=beta2,
                final_lr=group["final_lr"] * (lr / base_lr if base_lr else 1.0),
                gamma=group["gamma"],
                eps=group["eps"],
                weight_decay=group["weight_decay"],
                amsbound=group["amsbound"],
                maximize=group["maximize"],
            )
        return loss

    def _new_state(self, param: Tensor, group: dict[str, Any]) -> State:
        state = self.state[param]
        state["step"] = stepping.new_step()
        state["exp_avg"] = torch.zeros_like(param, memory_format=torch.preserve_format)
        state["exp_avg_sq"] = torch.zeros_like(param, memory_format=torch.preserve_format)
        if group["amsbound"]:
            state["max_exp_avg_sq"] = torch.zeros_like(param, memory_format=torch.preserve_format)
        return state


def _checked(group: dict[str, Any]) -> dict[str, Any]:
    return {
        "lr": arguments.learning_rate(group["lr"]),
        "betas": arguments.betas(group["betas"]),
        "final_lr": arguments.above_zero("final_lr", group["final_lr"]),
        "gamma": arguments.between_zero_and_one("gamma", group["gamma"]),
        "eps": arguments.at_least_zero("eps", group["eps"]),
        "weight_decay": arguments.at_least_zero("weight_decay", group["weight_decay"]),
        "amsbound": arguments.flag("amsbound", group["amsbound"]),
        "maximize": arguments.flag("maximize", group["maximize"]),
        "foreach": arguments.foreach(group["foreach"]),
    }


def _advance(
    state: State,
    dtype: torch.dtype,
    lr: float,
    beta1: float,
    beta2: float,
    final_lr: float,
    gamma: float,
) -> tuple[float, float, float]:
    """Count the step; returns the size of the step and the range of the denominator.

    Clipping the denominator to [size / high, size / low] clips the rate to [low, high], and needs
    neither a tensor of rates nor their inverses, which in float16 could overflow.
    """
    t = stepping.count(state).item()
    size = lr * math.sqrt(1 - beta2**t) / (1 - beta1**t)
    low = final_lr * (1 - 1 / (gamma * t + 1))
    high = final_lr * (1 + 1 / (gamma * t))
    # Where low or high underflow or the quotient overflows, the bound is beyond every denominator.
    top = torch.finfo(dtype).max
    return size, min(size / high, top) if high else top, min(size / low, top) if low else top


def _single_tensor_adabound(
    params: list[Tensor],
    grads: list[Tensor],
    states: list[State],
    *,
    lr: float,
    beta1: float,
    beta2: float,
    final_lr: float,
    gamma: float,
    eps: float,
    weight_decay: float,
    amsbound: bool,
    maximize: bool,
) -> None:
    for param, grad, state in zip(params, grads, states, strict=True):
        size, least, most = _advance(state, param.dtype, lr, beta1, beta2, final_lr, gamma)
        param, grad = stepping.real(param), stepping.real(grad)
        exp_avg, exp_avg_sq = stepping.real(state["exp_avg"]), stepping.real(state["exp_avg_sq"])
        if maximize:
            grad = -grad
        if weight_decay:
            grad = grad.add(param, alpha=weight_decay)

        exp_avg.lerp_(grad, 1 - beta1)
        second = exp_avg_sq.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        if amsbound:
            largest = stepping.real(state["max_exp_avg_sq"])
            second = torch.maximum(largest, second, out=largest)

        if lr:
            denom = second.sqrt().add_(eps).clamp_(least, most)
            param.addcdiv_(exp_avg, denom, value=-size)


def _multi_tensor_adabound(
    params: list[Tensor],
    grads: list[Tensor],
    states: list[State],
    *,
    lr: float,
    beta1: float,
    beta2: float,
    final_lr: float,
    gamma: float,
    eps: float,
    weight_decay: float,
    amsbound: bool,
    maximize: bool,
) -> None:
    keys = [
        _advance(state, param.dtype, lr, beta1, beta2, final_lr, gamma)
        for param, state in zip(params, states, strict=True)
    ]
    for key, some_params, some_grads, some_states in stepping.buckets(params, grads, states, keys):
        size, least, most = key
        exp_avgs = stepping.column(some_states, "exp_avg")
        exp_avg_sqs = stepping.column(some_states, "exp_avg_sq")
        if maximize:
            some_grads = torch._foreach_neg(some_grads)
        if weight_decay:
            some_grads = torch._foreach_add(some_grads, some_params, alpha=weight_decay)

        torch._foreach_lerp_(exp_avgs, some_grads, 1 - beta1)
        stepping.scale_(exp_avg_sqs, beta2)
        torch._foreach_addcmul_(exp_avg_sqs, some_grads, some_grads, 1 - beta2)
        seconds = exp_avg_sqs
        if amsbound:
            largest = stepping.column(some_states, "max_exp_avg_sq")
            torch._foreach_maximum_(largest, seconds)
            seconds = largest

        if lr:
            denoms = torch._foreach_sqrt(seconds)
            torch._foreach_add_(denoms, eps)
            torch._foreach_clamp_min_(denoms, least)
            torch._foreach_clamp_max_(denoms, most)
            torch._foreach_addcdiv_(some_params, exp_avgs, denoms, -size)
