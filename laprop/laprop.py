"""LaProp: momentum of normalised gradients, where Adam normalises the momentum.

The numbers are those of the authors' root implementation: the learning rate is folded into the
momentum buffer, and both bias corrections follow it through changes of the learning rate. Two
deviations, both where the original would go wrong: a step at lr = 0 does not move, and a centred
second moment that rounding makes negative counts as zero.
"""

# The foreach functions are public in use, not in name.
# pyright: reportPrivateImportUsage=false

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT, _use_grad_for_differentiable

from laprop import arguments, fused, stepping
from laprop.fused import Kept
from laprop.stepping import State

# The mean of the gradients is too noisy at first to be subtracted from the second moment.
UNCENTERED_STEPS = 10
# c and d of the equations, in the state
CORRECTIONS = ("exp_avg_lr_1", "exp_avg_lr_2")


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
    would move by the momentum buffer), nor does weight decay: torch's tools for distributed
    checkpoints take such a step to make the state. Moments and corrections are updated.

    **Weight decay** is decoupled from the gradient, in either of the authors' conventions:
    ``decay_by_lr=False`` (their root file) subtracts ``weight_decay * p`` after each step,
    whatever the lr above 0; ``decay_by_lr=True`` (AdamW, and their fairseq copy) multiplies p by
    ``1 - lr * weight_decay`` before it. The same number means very different decays in the two.

    Args:
        params: parameters, or dictionaries that define parameter groups.
        lr: learning rate, >= 0; a tensor of one number is read at each step.
        betas: (mu, nu), each in [0, 1).
        eps: added to the square root, >= 0. At 0 a gradient that has always been zero gives NaN.
            So does the default in float16, which cannot hold it. The state has the type of the
            parameters, and squares below 6e-8 are 0 in float16: with an eps that does not exceed their
            roots by far (1e-3 does) updates leave their bound there. Keep float32 parameters, as
            autocast does.
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
        capturable: whether the step can be captured in a CUDA graph; then a for-loop, whatever
            ``foreach`` says. Under ``torch.compile`` it is not needed.
        differentiable: whether autograd can go through the step, by parameters, gradients and lr.
        fused: whether one kernel does the whole step in one pass over memory, on a CPU (Linux, with
            a C++ compiler) or on CUDA. It is compiled at first use, and can be captured in a CUDA
            graph. It computes in float32 where the parameters are of half precision, and rounds
            once. It is the fastest form, level with torch's fused Adam on a CPU and on an H200, and
            compiled in about a second.

    The forms follow the same path up to rounding; on a CPU foreach gives the bits of the for-loop.

    State of each parameter: ``step``; ``exp_avg_sq`` (n); ``exp_avg`` (m); ``exp_avg_lr_1`` (c) and
    ``exp_avg_lr_2`` (d), 0-dim tensors that are numbers in a state dict; with amsgrad
    ``max_exp_avg_sq``; with centered ``exp_mean_avg_beta2`` (h). The names are the authors', whose
    checkpoints load.

    Raises:
        ValueError: an argument, in the constructor or in a parameter group, is out of its range,
            or fused goes with foreach or differentiable.
        RuntimeError: a gradient is sparse; the step is captured in a CUDA graph and neither
            capturable nor fused; fused lacks a compiler, or is asked for other tensors than plain
            ones on cpu or cuda.

    Example::

        model = torch.nn.Linear(3, 1)
        optimizer = LaProp(model.parameters(), lr=4e-4, betas=(0.9, 0.999))
        optimizer.zero_grad()
        model(torch.randn(8, 3)).square().mean().backward()
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
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
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
            "capturable": capturable,
            "differentiable": differentiable,
            "fused": fused,
        }
        super().__init__(params, _checked(defaults))
        self._kept: dict[int, Kept] = defaultdict(Kept)  # of each group

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group({**param_group, **_checked({**self.defaults, **param_group})})
        if self.param_groups[-1]["fused"]:
            try:
                fused.check(self.param_groups[-1]["params"])
            except RuntimeError:
                self.param_groups.pop()
                raise

    def state_dict(self) -> dict[str, Any]:
        """As torch's, with the bias corrections c and d as numbers, as the authors save them.

        As tensors, ``load_state_dict`` would cast them to the precision of the parameter.
        """
        return stepping.with_numbers(super().state_dict(), CORRECTIONS)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._kept = defaultdict(Kept)
        for group in self.param_groups:
            for name in ("decay_by_lr", "amsgrad", "centered", "maximize"):
                group.setdefault(name, False)
            stepping.restore_form(group)
            group.setdefault("fused", None)
        stepping.restore_numbers(self.param_groups, self.state, CORRECTIONS)

    @_use_grad_for_differentiable
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters once; returns the loss of the closure, if there is one."""
        loss = stepping.evaluate(closure)
        for number, group in enumerate(self.param_groups):
            # Torch's own shape of a step, which torch.compile knows: _init_group fills the lists
            # (and is not traced), a function of the lists does the arithmetic (and is).
            tensors = _Tensors([], [], [], [], [], [], [], [], [])
            self._init_group(group, *tensors)
            if not tensors.params:
                continue
            form = stepping.form(tensors.params, group)
            if form == "fused":
                fused.step(tensors, group, self._kept[number])  # pyright: ignore[reportCallIssue]
            else:
                _FORMS[form](tensors, group)
        return loss

    def _init_group(
        self,
        group: dict[str, Any],
        params: list[Tensor],
        grads: list[Tensor],
        exp_avgs: list[Tensor],
        exp_avg_sqs: list[Tensor],
        max_exp_avg_sqs: list[Tensor],
        exp_means: list[Tensor],
        steps: list[Tensor],
        corrections: list[Tensor],
        corrections_sq: list[Tensor],
    ) -> None:
        """Append what takes part in this step; state that is missing is made."""
        present, gradients = stepping.with_gradients(group, "LaProp")
        params.extend(present)
        grads.extend(gradients)
        for param in params:
            state = self.state[param]
            if not state:
                self._init_state(param, state, group)
            exp_avgs.append(state["exp_avg"])
            exp_avg_sqs.append(state["exp_avg_sq"])
            steps.append(state["step"])
            corrections.append(state["exp_avg_lr_1"])
            corrections_sq.append(state["exp_avg_lr_2"])
            if group["amsgrad"]:
                max_exp_avg_sqs.append(state["max_exp_avg_sq"])
            if group["centered"]:
                exp_means.append(state["exp_mean_avg_beta2"])

    def _init_state(self, param: Tensor, state: State, group: dict[str, Any]) -> None:
        if group["fused"]:
            fused.check_device(param)

        def zeros() -> Tensor:
            return torch.zeros_like(param, memory_format=torch.preserve_format)

        state["step"] = stepping.new_step(param, group)
        state["exp_avg"] = zeros()
        state["exp_avg_sq"] = zeros()
        for name in CORRECTIONS:
            state[name] = stepping.new_number(0.0, param, group)
        if group["amsgrad"]:
            state["max_exp_avg_sq"] = zeros()
        if group["centered"]:
            state["exp_mean_avg_beta2"] = zeros()


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
        **arguments.form(group),
    }


class _Tensors(NamedTuple):
    """What takes part in the step of a group, parameter by parameter."""

    params: list[Tensor]
    grads: list[Tensor]
    exp_avgs: list[Tensor]
    exp_avg_sqs: list[Tensor]
    max_exp_avg_sqs: list[Tensor]  # empty without amsgrad
    exp_means: list[Tensor]  # empty without centered
    steps: list[Tensor]
    corrections: list[Tensor]
    corrections_sq: list[Tensor]


class _Factors(NamedTuple):
    """What all elements of a parameter share in one step; numbers, or 0-dim tensors."""

    gain: Any  # (1 - mu) lr sqrt(d): of g / denominator in the momentum
    floor: Any  # eps sqrt(d): added to sqrt(n)
    rate: Any  # lr / c, and 0 at lr = 0: of the momentum in the parameter
    settled: Any  # whether n is final: not centred at all, or by now


def _corrected(
    c: float, d: float, step: float, lr: float, group: dict[str, Any]
) -> tuple[float, float, _Factors]:
    """c and d of the next step, which is number ``step``, and what follows from them."""
    beta1, beta2 = group["betas"]
    c = beta1 * c + (1 - beta1) * lr
    d = beta2 * d + (1 - beta2)
    root = math.sqrt(d)
    settled = not group["centered"] or step > UNCENTERED_STEPS
    rate = lr / c if lr else 0.0
    return c, d, _Factors((1 - beta1) * lr * root, group["eps"] * root, rate, settled)


def _advance(tensors: _Tensors, i: int, lr: float, group: dict[str, Any]) -> _Factors:
    """Count the step. c and d are read and written, but computed as Python's numbers."""
    step = tensors.steps[i].add_(stepping.ONE)
    number = step.item() if group["centered"] else 0
    before = tensors.corrections[i].item(), tensors.corrections_sq[i].item()
    c, d, factors = _corrected(*before, number, lr, group)
    tensors.corrections[i].fill_(c)
    tensors.corrections_sq[i].fill_(d)
    return factors


