"""The fairness gate: optimizers that were not given the same chances are not ranked."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field


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


def untuned(optimizer: str, steps: int, report_seeds: Iterable[int], **fixed: float) -> Budget:
    """The budget of an optimizer of which one setting was tried."""
    seeds = tuple(sorted({int(seed) for seed in report_seeds}))
    return Budget(optimizer, 1, (), (), steps, seeds, fixed=fixed)


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
