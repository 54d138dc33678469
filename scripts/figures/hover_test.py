"""Marks of a figure tell their values."""

from xml.etree import ElementTree

import numpy as np
from matplotlib.figure import Figure

from scripts.figures import hover, style

TITLE = "{http://www.w3.org/2000/svg}title"


def titles(draw) -> list[str]:
    fig = Figure()
    ax = fig.add_subplot()
    ax.set_xlabel("depth")
    ax.set_ylabel("loss (nats)")
    draw(ax)
    root = ElementTree.fromstring(hover.to_svg(fig, {"#D55E00": "LaProp"}, {}))
    return [title.text or "" for title in root.iter(TITLE)]


def test_each_mark_tells_its_value_and_place() -> None:
    values = [1.5, np.nan, 2.25]  # no mark where there is no number
    assert titles(lambda ax: ax.plot([10, 20, 30], values, color="#D55E00", marker="o")) == [
        "LaProp: 1.5 loss (nats), depth 10",
        "LaProp: 2.25 loss (nats), depth 30",
    ]


def test_a_dodged_mark_tells_the_level_that_it_stands_for() -> None:
    def draw(ax) -> None:
        ax.plot([-0.1, 0.9], [1, 2], color="#D55E00", marker="o")
        ax.set_xticks([0, 1], ["50", "800"])

    assert [text.rpartition(" ")[2] for text in titles(draw)] == ["50", "800"]


def test_a_line_without_marks_tells_its_end_and_other_lines_nothing() -> None:
    def draw(ax) -> None:
        ax.plot([0, 1], [5, 4], color="#D55E00")
        ax.axhline(2, color="black")

    assert titles(draw) == ["LaProp: 4 loss (nats) at the end"]


def test_what_is_beyond_the_ceiling_has_no_number_and_its_arrow_head_says_nothing() -> None:
    look = style.MARKS["laprop"]

    def draw(ax) -> None:
        style.intervals(ax, [1, 2], [5, 99], [4, 60], [6, 120], look, ceiling=30)

    assert titles(draw) == [
        "LaProp: 5 loss (nats), depth 1",
        "LaProp: beyond 30 loss (nats), depth 2",
    ]


def test_where_rows_have_names_the_value_is_the_one_along_them() -> None:
    def draw(ax) -> None:
        ax.plot(2.34, -0.3125, color="#D55E00", marker="o")
        (mark,) = ax.plot(6, 1.0, color="#D55E00", marker="o")
        hover.instead(mark, "never")
        ax.set_xscale("log")
        ax.set_xticks([1, 2, 4, 6], ["1", "2", "4", "never"])
        ax.set_yticks([0, 1], ["deep net", "Rosenbrock"])

    assert titles(draw) == ["LaProp: 2.34 depth, deep net", "LaProp: never depth, Rosenbrock"]


def test_on_a_logarithmic_axis_no_value_is_rounded_to_a_tick() -> None:
    def draw(ax) -> None:
        ax.plot([2.4], [1], color="#D55E00", marker="o")
        ax.set_xscale("log")
        ax.set_xticks([1, 2, 4], ["1", "2", "4"])

    assert titles(draw) == ["LaProp: 1 loss (nats), depth 2.4"]


def test_drawing_twice_gives_the_same() -> None:
    fig = Figure()
    style.intervals(fig.add_subplot(), [1], [99], [60], [120], style.MARKS["laprop"], ceiling=30)
    labels = {"#D55E00": "LaProp"}
    assert hover.to_svg(fig, labels, {}).count(b"beyond") == 1
    assert hover.to_svg(fig, labels, {}).count(b"beyond") == 1
