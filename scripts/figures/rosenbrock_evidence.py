"""The evidence on the noisy Rosenbrock function: steps to the minimum, censored at a horizon.

Each function takes the arms of one setting and labels {optimizer: how it is printed}, the claim's
subject first, and returns what `judging.judge` needs.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from scripts import fractions, statistics
from scripts.claims import ALIKE_FACTOR, SMALL_GAP
from scripts.judging import number

# What each optimizer did under one setting: (optimizer, sigma, phase) -> steps indexed by seed.
Arms = Mapping[tuple[str, float, str], pd.Series]


def alike(
    arms: Arms, labels: Mapping[str, str], sigmas: Sequence[float], horizon: float
) -> dict[str, Any]:
    """Are all pairs within ALIKE_FACTOR at all noise levels?"""

    def median(name: str, sigma: float) -> float:  # beyond the horizon: picked as the horizon
        return min(statistics.censored_median(arms[name, sigma, "tune"], horizon), horizon)

    pairs = list(combinations(labels, 2))
    largest, far, equivalence = {}, {}, 0.0
    for pair in pairs:
        apart = {s: sorted(((median(name, s), name) for name in pair), reverse=True)
                 for s in sigmas}  # fmt: skip
        chosen = max(sigmas, key=lambda s, apart=apart: apart[s][0][0] / apart[s][1][0])
        slow, fast = (name for _, name in apart[chosen])
        largest[pair] = 0.0
        for sigma in sigmas:
            samples = _paired(arms, slow, fast, sigma)
            ratio = statistics.ratio_of_medians(*samples, horizon)
            outside = max(ratio.p_above(1 / ALIKE_FACTOR), ratio.p_below(ALIKE_FACTOR))
            equivalence = max(equivalence, outside)
            fold = max(ratio.value, 1 / ratio.value) if ratio.value > 0 else math.inf
            largest[pair] = max(largest[pair], fold)
            if sigma == chosen:
                far[slow, fast, sigma] = (ratio.p_above(ALIKE_FACTOR), -fold, ratio)
    shown = min(far, key=lambda key: far[key][:2])
    (slow, fast, sigma), (p, _, ratio) = shown, far[shown]
    each = ", ".join(f"{labels[a]} and {labels[b]} {number(largest[a, b])}" for a, b in pairs)
    return {
        "p_for": equivalence,
        "p_against": min(1.0, len(pairs) * p),  # Bonferroni over the pairs
        "effect": ratio,
        "effect_unit": f"times the median steps ({labels[slow]} / {labels[fast]}, σ = {sigma:g})",
        "sentence": f"At σ = {sigma:g} {labels[slow]} takes {number(ratio.value)} times the median "
        f"steps of {labels[fast]} (alike: below {ALIKE_FACTOR}). Largest ratio of each pair up to "
        f"σ = {max(sigmas):g}: {each}.",
    }


def fastest(
    arms: Arms, labels: Mapping[str, str], sigmas: Sequence[float], horizon: float
) -> dict[str, Any]:
    """Does the subject take the fewest steps, averaged over the noise levels?"""
    subject, *rivals = labels

    def mean(name: str, phase: str) -> float:
        means = [statistics.restricted_mean(arms[name, s, phase], horizon) for s in sigmas]
        return float(np.mean(means))

    saved = {}
    for rival in rivals:
        pairs = [_paired(arms, rival, subject, sigma) for sigma in sigmas]
        each = [np.fmin(a, horizon) - np.fmin(b, horizon) for a, b in pairs]  # NaN: the horizon
        saved[rival] = statistics.mean_interval(np.mean(each, axis=0))
    best = min(rivals, key=lambda name: mean(name, "tune"))
    more = "fewer" if saved[best].value >= 0 else "more"
    means = ", ".join(f"{labels[name]} {number(mean(name, 'report'))}" for name in labels)
    beaten = [labels[name] for name in rivals if saved[name].low > 0]
    return {
        "p_for": max(s.p_above(0) for s in saved.values()),
        "p_against": saved[best].p_below(0),
        "effect": saved[best],
        "effect_unit": f"steps saved against {labels[best]} (mean over σ from {min(sigmas):g})",
        "sentence": f"Averaged over σ from {min(sigmas):g} to {max(sigmas):g}, {labels[subject]} "
        f"takes {number(abs(saved[best].value))} steps {more} than {labels[best]}, the best of the "
        f"others. Restricted mean steps: {means}. Ahead of, each with a 95% interval above 0: "
        f"{', '.join(beaten) or 'none'}.",
    }


def still_converges(
    arms: Arms, labels: Mapping[str, str], sigmas: Sequence[float], horizon: float
) -> dict[str, Any]:
    """Does each rival stop converging at a noise level where the subject still does?"""
    del horizon  # the tests are exact or closed forms
    subject, *rivals = labels

    def share(name: str, sigma: float, phase: str) -> float:
        return float(arms[name, sigma, phase].notna().mean())

    def gap(rival: str, sigma: float) -> float:
        return share(subject, sigma, "tune") - share(rival, sigma, "tune")

    def outcomes(rival: str, sigma: float) -> tuple[Any, Any]:
        a, b = _paired(arms, subject, rival, sigma)
        return np.isfinite(a), np.isfinite(b)

    widest = {rival: max(sigmas, key=lambda s, r=rival: gap(r, s)) for rival in rivals}
    closest = min(rivals, key=lambda r: gap(r, widest[r]))
    told = "; ".join(
        f"{labels[subject]} {share(subject, s, 'report'):.0%} against {labels[r]} "
        f"{share(r, s, 'report'):.0%} at σ = {s:g}"
        for r, s in widest.items()
    )
    return {
        "p_for": max(fractions.mcnemar_exact(*outcomes(r, s), alternative="greater")
                     for r, s in widest.items()),
        "p_against": max(fractions.p_fraction_difference_below(*outcomes(closest, s), SMALL_GAP)
                         for s in sigmas),
        "effect": fractions.difference_of_fractions(*outcomes(closest, widest[closest])),
        "effect_unit": f"difference of the fractions converged ({labels[subject]} − "
        f"{labels[closest]}, σ = {widest[closest]:g})",
        "sentence": f"Seeds that converge, where the gap is widest: {told}.",
    }  # fmt: skip


def _paired(arms: Arms, a: str, b: str, sigma: float) -> tuple[Any, Any]:
    left, right = arms[a, sigma, "report"], arms[b, sigma, "report"]
    return statistics.align(list(left.index), left, list(right.index), right)
