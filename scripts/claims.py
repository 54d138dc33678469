"""The claims of the paper as data, the rule that turns evidence into a verdict, and its refusals.

A claim says in advance what supports and what contradicts it. Evidence for one claim is two
one-sided p-values, one against "the claim does not hold" and one against "the claim holds"; the
smaller of the two, doubled, is the p-value of the verdict. It must stay within ALPHA after Holm's
correction over all verdicts of the experiment. The fairness gate comes before any of this:
optimizers that were not given the same chances are not ranked.

What is compared (the best rival, the noise level where a pair is farthest apart) is picked on the
tuning seeds and judged on the report seeds, so that picking biases neither effect nor p-value.
What must hold everywhere is tested everywhere, and the largest p-value counts (an
intersection-union test, which needs no correction).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from scripts import statistics
from scripts.statistics import MIN_SEEDS, Estimate, holm

SUPPORTED, CONTRADICTED, INCONCLUSIVE = "supported", "contradicted", "inconclusive"
ALPHA = 0.05

# Fixed before the experiment was run at its reported scales.
SMALL_NOISE = 0.04  # a third of the level from which Adam and AMSGrad are said to fail
LARGE_NOISE = 0.08  # the upper half of the levels
ALIKE_FACTOR = 1.25  # the paper shows curves; a smaller factor could not be told apart in them
SMALL_GAP = 0.25  # less in the fraction converged is not "stops where LaProp still does"
ROUNDING = 1e-9  # by so much, relatively, float64 may carry a measured update over its bound
SEVERE = 0.9  # sequences that stay below this part of a bound do not put it to the test
STEP_ROUNDING = float(np.finfo(float).eps)  # of a path's length; one such a step is rounding
GROWS = 1.2  # times the largest update when the horizon doubles; a bounded one tends to 1
REGRET_POWER = -0.45  # of T: the theorem's -1/2, with a tenth of it for the fit over one decade
REGRET_FALLS = -0.25  # half-way from a constant average regret to the theorem's T^(-1/2)
MIN_ROUNDS = 1000  # before that a regret says nothing of its growth
IWSLT_MARGIN = 0.5  # bits per token below a context-free prediction: a transformer that trains
IWSLT_ALIKE = 0.1  # bits per token; the authors' two runs with warm-up are 0.025 apart

# What each optimizer did under one setting: (optimizer, sigma, phase) -> steps indexed by seed.
Arms = Mapping[tuple[str, float, str], pd.Series]


@dataclass(frozen=True)
class Claim:
    id: str
    sentence: str
    source: str
    experiment: str
    supported_by: str
    contradicted_by: str


@dataclass(frozen=True)
class Verdict:
    claim: str
    setting: str
    verdict: str
    effect: float = math.nan
    effect_unit: str = ""
    low: float = math.nan
    high: float = math.nan
    n: int = 0  # report seeds, or the cases of a maximum
    budget: str = ""
    p_value: float = math.nan  # two-sided; NaN where there is no test
    p_holm: float = math.nan  # over all verdicts of the experiment; NaN before `settle`
    refused: str = ""  # why the fairness gate refused
    sentence: str = ""


@dataclass(frozen=True)
class Budget:
    """What one optimizer was given before it is compared with others."""

    optimizer: str
    trials: int  # settings tried
    tuning_seeds: tuple[int, ...]
    knobs: tuple[str, ...]  # hyper-parameters tuned
    steps: int
    report_seeds: tuple[int, ...]
    on_edge: tuple[str, ...] = ()  # where the best setting lies on the edge of its grid
    # Settings not tuned that must agree where two optimizers both have them.
    fixed: Mapping[str, float] = field(default_factory=dict)


def _rosenbrock(id: str, sentence: str, supported_by: str, contradicted_by: str) -> Claim:
    source = "experiment on the Rosenbrock function with noise added to the gradient"
    return Claim(id, sentence, source, "rosenbrock_noise", supported_by, contradicted_by)


def _fastest(id: str, sentence: str, rivals: str) -> Claim:
    steps = f"restricted mean steps, averaged over the noise levels from {LARGE_NOISE} on,"
    return _rosenbrock(
        id,
        f"With much noise LaProp is the fastest {sentence}.",
        f"{steps} are smaller for LaProp than for each of the {rivals}",
        f"{steps} are larger for LaProp than for the best of the {rivals} on the tuning seeds",
    )


def _update(id: str, sentence: str, supported_by: str, contradicted_by: str) -> Claim:
    source = "propositions on the size of the update, under hyper-parameters"
    return Claim(id, sentence, source, "bounded_update", supported_by, contradicted_by)


def _limit(id: str, sentence: str, other: str, parameter: str) -> Claim:
    return Claim(
        id,
        sentence,
        "interpolation between the signed-gradient and the adaptive methods",
        "interpolation",
        f"at the smallest {parameter} the largest distance between the paths of LaProp and of "
        f"{other} is rounding, at most steps x {STEP_ROUNDING:.1e} of the path's length, for more "
        "than half the seeds (sign test), and its median falls wherever the parameter falls, until "
        "it is",
        f"it is more than rounding at the smallest {parameter} for more than half the seeds (sign "
        "test)",
    )


def _regret(
    id: str, sentence: str, supported_by: str, contradicted_by: str, source: str = "regret bound"
) -> Claim:
    return Claim(
        f"convex_regret_{id}", sentence, source, "convex_regret", supported_by, contradicted_by
    )


_POWER = "over the last decade of rounds the average regret goes as T to a power"

CLAIMS: tuple[Claim, ...] = (
    _rosenbrock(
        "rosenbrock_alike_at_small_noise",
        "With little gradient noise LaProp, Adam and AMSGrad take about equally long.",
        f"at every noise level above 0 up to {SMALL_NOISE} and for every pair of the three, the "
        f"ratio of the median steps lies within a factor {ALIKE_FACTOR} of one (equivalence test)",
        "for one of the pairs, where it is farthest apart on the tuning seeds, the ratio lies "
        "beyond that factor (corrected for the three pairs)",
    ),
    _fastest(
        "rosenbrock_fastest_adaptive",
        "of the adaptive methods with momentum (Adam, AMSGrad, RAdam, AdaBound)",
        "four rivals",
    ),
    _fastest(
        "rosenbrock_fastest_of_all", "of all optimizers compared, signSGD among them", "rivals"
    ),
    _rosenbrock(
        "rosenbrock_still_converges",
        "As the noise grows, Adam and AMSGrad stop converging where LaProp still does.",
        "against each of the two, at the noise level with the widest gap on the tuning seeds, "
        "LaProp converges for more seeds (exact McNemar test)",
        "against one of the two, LaProp's lead in the fraction converged is below "
        f"{SMALL_GAP} at every noise level",
    ),
    _update(
        "update_laprop_bounded",
        "LaProp's update is bounded by lr / √(1 − ν) for any (μ, ν).",
        f"no sequence exceeds the bound by more than rounding ({ROUNDING:g}) at any ν and any "
        f"horizon, and at every ν one reaches at least {SEVERE:g} of it",
        "a sequence exceeds it",
    ),
    _update(
        "update_adam_bounded_below",
        "Adam's update is bounded by lr (1 − μ) / (√(1 − ν) (1 − μ / √ν)) where μ < √ν.",
        f"no sequence exceeds the bound by more than rounding ({ROUNDING:g}) at any such ν and any "
        f"horizon, and at every such ν one reaches at least {SEVERE:g} of what is possible",
        "a sequence exceeds it",
    ),
    _update(
        "update_adam_unbounded_above",
        "Adam's update has no bound where μ > √ν, and LaProp's has.",
        f"at every such ν, where the horizon doubles Adam's largest update grows by a factor of at "
        f"least {GROWS:g}, LaProp's by a smaller one, and both are at least {SEVERE:g} of what is "
        "possible by then, which for Adam grows without limit",
        f"at one such ν Adam's largest update grows by a factor below {GROWS:g} though it was "
        f"driven to {SEVERE:g} of what is possible",
    ),
    _limit(
        "limit_nu_momentum_of_sign",
        "As ν goes to 0, LaProp becomes signSGD with momentum of the sign.",
        "signSGD with the same momentum of the sign",
        "ν",
    ),
    _limit(
        "limit_mu_rmsprop",
        "As μ goes to 0, LaProp becomes RMSprop with bias correction.",
        "Adam with betas (0, ν), which is that RMSprop,",
        "μ",
    ),
)

DEEP_FC = "experiment on starting the training of extremely deep fully connected nets"
THEORY = "propositions on the updates of Adam and LaProp for arbitrary (μ, ν)"
_DEPTH = "the greatest depth that still trains, averaged over the seeds,"
CLAIMS += (
    Claim(
        "deep_fc_deeper_than_adam",
        "LaProp starts the training of deeper fully connected nets than Adam.",
        DEEP_FC,
        "deep_fc_depth",
        f"{_DEPTH} is larger for LaProp than for Adam",
        f"{_DEPTH} is smaller for LaProp than for Adam",
    ),
    Claim(
        "deep_fc_deepest_of_all",
        "LaProp starts the training of deeper fully connected nets than all others compared.",
        DEEP_FC,
        "deep_fc_depth",
        f"{_DEPTH} is larger for LaProp than for each of the others",
        f"{_DEPTH} is smaller for LaProp than for the best of the others on the tuning seeds",
    ),
    Claim(
        "divergence_of_adam",
        "For ν far enough below μ, Adam's loss leaves the basin it has reached; LaProp's does not.",
        THEORY,
        "adam_divergence",
        "at every ν below μ² of the grid, more seeds of LaProp than of Adam stay in their basin "
        "(exact McNemar test)",
        f"at every such ν LaProp's lead in the fraction that stays is below {SMALL_GAP}",
    ),
    Claim(
        "laprop_stable_for_any_v",
        "LaProp trains stably for any pair (μ, ν).",
        THEORY,
        "adam_divergence",
        "at every ν of the grid more than 95% of the seeds stay in their basin (exact test)",
        "at one ν fewer than 95% do (exact test, corrected for their number)",
    ),
    Claim(
        "uv_laprop_beyond",
        "Where μ > √ν, LaProp trains and Adam fails.",
        THEORY,
        "uv_plane",
        "LaProp trains a larger fraction of the cells of the grid with μ > √ν",
        f"its lead there is below {SMALL_GAP}",
    ),
    Claim(
        "uv_alike_below",
        "Where μ ≤ √ν, both train.",
        THEORY,
        "uv_plane",
        f"the fractions of cells that train differ by less than {SMALL_GAP} (equivalence test)",
        "they differ by more",
    ),
    _regret(
        "sqrt",
        "On convex problems LaProp's average regret falls at least as fast as T^(-1/2).",
        f"{_POWER} below {REGRET_POWER}, at the lr with the smallest regret",
        f"{_POWER} above {REGRET_POWER}, at the lr with the smallest regret",
    ),
    _regret(
        "bound",
        "With lr / √t, bounded gradients and a bounded domain, LaProp's regret stays below the "
        "bound of its theorem.",
        "on the counterexample, without momentum, it does so at every round and every lr measured",
        "on the counterexample, without momentum, it exceeds the bound at some round",
    ),
    _regret(
        "counterexample",
        "LaProp converges on the counterexample on which Adam fails.",
        f"{_POWER} below {REGRET_FALLS} for LaProp and above it for Adam",
        f"{_POWER} above {REGRET_FALLS} for LaProp, whatever Adam does",
        source="not a claim of the paper: what its regret bound would imply",
    ),
    _regret(
        "advantage",
        "On convex problems LaProp's regret is smaller than Adam's, as its smaller bound suggests.",
        "at the last round the average regret of LaProp is smaller, over the same seeds",
        "at the last round the average regret of LaProp is larger, over the same seeds",
        source="abstract: the bound differs by a key factor, which demonstrates its advantage",
    ),
)

STYLE = "experiment on neural style transfer"
_AT_THE_END = "the loss at the end, relative to that at the start, is"
CLAIMS += (
    Claim(
        "style_lower_than_adam",
        "In style transfer LaProp reaches a lower loss than Adam.",
        STYLE,
        "style_curves",
        f"{_AT_THE_END} smaller for LaProp (mean of its logarithm over the seeds)",
        f"{_AT_THE_END} larger for LaProp",
    ),
    Claim(
        "style_lowest_of_all",
        "In style transfer LaProp reaches a lower loss than all others compared.",
        STYLE,
        "style_curves",
        f"{_AT_THE_END} smaller for LaProp than for each of the others",
        f"{_AT_THE_END} larger for LaProp than for the best of the others on the tuning seeds",
    ),
    Claim(
        "style_uv_beyond",
        "Where μ > √ν, LaProp reaches a lower loss than Adam.",
        STYLE,
        "style_uv",
        f"over these cells of the grid {_AT_THE_END} smaller for LaProp",
        f"over these cells of the grid {_AT_THE_END} larger for LaProp",
    ),
    Claim(
        "style_uv_laprop_gains",
        "LaProp's loss falls as ν falls below μ.",
        STYLE,
        "style_uv",
        f"{_AT_THE_END} smaller at the smallest ν of the grid than at the largest (mean over μ)",
        f"{_AT_THE_END} larger there",
    ),
    Claim(
        "style_uv_adam_suffers",
        "Adam's loss rises as ν falls below μ.",
        STYLE,
        "style_uv",
        f"{_AT_THE_END} larger at the smallest ν of the grid than at the largest (mean over μ)",
        f"{_AT_THE_END} smaller there",
    ),
)

# Tuning budgets, fixed before the experiments were run.
SMALL_BUDGET = 4  # trials: what one tries by hand
CLAIMS += tuple(
    Claim(
        f"{experiment}_{word}_budget",
        f"With {text} for tuning (lr, μ, ν), LaProp does better than Adam on {task}.",
        "not a claim of the paper: what stability and flexibility for any (μ, ν) would be worth",
        experiment,
        f"the expected {result} of the best of k trials is smaller for LaProp, k = {k}",
        f"it is larger for LaProp, k = {k}",
    )
    for experiment, task, result in (
        ("tuning_rosenbrock", "the noisy Rosenbrock function", "number of steps"),
        ("tuning_deep_fc", "a deep fully connected net", "training loss"),
    )
    for word, text, k in (
        ("small", f"{SMALL_BUDGET} trials", f"{SMALL_BUDGET}"),
        ("large", "half of all trials", "half the number of trials"),
    )
)

_EARLY = "the IQM over seeds of the mean return from 1.0M to 2.0M agent steps"
CLAIMS += (
    Claim(
        "rainbow_ahead_early",
        "On Breakout Rainbow learns faster with LaProp than with Adam early in training.",
        "experiment on reinforcement learning; the published curves are single runs",
        "rainbow_breakout",
        f"{_EARLY} is larger for LaProp at the same ε (paired bootstrap)",
        f"{_EARLY} is smaller for LaProp at the same ε (paired bootstrap)",
    ),
    Claim(
        "rainbow_eps_matters",
        "Adam's ε alone changes how fast it learns Breakout early.",
        "not a claim of the paper: its authors ran Adam with 1.5e-4 and LaProp with 1e-15",
        "rainbow_breakout",
        f"{_EARLY} differs between Adam's two ε (paired bootstrap)",
        f"it differs by less than {SMALL_GAP:.0%} (equivalence test)",
    ),
    Claim(
        "rainbow_fastest_of_all",
        "Rainbow learns faster with LaProp than with the others compared.",
        "not a claim of the paper, which has Adam alone beside it",
        "rainbow_optimizers",
        "the IQM over seeds of the mean return over all evaluations is larger for LaProp than for "
        "each of the others (paired bootstrap)",
        "it is smaller for LaProp than for one of the others (paired bootstrap, corrected for "
        "their number)",
    ),
)

IWSLT = "experiment on IWSLT14 German-English translation"
_TRAINING_LOSS = "the mean training loss at the end"
CLAIMS += (
    Claim(
        "iwslt_no_warmup",
        "Without warm-up a transformer trains with LaProp where Adam fails.",
        IWSLT,
        "iwslt_warmup",
        f"without warm-up more seeds of LaProp than of Adam end {IWSLT_MARGIN} bits per token below "
        "a prediction without context (exact McNemar test)",
        f"LaProp's lead in that fraction is below {SMALL_GAP}",
    ),
    Claim(
        "iwslt_warmup_alike",
        "With warm-up LaProp and Adam reach the same training loss.",
        IWSLT,
        "iwslt_warmup",
        f"{_TRAINING_LOSS} differs by less than {IWSLT_ALIKE} bits per token (equivalence test)",
        "it differs by more",
    ),
    Claim(
        "iwslt_lowest_of_all",
        "With the learning rate tuned for each, LaProp reaches the lowest training loss of all.",
        IWSLT,
        "iwslt_optimizers",
        f"{_TRAINING_LOSS} is lower for LaProp than for each of the others",
        f"{_TRAINING_LOSS} is higher for LaProp than for the best of the others on the tuning seeds",
    ),
)


def claims_of(experiment: str) -> tuple[Claim, ...]:
    return tuple(claim for claim in CLAIMS if claim.experiment == experiment)


# ---------------------------------------------------------------- the fairness gate


def gate(budgets: Sequence[Budget]) -> str:
    """Why these optimizers must not be ranked, or an empty string if they may be."""
    reasons = []
    for what in ("trials", "tuning_seeds", "knobs", "steps", "report_seeds"):
        reasons += _difference(what, {b.optimizer: getattr(b, what) for b in budgets})
    for name in sorted({name for b in budgets for name in b.fixed}):
        shared = {b.optimizer: b.fixed[name] for b in budgets if name in b.fixed}
        reasons += _difference(name, shared)
    for b in budgets:
        if b.on_edge:
            edges = ", ".join(b.on_edge)
            reasons.append(f"the best of {b.optimizer} lies on the edge of its grid ({edges})")
    return "; ".join(reasons)


def _difference(what: str, values: Mapping[str, object]) -> list[str]:
    values = {k: tuple(sorted(v)) if isinstance(v, tuple) else v for k, v in values.items()}
    if len(set(values.values())) < 2:
        return []
    shown = ", ".join(f"{name} {_short(value)}" for name, value in values.items())
    return [f"the {what.replace('_', ' ')} differ: {shown}"]


def _short(value: object) -> str:
    if not isinstance(value, tuple):
        return f"{value:g}" if isinstance(value, float) else str(value)
    if len(value) > 3:  # seeds
        return f"{len(value)} ({value[0]} to {value[-1]})"
    return " + ".join(map(str, value)) or "none"


def budget_text(budgets: Sequence[Budget]) -> str:
    """The tuning budget of each optimizer in words, one phrase if they are all the same."""

    def words(b: Budget) -> str:
        tuned = f"{b.trials} {'/'.join(b.knobs)}s x {len(b.tuning_seeds)} seeds"
        return tuned if b.knobs else "not tuned"

    each = {b.optimizer: words(b) for b in budgets}
    if len(set(each.values())) > 1:
        return ", ".join(f"{name} {text}" for name, text in each.items())
    return words(budgets[0]) + (" each" if budgets[0].knobs else "")


# ---------------------------------------------------------------- evidence
# Each takes the arms of one setting and labels {optimizer: how it is printed}, the claim's subject
# first, and returns what `judge` needs.


def alike(
    arms: Arms, labels: Mapping[str, str], sigmas: Sequence[float], horizon: float, *, seed: int
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
            ratio = statistics.ratio_of_medians(*samples, horizon, seed=seed)
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
    arms: Arms, labels: Mapping[str, str], sigmas: Sequence[float], horizon: float, *, seed: int
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
        saved[rival] = statistics.mean_interval(np.mean(each, axis=0), seed=seed)
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
    arms: Arms, labels: Mapping[str, str], sigmas: Sequence[float], horizon: float, *, seed: int
) -> dict[str, Any]:
    """Does each rival stop converging at a noise level where the subject still does?"""
    del horizon, seed  # the tests are exact or closed forms
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
        "p_for": max(statistics.mcnemar_exact(*outcomes(r, s), alternative="greater")
                     for r, s in widest.items()),
        "p_against": max(statistics.p_fraction_difference_below(*outcomes(closest, s), SMALL_GAP)
                         for s in sigmas),
        "effect": statistics.difference_of_fractions(*outcomes(closest, widest[closest])),
        "effect_unit": f"difference of the fractions converged ({labels[subject]} − "
        f"{labels[closest]}, σ = {widest[closest]:g})",
        "sentence": f"Seeds that converge, where the gap is widest: {told}.",
    }  # fmt: skip


def becomes(
    distances: Mapping[float, np.ndarray], tolerance: float, parameter: str
) -> dict[str, Any]:
    """Does the distance of two paths vanish with a parameter, and fall all the way?

    ``distances``: of each value of the parameter, one a seed, as parts of the path's length.
    """
    falling = sorted(distances, reverse=True)
    medians = [float(np.median(distances[value])) for value in falling]
    rises = [
        value
        for value, median, before in zip(falling[1:], medians[1:], medians, strict=False)
        if before > tolerance and median >= before
    ]
    last = distances[falling[-1]]
    within = int((last <= tolerance).sum())
    told = ", ".join(f"{number(m)} at {v:g}" for v, m in zip(falling, medians, strict=True))
    stalls = ", ".join(f"{value:g}" for value in rises)
    return {
        "p_for": 1.0 if rises else statistics.p_most(within, last.size),
        "p_against": statistics.p_most(last.size - within, last.size),
        "effect": statistics.order_interval(last),
        "effect_unit": f"of the path's length, the median distance at {parameter} = "
        f"{falling[-1]:g}",
        "sentence": f"Within rounding ({number(tolerance)}) at {parameter} = {falling[-1]:g} for "
        f"{within} of {last.size} seeds. Median distances: {told}."
        + (f" They do not fall at {parameter} = {stalls}." if rises else ""),
    }


def _paired(arms: Arms, a: str, b: str, sigma: float) -> tuple[Any, Any]:
    left, right = arms[a, sigma, "report"], arms[b, sigma, "report"]
    return statistics.align(list(left.index), left, list(right.index), right)


# ---------------------------------------------------------------- from evidence to verdict


def judge(
    claim: Claim,
    setting: str,
    *,
    p_for: float,
    p_against: float,
    effect: Estimate,
    effect_unit: str,
    budget: str,
    sentence: str,
) -> Verdict:
    """The verdict before correction; `settle` must follow once all verdicts are there.

    p_for and p_against are one-sided: small p_for speaks for the claim, small p_against against.
    """
    if effect.n < MIN_SEEDS:
        return inconclusive(claim, setting, few_seeds(effect.n), n=effect.n, budget=budget)
    p = min(1.0, 2 * min(p_for, p_against))
    direction = SUPPORTED if p_for < p_against else CONTRADICTED
    verdict = direction if p <= ALPHA else INCONCLUSIVE
    return Verdict(
        claim.id, setting, verdict, effect.value, effect_unit, effect.low, effect.high, effect.n,
        budget, p_value=p, sentence=sentence,
    )  # fmt: skip


def examine(
    claim: Claim,
    setting: str,
    *,
    supported: bool,
    contradicted: bool,
    effect: float,
    effect_unit: str,
    n: int,
    sentence: str,
) -> Verdict:
    """The verdict on a bound: a maximum over n cases, without interval or test.

    One counterexample contradicts a bound. No number of cases proves it, so that a claim should
    call itself supported only where the cases were hard.
    """
    verdict = CONTRADICTED if contradicted else SUPPORTED if supported else INCONCLUSIVE
    return Verdict(claim.id, setting, verdict, effect, effect_unit, n=n, budget="not tuned",
                   sentence=sentence)  # fmt: skip


def few_seeds(n: int) -> str:
    return f"{n} report seeds are too few for a ranking (at least {MIN_SEEDS})"


def inconclusive(
    claim: Claim, setting: str, reason: str, *, n: int = 0, budget: str = "", refused: bool = False
) -> Verdict:
    """A verdict without numbers: the reason stands in the place of the ranking."""
    return Verdict(
        claim.id, setting, INCONCLUSIVE, n=n, budget=budget, refused=reason if refused else "",
        sentence=f"No ranking: {reason}.",
    )  # fmt: skip


def certain(
    claim: Claim, setting: str, verdict: str, *, effect: float, effect_unit: str, budget: str,
    sentence: str,
) -> Verdict:  # fmt: skip
    """A verdict on something with nothing random in it: no seeds, no interval, no test."""
    return Verdict(
        claim.id, setting, verdict, effect, effect_unit, effect, effect, 1, budget,
        sentence=sentence,
    )  # fmt: skip


def settle(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Holm's correction over all verdicts that rest on a test; those that fail it fall back."""
    settled = list(verdicts)
    tested = [i for i, v in enumerate(verdicts) if not math.isnan(v.p_value)]
    for i, p in zip(tested, holm([verdicts[i].p_value for i in tested]), strict=True):
        v = replace(verdicts[i], p_holm=float(p))
        if p > ALPHA and v.verdict != INCONCLUSIVE:
            note = f" Not significant after correction for {len(tested)} tests."
            v = replace(v, verdict=INCONCLUSIVE, sentence=v.sentence + note)
        settled[i] = v
    return settled


