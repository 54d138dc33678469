"""The claims of the paper as data, each with what would support and what would contradict it.

All of it, the thresholds too, was fixed before the experiment was run at its reported scales, but
for what ``note`` says of single claims. `scripts/judging.py` turns evidence into a verdict,
`scripts/fairness.py` refuses rankings.
"""

from dataclasses import dataclass

import numpy as np

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
IWSLT_ROOM = 0.5  # bits per token; below that warm-up has gained nothing to be measured by
IWSLT_TRAINED = 1 / 2  # of the way to where warm-up leads; the authors' LaProp went about 4/5
IWSLT_LEFT = 1 / 8  # of it: late, not lost; the authors' Adam, which fails, went about 1/12
IWSLT_ALIKE = 0.1  # bits per token; the authors' two runs with warm-up are 0.025 apart


@dataclass(frozen=True)
class Claim:
    id: str
    sentence: str
    source: str
    experiment: str
    supported_by: str
    contradicted_by: str
    note: str = ""  # what to know of it: what was changed after results were known, where it ends


def _rosenbrock(
    id: str, sentence: str, supported_by: str, contradicted_by: str, note: str = ""
) -> Claim:
    source = "experiment on the Rosenbrock function with noise added to the gradient"
    experiment = "rosenbrock_noise"
    return Claim(id, sentence, source, experiment, supported_by, contradicted_by, note)


FEW_REACH = (
    "with the learning rates tuned all are watched for 8,000 steps, in which those with two betas "
    "hardly get there from σ = 0.1 on, at any of them; rosenbrock_noise/tuned-30000 watches for 30,000"
)