def _advance_all(tensors: _Tensors, lr: float, group: dict[str, Any]) -> list[_Factors]:
    """The same for all parameters, computed once for those that are at one point."""
    stepping.count_(tensors.steps)
    count = len(tensors.steps)
    numbers = stepping.read(tensors.steps) if group["centered"] else [0.0] * count
    corrections, corrections_sq = map(stepping.read, (tensors.corrections, tensors.corrections_sq))
    points = list(zip(corrections, corrections_sq, numbers, strict=True))
    after = {point: _corrected(*point, lr, group) for point in set(points)}
    stepping.write_(tensors.corrections, [after[point][0] for point in points])
    stepping.write_(tensors.corrections_sq, [after[point][1] for point in points])
    return [after[point][2] for point in points]


def _advance_in_graph(tensors: _Tensors, i: int, group: dict[str, Any]) -> _Factors:
    """The same without reading a number: for graphs, compilers and gradients through the step."""
    lr, (beta1, beta2) = stepping.scalar(group["lr"]), group["betas"]
    step = tensors.steps[i].add_(1)
    c = tensors.corrections[i].mul_(beta1).add_(lr * (1 - beta1))
    root = tensors.corrections_sq[i].mul_(beta2).add_(1 - beta2).sqrt()
    rate = torch.where(c > 0, c, 1).reciprocal() * lr  # c = 0 says that every lr so far was 0
    settled = step > (UNCENTERED_STEPS if group["centered"] else 0)
    return _Factors(root * lr * (1 - beta1), root * group["eps"], rate, settled)


