"""Learning-rate schedules that torch has no class for."""

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