def _fastest(id: str, sentence: str, rivals: str) -> Claim:
    steps = f"restricted mean steps, averaged over the noise levels from {LARGE_NOISE} on,"
    return _rosenbrock(
        id,
        f"With much noise LaProp is the fastest {sentence}.",
        f"{steps} are smaller for LaProp than for each of the {rivals}",
        f"{steps} are larger for LaProp than for the best of the {rivals} on the tuning seeds",
        FEW_REACH,
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
    id: str, sentence: str, supported_by: str, contradicted_by: str, source: str = "regret bound",
    note: str = "",
) -> Claim:  # fmt: skip
    return Claim(
        f"convex_regret_{id}",
        sentence,
        source,
        "convex_regret",
        supported_by,
        contradicted_by,
        note,
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
        "As the noise grows, Adam and AMSGrad no longer converge in the time watched where LaProp "
        "still does.",
        "against each of the two, at the noise level with the widest gap on the tuning seeds, "
        "LaProp converges for more seeds (exact McNemar test)",
        "against one of the two, LaProp's lead in the fraction converged is below "
        f"{SMALL_GAP} at every noise level",
        "judged only where all are watched for 30,000 steps; with the learning rates tuned they are "
        "watched for a part of them. AMSGrad is late there, not lost: at σ = 0.14 18 of 20 seeds "
        "reach the target within 100,000 (a run apart), of Adam's none",
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
DEPTH_NOTE = (
    "at quick scale the deepest nets have 140 layers, and LaProp trains half of these: it may reach "
    "deeper than is measured"
)
CLAIMS += (
    Claim(
        "deep_fc_deeper_than_adam",
        "LaProp starts the training of deeper fully connected nets than Adam.",
        DEEP_FC,
        "deep_fc_depth",
        f"{_DEPTH} is larger for LaProp than for Adam",
        f"{_DEPTH} is smaller for LaProp than for Adam",
        DEPTH_NOTE,
    ),
    Claim(
        "deep_fc_deepest_of_all",
        "LaProp starts the training of deeper fully connected nets than all others compared.",
        DEEP_FC,
        "deep_fc_depth",
        f"{_DEPTH} is larger for LaProp than for each of the others",
        f"{_DEPTH} is smaller for LaProp than for the best of the others on the tuning seeds",
        DEPTH_NOTE,
    ),
    Claim(
        "divergence_of_adam",
        "For ν far enough below μ, Adam's loss leaves the basin it has reached, or never reaches one; "
        "LaProp's does neither.",
        THEORY,
        "adam_divergence",
        "at every ν below μ² of the grid, more seeds of LaProp than of Adam reach a basin and stay "
        "in it (exact McNemar test)",
        f"at every such ν LaProp's lead in the fraction that does is below {SMALL_GAP}",
        "it spoke of leaving alone; but at ν = 0.4 most of Adam's runs diverge before they reach a "
        "basin. That what never trains does not stay was first said of LaProp, then of both. Quick "
        "scale, lr 0.001: one seed of LaProp's twelve leaves at ν = 0.7, and one at ν = 0.9 < μ, where "
        "all of Adam's stay",
    ),
    Claim(
        "laprop_stable_for_any_v",
        "LaProp trains stably for any pair (μ, ν).",
        THEORY,
        "adam_divergence",
        "at every ν of the grid more than 95% of the seeds reach a basin and stay in it (exact test)",
        "at one ν fewer than 95% do (exact test, corrected for their number)",
        "what never trains does not count as staying",
    ),
    Claim(
        "uv_laprop_beyond",
        "Where μ > √ν, LaProp trains and Adam fails.",
        THEORY,
        "uv_plane",
        "LaProp trains a larger fraction of the cells of the grid with μ > √ν",
        f"its lead there is below {SMALL_GAP}",
        note="supported says that LaProp trains more of these cells, not that Adam trains none",
    ),
    Claim(
        "uv_alike_below",
        "Where μ ≤ √ν, both train.",
        THEORY,
        "uv_plane",
        f"the fractions of cells that train differ by less than {SMALL_GAP} (equivalence test)",
        "they differ by more",
        note="the test was made stricter after the results of quick scale were known, by which ten "
        "seeds without any difference had been enough; it now holds whatever the differences are",
    ),
    _regret(
        "sqrt",
        "On convex problems LaProp's average regret falls at least as fast as T^(-1/2).",
        f"{_POWER} below {REGRET_POWER}, at the lr with the smallest regret",
        f"{_POWER} above {REGRET_POWER}, at the lr with the smallest regret",
        note="the theorem is about a μ that falls; a constant one above 0, which all use, it does not "
        "cover, so that only μ = 0 puts it to the test. A power is of a decade of rounds and of one "
        "lr: a regret below its bound may fall more slowly than the bound does",
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
STYLE_NOTE = (
    "at quick scale LaProp's lead is one of its 48 steps: with 200 (same seeds, both at lr 0.3, a run "
    "apart) Adam is ahead from step 72 on, by a factor of 1.02 at the end"
)
_AT_THE_END = "the loss at the end, relative to that at the start, is"
CLAIMS += (
    Claim(
        "style_lower_than_adam",
        "In style transfer LaProp reaches a lower loss than Adam.",
        STYLE,
        "style_curves",
        f"{_AT_THE_END} smaller for LaProp (mean of its logarithm over the seeds)",
        f"{_AT_THE_END} larger for LaProp",
        STYLE_NOTE,
    ),
    Claim(
        "style_lowest_of_all",
        "In style transfer LaProp reaches a lower loss than all others compared.",
        STYLE,
        "style_curves",
        f"{_AT_THE_END} smaller for LaProp than for each of the others",
        f"{_AT_THE_END} larger for LaProp than for the best of the others on the tuning seeds",
        STYLE_NOTE,
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
        "at quick scale it hangs on how far below μ: at ν = 0.5 the loss is lower than at 0.999 for "
        "μ = 0.9 and 0.95, with all ten seeds, at ν = 0.1 higher",
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
        "the IQM over seeds of the mean return over the evaluations after the first is larger for "
        "LaProp than for each of the others (paired bootstrap)",
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
        "without warm-up more seeds of LaProp go half of the way, from a prediction without context "
        "to where the runs with warm-up end, than of Adam go an eighth (exact McNemar test)",
        f"the difference of these fractions is below {SMALL_GAP}",
        "how far a run has to go (a half, an eighth) was set when runs of quick scale were known; the "
        "same fractions then judged those of width 128",
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


CLAIMS += (
    Claim(
        "roberta_lower_than_adam",
        "Pretraining RoBERTa, LaProp reaches a lower training loss than Adam.",
        "experiment on pretraining; only the authors' single runs exist, none of ours",
        "published",
        "the training loss at the end is lower for LaProp over at least ten seeds",
        "it is higher for LaProp over at least ten seeds",
    ),
)


def claims_of(experiment: str) -> tuple[Claim, ...]:
    return tuple(claim for claim in CLAIMS if claim.experiment == experiment)
