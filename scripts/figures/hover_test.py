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

    assert titles(draw) == ["LaProp: 4 loss (nats) at the end, depth 1"]


def test_what_is_beyond_the_ceiling_has_no_number_and_its_arrow_head_says_nothing() -> None:
    look = style.MARKS["laprop"]

    def draw(ax) -> None:
        style.intervals(ax, [1, 2], [5, np.nan], [4, 60], [6, np.inf], look, ceiling=30_000,
                        beyond_it="not reached within")  # fmt: skip

    assert titles(draw) == [
        "LaProp: 5 loss (nats), depth 1",
        "LaProp: not reached within 30,000, depth 2",
    ]


def test_what_is_drawn_on_the_floor_has_no_number() -> None:
    look = style.MARKS["laprop"]

    def draw(ax) -> None:
        style.intervals(ax, [1, 2, 3], [5, 0, 4], [4, 0, 3], [6, 1, 5], look, floor=0.5)

    assert titles(draw) == [
        "LaProp: 5 loss (nats), depth 1",
        "LaProp: 4 loss (nats), depth 3",
        "LaProp: below 0.5, depth 2",
    ]


def test_where_rows_have_names_the_value_is_the_one_along_them() -> None:
    def draw(ax) -> None:
        ax.plot(2.34, -0.3125, color="#D55E00", marker="o")
        (mark,) = ax.plot(6, 1.0, color="#D55E00", marker="o")
        hover.instead(mark, "never")
        ax.set_xscale("log")
        ax.set_xticks([1, 2, 4, 6], ["1", "2", "4", "never"])
        ax.set_yticks([0, 1], ["deep net", "Rosenbrock"])

    assert titles(draw) == ["LaProp: 2.34 depth, deep net", "LaProp: never, Rosenbrock"]


def test_a_row_of_its_own_names_the_optimizer_once() -> None:
    def draw(ax) -> None:
        ax.plot(2.34, 0, color="#D55E00", marker="o")
        ax.set_yticks([0, 1], ["LaProp, ε = 1e-15", "Adam"])

    assert titles(draw) == ["LaProp, ε = 1e-15: 2.34 depth"]


def test_numbers_are_not_rounded_to_ticks_and_have_three_digits() -> None:
    def draw(ax) -> None:
        ax.plot([0.61234, 12_000], [0.99876, 36_612.4], color="#D55E00", marker="o")
        ax.set_xticks([0, 1])  # without texts: numbers, not levels

    assert titles(draw) == [
        "LaProp: 0.999 loss (nats), depth 0.612",
        "LaProp: 36,600 loss (nats), depth 12,000",
    ]


def test_only_the_marks_that_are_drawn_are_told() -> None:
    def draw(ax) -> None:
        ax.plot([1, 2, 3], [4, 5, 6], color="#D55E00", marker="o", markevery=2)

    assert titles(draw) == ["LaProp: 4 loss (nats), depth 1", "LaProp: 6 loss (nats), depth 3"]


def test_a_line_may_be_silent_or_have_a_label_of_its_own() -> None:
    def draw(ax) -> None:
        (line,) = ax.plot([0, 1], [9, 9], color="#D55E00")
        hover.instead(line, "")
        ax.plot([0, 1], [5, 4], color="#D55E00", label="LaProp, authors")

    assert titles(draw) == ["LaProp, authors: 4 loss (nats) at the end, depth 1"]


def test_a_panel_without_names_has_those_of_its_row_and_column() -> None:
    fig = Figure()
    (first, second), (_, below) = fig.subplots(2, 2)
    first.set_ylabel("median steps\nto distance < 0.1")
    below.set_xlabel("σ")
    second.plot([1, 2], [3, 4], color="#D55E00")
    page = hover.to_svg(fig, {"#D55E00": "LaProp"}, {})
    (title,) = ElementTree.fromstring(page).iter(TITLE)
    assert title.text == "LaProp: 4 to distance < 0.1 at the end, σ 2"


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
