"""LaProp: momentum of normalised gradients, where Adam normalises the momentum.

The numbers are those of the authors' root implementation: the learning rate is folded into the
momentum buffer, and both bias corrections follow it through changes of the learning rate. Two
deviations, both where the original would go wrong: a step at lr = 0 does not move, and a centred
second moment that rounding makes negative counts as zero.
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

# The mean of the gradients is too noisy at first to be subtracted from the second moment.
UNCENTERED_STEPS = 10


class LaProp(Optimizer):
    r"""LaProp (Ziyin, Wang, Ueda 2020, https://arxiv.org/abs/2002.04839).

    With the gradient g, ``betas`` = (mu, nu), and n, m, c, d all zero at first, one step is::

        n = nu n + (1 - nu) g^2                         second moment
        d = nu d + (1 - nu)                             its bias correction, 1 - nu^t
        m = mu m + (1 - mu) lr g / (sqrt(n / d) + eps)  momentum of the normalised gradients
        c = mu c + (1 - mu) lr                          its bias correction, lr (1 - mu^t)
        p = p - (lr / c) m

    Since normalising comes before averaging, mu and nu are independent: with any pair in [0, 1),
    and not ``centered``, ``|update| <= lr / sqrt(1 - nu)``. At mu = 0 this is Adam with betas
    (0, nu); as nu goes to 0 it becomes the momentum of the signs of the gradients
    (``SignSGD(momentum=mu, momentum_of="sign")``).

    **Changes of lr.** m and c average over the learning rates of the past with the same weights,
    so that an update is the current lr times a weighted mean of normalised gradients, in which
    a past gradient weighs as much as the lr it was seen with: steps of a warm-up count little.
    At lr = 0 the step does not move the parameters, the limit of lr going to 0 (the authors' code
    would move by the momentum buffer); moments and corrections are updated.

    **Weight decay** is decoupled from the gradient, in either of the authors' conventions:
    ``decay_by_lr=False`` (their root file) subtracts ``weight_decay * p`` after each step,
    whatever the lr; ``decay_by_lr=True`` (AdamW, and their fairseq copy) multiplies p by
    ``1 - lr * weight_decay`` before it. The same number means very different decays in the two.

    Args:
        params: parameters, or dictionaries that define parameter groups.
        lr: learning rate, >= 0; a tensor of one number is read at each step.
        betas: (mu, nu), each in [0, 1).
        eps: added to the square root, >= 0. At 0 a gradient that has always been zero gives NaN.
            So does the default in float16, which cannot hold it: take 1e-5 or more there.
        weight_decay: strength of the decay, >= 0.
        decay_by_lr: whether weight decay is scaled by the lr, see above.
        amsgrad: normalise by the largest n (before its bias correction) seen so far.
        centered: normalise by the variance n - h^2 with h = nu h + (1 - nu) g, not by n, after the
            first 10 steps. Where rounding makes it negative it counts as zero; eps alone then
            bounds the update, as it does where gradients have been constant for long. With
            ``amsgrad`` the maximum is over the variances and also starts at step 11.
        maximize: ascend instead of descending.
        foreach: whether to update all parameters of a group together; None: as torch does, only
            where all are on an accelerator.

    State of each parameter: ``step``; ``exp_avg_sq`` (n); ``exp_avg`` (m); the floats
    ``exp_avg_lr_1`` (c) and ``exp_avg_lr_2`` (d); with amsgrad ``max_exp_avg_sq``; with centered
    ``exp_mean_avg_beta2`` (h). The names are the authors', whose checkpoints load.

    Raises:
        ValueError: an argument, in the constructor or in a parameter group, is out of its range.
        RuntimeError: a gradient is sparse, or the step is captured in a CUDA graph.

    Example::

        optimizer = LaProp(model.parameters(), lr=4e-4, betas=(0.9, 0.999))
        optimizer.zero_grad()
        loss_function(model(inputs), targets).backward()
        optimizer.step()
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 4e-4,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-15,
        weight_decay: float = 0.0,
        *,
        decay_by_lr: bool = False,
        amsgrad: bool = False,
        centered: bool = False,
        maximize: bool = False,
        foreach: bool | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "decay_by_lr": decay_by_lr,
            "amsgrad": amsgrad,
            "centered": centered,
            "maximize": maximize,
            "foreach": foreach,
        }
        super().__init__(params, _checked(defaults))

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group({**param_group, **_checked({**self.defaults, **param_group})})

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            for name in ("decay_by_lr", "amsgrad", "centered", "maximize"):
                group.setdefault(name, False)
            group.setdefault("foreach", None)
        stepping.restore_steps(self.state)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters once; returns the loss of the closure, if there is one."""
        loss = stepping.evaluate(closure)
        for group in self.param_groups:
            params = stepping.with_gradients(group["params"], "LaProp")
            if not params:
                continue
            multi = stepping.use_foreach(params, group["foreach"])
            beta1, beta2 = group["betas"]
            (_multi_tensor_laprop if multi else _single_tensor_laprop)(
                params,
                [param.grad for param in params],  # pyright: ignore[reportArgumentType]
                [self.state[param] or self._new_state(param, group) for param in params],
                lr=float(group["lr"]),
                beta1=beta1,
                beta2=beta2,
                eps=group["eps"],
                weight_decay=group["weight_decay"],
                decay_by_lr=group["decay_by_lr"],
                amsgrad=group["amsgrad"],
                centered=group["centered"],
                maximize=group["maximize"],
            )
        return loss

    def _new_state(self, param: Tensor, group: dict[str, Any]) -> State:
        state = self.state[param]
        state["step"] = stepping.new_step()
        state["exp_avg"] = torch.zeros_like(param, memory_format=torch.preserve_format)
        state["exp_avg_sq"] = torch.zeros_like(param, memory_format=torch.preserve_format)
        # Floats, because load_state_dict would cast tensors to the parameter's precision.
        state["exp_avg_lr_1"] = 0.0
        state["exp_avg_lr_2"] = 0.0
        if group["amsgrad"]:
            state["max_exp_avg_sq"] = torch.zeros_like(param, memory_format=torch.preserve_format)
        if group["centered"]:
            state["exp_mean_avg_beta2"] = torch.zeros_like(
                param, memory_format=torch.preserve_format
            )
        return state


def _checked(group: dict[str, Any]) -> dict[str, Any]:
    return {
        "lr": arguments.learning_rate(group["lr"]),
        "betas": arguments.betas(group["betas"]),
        "eps": arguments.at_least_zero("eps", group["eps"]),
        "weight_decay": arguments.at_least_zero("weight_decay", group["weight_decay"]),
        "decay_by_lr": arguments.flag("decay_by_lr", group["decay_by_lr"]),
        "amsgrad": arguments.flag("amsgrad", group["amsgrad"]),
        "centered": arguments.flag("centered", group["centered"]),
        "maximize": arguments.flag("maximize", group["maximize"]),
        "foreach": arguments.foreach(group["foreach"]),
    }


def _advance(
    state: State, lr: float, beta1: float, beta2: float, centered: bool
) -> tuple[float, float, bool]:
    """Count the step; returns c and sqrt(d) of the equations, and whether n is to be centred."""
    step = stepping.count(state)
    state["exp_avg_lr_1"] = correction = beta1 * state["exp_avg_lr_1"] + (1 - beta1) * lr
    state["exp_avg_lr_2"] = correction_sq = beta2 * state["exp_avg_lr_2"] + (1 - beta2)
    return correction, math.sqrt(correction_sq), centered and step.item() > UNCENTERED_STEPS


def _single_tensor_laprop(
    params: list[Tensor],
    grads: list[Tensor],
    states: list[State],
    *,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decay_by_lr: bool,
    amsgrad: bool,
    centered: bool,
    maximize: bool,
) -> None:
    for param, grad, state in zip(params, grads, states, strict=True):
        correction, root, center_now = _advance(state, lr, beta1, beta2, centered)
        exp_avg, exp_avg_sq = state["exp_avg"], state["exp_avg_sq"]
        if param.is_complex():
            param, grad = torch.view_as_real(param), torch.view_as_real(grad)
            exp_avg, exp_avg_sq = torch.view_as_real(exp_avg), torch.view_as_real(exp_avg_sq)
        if maximize:
            grad = -grad

        if weight_decay and decay_by_lr:
            param.mul_(1 - lr * weight_decay)

        second = exp_avg_sq.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        if centered:
            mean = stepping.real(state["exp_mean_avg_beta2"]).lerp_(grad, 1 - beta2)
            if center_now:
                second = torch.addcmul(second, mean, mean, value=-1).clamp_(min=0)
        if amsgrad and center_now == centered:
            largest = stepping.real(state["max_exp_avg_sq"])
            second = torch.maximum(largest, second, out=largest)

        # sqrt(n / d) + eps = (sqrt(n) + eps sqrt(d)) / sqrt(d): scalars instead of a tensor op.
        denom = second.sqrt().add_(eps * root)
        exp_avg.mul_(beta1).addcdiv_(grad, denom, value=(1 - beta1) * lr * root)
        if lr:
            param.add_(exp_avg, alpha=-lr / correction)

        if weight_decay and not decay_by_lr:
            param.mul_(1 - weight_decay)


def _multi_tensor_laprop(
    params: list[Tensor],
    grads: list[Tensor],
    states: list[State],
    *,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decay_by_lr: bool,
    amsgrad: bool,
    centered: bool,
    maximize: bool,
) -> None:
    keys = [_advance(state, lr, beta1, beta2, centered) for state in states]
    for key, some_params, some_grads, some_states in stepping.buckets(params, grads, states, keys):
        correction, root, center_now = key
        exp_avgs = stepping.column(some_states, "exp_avg")
        exp_avg_sqs = stepping.column(some_states, "exp_avg_sq")
        if maximize:
            some_grads = torch._foreach_neg(some_grads)

        if weight_decay and decay_by_lr:
            stepping.scale_(some_params, 1 - lr * weight_decay)

        stepping.scale_(exp_avg_sqs, beta2)
        torch._foreach_addcmul_(exp_avg_sqs, some_grads, some_grads, 1 - beta2)
        seconds = exp_avg_sqs
        if centered:
            means = stepping.column(some_states, "exp_mean_avg_beta2")
            torch._foreach_lerp_(means, some_grads, 1 - beta2)
            if center_now:
                seconds = torch._foreach_addcmul(exp_avg_sqs, means, means, -1)
                torch._foreach_clamp_min_(seconds, 0)
        if amsgrad and center_now == centered:
            largest = stepping.column(some_states, "max_exp_avg_sq")
            torch._foreach_maximum_(largest, seconds)
            seconds = largest

        denoms = torch._foreach_sqrt(seconds)
        torch._foreach_add_(denoms, eps * root)
        stepping.scale_(exp_avgs, beta1)
        torch._foreach_addcdiv_(exp_avgs, some_grads, denoms, (1 - beta1) * lr * root)
        if lr:
            torch._foreach_add_(some_params, exp_avgs, alpha=-lr / correction)

        if weight_decay and not decay_by_lr:
            stepping.scale_(some_params, 1 - weight_decay)
