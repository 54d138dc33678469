"""Distances from the authors' curves against hand-computed ones; what single runs can say."""

import math

import pytest

from scripts import published
from scripts.figures import style


def test_distance_is_the_mean_gap_at_their_points_within_ours() -> None:
    ours = ([0, 10], [0.0, 10.0])  # the diagonal
    row = published.distance("a", "points", ours, ([-5, 2, 4, 12], [9.0, 3.0, 1.0, 9.0]))
    assert row["points"] == 2 and row["distance"] == pytest.approx((1 + 3) / 2)
    none = published.distance("a", "points", ours, ([20, 30], [1.0, 1.0]))
    assert none["points"] == 0 and math.isnan(none["distance"])


def test_published_ends_are_those_of_the_logs() -> None:
    table = published.ends(published.curves()).set_index(["task", "setting", "optimizer"]).value
    assert table["iwslt", "no warm-up", "adam"] == pytest.approx(9.416, abs=1e-3)
    assert table["iwslt", "no warm-up", "laprop"] == pytest.approx(4.501, abs=1e-3)
    assert table["iwslt", "warm-up 2,000", "adam"] == pytest.approx(3.215, abs=1e-3)
    assert len(table) == 4 + 7 + 2


def test_single_runs_support_nothing_and_the_figure_can_be_read() -> None:
    curves = published.curves()
    (verdict,) = published.verdicts(published.ends(curves))
    assert verdict.verdict == "inconclusive" and verdict.n == 1
    assert "no warm-up, ν = 0.999: LaProp 3.37, Adam 3.48" in verdict.sentence
    assert style.clashes(published.draw(curves)) == []
