"""A figure as SVG whose marks tell their values when a pointer rests on them.

SVG has this built in (the element ``title``), so that it needs no script. Only what is true is told:

- The optimizer of a line is known by its colour (`style.MARKS`), or by a label of the line's own.
- Values have three significant digits and are never rounded to a tick. But where ticks were given
  texts on a linear axis, these name rows or levels, beside which marks are dodged: then the text of
  the nearest is told.
- Where a mark does not lie at its value (not reached, clipped), its drawer says so by `instead`.
- Caps and arrow heads of error bars tell nothing.
"""

import io
import re
from typing import Any, Literal
from xml.etree import ElementTree

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import to_hex
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, ScalarFormatter

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
MARKED, INSTEAD = "marked-line-", "instead:"
LONG_NUMBER = re.compile(r"(\.\d\d)\d+")


def instead(line: Line2D, words: str) -> None:
    """Let the marks of ``line`` tell ``words`` in the place of a value ("never"), or, without any,
    nothing."""
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
            label, before = _label(line, labels), line.get_gid()
            told = label and line not in caps and before != INSTEAD
            line.set_gid(f"{MARKED}{len(lines)}" if told else None)
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


def _label(line: Line2D, labels: dict[str, str]) -> str:
    own = str(line.get_label())
    return labels.get(to_hex(line.get_color()).upper(), "") if own.startswith("_") else own


def _tell(group: ElementTree.Element, line: Line2D, label: str, ax: Axes, words: str) -> None:
    """A title for each mark of a line, or for the whole line where it has none."""
    data = np.asarray(line.get_xydata(), dtype=float)
    every: Any = line.get_markevery()
    marked = data[::every] if every is None or isinstance(every, int) else data[every]
    points, marked = (rows[np.isfinite(rows).all(axis=1)] for rows in (data, marked))
    marks = list(group.iter(f"{{{SVG}}}use"))
    if len(marks) == len(marked):
        for mark, (x, y) in zip(marks, marked, strict=True):
            title = ElementTree.SubElement(mark, f"{{{SVG}}}title")
            title.text = _title(label, x, y, ax, words)
    elif len(points):
        title = ElementTree.Element(f"{{{SVG}}}title")
        x, y = points[-1]
        title.text = _title(label, x, y, ax, words, " at the end")
        group.insert(0, title)


def _title(label: str, x: float, y: float, ax: Axes, words: str, where: str = "") -> str:
    """``label``: value, place; in rows the value lies along x, and the row is the place."""
    row, across = _tick(y, ax.yaxis), _name(ax, "x")
    if row is None:
        value, unit = y, _name(ax, "y")
        place = f"{across} {_tick(x, ax.xaxis) or _number(x)}".strip()
    else:
        value, unit, place = x, across, row
        if row.startswith(label):  # its own row: one name is enough
            label, place = row, ""
    told = words or f"{_number(value)} {unit}".strip() + where
    return f"{label}: {told}" + (f", {place}" if place else "")


def _name(ax: Axes, way: Literal["x", "y"]) -> str:
    """The name of an axis; a grid of panels says it once, at one with the same edges."""
    edges, fig = f"interval{way}", ax.get_figure(root=True)
    for panel in (ax, *(fig.axes if fig else ())):
        label = str(getattr(panel, f"get_{way}label")())
        if label and np.allclose(*(getattr(p.get_position(), edges) for p in (panel, ax))):
            return label.splitlines()[-1]
    return ""


def _tick(value: float, axis: Axis) -> str | None:
    """The text of the nearest tick where ticks name rows or levels; None on an axis of numbers."""
    formatter = axis.get_major_formatter()
    given = isinstance(axis.get_major_locator(), FixedLocator)
    if not given or isinstance(formatter, ScalarFormatter) or axis.get_scale() != "linear":
        return None
    ticks: Any = axis.get_ticklocs()
    return formatter.format_ticks(ticks)[int(np.abs(ticks - value).argmin())]


def _number(value: float) -> str:
    """Whole numbers as they are, others with three significant digits."""
    if float(value).is_integer() and abs(value) < 1e6:
        return f"{value:,.0f}"
    return f"{float(f'{value:.3g}'):,.6g}"
