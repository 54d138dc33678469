"""Average regret on online convex problems: the tables, the verdicts and the figure.

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
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from scripts import claims, fairness, judging, statistics
from scripts.claims import MIN_ROUNDS, REGRET_FALLS, REGRET_POWER, Claim
from scripts.fairness import Budget
from scripts.figures import style
from scripts.figures.rosenbrock_noise import BOOTSTRAP_SEED, NEGLIGIBLE_EPS
from scripts.judging import Verdict
from scripts.statistics import Comparison, Estimate
from tasks.online_convex import DIMENSIONS, ITEMS

Tables = dict[str, pd.DataFrame]
Config = Mapping[str, Any]  # what `config` returns

SUBJECT, COUSIN = "laprop", "adam"
SEQUENCE = "reddi"  # the problem without anything random in it
TITLES = {
    "reddi": "counterexample",
    "reddi_stochastic": "stochastic counterexample",
    "least_squares": "least squares",
    "logistic": "logistic regression",
}
CURVED = ("least_squares", "logistic")
AMSGRAD = "laprop_amsgrad"  # LaProp whose second moment never falls
PER_DECADE = 10  # points of a curve that are shown and fitted
CAPTION_WIDTH = 148  # characters a line
BOX = 2.0  # the width D of [-1, 1]

_ARM = ["setting", "optimizer", "lr"]
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


def config(values: Mapping[str, Any]) -> dict[str, Any]:
    """What the analysis needs of the experiment's resolved configuration."""
    optimizers = [name for sweep in values["sweeps"].values() for name in sweep["optimizer"]]
    task = values["task"]
    return {
        "scale": values["scale"],
        "optimizers": style.in_order(optimizers),
        "large": {"reddi": task["reddi_large"], "reddi_stochastic": task["stochastic_large"]},
        "surplus": task["stochastic_surplus"],
    }


# ---------------------------------------------------------------- tables


def tables(tidy: pd.DataFrame, config: Config) -> Tables:
    """`tuning`: every lr; `curves`: regret against rounds at the best lr; `powers`: its exponent;
    `bound`: LaProp's regret beside the theorem's bound, at every lr.

    A setting is a problem with a pair of betas; an optimizer without betas is in all settings of
    its problem. On the counterexample every lr is tuned and reported on the one sequence.
    """
    regrets = _regrets(tidy, config)
    tuning = _tuning(regrets)
    curves, powers, bounds = [], [], []
    chosen = _pick(tuning, tuning.chosen.astype(bool))[_ARM]
    for setting, optimizer, lr in chosen.itertuples(index=False, name=None):
        arm = regrets[setting, optimizer][lr]
        values = arm.report
        same = {"setting": setting, "optimizer": optimizer, "lr": lr, "n": len(values)}
        for rounds in arm.rounds:
            mean = statistics.mean_interval(values[rounds], seed=BOOTSTRAP_SEED)
            curves.append({**same, "rounds": rounds, "average_regret": mean.value,
                           "low": mean.low, "high": mean.high})  # fmt: skip
        power = arm.power
        betas = {name: arm.fixed.get(name, math.nan) for name in ("beta1", "beta2")}
        powers.append({**same, **betas, "rounds": arm.rounds[-1], "power": power.value,
                       "low": power.low, "high": power.high,
                       "average_regret": curves[-1]["average_regret"], "x": arm.x})  # fmt: skip
    for (setting, optimizer), arms in regrets.items():
        if optimizer in (SUBJECT, AMSGRAD) and _covered(arms):
            bounds += [_against_bound(arm, lr, config).assign(setting=setting, optimizer=optimizer)
                       for lr, arm in arms.items()]  # fmt: skip
    columns = [*_ARM, "rounds", "average_regret", "bound"]
    bound = pd.concat(bounds, ignore_index=True) if bounds else pd.DataFrame(columns=columns)
    return {"tuning": tuning, "curves": pd.DataFrame(curves), "powers": pd.DataFrame(powers),
            "bound": bound[columns]}  # fmt: skip


