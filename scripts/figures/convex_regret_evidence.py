"""What the regret experiment measures, beside the theorem, and the evidence for each claim.

The theorem of the paper, in the form of Kingma and Ba (2015) and of Reddi, Kale and Kumar (2018):
the losses are convex, their gradients bounded by G in every coordinate, the d coordinates of the
iterates stay within a width D of each other, the step size is lr / sqrt(t), and the momentum
decays as mu_t = mu zeta^t. Then R(T) = O(sqrt(T)). Without momentum, for coordinates apart and a
projection onto a box, the steps of its proof are

    g_t (x_t - x*) <= ((x_t - x*)^2 - (x_{t+1} - x*)^2) s_t / 2 + g_t^2 / (2 s_t),
    s_t = sqrt(n_t) / lr_t,   with n the bias-corrected second moment,

    sum of the first over t <= T:   <= D^2 s_T / 2 <= D^2 G sqrt(T) / (2 lr)
    sum of the second:              <= lr G sqrt(T) / sqrt(1 - nu)    as g_t^2 <= n_t / (1 - nu),

which is `regret_bound`. The first sum telescopes only if s_t never falls: **a further condition,
which no choice of lr, D and G provides**, because n is a moving average. It is the condition that
Reddi and others found missing for Adam, and at mu = 0 LaProp is Adam with betas (0, nu). On their
counterexample all the conditions above hold, s_t falls after every large gradient, and the bound is
exceeded. So the theorem holds for LaProp only with the condition among its assumptions (the text of
the paper is not part of this repository). With ``amsgrad=True`` s_t never falls, and the bound
holds; that arm is shown, too.

Momentum does not help LaProp there, as it does Adam: the updates of LaProp are averages of
normalised gradients with weights that add up to one, so that over many rounds x drifts by the mean
of g / sqrt(n), whatever mu is. Adam normalises the average, which smooths the large gradient out.
And a constant mu, which all use in practice, is not covered by the theorem in the first place.
"""

# What a column of a table holds is beyond the types of pandas.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportReturnType=false

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
import pandas as pd

from scripts import judging, statistics
from scripts.claims import REGRET_FALLS, REGRET_POWER
from scripts.figures import style
from scripts.figures.rosenbrock_noise import NEGLIGIBLE_EPS
from scripts.figures.training import check_columns, fixed, pick
from scripts.statistics import Comparison, Estimate

Config = Mapping[str, Any]  # what `convex_regret.config` returns

SUBJECT, COUSIN = "laprop", "adam"
SEQUENCE = "reddi"  # the problem without anything random in it
TITLES = {
    "reddi": "counterexample",
    "reddi_stochastic": "stochastic counterexample",
    "least_squares": "least squares",
    "logistic": "logistic regression",
}
AMSGRAD = "laprop_amsgrad"  # LaProp whose second moment never falls
PER_DECADE = 10  # points of a curve that are shown and fitted
BOX = 2.0  # the width D of [-1, 1]


_NEEDED = ["optimizer", "lr", "beta1", "beta2", "amsgrad", "eps", "phase", "seed", "problem", "run",
           "replica", "step", "metric", "value"]  # fmt: skip


def regret_bound(rounds: Any, lr: float, gradient: float, nu: float, width: float = BOX) -> Any:
    """Bound on R(T) of one coordinate without momentum: see the module for its derivation.

        R(T) <= G sqrt(T) (D^2 / (2 lr) + lr / sqrt(1 - nu))

    Args:
        rounds: T, a number or an array of them.
        lr: the step size is lr / sqrt(t).
        gradient: G, the largest absolute gradient.
        nu: of the second moment.
        width: D, of the interval.
    """
    return gradient * np.sqrt(rounds) * (width * width / (2 * lr) + lr / math.sqrt(1 - nu))


class Arm:
    """What one optimizer did with one lr in one setting.

    Attributes:
        tune, report: average regrets, one row a seed and one column a number of rounds.
        rounds: PER_DECADE of the evaluated rounds in each decade, at about equal ratios.
        certain: whether nothing is random; then ``tune`` is ``report``, of one row.
        x: the mean of the first coordinate at the end.
        fixed: the hyper-parameters that are not tuned.
    """

    def __init__(self, rows: pd.DataFrame) -> None:
        wide = rows.pivot(index="seed", columns="step", values="average_regret")
        if wide.isna().any(axis=None):
            first = rows.iloc[0]
            raise ValueError(f"run {first.run} ({first.optimizer}, lr {first.lr:g}) lacks regrets")
        self.rounds = thinned([int(step) for step in wide.columns])
        phase = rows.groupby("seed").phase.first()
        self.report = pick(wide, phase == "report")
        tune = pick(wide, phase == "tune")
        self.certain = rows.problem.iloc[0] == SEQUENCE
        self.tune = self.report if self.certain else tune
        self.x = float(rows[(rows.step == rows.step.max()) & (rows.phase == "report")].x.mean())
        self.fixed = fixed(rows, rows.optimizer.iloc[0], NEGLIGIBLE_EPS)

    def last(self, regrets: pd.DataFrame) -> pd.Series:
        return cast(pd.Series, regrets[self.rounds[-1]])

    @functools.cached_property
    def power(self) -> Comparison:
        """Exponent of T in the average regret over the last decade of rounds, report seeds."""
        return self._power(self.report)

    @functools.cached_property
    def tuning_power(self) -> Comparison:
        return self._power(self.tune)

    def _power(self, regrets: pd.DataFrame) -> Comparison:
        last = [rounds for rounds in self.rounds if rounds >= self.rounds[-1] / 10]
        return statistics.power_of_means(last, regrets[last])


