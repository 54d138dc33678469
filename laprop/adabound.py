"""AdaBound and AMSBound: Adam whose step sizes are clipped to a band that narrows to SGD's.

The numbers are those of the authors' implementation. What differs is bookkeeping: the learning rate
that schedules are measured against is kept in each parameter group, where a checkpoint finds it.
"""

# The foreach functions are public in use, not in name.
# pyright: reportPrivateImportUsage=false

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT, _use_grad_for_differentiable

from laprop import arguments, stepping


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
        capturable: whether the step can be captured in a CUDA graph; a for-loop then, like
        differentiable: whether autograd can go through the step.

    State of each parameter: ``step`` (t), ``exp_avg`` (m), ``exp_avg_sq`` (n), and with amsbound
    ``max_exp_avg_sq``.

    Raises:
        ValueError: an argument, in the constructor or in a parameter group, is out of its range.
        RuntimeError: a gradient is sparse, or the step is captured in a CUDA graph while not
            capturable.

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
        capturable: bool = False,
        differentiable: bool = False,
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
            "capturable": capturable,
            "differentiable": differentiable,
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
            stepping.restore_form(group)
            # The published implementation does not save it; schedulers save the same number.
            group.setdefault("base_lr", float(group.get("initial_lr", group["lr"])))
        stepping.restore_numbers(self.param_groups, self.state)

    @_use_grad_for_differentiable
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters once; returns the loss of the closure, if there is one."""
        loss = stepping.evaluate(closure)
        for group in self.param_groups:
            tensors = _Tensors([], [], [], [], [], [])
            self._init_group(group, *tensors)
            if tensors.params:
                _FORMS[stepping.form(tensors.params, group)](tensors, group)
        return loss

    def _init_group(
        self,
        group: dict[str, Any],
        params: list[Tensor],
        grads: list[Tensor],
        exp_avgs: list[Tensor],
        exp_avg_sqs: list[Tensor],
        max_exp_avg_sqs: list[Tensor],
        steps: list[Tensor],
    ) -> None:
        """Append what takes part in this step; state that is missing is made."""
        present, gradients = stepping.with_gradients(group, "AdaBound")
        params.extend(present)
        grads.extend(gradients)
        for param in params:
            state = self.state[param]
            if not state:
                state["step"] = stepping.new_step(param, group)
                names = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
                for name in names if group["amsbound"] else names[:2]:
                    state[name] = torch.zeros_like(param, memory_format=torch.preserve_format)
            exp_avgs.append(state["exp_avg"])
            exp_avg_sqs.append(state["exp_avg_sq"])
            steps.append(state["step"])
            if group["amsbound"]:
                max_exp_avg_sqs.append(state["max_exp_avg_sq"])


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
        **arguments.form(group),
    }


class _Tensors(NamedTuple):
    """What takes part in the step of a group, parameter by parameter."""

    params: list[Tensor]
    grads: list[Tensor]
    exp_avgs: list[Tensor]
    exp_avg_sqs: list[Tensor]
    max_exp_avg_sqs: list[Tensor]  # empty without amsbound
    steps: list[Tensor]


class _Factors(NamedTuple):
    """The size of the step, and the range of the denominator.

    Clipping the denominator to [size / high, size / low] clips the rate to [low, high], and needs
    neither a tensor of rates nor their inverses, which in float16 could overflow.
    """

    size: Any
    least: Any
    most: Any


def _final_lr(lr: Any, group: dict[str, Any]) -> Any:
    return group["final_lr"] * (lr / group["base_lr"] if group["base_lr"] else 1.0)


def _advance(tensors: _Tensors, i: int, lr: float, group: dict[str, Any]) -> _Factors:
    """Count the step."""
    step = tensors.steps[i].add_(stepping.ONE).item()
    return _at_step(step, tensors.params[i].dtype, lr, group)


def _advance_all(tensors: _Tensors, lr: float, group: dict[str, Any]) -> list[_Factors]:
    """The same for all parameters, computed once for those that are at one point."""
    stepping.count_(tensors.steps)
    dtypes = [param.dtype for param in tensors.params]
    points = list(zip(stepping.read(tensors.steps), dtypes, strict=True))
    factors = {point: _at_step(*point, lr, group) for point in set(points)}
    return [factors[point] for point in points]


def _at_step(t: float, dtype: torch.dtype, lr: float, group: dict[str, Any]) -> _Factors:
    (beta1, beta2), gamma, final_lr = group["betas"], group["gamma"], _final_lr(lr, group)
    size = lr * math.sqrt(1 - beta2**t) / (1 - beta1**t)
    low = final_lr * (1 - 1 / (gamma * t + 1))
    high = final_lr * (1 + 1 / (gamma * t))
    # Where low or high underflow or the quotient overflows, the bound is beyond every denominator.
    top = torch.finfo(dtype).max
    least, most = (min(size / bound, top) if bound else top for bound in (high, low))
    return _Factors(size, least, most)


def _advance_in_graph(tensors: _Tensors, i: int, group: dict[str, Any]) -> _Factors:
    """The same without reading a number."""
    (beta1, beta2), gamma, lr = group["betas"], group["gamma"], stepping.scalar(group["lr"])
    # At the precision of float32, 1 - b2^t would lose four of its seven digits.
    t = tensors.steps[i].add_(1).to(torch.float64)
    final_lr = torch.ones_like(t) * _final_lr(lr, group)
    size = lr * (1 - beta2**t).sqrt() / (1 - beta1**t)
    low = final_lr * (1 - 1 / (gamma * t + 1))
    high = final_lr * (1 + 1 / (gamma * t))
    top = torch.finfo(torch.promote_types(tensors.params[i].dtype, torch.float32)).max
    least, most = (
        torch.where(bound > 0, size / bound, top).clamp(max=top) for bound in (high, low)
    )
    return _Factors(size, least, most)


def _single_tensor_adabound(tensors: _Tensors, group: dict[str, Any]) -> None:
    lr, (beta1, beta2) = float(group["lr"]), group["betas"]
    for i, param in enumerate(tensors.params):
        size, least, most = _advance(tensors, i, lr, group)
        param, grad = stepping.real(param), stepping.real(tensors.grads[i])
        exp_avg, exp_avg_sq = map(stepping.real, (tensors.exp_avgs[i], tensors.exp_avg_sqs[i]))
        if group["maximize"]:
            grad = -grad
        if group["weight_decay"]:
            grad = grad.add(param, alpha=group["weight_decay"])

        exp_avg.lerp_(grad, 1 - beta1)
        second = exp_avg_sq.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        if group["amsbound"]:
            largest = stepping.real(tensors.max_exp_avg_sqs[i])
            second = torch.maximum(largest, second, out=largest)

        if lr:
            denom = second.sqrt().add_(group["eps"]).clamp_(least, most)
            param.addcdiv_(exp_avg, denom, value=-size)


def _graph_adabound(tensors: _Tensors, group: dict[str, Any]) -> None:
    """The for-loop form in tensors alone, which a CUDA graph, a compiler and autograd can follow.

    Autograd must find what it has saved unchanged, so that it gets copies of the buffers.
    """
    saved = torch.clone if group["differentiable"] else stepping.itself
    beta1, beta2 = group["betas"]
    for i, param in enumerate(tensors.params):
        size, least, most = _advance_in_graph(tensors, i, group)
        param, grad = stepping.real(param), stepping.real(tensors.grads[i])
        exp_avg, exp_avg_sq = map(stepping.real, (tensors.exp_avgs[i], tensors.exp_avg_sqs[i]))
        if group["maximize"]:
            grad = -grad
        if group["weight_decay"]:
            grad = grad.add(param, alpha=group["weight_decay"])

        exp_avg.lerp_(grad, 1 - beta1)
        second = saved(exp_avg_sq.mul_(beta2).addcmul_(grad, grad, value=1 - beta2))
        if group["amsbound"]:
            largest = stepping.real(tensors.max_exp_avg_sqs[i])
            second = torch.maximum(saved(largest), second)
            largest.copy_(second)

        # A half-precision tensor would round the factors before it uses them.
        wide = torch.promote_types(param.dtype, torch.float32)
        denom = (second.sqrt() + group["eps"]).to(wide).clamp(least, most)
        update = saved(exp_avg).to(wide) / denom * size
        param.sub_(torch.where(size > 0, update, 0))  # at lr = 0 the quotient may be 0 / 0


def _multi_tensor_adabound(tensors: _Tensors, group: dict[str, Any]) -> None:
    lr, (beta1, beta2), weight_decay = float(group["lr"]), group["betas"], group["weight_decay"]
    factors = _advance_all(tensors, lr, group)
    for (size, least, most), bucket in stepping.buckets(tensors[:5], factors):
        params, grads, exp_avgs, exp_avg_sqs, largest = bucket
        if group["maximize"]:
            grads = torch._foreach_neg(grads)
        if weight_decay:
            grads = torch._foreach_add(grads, params, alpha=weight_decay)

        torch._foreach_lerp_(exp_avgs, grads, 1 - beta1)
        stepping.scale_(exp_avg_sqs, beta2)
        torch._foreach_addcmul_(exp_avg_sqs, grads, grads, 1 - beta2)
        seconds = exp_avg_sqs
        if group["amsbound"]:
            torch._foreach_maximum_(largest, seconds)
            seconds = largest

        if lr:
            denoms = torch._foreach_sqrt(seconds)
            torch._foreach_add_(denoms, group["eps"])
            torch._foreach_clamp_min_(denoms, least)
            torch._foreach_clamp_max_(denoms, most)
            torch._foreach_addcdiv_(params, exp_avgs, denoms, -size)


_FORMS = {
    "single": _single_tensor_adabound,
    "graph": _graph_adabound,
    "foreach": _multi_tensor_adabound,
}
