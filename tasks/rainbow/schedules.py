"""What changes with the agent steps."""

import math
from typing import NamedTuple


class Epsilon(NamedTuple):
    """Probability of a random action at agent step t."""

    start: float
    end: float
    decay: float

    def __call__(self, t: int) -> float:
        return self.end + (self.start - self.end) * math.exp(-t / self.decay)


class Beta(NamedTuple):
    """Power of the importance weights at agent step t: from ``start`` to 1, where it stays."""

    start: float
    steps: int

    def __call__(self, t: int) -> float:
        return min(1.0, self.start + (1 - self.start) * t / self.steps)
