"""What the figures of the training tasks share: outcomes of runs, the choice of a learning rate."""

# What a column of a table holds is beyond the types of pandas.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import pandas as pd

from scripts import claims, fairness, grid, judging, statistics
from scripts.fairness import Budget
from scripts.figures import style

SUBJECT, TUNED = "laprop", "tuned"
CLASSES = 10  # of cifar10, mnist and digits
CHANCE = math.log(CLASSES)  # cross-entropy of a uniform guess
# A net trains if its loss falls clearly below that; one that diverges is as good as a guess.
TRAINED = 0.9 * CHANCE
KEY = ["run", "optimizer", "lr", "beta1", "beta2", "eps", "phase", "seed", "replica"]


def pick(frame: pd.DataFrame, mask: Any) -> pd.DataFrame:
    return cast(pd.DataFrame, frame[np.asarray(mask, dtype=bool)])


def check_columns(tidy: pd.DataFrame, needed: Sequence[str]) -> None:
    """Raises ValueError where ``tidy`` lacks one that is needed."""
    if missing := [name for name in needed if name not in tidy]:
        raise ValueError(f"the tidy table lacks the columns {', '.join(missing)}")


def curves(tidy: pd.DataFrame, metric: str, extra: Sequence[str] = ()) -> pd.DataFrame:
    """One row a replica and evaluation: KEY, ``extra``, step, value.

    A value that is not finite, and every value after the step at which a replica diverged, counts as
    a guess: ``lost`` tells.
    """
    keys = [name for name in [*KEY, *extra] if name in tidy]
    found = pick(tidy, tidy.metric == metric)[[*keys, "step", "value"]].copy()
    ends = pick(tidy, tidy.metric == "diverged_at")[["run", "replica", "value"]]
    ends = ends.rename(columns={"value": "diverged_at"})
    found = found.merge(ends, on=["run", "replica"], how="left")
    found["lost"] = (found.step > found.diverged_at) | ~np.isfinite(found.value)
    found["value"] = found.value.mask(found.lost, CHANCE)
    return found


def final(tidy: pd.DataFrame, metric: str, extra: Sequence[str] = ()) -> pd.DataFrame:
    """One row a replica: its last value, capped at a guess, and whether it diverged and trained."""
    found = curves(tidy, metric, extra)
    last = found.sort_values("step").groupby(["run", "replica"], observed=True).tail(1).copy()
    last["diverged"] = last.diverged_at.notna() | last.lost
    last["value"] = last.value.where(~last.diverged, CHANCE).clip(upper=CHANCE)
    last["trained"] = last.value < TRAINED
    return last.drop(columns=["step", "diverged_at", "lost"])


def tuned(outcomes: pd.DataFrame, by: Sequence[str], learned: float = TRAINED) -> pd.DataFrame:
    """The learning rate with the lowest mean value on the tuning seeds, for each group of ``by``.

    Columns ``by``, lr, on_edge (`grid.Choice`). Below ``learned`` something was learned; where
    nothing was, no learning rate is the best, and none lies on an edge.
    """
    tune = pick(outcomes, outcomes.phase == "tune")
    rows = []
    for key, group in tune.groupby(list(by), observed=True):
        seeds = group.pivot_table(index="seed", columns="lr", values="value", observed=True)
        means = seeds.mean().round(9).to_dict()
        best = grid.choose(
            means, lambda a, b, seeds=seeds: statistics.mean_interval(seeds[a] - seeds[b])
        )
        on_edge = best.on_edge and means[best.lr] < round(learned, 9)
        rows.append([*key, best.lr, on_edge])
    return pd.DataFrame(rows, columns=[*by, "lr", "on_edge"])


def reported(outcomes: pd.DataFrame, chosen: pd.DataFrame) -> pd.DataFrame:
    """The outcomes of the report seeds at the chosen learning rates."""
    report = pick(outcomes, outcomes.phase == "report")
    return report.merge(chosen, how="inner")


def seeds_of(outcomes: pd.DataFrame, phase: str) -> tuple[int, ...]:
    """The seeds of tuning (``"tune"``) or reporting (``"report"``)."""
    return tuple(sorted(int(seed) for seed in outcomes[outcomes.phase == phase].seed.unique()))


def fixed(
    tidy: pd.DataFrame, optimizer: str, negligible_eps: float = 0.0,
    names: Sequence[str] = ("beta1", "beta2", "eps"),
) -> dict[str, float]:  # fmt: skip
    """For the fairness gate: those of ``names`` that ``optimizer`` has and that never vary.

    An eps below ``negligible_eps`` is as good as none, and so equal to any other such.
    """
    mine, found = pick(tidy, tidy.optimizer == optimizer), {}
    for name in names:
        values = mine[name].dropna().unique() if name in mine else []
        if len(values) == 1:  # what varies is not fixed
            small = name == "eps" and values[0] < negligible_eps
            found[name] = 0.0 if small else float(values[0])
    return found


