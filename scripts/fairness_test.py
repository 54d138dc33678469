"""The gate lets equal chances pass and names every difference."""

import re
from dataclasses import replace

import pytest

from scripts import fairness
from scripts.fairness import Budget

FAIR = [
    Budget(name, 5, tuple(range(20)), ("lr",), 30_000, tuple(range(100, 120)), (),
           {"beta1": 0.9, "eps": 1e-8})
    for name in ("laprop", "adam")
]  # fmt: skip


def test_a_fair_comparison_passes_the_gate() -> None:
    assert fairness.gate(FAIR) == ""
    shuffled = replace(FAIR[1], report_seeds=tuple(reversed(FAIR[1].report_seeds)))
    assert fairness.gate([FAIR[0], shuffled]) == ""
    # an optimizer without betas lacks the setting; it does not differ in it
    assert fairness.gate([FAIR[0], replace(FAIR[1], fixed={"eps": 1e-8})]) == ""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"trials": 10}, "trials differ: laprop 5, adam 10"),
        (
            {"tuning_seeds": tuple(range(40))},
            r"tuning seeds differ: laprop 20 \(0 to 19\), adam 40",
        ),
        ({"knobs": ("lr", "eps")}, r"knobs differ: laprop lr, adam eps \+ lr"),
        ({"steps": 20_000}, "steps differ: laprop 30000, adam 20000"),
        ({"report_seeds": tuple(range(101, 121))}, r"report seeds differ: .*\(101 to 120\)"),
        ({"fixed": {"eps": 1.5e-4}}, "the eps differ: laprop 1e-08, adam 0.00015"),
        ({"on_edge": ("lr 0.3 at σ = 0.1",)}, r"best of adam lies on the edge .*lr 0.3 at σ = 0.1"),
    ],
)
def test_the_gate_refuses_with_its_reason(change, words: str) -> None:
    assert re.search(words, fairness.gate([FAIR[0], replace(FAIR[1], **change)]))


def test_budget_in_words() -> None:
    assert fairness.budget_text(FAIR) == "5 lrs x 20 seeds each"
    assert fairness.budget_text([replace(b, knobs=()) for b in FAIR]) == "not tuned"
    uneven = [FAIR[0], replace(FAIR[1], trials=10)]
    assert fairness.budget_text(uneven) == "laprop 5 lrs x 20 seeds, adam 10 lrs x 20 seeds"
