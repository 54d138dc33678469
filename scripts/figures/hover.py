"""A figure as SVG whose marks tell their values when a pointer rests on them.

SVG has this built in (the element ``title``), so that it needs no script, and the optimizer of a
line is known by its colour (`style.MARKS`), so that it needs nothing of the code that drew it: but
for a mark whose height is no number, which says so by `instead`.
"""

import io
import re
from xml.etree import ElementTree

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import to_hex
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
MARKED, INSTEAD = "marked-line-", "instead:"
NUMBER = re.compile(r"[-−+]?[\d.,]+(e[-−+]?\d+)?")
LONG_NUMBER = re.compile(r"(\.\d\d)\d+")


def instead(line: Line2D, words: str) -> None:
    """Let the marks of ``line`` tell ``words`` in the place of a value: "never", say."""
    line.set_gid(INSTEAD + words)


def to_svg(fig: Figure, labels: dict[str, str], settings: dict[str, object]) -> bytes:
    """``fig`` as SVG, the same figure giving the same bytes.

    ``labels``: the label of each colour; ``settings``: matplotlib's, as the figure was drawn with.
    """
    lines = []
    for ax in fig.axes:
        bars = [c for c in ax.containers if isinstance(c, ErrorbarContainer)]
        caps = {cap for bar in bars for cap in bar.lines[1]}  # arrow heads among them
        for line in ax.lines:
            label = labels.get(to_hex(line.get_color()).upper())
            if label and line not in caps:
                before = line.get_gid()
                line.set_gid(f"{MARKED}{len(lines)}")
                lines.append((label, line, ax, before))
    buffer = io.BytesIO()
    with matplotlib.rc_context(settings):  # type: ignore[arg-type]
        fig.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    root = ElementTree.fromstring(buffer.getvalue())
    for path in root.iter(f"{{{SVG}}}path"):  # in points: six decimals are twice the bytes
        path.set("d", LONG_NUMBER.sub(r"\1", path.get("d", "")))
    groups = {group.get("id"): group for group in root.iter(f"{{{SVG}}}g")}
    for place, (label, line, ax, before) in enumerate(lines):
        group = groups.get(f"{MARKED}{place}")
        if group is not None:
            del group.attrib["id"]
            _tell(group, line, label, ax, (before or "").partition(INSTEAD)[2])
        line.set_gid(before)
    text = ElementTree.tostring(root, encoding="unicode")
    return text.replace("'DejaVu Sans'", "'DejaVu Sans', Verdana, sans-serif").encode()


def _tell(group: ElementTree.Element, line: Line2D, label: str, ax: Axes, words: str) -> None:
    """A title for each mark of a line, or for the whole line where it has none."""
    data = np.asarray(line.get_xydata(), dtype=float)
    points = data[np.isfinite(data).all(axis=1)]
    marks = list(group.iter(f"{{{SVG}}}use"))
    names = _names(ax.yaxis)  # then values lie along x, and rows have names
    if len(marks) == len(points):
        for mark, (x, y) in zip(marks, points, strict=True):
            if names:
                told = [words or f"{x:,.4g}", ax.get_xlabel(), _nearest(y, ax.yaxis, names)]
            else:
                told = [words or f"{y:,.4g}", ax.get_ylabel(), f"{ax.get_xlabel()} {_place(x, ax)}"]
            value, unit, place = (text.strip() for text in told)
            title = f"{label}: {value} {unit}".rstrip() + f", {place}"
            ElementTree.SubElement(mark, f"{{{SVG}}}title").text = title
    elif len(points):
        title = ElementTree.Element(f"{{{SVG}}}title")
        title.text = f"{label}: {points[-1][1]:,.4g} {ax.get_ylabel()} at the end"
        group.insert(0, title)


def _place(x: float, ax: Axes) -> str:
    """The name or the level at ``x``, as marks may be dodged, else the value on the axis."""
    if names := _names(ax.xaxis):
        return _nearest(x, ax.xaxis, names)
    levels = isinstance(ax.xaxis.get_major_locator(), FixedLocator) and ax.get_xscale() == "linear"
    return _nearest(x, ax.xaxis, _texts(ax.xaxis)) if levels else f"{x:,.4g}"


def _names(axis: Axis) -> list[str]:
    """The texts of an axis whose ticks were given names; of an axis of numbers, none."""
    texts = _texts(axis) if isinstance(axis.get_major_locator(), FixedLocator) else []
    return texts if texts and not any(NUMBER.fullmatch(text) for text in texts) else []


def _texts(axis: Axis) -> list[str]:
    return [label.get_text() for label in axis.get_ticklabels()]


def _nearest(value: float, axis: Axis, texts: list[str]) -> str:
    ticks = np.asarray(axis.get_ticklocs())
    nearest = int(np.abs(ticks - value).argmin())
    return texts[nearest] if len(texts) == len(ticks) else f"{ticks[nearest]:g}"