def _single_tensor_laprop(tensors: _Tensors, group: dict[str, Any]) -> None:
    lr, (beta1, beta2), weight_decay = float(group["lr"]), group["betas"], group["weight_decay"]
    for i, param in enumerate(tensors.params):
        grad, exp_avg, exp_avg_sq = tensors.grads[i], tensors.exp_avgs[i], tensors.exp_avg_sqs[i]
        gain, floor, rate, settled = _advance(tensors, i, lr, group)
        if param.is_complex():
            param, grad = torch.view_as_real(param), torch.view_as_real(grad)
            exp_avg, exp_avg_sq = torch.view_as_real(exp_avg), torch.view_as_real(exp_avg_sq)
        if group["maximize"]:
            grad = -grad

        if weight_decay and group["decay_by_lr"]:
            param.mul_(1 - lr * weight_decay)

        second = exp_avg_sq.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        if group["centered"]:
            mean = stepping.real(tensors.exp_means[i]).lerp_(grad, 1 - beta2)
            if settled:
                second = torch.addcmul(second, mean, mean, value=-1).clamp_(min=0)
        if group["amsgrad"] and settled:
            largest = stepping.real(tensors.max_exp_avg_sqs[i])
            second = torch.maximum(largest, second, out=largest)

        # sqrt(n / d) + eps = (sqrt(n) + eps sqrt(d)) / sqrt(d): scalars instead of a tensor op.
        exp_avg.mul_(beta1).addcdiv_(grad, second.sqrt().add_(floor), value=gain)
        if lr:
            param.add_(exp_avg, alpha=-rate)
            if weight_decay and not group["decay_by_lr"]:
                param.mul_(1 - weight_decay)


