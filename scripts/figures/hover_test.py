"""Marks of a figure tell their values."""

from xml.etree import ElementTree

import numpy as np
from matplotlib.figure import Figure

from scripts.figures import hover

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