def thinned(rounds: Sequence[int]) -> list[int]:
    """The ones of ``rounds`` nearest to PER_DECADE per decade at equal ratios, each once."""
    rounds = sorted(rounds)
    logs = np.log10(rounds)
    targets = np.arange(logs[-1], logs[0] - 1e-9, -1 / PER_DECADE)
    return [rounds[i] for i in sorted({int(np.abs(logs - target).argmin()) for target in targets})]


Regrets = dict[tuple[str, str], dict[float, Arm]]  # (setting, optimizer) -> lr -> arm


def arms_of(tidy: pd.DataFrame, config: Config) -> Regrets:
    check_columns(tidy, _NEEDED)
    # categories would multiply in groupby
    tidy = tidy.astype({name: str for name in ("optimizer", "run", "phase", "metric")})
    keys = [name for name in _NEEDED if name not in ("metric", "value")]
    rows = tidy[(tidy.step > 0) & tidy.metric.isin(["average_regret", "x"])]
    if rows.empty:
        raise ValueError("the tidy table holds no average_regret")
    wide = rows.set_index([*keys, "metric"]).value.unstack("metric").reset_index()
    if "average_regret" not in wide or "x" not in wide:
        raise ValueError("average_regret and x are both needed")
    never_falls = (wide.optimizer == SUBJECT) & wide.amsgrad.isin([True])
    wide["optimizer"] = wide.optimizer.mask(never_falls, AMSGRAD)
    order = [*config["optimizers"], AMSGRAD]
    found: Regrets = {}
    for setting, members in _settings(wide):
        for optimizer in sorted(members.optimizer.unique(), key=lambda o: order.index(o)):
            own = members[members.optimizer == optimizer]
            found[setting, optimizer] = {
                float(cast(Any, lr)): Arm(cast(pd.DataFrame, arm)) for lr, arm in own.groupby("lr")
            }
    return found