class _Arm:
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
        self.report = _pick(wide, phase == "report")
        tune = _pick(wide, phase == "tune")
        self.certain = rows.problem.iloc[0] == SEQUENCE
        self.tune = self.report if self.certain else tune
        self.x = float(rows[(rows.step == rows.step.max()) & (rows.phase == "report")].x.mean())
        fixed = {name: float(rows[name].iloc[0]) for name in ("beta1", "beta2", "eps")}
        if fixed["eps"] < NEGLIGIBLE_EPS:
            fixed["eps"] = 0.0  # as good as none, and so equal to any other such
        self.fixed = {name: value for name, value in fixed.items() if not math.isnan(value)}

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
        return statistics.power_of_means(last, regrets[last], seed=BOOTSTRAP_SEED)


def thinned(rounds: Sequence[int]) -> list[int]:
    """The ones of ``rounds`` nearest to PER_DECADE per decade at equal ratios, each once."""
    rounds = sorted(rounds)
    logs = np.log10(rounds)
    targets = np.arange(logs[-1], logs[0] - 1e-9, -1 / PER_DECADE)
    return [rounds[i] for i in sorted({int(np.abs(logs - target).argmin()) for target in targets})]


def _pick(frame: pd.DataFrame, mask: Any) -> pd.DataFrame:
    return cast(pd.DataFrame, frame[mask])


Regrets = dict[tuple[str, str], dict[float, _Arm]]  # (setting, optimizer) -> lr -> arm


def _regrets(tidy: pd.DataFrame, config: Config) -> Regrets:
    missing = [name for name in _NEEDED if name not in tidy]
    if missing:
        raise ValueError(f"the tidy table lacks the columns {', '.join(missing)}")
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
                float(cast(Any, lr)): _Arm(cast(pd.DataFrame, arm)) for lr, arm in own.groupby("lr")
            }
    return found


