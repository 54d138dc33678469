"""Quasi-random search: trials that are the same points of the same space for every optimizer.

An experiment sweeps ``trial`` and takes its hyper-parameters from the trial's coordinates:

    optimizer.lr: ${log_uniform:${trial},0,1e-4,1.0}
    u: ${one_minus_log_uniform:${trial},1,0.01,1.0}

The points are Halton's sequence (scipy.stats.qmc), without scrambling: trial t is the same point
whatever the number of trials, so a search can be made longer later.
"""

import functools

from omegaconf import OmegaConf

MOST_TRIALS, MOST_DIMENSIONS = 4096, 4
DIGITS = 4  # of a hyper-parameter; more would only be harder to read


def log_uniform(trial: int, dimension: int, low: float, high: float) -> float:
    """The ``dimension``-th coordinate of a trial, between ``low`` and ``high`` on a log scale."""
    value = low * (high / low) ** _points()[trial][dimension]
    return float(f"{value:.{DIGITS}g}")


def one_minus_log_uniform(trial: int, dimension: int, low: float, high: float) -> float:
    """1 - `log_uniform`: for averages over between 1 / high and 1 / low steps."""
    return float(f"{1 - log_uniform(trial, dimension, low, high):.12g}")


@functools.cache
def _points() -> list[list[float]]:
    from scipy.stats import qmc

    halton = qmc.Halton(MOST_DIMENSIONS, scramble=False)
    halton.fast_forward(1)  # the first point is a corner
    return halton.random(MOST_TRIALS).tolist()


def register() -> None:
    """Make the functions known to configurations."""
    OmegaConf.register_new_resolver("log_uniform", log_uniform, replace=True)
    OmegaConf.register_new_resolver("one_minus_log_uniform", one_minus_log_uniform, replace=True)
    OmegaConf.register_new_resolver("first", lambda count: list(range(count)), replace=True)
