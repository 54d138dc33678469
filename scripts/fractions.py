"""How many of the seeds did it: exact tests and score intervals, which need no resampling.

Unlike a bootstrap they have a width, and a doubt, where every seed agrees.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special, stats

from scripts.statistics import CONFIDENCE, Estimate


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """Wilson's score interval of a fraction (Wilson 1927; Brown, Cai and DasGupta 2001)."""
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"a fraction needs 0 <= successes <= n and n >= 1, got {successes}/{n}")
    z = stats.norm.ppf((1 + CONFIDENCE) / 2)
    centre = (successes + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * np.sqrt(successes * (n - successes) / n + z * z / 4)
    # at 0 and n the interval ends there exactly; only rounding says otherwise
    low = 0.0 if successes == 0 else float(centre - half)
    high = 1.0 if successes == n else float(centre + half)
    return low, high


def p_mean_below(values: ArrayLike, threshold: float) -> float:
    """Of the null hypothesis "the true mean is at least threshold", for values in [0, 1] of any kind.

    Hoeffding's bound exp(-n KL(mean, threshold)) (1963, theorem 1): never too small, however few the
    values and however alike, where a bootstrap cannot know what it has not seen.
    """
    values = np.asarray(values, dtype=float)
    if values.size == 0 or not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"values in [0, 1] expected, got {values.tolist()}")
    mean = float(values.mean())
    if mean >= threshold:
        return 1.0
    apart = special.rel_entr(mean, threshold) + special.rel_entr(1 - mean, 1 - threshold)
    return float(np.exp(-values.size * apart))


def p_fraction_above(successes: int, n: int, threshold: float) -> float:
    """Exact one-sided p-value of the null hypothesis "the true fraction is at most threshold"."""
    return float(stats.binomtest(successes, n, threshold, alternative="greater").pvalue)


def p_fraction_below(successes: int, n: int, threshold: float) -> float:
    """Exact one-sided p-value of the null hypothesis "the true fraction is at least threshold"."""
    return float(stats.binomtest(successes, n, threshold, alternative="less").pvalue)


def mcnemar_exact(a: ArrayLike, b: ArrayLike, alternative: str = "two-sided") -> float:
    """Exact McNemar test of paired binary outcomes (McNemar 1947, binomial form).

    The null hypothesis is that a and b succeed equally often; only the seeds on which they differ
    speak. alternative "greater" means that a succeeds more often.
    """
    only_a, only_b, _ = _discordant(a, b)
    if only_a + only_b == 0:
        return 1.0
    return float(stats.binomtest(only_a, only_a + only_b, 0.5, alternative=alternative).pvalue)


def difference_of_fractions(a: ArrayLike, b: ArrayLike) -> Estimate:
    """fraction(a) - fraction(b) of paired binary outcomes with Tango's score interval (1998).

    Unlike a bootstrap it has a width where every seed agrees.
    """
    only_a, only_b, n = _discordant(a, b)
    value = (only_a - only_b) / n
    z = float(stats.norm.ppf((1 + CONFIDENCE) / 2))

    def end(sign: int) -> float:
        # the score falls from above to below as the hypothetical difference grows
        def distance(delta: float) -> float:
            return _tango_score(only_a, only_b, n, delta) - sign * z

        edge = -sign * (1 - 1e-12)
        if distance(edge) * distance(value) >= 0:
            return float(-sign)
        return float(optimize.brentq(distance, *sorted((edge, value)), xtol=1e-10))  # type: ignore[arg-type]

    return Estimate(value, end(+1), end(-1), n)


def p_fraction_difference_below(a: ArrayLike, b: ArrayLike, threshold: float) -> float:
    """Tango's one-sided p-value of "fraction(a) - fraction(b) is at least threshold"."""
    if not -1 < threshold < 1:
        raise ValueError(f"the threshold must lie inside (-1, 1), got {threshold}")
    return float(stats.norm.cdf(_tango_score(*_discordant(a, b), threshold)))


def _discordant(a: ArrayLike, b: ArrayLike) -> tuple[int, int, int]:
    """How many seeds succeed only in a, only in b, and how many there are."""
    samples = []
    for outcomes in (a, b):
        array = np.asarray(outcomes)
        if array.ndim != 1 or array.size == 0 or not np.isin(array, (0, 1)).all():
            raise ValueError("outcomes must be a non-empty list of True and False")
        samples.append(array.astype(bool))
    if samples[0].size != samples[1].size:
        raise ValueError(f"paired outcomes differ in number: {samples[0].size}, {samples[1].size}")
    only_a = int((samples[0] & ~samples[1]).sum())
    only_b = int((~samples[0] & samples[1]).sum())
    return only_a, only_b, int(samples[0].size)


def _tango_score(only_a: int, only_b: int, n: int, delta: float) -> float:
    """Score of "the difference is delta", with q the likeliest P(only b) under it (Tango 1998)."""
    linear = (2 * n - only_a + only_b) * delta - only_a - only_b
    constant = -only_b * delta * (1 - delta)
    q = (np.sqrt(max(linear * linear - 8 * n * constant, 0.0)) - linear) / (4 * n)
    variance = n * (2 * q + delta * (1 - delta))
    surplus = only_a - only_b - n * delta
    if variance <= 0:
        return 0.0 if surplus == 0 else float(np.copysign(np.inf, surplus))
    return float(surplus / np.sqrt(variance))
