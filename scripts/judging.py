"""From evidence to verdicts, and verdicts as text.

A claim says in advance what supports and what contradicts it. Evidence for one claim is two
one-sided p-values, one against "the claim does not hold" and one against "the claim holds"; the
smaller of the two, doubled, is the p-value of the verdict. It must stay within ALPHA after Holm's
correction over all verdicts of the experiment. The fairness gate comes before any of this:
optimizers that were not given the same chances are not ranked.

What is compared (the best rival, the noise level where a pair is farthest apart) is picked on the
tuning seeds and judged on the report seeds, so that picking biases neither effect nor p-value.
Where there are no tuning seeds (rainbow_optimizers) the p-value is corrected for the picking, and
the effect is said to be that of the best of the others.
What must hold everywhere is tested everywhere, and the largest p-value counts (an
intersection-union test, which needs no correction).
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import pandas as pd

from scripts.claims import CLAIMS, Claim
from scripts.statistics import MIN_SEEDS, Estimate, holm

SUPPORTED, CONTRADICTED, INCONCLUSIVE = "supported", "contradicted", "inconclusive"
ALPHA = 0.05
N_COUNTS = (
    "n counts report seeds; where trials are resampled beside them, as for what a tuning budget is "
    "worth, the fewer of the two; for a maximum its cases."
)
P_MEANS = (
    f"p is that of the verdict's test, two-sided, after Holm's correction for all verdicts of the "
    f"experiment; a verdict needs {ALPHA} at most. Of an inconclusive one it is that of the direction "
    "which is nearer to be shown. A dash: no test, as nothing is random in it, or as "
    "a bound stands or falls with single cases."
)


@dataclass(frozen=True)
class Verdict:
    claim: str
    setting: str
    verdict: str
    effect: float = math.nan
    effect_unit: str = ""
    low: float = math.nan
    high: float = math.nan
    n: int = 0  # see N_COUNTS
    budget: str = ""
    p_value: float = math.nan  # two-sided; NaN where there is no test
    p_holm: float = math.nan  # over all verdicts of the experiment; NaN before `settle`
    refused: str = ""  # why the fairness gate refused
    sentence: str = ""


# the columns of claims.csv that hold numbers
NUMBERS: dict[Hashable, Any] = {
    name: f.type for name, f in Verdict.__dataclass_fields__.items() if f.type is not str
}


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
    return (
        f"{n} report seed{'s are' if n > 1 else ' is'} too few for a ranking (at least {MIN_SEEDS})"
    )


def seeds_needed(chance: float) -> int:
    """From how many seeds on it tells something that all came out the same way, where each would by
    ``chance`` if the claim just failed."""
    return math.ceil(math.log(ALPHA / 2) / math.log(chance))


def inconclusive(
    claim: Claim, setting: str, reason: str, *, n: int = 0, budget: str = "", refused: bool = False
) -> Verdict:
    """A verdict without numbers: the reason stands in the place of the ranking."""
    return Verdict(
        claim.id, setting, INCONCLUSIVE, n=n, budget=budget, refused=reason if refused else "",
        sentence=f"No ranking: {reason}.",
    )  # fmt: skip


def withheld(verdict: Verdict, reason: str) -> Verdict:
    """``verdict`` without its numbers, which have lost their basis."""
    return Verdict(verdict.claim, verdict.setting, INCONCLUSIVE, sentence=f"Withheld: {reason}.")


def certain(
    claim: Claim, setting: str, verdict: str, *, effect: float, effect_unit: str, budget: str,
    sentence: str,
) -> Verdict:  # fmt: skip
    """A verdict on something with nothing random in it: no seeds, no interval, no test."""
    return Verdict(
        claim.id, setting, verdict, effect, effect_unit, n=1, budget=budget, sentence=sentence
    )


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


def to_frame(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    return pd.DataFrame([asdict(v) for v in verdicts], columns=list(Verdict.__dataclass_fields__))


def from_frame(frame: pd.DataFrame) -> list[Verdict]:
    """The verdicts of a frame, also of one read back from CSV (where an empty text is NaN)."""
    texts = [name for name, f in Verdict.__dataclass_fields__.items() if f.type is str]
    clean = frame.astype({name: object for name in texts})
    clean[texts] = clean[texts].fillna("").astype(str)
    return [Verdict(**row) for row in clean.to_dict("records")]  # type: ignore[arg-type]


def to_markdown(verdicts: Sequence[Verdict]) -> str:
    """One table row per verdict; a refused or missing ranking shows its reason instead.

    Below it what would have supported or contradicted each claim.
    """
    known = {claim.id: claim for claim in CLAIMS}
    lines = [
        "| claim | setting | verdict | effect (95% interval) | n | tuning | p (Holm) | in words |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for v in verdicts:
        verdict = f"**{v.verdict}**" + (" (refused)" if v.refused else "")
        p = p_text(v)
        claim = known.get(v.claim)
        told = f"{v.sentence} To know: {claim.note}." if claim and claim.note else v.sentence
        cells = [claim.sentence if claim else v.claim, v.setting, verdict, effect_text(v), str(v.n),
                 v.budget, p, told]  # fmt: skip
        lines.append("| " + " | ".join(c.replace("|", "\\|") or "–" for c in cells) + " |")
    told = [known[id] for id in dict.fromkeys(v.claim for v in verdicts) if id in known]
    lines += (
        ["", "Fixed in advance, but where a 'To know' above says otherwise:", ""] if told else []
    )
    lines += [f"- *{claim.sentence}* Supported if {claim.supported_by}; contradicted if "
              f"{claim.contradicted_by}." for claim in told]  # fmt: skip
    return "\n".join(lines) + "\n"


def to_text(verdicts: Sequence[Verdict]) -> str:
    """The verdicts for a terminal, each with its sentence below it."""
    return "\n".join(
        f"{v.verdict:12}  {v.claim}, {v.setting}: {effect_text(v)}, n = {v.n}"
        f"{'' if math.isnan(v.p_holm) else f', p (Holm) {p_text(v)}'}\n{'':14}{v.sentence}"
        for v in verdicts
    )


def p_text(v: Verdict) -> str:
    """The corrected p-value; a dash where there is no test."""
    if math.isnan(v.p_holm):
        return "–"
    if v.p_holm < 0.001:
        return "< 0.001"
    # with more digits where three would not tell on which side of ALPHA it is
    return f"{v.p_holm:.4f}" if abs(v.p_holm - ALPHA) < 0.0005 else f"{v.p_holm:.3f}"


def effect_or_reason(v: Verdict) -> str:
    """The effect, or why there is none."""
    return effect_text(v) if v.effect_unit else v.sentence


def effect_text(v: Verdict) -> str:
    """The effect with its interval and unit.

    An interval without width would claim what no number of seeds can show: its reason stands there.
    """
    if not v.effect_unit:
        return "–"
    digits = _digits(v.effect, v.low, v.high)
    value, low, high = (number(x, digits) for x in (v.effect, v.low, v.high))
    if math.isnan(v.low) and math.isnan(v.high):
        interval = ""
    elif v.low == v.high:
        interval = f" (every resample of {v.n} seeds alike)"
    else:
        interval = f" ({low} to {high})"
    return f"{value}{interval} {v.effect_unit}"


def number(value: float, digits: int | None = None) -> str:
    """A number for a reader: two or three digits, and all of those before the point.

    ``digits``: after the point, where it stands beside others; negative: a power of ten.
    """
    if math.isnan(value):
        return "unknown"
    if digits is None:
        digits = _digits(value)
    text = f"{value:.1e}" if digits < 0 else f"{value:,.{digits}f}"
    return text.replace("inf", "∞").replace("-", "−")


def _digits(*values: float) -> int:
    """How many digits after the point a value and its interval have: as many as the largest of them
    needs, and two of the interval's width; -1 where all are too small for that."""
    known = [abs(value) for value in values if math.isfinite(value)]
    size, width = max(known, default=0.0), 0.0
    if len(known) == len(values) > 1:
        width = max(values) - min(values)
    if 0 < size < 0.001:
        return -1
    least = {100: 0, 10: 1, 0.1: 2, 0.01: 3, 0.001: 4}  # from here on, digits after the point
    digits = next((n for bound, n in least.items() if size >= bound), 2)
    return max(digits, min(6, 1 - math.floor(math.log10(width)))) if width > 0 else digits
