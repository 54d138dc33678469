"""Verdicts on style transfer from tables made by hand, whose truth is known."""

import itertools
import math

import pytest

from scripts.figures import style_curves, style_uv
from scripts.figures.training_test import OPTIMIZERS, jitter, never, table
from scripts.judging import CONTRADICTED, INCONCLUSIVE, SUPPORTED

LRS = (0.01, 0.1, 1.0)
CONFIG = {"scale": "quick", "steps": 10, "optimizers": list(OPTIMIZERS)}


def path(end, lr):
    """From 1 to ``end`` at the middle lr, and hardly anywhere at the others."""
    reached = end if lr == 0.1 else 0.9
    return lambda seed: {0: 1.0, 10: reached * (1 + jitter(seed))}


def curves(ends, eps=()):
    tidy = table(
        (o, lr, (math.nan,) * 2 if o == "signsgd" else (0.9, 0.999), {}, "loss", path(end, lr), never)
        for o, end in ends.items() for lr in LRS
    )  # fmt: skip
    for name, value in dict(eps).items():
        tidy.loc[tidy.optimizer == name, "eps"] = value
    tables = style_curves.tables(tidy, CONFIG)
    return {v.claim: v for v in style_curves.verdicts(tidy, tables, CONFIG)}


@pytest.mark.parametrize(("laprop", "adam", "of_all", "rival"), [
    (0.1, SUPPORTED, SUPPORTED, "Adam"),
    (0.25, CONTRADICTED, CONTRADICTED, "Adam"),
    (0.2, INCONCLUSIVE, INCONCLUSIVE, "Adam"),
])  # fmt: skip
def test_the_lower_loss_wins_and_the_other_way_round(laprop, adam, of_all, rival):
    ends = dict.fromkeys(OPTIMIZERS, 0.5) | {"adam": 0.2, "laprop": laprop}
    got = curves(ends)
    assert got["style_lower_than_adam"].verdict == adam
    assert got["style_lowest_of_all"].verdict == of_all
    assert rival in got["style_lowest_of_all"].effect_unit
    expected = math.log10(0.2 / laprop)
    assert got["style_lower_than_adam"].effect == pytest.approx(expected, abs=1e-9)


def test_one_that_is_better_than_laprop_takes_the_first_place_alone():
    got = curves(dict.fromkeys(OPTIMIZERS, 0.5) | {"laprop": 0.2, "radam": 0.1})
    assert got["style_lower_than_adam"].verdict == SUPPORTED
    assert got["style_lowest_of_all"].verdict == CONTRADICTED
    assert "RAdam" in got["style_lowest_of_all"].effect_unit


def test_rival_and_target_are_those_of_the_tuning_seeds():
    """Adam is the best of the others there, RAdam on the report seeds, where all others are as good."""

    def on(tune, report, lr):
        return lambda seed: path(tune if seed >= 1_000_000 else report, lr)(seed)

    ends = dict.fromkeys(OPTIMIZERS, (0.5, 0.3))
    ends |= {"laprop": (0.4, 0.25), "adam": (0.2, 0.3), "radam": (0.3, 0.2)}
    tidy = table(
        (o, lr, (math.nan,) * 2 if o == "signsgd" else (0.9, 0.999), {}, "loss", on(*end, lr), never)
        for o, end in ends.items() for lr in LRS
    )  # fmt: skip
    tables = style_curves.tables(tidy, CONFIG)
    got = {v.claim: v for v in style_curves.verdicts(tidy, tables, CONFIG)}
    verdict = got["style_lowest_of_all"]
    # behind RAdam, but the report seeds may not pick whom to be behind
    assert verdict.verdict == INCONCLUSIVE and "RAdam's" in verdict.effect_unit
    assert verdict.effect == pytest.approx(math.log10(0.2 / 0.25))
    middle = (math.log10(0.4) + math.log10(0.5)) / 2  # of 0.2, 0.3, 0.4 and three times 0.5
    (target,) = set(tables["steps_to_target"].target)
    assert float(target.split()[3]) == pytest.approx(10**middle, rel=0.01)