def _settings(wide: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Each problem with each pair of betas on it, and the rows of both."""
    if wide[["beta1", "beta2"]].dropna().empty:
        raise ValueError("no optimizer with two betas: they tell the settings apart")
    for problem in [name for name in TITLES if name in set(wide.problem.unique())]:
        rows = _pick(wide, wide.problem == problem)
        pairs = rows[["beta1", "beta2"]].dropna().drop_duplicates().sort_values(by="beta1")
        for mu, nu in pairs.itertuples(index=False):
            here = ((rows.beta1 == mu) & (rows.beta2 == nu)) | rows.beta1.isna()
            title = TITLES[problem] + (f", μ = {mu:g}" if len(pairs) > 1 else "")
            yield title, _pick(rows, here)


def _tuning(regrets: Regrets) -> pd.DataFrame:
    """The lr with the smallest mean average regret at the last round, on the tuning seeds."""
    rows = []
    for (setting, optimizer), arms in regrets.items():
        last = {lr: arm.last(arm.tune) for lr, arm in arms.items()}
        powers = {lr: arm.tuning_power.value for lr, arm in arms.items()}
        best = min(last, key=lambda lr: float(last[lr].mean()))
        tied = {lr: _tied(last[lr], last[best]) for lr in last}
        grid = sorted(arms)
        interior = any(tied[lr] for lr in grid[1:-1])
        # where the regret falls at no lr, no larger or smaller one is the better one to have tried
        falls = any(power <= REGRET_FALLS for power in powers.values())
        for lr in grid:
            rows.append({
                "setting": setting, "optimizer": optimizer, "lr": lr, "n": len(last[lr]),
                "average_regret": last[lr].mean(), "power": powers[lr], "chosen": lr == best,
                "tied": tied[lr] and sum(tied.values()) > 1,
                "on_edge": lr == best and lr in (grid[0], grid[-1]) and falls and not interior,
            })  # fmt: skip
    return pd.DataFrame(rows)


def _tied(regrets: pd.Series, best: pd.Series) -> bool:
    """Whether the tuning seeds cannot tell this lr from the best."""
    worse = statistics.mean_interval(regrets - best, seed=BOOTSTRAP_SEED)
    return worse.value == 0 if worse.n < statistics.MIN_SEEDS else worse.low <= 0


# ---------------------------------------------------------------- verdicts


def verdicts(tidy: pd.DataFrame, tables: Tables, config: Config) -> list[Verdict]:
    """Every claim of this experiment in the settings it speaks of."""
    regrets = _regrets(tidy, config)
    settings = list(dict.fromkeys(setting for setting, _ in regrets))
    counter = [s for s in settings if "counterexample" in s]
    curved = [s for s in settings if s in {TITLES[name] for name in CURVED}]
    covered = [s for s in settings if _covered(regrets.get((s, SUBJECT), {}))]
    plans = {
        "convex_regret_sqrt": (_falls, (SUBJECT,), settings),
        "convex_regret_bound": (_bounded, (SUBJECT,), covered),
        "convex_regret_counterexample": (_converges, (SUBJECT, COUSIN), counter),
        "convex_regret_advantage": (_smaller, (SUBJECT, COUSIN), curved),
    }
    found = []
    for claim in claims.claims_of("convex_regret"):
        judge, compared, where = plans[claim.id]
        for setting in where:
            found.append(
                _verdict(judge, claim, setting, compared, regrets, tables["tuning"], config)
            )
    return judging.settle(found)


def _verdict(
    judge: Any, claim: Claim, setting: str, compared: Sequence[str], regrets: Regrets,
    tuning: pd.DataFrame, config: Config,
) -> Verdict:  # fmt: skip
    """Refuse where something is missing or unfair, judge otherwise."""
    lacking = [o for o in compared if (setting, o) not in regrets]
    if lacking:
        return judging.inconclusive(claim, setting, f"no runs of {', '.join(lacking)}")
    mine = _pick(tuning, tuning.setting == setting)
    chosen = mine[mine.chosen].set_index("optimizer").lr
    best = {o: regrets[setting, o][float(chosen[o])] for o in compared}
    budgets = [_budget(o, best[o], mine) for o in compared]
    text, n = fairness.budget_text(budgets), min(len(b.report_seeds) for b in budgets)
    certain = best[compared[0]].certain
    if certain:
        text = f"{budgets[0].trials} lrs on the sequence itself" + " each" * (len(compared) > 1)
    rounds = best[compared[0]].rounds[-1]
    if rounds < MIN_ROUNDS:
        reason = f"{rounds} rounds are too few (at least {MIN_ROUNDS:,})"
        return judging.inconclusive(claim, setting, reason, n=n, budget=text)
    if n < statistics.MIN_SEEDS and not certain:
        return judging.inconclusive(claim, setting, judging.few_seeds(n), n=n, budget=text)
    if refusal := fairness.gate(budgets):
        return judging.inconclusive(claim, setting, refusal, n=n, budget=text, refused=True)
    every = {o: regrets[setting, o] for o in (*compared, AMSGRAD) if (setting, o) in regrets}
    evidence = judge(best, every, config)
    if not certain:
        return judging.judge(claim, setting, budget=text, **evidence)
    verdict = judging.INCONCLUSIVE
    if evidence["p_for"] == 0 or evidence["p_against"] == 0:
        verdict = judging.SUPPORTED if evidence["p_for"] == 0 else judging.CONTRADICTED
    return judging.certain(
        claim, setting, verdict, effect=evidence["effect"].value,
        effect_unit=evidence["effect_unit"], budget=text, sentence=evidence["sentence"],
    )  # fmt: skip


def _budget(optimizer: str, arm: _Arm, tuning: pd.DataFrame) -> Budget:
    tried = _pick(tuning, tuning.optimizer == optimizer)
    return Budget(
        optimizer=optimizer,
        trials=len(tried),
        tuning_seeds=tuple(int(seed) for seed in arm.tune.index),
        knobs=("lr",),
        steps=arm.rounds[-1],
        report_seeds=tuple(int(seed) for seed in arm.report.index),
        on_edge=tuple(f"lr {lr:g}" for lr in tried[tried.on_edge.astype(bool)].lr),
        fixed=arm.fixed,
    )


# Evidence, each from the arms at the best lr, and all arms by lr. Where nothing is random a
# p-value is 0 for what is so and 1 for what is not.

Best = Mapping[str, _Arm]
Every = Mapping[str, Mapping[float, _Arm]]


def _falls(best: Best, every: Every, _: Config) -> dict[str, Any]:
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


def _converges(best: Best, every: Every, _: Config) -> dict[str, Any]:
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


def _bounded(_: Best, every: Every, config: Config) -> dict[str, Any]:
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


def _ratio_to_bound(arm: _Arm, lr: float, config: Config) -> pd.Series:
    """The regret as a multiple of the bound at each evaluated round."""
    both = _against_bound(arm, lr, config).set_index("rounds")
    return both.average_regret / both.bound


def _against_bound(arm: _Arm, lr: float, config: Config) -> pd.DataFrame:
    """Average regret and its bound at each evaluated round of the counterexample."""
    regret = arm.report.iloc[0]
    rounds = regret.index.to_numpy(dtype=int)
    bound = regret_bound(rounds, lr, config["large"][SEQUENCE], arm.fixed["beta2"]) / rounds
    return pd.DataFrame({"rounds": rounds, "average_regret": regret.to_numpy(), "bound": bound,
                         "lr": lr})  # fmt: skip


def _covered(arms: Mapping[float, _Arm]) -> bool:
    """Whether `regret_bound` speaks of them: the counterexample, without momentum."""
    return any(arm.certain and arm.fixed["beta1"] == 0 for arm in arms.values())


def _smaller(best: Best, _every: Every, _: Config) -> dict[str, Any]:
    """Is the subject's average regret at the last round smaller than its cousin's?"""
    rounds = best[SUBJECT].rounds[-1]
    arms = [best[name].last(best[name].report) for name in (COUSIN, SUBJECT)]
    cousin, mine = statistics.align(*(part for a in arms for part in (list(a.index), a)))  # type: ignore[arg-type]
    percent = 100 * (cousin - mine) / cousin.mean()
    saved = statistics.mean_interval(percent, seed=BOOTSTRAP_SEED)
    return {
        "p_for": saved.p_above(0),
        "p_against": saved.p_below(0),
        "effect": saved,
        "effect_unit": f"% of Adam's mean average regret saved (T = {rounds:,})",
        "sentence": f"Mean average regret after {rounds:,} rounds: LaProp {mine.mean():.3g}, "
        f"Adam {cousin.mean():.3g}.",
    }


def _p_below(arm: _Arm, power: Comparison, threshold: float) -> float:
    return float(power.value > threshold) if arm.certain else power.p_below(threshold)


def _p_above(arm: _Arm, power: Comparison, threshold: float) -> float:
    return float(power.value <= threshold) if arm.certain else power.p_above(threshold)


def _told(name: str, arm: _Arm, every: Every) -> str:
    """The exponent at the best lr and over the grid, and where x ends, in words."""
    powers = [a.power.value for a in every[name].values()]
    best = judging.number(arm.power.value)
    spread = f"{judging.number(min(powers))} to {judging.number(max(powers))}"
    end = f", x ends at {judging.number(arm.x)}" if arm.certain else ""
    return f"{style.mark(name).label}: average regret as T to {best} (all lrs: {spread}){end}."


def _why(arm: _Arm, power: Comparison) -> str:
    """What the failure on the counterexample says about the theorem."""
    if not arm.certain or power.value <= REGRET_FALLS:
        return ""
    if arm.fixed["beta1"] == 0:
        return (
            " At μ = 0 LaProp is Adam with betas (0, ν). Losses are convex, gradients and domain "
            "bounded, lr as 1/√t: what is violated is that √n / lr never falls."
        )
    return " Averaging the normalised gradients leaves their mean, which points the wrong way."


# ---------------------------------------------------------------- figure


def draw(tidy: pd.DataFrame, tables: Tables, config: Config) -> Figure:
    """Average regret against rounds for each setting, and the exponents of all."""
    curves, powers = tables["curves"], tables["powers"]
    names = list(config["optimizers"])
    settings = list(dict.fromkeys(powers.setting))
    del tidy  # the tables hold all that is shown
    with matplotlib.rc_context(style.RC):
        fig = Figure(figsize=(7.6, 6.9))
        fig.text(0.01, 0.99, "Average regret on online convex problems, step size lr / √t",
                 fontsize=11, fontweight="bold", va="top")  # fmt: skip
        shown = [*names, *([AMSGRAD] if AMSGRAD in set(powers.optimizer) else [])]
        looks = [_look(name) for name in shown]
        lines = [Line2D([], [], color=m.colour, marker=m.marker, linestyle=m.linestyle,
                        linewidth=m.width, markerfacecolor=_face(name))
                 for name, m in zip(shown, looks, strict=True)]  # fmt: skip
        fig.legend(lines, [m.label for m in looks], loc="upper center", frameon=False,
                   bbox_to_anchor=(0.5, 0.965), ncols=len(shown), handlelength=2.6,
                   columnspacing=1.1)  # fmt: skip
        grid = fig.add_gridspec(2, 3, left=0.075, right=0.985, top=0.885, bottom=0.205,
                                hspace=0.36, wspace=0.28)  # fmt: skip
        for place, setting in enumerate(settings[:5]):
            ax = fig.add_subplot(grid[place // 3, place % 3])
            _curves_panel(ax, _pick(curves, curves.setting == setting), shown)
            ax.set_title(f"{'abcde'[place]}  {setting}", loc="left")
            if place % 3 == 0:
                ax.set_ylabel("average regret R(T) / T")
            ax.set_xlabel("rounds T")
            bound = tables["bound"]
            _bound_on(ax, _pick(bound, (bound.setting == setting) & (bound.optimizer == SUBJECT)))
        _powers_panel(fig.add_subplot(grid[1, 2]), powers, settings, shown)
        fig.text(0.01, 0.008, _caption(powers, tables["tuning"], config), fontsize=7,
                 va="bottom", linespacing=1.3)  # fmt: skip
    return fig


def _look(name: str) -> style.Mark:
    """LaProp with amsgrad looks like LaProp, but thin, dotted and with hollow marks."""
    if name != AMSGRAD:
        return style.mark(name)
    return style.mark(SUBJECT)._replace(label="LaProp, amsgrad", linestyle=":", width=1.0)


def _face(name: str) -> str:
    return "white" if name == AMSGRAD else _look(name).colour


def _curves_panel(ax: Axes, part: pd.DataFrame, names: Sequence[str]) -> None:
    for name in names:
        arm = part[part.optimizer == name]
        look = _look(name)
        rounds, mean = arm.rounds.to_numpy(), arm.average_regret.to_numpy()
        # a mean that is not positive has no place on this axis
        ax.plot(rounds, np.where(mean > 0, mean, np.nan), color=look.colour, markevery=4,
                linestyle=look.linestyle, linewidth=look.width, marker=look.marker, markersize=3.6,
                markerfacecolor=_face(name), zorder=3 - 0.1 * look.width)  # fmt: skip
        if (arm.n > 1).any():
            tiny = mean[mean > 0].min() / 10
            ax.fill_between(rounds, np.maximum(arm.low, tiny), np.maximum(arm.high, tiny),
                            color=look.colour, alpha=0.15, linewidth=0)  # fmt: skip
    ax.set(xscale="log", yscale="log")
    rounds = np.array([part.rounds.min(), part.rounds.max()], dtype=float)
    positive = part.average_regret[part.average_regret > 0]
    top = float(positive.max()) * 1.6
    ax.set_ylim(float(positive.min()) * 0.6, top)
    guide = top * 0.8 * (rounds / rounds[0]) ** -0.5
    ax.plot(rounds, guide, color="#555555", linewidth=0.9, linestyle=(0, (1, 2)), zorder=1.5)
    ax.annotate("T$^{-1/2}$", (rounds[1], guide[1]), xytext=(2, 3), color="#555555",
                textcoords="offset points", fontsize=7, ha="right", va="bottom")  # fmt: skip


def _bound_on(ax: Axes, bound: pd.DataFrame) -> None:
    """The theorem's bound at the lr of the grid that makes it smallest, and LaProp at that lr."""
    if bound.empty:
        return
    lr = bound.lr[bound.bound.idxmin()]
    here = _pick(bound, bound.lr == lr)
    ax.plot(here.rounds, here.bound, color="black", linewidth=1.4, zorder=2)
    ax.plot(here.rounds, here.average_regret, color=style.mark(SUBJECT).colour, linewidth=0.8,
            zorder=3.5)  # fmt: skip
    low, high = ax.get_ylim()
    ax.set_ylim(low, max(high, here.bound.max() * 1.3))
    first = here.iloc[0]
    ax.annotate(f"bound, lr {lr:g}", (first.rounds, first.bound), xytext=(12, -1), fontsize=7,
                textcoords="offset points", va="center")  # fmt: skip


def _powers_panel(
    ax: Axes, powers: pd.DataFrame, settings: Sequence[str], names: Sequence[str]
) -> None:
    shifts = np.linspace(-0.36, 0.36, len(names))
    for name, shift in zip(names, shifts, strict=True):
        own = powers[powers.optimizer == name]
        look = _look(name)
        y = np.array([settings.index(s) for s in own.setting]) + shift
        ax.plot(own.power, y, linestyle="none", marker=look.marker, color=look.colour,
                markersize=4, markerfacecolor=_face(name), zorder=3)  # fmt: skip
        known = np.isfinite(own.low) & np.isfinite(own.high)
        ax.hlines(y[known], own.low[known], own.high[known], color=look.colour, linewidth=0.9)
    ax.axvline(-0.5, color="#555555", linewidth=0.9, linestyle=(0, (1, 2)))
    ax.axvline(0, color="#555555", linewidth=0.8)
    for line in range(1, len(settings)):
        ax.axhline(line - 0.5, color="#E3E3E3", linewidth=0.6)
    ax.set_yticks(range(len(settings)), [f"{'abcde'[i]}" for i in range(len(settings))])
    ax.set(ylim=(len(settings) - 0.5, -0.5), xlabel="power of T in R(T) / T, last decade")
    ax.grid(visible=False, axis="y")
    ax.set_title("f  how fast it falls", loc="left")


def _caption(powers: pd.DataFrame, tuning: pd.DataFrame, config: Config) -> str:
    seeds = sorted({int(n) for n in powers.n[powers.n > 1]})
    tuned = sorted({int(n) for n in tuning.n[tuning.n > 1]})
    grid = ", ".join(f"{lr:g}" for lr in sorted(set(tuning.lr)))
    pairs = powers[["n", "beta1", "beta2"]].dropna().drop_duplicates()
    nus = sorted({float(nu) for nu in pairs.beta2[pairs.n == 1]})
    noisy = pairs[pairs.n > 1][["beta1", "beta2"]].drop_duplicates().to_numpy()
    betas = " and ".join(f"({mu:g}, {nu:g})" for mu, nu in noisy)
    large, surplus = config["large"], config["surplus"]
    p = (1 + surplus) / (large["reddi_stochastic"] + 1)
    edges = _pick(tuning, tuning.on_edge.astype(bool))[["optimizer", "setting"]].to_numpy()
    edge = "; ".join(f"{_look(optimizer).label} ({setting})" for optimizer, setting in edges)
    text = (
        f"Scale {config['scale']}. a, b: losses C x, −x, −x in turn, C = {large['reddi']:g}, on "
        f"[−1, 1] from x = 1, ν = {', '.join(f'{nu:g}' for nu in nus)}; nothing is random: no "
        f"seeds, no intervals, and the lr is chosen on the sequence itself. "
        f"c: C x with probability {p:.2g}, else −x, C = {large['reddi_stochastic']:g}. d, e: "
        f"{DIMENSIONS} dimensions, {ITEMS} losses drawn with replacement. c–e: (μ, ν) = "
        f"{betas}, n = {_span(seeds)} seeds, bands "
        f"and bars: 95% intervals (bootstrap over seeds), lr chosen on {_span(tuned)} other seeds. "
        f"lr from {{{grid}}} for each optimizer and panel, by the regret at the last T; on the "
        f"edge of the grid: {edge or 'none'}. signSGD has no betas. Dotted grey: slope −1/2. "
        f"a: at μ = 0 LaProp is Adam, their curves coincide. Black: the bound of the regret "
        f"theorem; thin line: LaProp at the same lr. Losses are convex, gradients and domain "
        f"bounded, lr as 1/√t; violated is that √n / lr never falls, which amsgrad restores. "
        f"RAdam at ν = {min(nus, default=0):g} never rectifies and is SGD with momentum."
    )
    return textwrap.fill(text, CAPTION_WIDTH)


def _span(counts: Sequence[int]) -> str:
    if not counts:
        return "no"
    return f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
