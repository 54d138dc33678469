"""Learning-rate schedules that torch has no class for."""

from functools import partial

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def inverse_sqrt(optimizer: Optimizer) -> LambdaLR:
    """lr_t = lr / sqrt(t) in round t = 1, 2, ...: the step size of regret bounds.

    Zinkevich (2003, ICML), section 2; Kingma and Ba (2015, arXiv:1412.6980), theorem 4.1.
    """
    return LambdaLR(optimizer, inverse_sqrt_factor)


def inverse_sqrt_factor(steps_done: int) -> float:
    """1 / sqrt(t) for the round t after ``steps_done`` steps; a module's function, not a lambda,
    so that a scheduler which has it can be pickled."""
    return (steps_done + 1) ** -0.5


def polynomial_decay(optimizer: Optimizer, warmup: int, total: int, power: float = 1.0) -> LambdaLR:
    """Linear warm-up over ``warmup`` steps, then lr (1 - (t - warmup) / (total - warmup))^power.

    As fairseq's ``polynomial_decay`` with an end of 0. t is the number of steps *done*, so that
    with a warm-up the very first step has lr 0.

    Raises:
        ValueError: not 0 <= warmup < total.
    """
    if not 0 <= warmup < total:
        raise ValueError(f"warmup={warmup}: from 0 to below total={total} expected")
    return LambdaLR(optimizer, partial(polynomial_factor, warmup=warmup, total=total, power=power))


def polynomial_factor(steps_done: int, warmup: int, total: int, power: float) -> float:
    """What the learning rate is multiplied by in the step after ``steps_done`` steps."""
    if steps_done <= warmup and warmup > 0:
        return steps_done / warmup
    if steps_done >= total:
        return 0.0
    return (1 - (steps_done - warmup) / (total - warmup)) ** power