def _settings(wide: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Each problem with each pair of betas on it, and the rows of both."""
    if wide[["beta1", "beta2"]].dropna().empty:
        raise ValueError("no optimizer with two betas: they tell the settings apart")
    for problem in [name for name in TITLES if name in set(wide.problem.unique())]:
        rows = pick(wide, wide.problem == problem)
        pairs = rows[["beta1", "beta2"]].dropna().drop_duplicates().sort_values(by="beta1")
        for mu, nu in pairs.itertuples(index=False):
            here = ((rows.beta1 == mu) & (rows.beta2 == nu)) | rows.beta1.isna()
            title = TITLES[problem] + (f", μ = {mu:g}" if len(pairs) > 1 else "")
            yield title, pick(rows, here)


# Evidence, each from the arms at the best lr, and all arms by lr. Where nothing is random a
# p-value is 0 for what is so and 1 for what is not.

Best = Mapping[str, Arm]
Every = Mapping[str, Mapping[float, Arm]]


def falls(best: Best, every: Every, _: Config) -> dict[str, Any]:
    """Does the subject's average regret fall at least as fast as the theorem says?"""
    arm = best[SUBJECT]
    power = arm.power
    return {
        "p_for": _p_below(arm, power, REGRET_POWER),
        "p_against": _p_above(arm, power, REGRET_POWER),
        "effect": power,
        "effect_unit": "power of T (theorem: −0.5)",
        "sentence": f"{_told(SUBJECT, arm, every)}{_why(arm, power)}",
    }


def converges(best: Best, every: Every, _: Config) -> dict[str, Any]:
    """Does the subject's average regret fall where its cousin's does not?"""
    arm, cousin = best[SUBJECT], best[COUSIN]
    mine, other = arm.power, cousin.power
    told = " ".join(_told(name, best[name], every) for name in best)
    which = ""
    if mine.value > REGRET_FALLS:
        alone = other.value <= REGRET_FALLS
        which = " It is LaProp that fails where Adam converges." if alone else " Both fail."
    elif other.value <= REGRET_FALLS:
        which = " Neither fails."
    return {
        "p_for": max(_p_below(arm, mine, REGRET_FALLS), _p_above(cousin, other, REGRET_FALLS)),
        "p_against": _p_above(arm, mine, REGRET_FALLS),
        "effect": mine,
        "effect_unit": "power of T",
        "sentence": told + which + _why(arm, mine),
    }


def bounded(_: Best, every: Every, config: Config) -> dict[str, Any]:
    """Does the subject's regret stay below the theorem's bound at every lr and round?"""
    ratios = {lr: _ratio_to_bound(arm, lr, config) for lr, arm in every[SUBJECT].items()}
    lr = max(ratios, key=lambda lr: ratios[lr].max())
    worst = float(ratios[lr].max())
    above = {lr: ratio.index[ratio > 1][0] for lr, ratio in ratios.items() if (ratio > 1).any()}
    where = ", ".join(f"from T = {first:,} at lr {lr:g}" for lr, first in above.items())
    told = f"LaProp's regret exceeds the bound {where}" if above else "It never exceeds the bound"
    if AMSGRAD in every:
        kept = max(_ratio_to_bound(arm, a, config).max() for a, arm in every[AMSGRAD].items())
        told += f"; with amsgrad it stays below, at {judging.number(kept)} of it or less"
    return {
        "p_for": float(worst > 1),
        "p_against": float(worst <= 1),
        "effect": Estimate(worst, worst, worst, 1),
        "effect_unit": f"times the bound (lr {lr:g}, T = {ratios[lr].idxmax():,})",
        "sentence": f"{told}. The bound needs √n / lr never to fall, which amsgrad provides and a "
        "moving average does not; all else it assumes holds here.",
    }


def _ratio_to_bound(arm: Arm, lr: float, config: Config) -> pd.Series:
    """The regret as a multiple of the bound at each evaluated round."""
    both = against_bound(arm, lr, config).set_index("rounds")
    return both.average_regret / both.bound


def against_bound(arm: Arm, lr: float, config: Config) -> pd.DataFrame:
    """Average regret and its bound at each evaluated round of the counterexample."""
    regret = arm.report.iloc[0]
    rounds = regret.index.to_numpy(dtype=int)
    bound = regret_bound(rounds, lr, config["large"][SEQUENCE], arm.fixed["beta2"]) / rounds
    return pd.DataFrame({"rounds": rounds, "average_regret": regret.to_numpy(), "bound": bound,
                         "lr": lr})  # fmt: skip


def covered(arms: Mapping[float, Arm]) -> bool:
    """Whether `regret_bound` speaks of them: the counterexample, without momentum."""
    return any(arm.certain and arm.fixed["beta1"] == 0 for arm in arms.values())


def smaller(best: Best, _every: Every, _: Config) -> dict[str, Any]:
    """Is the subject's average regret at the last round smaller than its cousin's?"""
    rounds = best[SUBJECT].rounds[-1]
    arms = [best[name].last(best[name].report) for name in (COUSIN, SUBJECT)]
    cousin, mine = statistics.align(*(part for a in arms for part in (list(a.index), a)))  # type: ignore[arg-type]
    saved = statistics.percent_saved(mine, cousin)
    return {
        "p_for": saved.p_above(0),
        "p_against": saved.p_below(0),
        "effect": saved,
        "effect_unit": f"% of Adam's mean average regret saved (T = {rounds:,})",
        "sentence": f"Mean average regret after {rounds:,} rounds: LaProp {mine.mean():.3g}, "
        f"Adam {cousin.mean():.3g}.",
    }


def _p_below(arm: Arm, power: Comparison, threshold: float) -> float:
    return float(power.value > threshold) if arm.certain else power.p_below(threshold)


def _p_above(arm: Arm, power: Comparison, threshold: float) -> float:
    return float(power.value <= threshold) if arm.certain else power.p_above(threshold)


def _told(name: str, arm: Arm, every: Every) -> str:
    """The exponent at the best lr and over the grid, and where x ends, in words."""
    powers = [a.power.value for a in every[name].values()]
    best = judging.number(arm.power.value)
    spread = f"{judging.number(min(powers))} to {judging.number(max(powers))}"
    end = f", x ends at {judging.number(arm.x)}" if arm.certain else ""
    return f"{style.mark(name).label}: average regret as T to {best} (all lrs: {spread}){end}."


def _why(arm: Arm, power: Comparison) -> str:
    """What the failure on the counterexample says about the theorem."""
    if not arm.certain or power.value <= REGRET_FALLS:
        return ""
    if arm.fixed["beta1"] == 0:
        return (
            " At μ = 0 LaProp is Adam with betas (0, ν). Losses are convex, gradients and domain "
            "bounded, lr as 1/√t: what is violated is that √n / lr never falls."
        )
    return " Averaging the normalised gradients leaves their mean, which points the wrong way."