@pytest.mark.parametrize(
    ("last", "diverged"), [(math.nan, never), (math.inf, never), (1.0, lambda seed: 7)]
)
def test_a_run_that_ends_in_no_number_counts_as_where_it_began(last, diverged):
    tidy = table([("adam", 0.1, (0.9, 0.9), {}, "loss",
                   lambda seed: {0: 100.0, 5: 1.0, 10: last}, diverged)])  # fmt: skip
    found = style_curves.outcomes(tidy)
    assert found.diverged.all() and (found.value == 0).all()


@pytest.mark.parametrize(("best", "on_edge"), [(0.5, True), (1.5, False)])
def test_an_edge_counts_where_a_picture_got_better(best, on_edge):
    ends = {0.01: best, 0.1: 2.0, 1.0: 3.0}
    tidy = table(("adam", lr, (0.9, 0.9), {}, "loss", lambda seed, end=end: {0: 1.0, 10: end}, never)
                 for lr, end in ends.items())  # fmt: skip
    for chosen in (
        style_curves.tables(tidy, CONFIG | {"optimizers": ["adam"]})["tuning"],
        style_uv.tables(tidy, CONFIG)["tuning"],
    ):
        assert chosen.lr.tolist() == [0.01] and chosen.on_edge.tolist() == [on_edge]


def test_optimizers_with_another_eps_are_not_ranked():
    ends = dict.fromkeys(OPTIMIZERS, 0.5) | {"laprop": 0.1}
    assert "the eps differ" in curves(ends, {"adam": 1e-2})["style_lower_than_adam"].refused


# ---- the plane

US, VS = (0.5, 0.9), (0.1, 0.999)


def plane(end, eps=(), vs=VS, shift=lambda u, v: 1):
    """``end(optimizer, u, v)``: the loss at the end at the best lr, the middle one times ``shift``."""
    tidy = table(
        (o, lr, (u, v), {}, "loss", path(end(o, u, v), lr / shift(u, v)), never)
        for o, u, v, lr in itertools.product(("laprop", "adam"), US, vs, LRS)
    )
    for name, value in dict(eps).items():
        tidy.loc[tidy.optimizer == name, "eps"] = value
    tables = style_uv.tables(tidy, CONFIG)
    return {v.claim: v for v in style_uv.verdicts(tidy, tables, CONFIG)}


def test_the_plane_as_the_paper_has_it_and_the_other_way_round():
    """Below the line LaProp gains and Adam suffers; then with the two exchanged."""

    def paper(optimizer, u, v):
        return 0.2 if v == 0.999 else 0.1 if optimizer == "laprop" else 0.4

    def turned(optimizer, u, v):
        return paper("adam" if optimizer == "laprop" else "laprop", u, v)

    for end, verdict, sign in ((paper, SUPPORTED, 1), (turned, CONTRADICTED, -1)):
        got = plane(end)
        assert {name: v.verdict for name, v in got.items()} == dict.fromkeys(
            ("style_uv_beyond", "style_uv_laprop_gains", "style_uv_adam_suffers"), verdict
        )
        effects = {name: v.effect for name, v in got.items()}
        assert effects == pytest.approx({
            "style_uv_beyond": sign * math.log10(4),
            "style_uv_laprop_gains": sign * math.log10(2),
            "style_uv_adam_suffers": sign * math.log10(2),
        }, abs=1e-9)  # fmt: skip


def test_a_claim_is_about_its_own_cells():
    """(0.9, 0.85) is beyond the diagonal and not beyond the line μ = √ν, nor an end of the grid."""

    def end(optimizer, u, v):
        if v == 0.85:
            return 0.01 if optimizer == "adam" else 0.8
        return 0.2 if v == 0.999 else 0.1 if optimizer == "laprop" else 0.4

    def shift(u, v):  # the best lr is the largest there
        return 10 if (u, v) == (0.9, 0.85) else 1

    for got in (plane(end, vs=(0.1, 0.85, 0.999)), plane(end, vs=(0.1, 0.85, 0.999), shift=shift)):
        assert {v.verdict for v in got.values()} == {SUPPORTED}
        assert got["style_uv_beyond"].effect == pytest.approx(math.log10(4), abs=1e-9)


def test_an_eps_of_its_own_is_seen_though_the_betas_vary():
    got = plane(lambda *_: 0.2, {"adam": 1e-2})
    assert "the eps differ" in got["style_uv_beyond"].refused