# ---------------------------------------------------------------- rendering


def to_frame(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    return pd.DataFrame([asdict(v) for v in verdicts], columns=list(Verdict.__dataclass_fields__))


def from_frame(frame: pd.DataFrame) -> list[Verdict]:
    """The verdicts of a frame, also of one read back from CSV (where an empty text is NaN)."""
    texts = [name for name, f in Verdict.__dataclass_fields__.items() if f.type is str]
    clean = frame.assign(**{name: frame[name].fillna("").astype(str) for name in texts})
    return [Verdict(**row) for row in clean.to_dict("records")]  # type: ignore[arg-type]


def to_markdown(verdicts: Sequence[Verdict]) -> str:
    """One table row per verdict; a refused or missing ranking shows its reason instead."""
    sentences = {claim.id: claim.sentence for claim in CLAIMS}
    lines = [
        "| claim | setting | verdict | effect (95% interval) | n | tuning | p (Holm) | in words |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for v in verdicts:
        verdict = f"**{v.verdict}**" + (" (refused)" if v.refused else "")
        p = "–" if math.isnan(v.p_holm) else f"{v.p_holm:.3f}" if v.p_holm >= 0.001 else "< 0.001"
        cells = [sentences.get(v.claim, v.claim), v.setting, verdict, _effect(v), str(v.n),
                 v.budget, p, v.sentence]  # fmt: skip
        lines.append("| " + " | ".join(c.replace("|", "\\|") or "–" for c in cells) + " |")
    return "\n".join(lines) + "\n"


def frame_to_markdown(frame: pd.DataFrame) -> str:
    return to_markdown(from_frame(frame))


def to_text(verdicts: Sequence[Verdict]) -> str:
    """The verdicts for a terminal, each with its sentence below it."""
    return "\n".join(
        f"{v.verdict:12}  {v.claim}, {v.setting}: {_effect(v)}, n = {v.n}\n{'':14}{v.sentence}"
        for v in verdicts
    )


def _effect(v: Verdict) -> str:
    if not v.effect_unit:
        return "–"
    known = not (math.isnan(v.low) and math.isnan(v.high))
    interval = f" ({number(v.low)} to {number(v.high)})" if known else ""
    return f"{number(v.effect)}{interval} {v.effect_unit}"


def number(value: float) -> str:
    """A number for a reader: thousands with a comma, small ones with two digits."""
    if math.isnan(value):
        return "unknown"
    if 0 < abs(value) < 0.01:
        return f"{value:.1e}".replace("-", "−")
    text = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}"
    return text.replace("inf", "∞").replace("-", "−")