def budget(optimizer: str, outcomes: pd.DataFrame, chosen: pd.DataFrame, steps: int) -> Budget:
    """What tuning cost ``optimizer``, for the fairness gate."""
    mine = pick(outcomes, outcomes.optimizer == optimizer)
    edges = pick(chosen, (chosen.optimizer == optimizer) & chosen.on_edge)
    return Budget(
        optimizer=optimizer, trials=mine.lr.nunique(), tuning_seeds=seeds_of(mine, "tune"),
        knobs=("lr",), steps=steps, report_seeds=seeds_of(mine, "report"), fixed=fixed(mine, optimizer),
        on_edge=tuple(f"lr {lr:g}" for lr in sorted(edges.lr.unique())),
    )  # fmt: skip


def stand_in(values: Any) -> str:
    """A note for the figure where the data are not those of the paper scale."""
    name, real = values["task"]["dataset"], values["scales"]["paper"]["dataset"]
    known = {"cifar10": "CIFAR-10", "mnist": "MNIST"}
    return "" if name == real else f" · data: {name}, a stand-in for {known[real]}"


def refusal(
    claim: claims.Claim, setting: str, seeds: int, budgets: Sequence[Budget], more: str = "",
    certain: bool = False,
) -> judging.Verdict | None:  # fmt: skip
    """The verdict where the chances were not equal, or a ranking lacks something: ``more``, seeds.

    All that stands against a ranking is named, so that who mends it need not ask twice. Where
    nothing is random (``certain``), one seed is enough.
    """
    unequal, few = fairness.gate(budgets), seeds < statistics.MIN_SEEDS and not certain
    lacking = more, judging.few_seeds(seeds) if few else ""
    if not (reasons := [reason for reason in (unequal, *lacking) if reason]):
        return None
    return judging.inconclusive(claim, setting, "; ".join(reasons), n=seeds, refused=bool(unequal),
                                budget=fairness.budget_text(budgets))  # fmt: skip


def lead(gains: Mapping[str, pd.Series], best: str, unit: str) -> dict[str, Any]:
    """Is the subject ahead of every rival? The numbers for `judging.judge`.

    Args:
        gains: for each rival, how far the subject is ahead of it, seed by seed.
        best: the rival that was best on the tuning seeds. Being behind it contradicts a claim; a
            rival picked by the report seeds themselves would be too good by luck.
        unit: of the effect, with {} for the rival that decides: `best` where being behind it is what
            is nearest to be shown, else the one over which the lead is least certain.
    """
    leads = {rival: statistics.mean_interval(gain) for rival, gain in gains.items()}
    p_for = {rival: interval.p_above(0) for rival, interval in leads.items()}
    least = max([best, *gains], key=lambda rival: p_for[rival])
    p_against = leads[best].p_below(0)
    decides = best if p_against < p_for[least] else least
    return {
        "p_for": p_for[least],
        "p_against": p_against,
        "effect": leads[decides],
        "effect_unit": unit.format(style.mark(decides).label),
    }


def ahead(
    experiment: str, report: pd.DataFrame, tune: pd.DataFrame, outcomes: pd.DataFrame,
    chosen: pd.DataFrame, steps: int, *, unit: str, what: str, text: Callable[[float], str],
) -> list[judging.Verdict]:  # fmt: skip
    """LaProp at its best lr is ahead of Adam, or of all others, at theirs: the verdict on each claim
    of ``experiment``.

    Args:
        report, tune: the score of each seed (row) and optimizer (column), the larger the better.
        outcomes, chosen, steps: as for `budget`.
        unit: as for `lead`.
        what, text: what the mean scores are, and each of them, in words.
    """
    others = [name for name in style.in_order(report.columns) if name != SUBJECT]
    found = []
    for claim in claims.claims_of(experiment):
        rivals = ["adam"] if claim.id.endswith("adam") else others
        compared = [SUBJECT, *rivals]
        missing = [name for name in compared if name not in report]
        if missing or not rivals:
            reason = f"no runs of {', '.join(missing) or 'any other optimizer'}"
            found.append(judging.inconclusive(claim, TUNED, reason))
            continue
        budgets = [budget(name, outcomes, chosen, steps) for name in compared]
        seeds = int(report[compared].count().min())
        if verdict := refusal(claim, TUNED, seeds, budgets):
            found.append(verdict)
            continue
        best = max(rivals, key=lambda rival: tune[rival].mean())
        gains = {rival: report[SUBJECT] - report[rival] for rival in rivals}
        means = ", ".join(f"{style.mark(o).label} {text(report[o].mean())}" for o in compared)
        found.append(
            judging.judge(
                claim,
                TUNED,
                budget=fairness.budget_text(budgets),
                sentence=f"{what}: {means}.",
                **lead(gains, best, unit),
            )
        )
    return judging.settle(found)