def _graph_laprop(tensors: _Tensors, group: dict[str, Any]) -> None:
    """The for-loop form in tensors alone, which a CUDA graph, a compiler and autograd can follow.

    Autograd must find what it has saved unchanged, so that it gets copies of the buffers.
    """
    saved = torch.clone if group["differentiable"] else stepping.itself
    lr, weight_decay = stepping.scalar(group["lr"]), group["weight_decay"]
    beta1, beta2 = group["betas"]
    for i, param in enumerate(tensors.params):
        gain, floor, rate, settled = _advance_in_graph(tensors, i, group)
        param, grad = stepping.real(param), stepping.real(tensors.grads[i])
        exp_avg, exp_avg_sq = map(stepping.real, (tensors.exp_avgs[i], tensors.exp_avg_sqs[i]))
        # A half-precision tensor would round the factors before it uses them.
        wide = torch.promote_types(param.dtype, torch.float32)
        if group["maximize"]:
            grad = -grad

        if weight_decay and group["decay_by_lr"]:
            param.sub_(saved(param).to(wide) * (lr * weight_decay))

        second = saved(exp_avg_sq.mul_(beta2).addcmul_(grad, grad, value=1 - beta2))
        if group["centered"]:
            mean = saved(stepping.real(tensors.exp_means[i]).lerp_(grad, 1 - beta2))
            variance = torch.addcmul(second, mean, mean, value=-1).clamp(min=0)
            second = torch.where(settled, variance, second)
        if group["amsgrad"]:
            largest = stepping.real(tensors.max_exp_avg_sqs[i])
            maximum = torch.maximum(saved(largest), second)
            second = torch.where(settled, maximum, second)
            largest.copy_(torch.where(settled, maximum, largest))

        normalised = (grad / (second.sqrt() + floor)).to(wide)
        momentum = exp_avg.mul_(beta1).add_(normalised * gain)
        update = saved(momentum).to(wide) * rate
        param.sub_(torch.where(rate > 0, update, 0))  # at lr = 0 not even by what is no number
        if weight_decay and not group["decay_by_lr"]:
            param.copy_(torch.where(rate > 0, param * (1 - weight_decay), param))


def _multi_tensor_laprop(tensors: _Tensors, group: dict[str, Any]) -> None:
    lr, (beta1, beta2), weight_decay = float(group["lr"]), group["betas"], group["weight_decay"]
    factors = _advance_all(tensors, lr, group)
    for (gain, floor, rate, settled), bucket in stepping.buckets(tensors[:6], factors):
        params, grads, exp_avgs, exp_avg_sqs, largest, means = bucket
        if group["maximize"]:
            grads = torch._foreach_neg(grads)

        if weight_decay and group["decay_by_lr"]:
            stepping.scale_(params, 1 - lr * weight_decay)

        stepping.scale_(exp_avg_sqs, beta2)
        torch._foreach_addcmul_(exp_avg_sqs, grads, grads, 1 - beta2)
        seconds = exp_avg_sqs
        if group["centered"]:
            torch._foreach_lerp_(means, grads, 1 - beta2)
            if settled:
                seconds = torch._foreach_addcmul(exp_avg_sqs, means, means, -1)
                torch._foreach_clamp_min_(seconds, 0)
        if group["amsgrad"] and settled:
            torch._foreach_maximum_(largest, seconds)
            seconds = largest

        denoms = torch._foreach_sqrt(seconds)
        torch._foreach_add_(denoms, floor)
        stepping.scale_(exp_avgs, beta1)
        torch._foreach_addcdiv_(exp_avgs, grads, denoms, gain)
        if lr:
            torch._foreach_add_(params, exp_avgs, alpha=-rate)
            if weight_decay and not group["decay_by_lr"]:
                stepping.scale_(params, 1 - weight_decay)


_FORMS = {
    "single": _single_tensor_laprop,
    "graph": _graph_laprop,
    "foreach": _multi_tensor_laprop,
}
