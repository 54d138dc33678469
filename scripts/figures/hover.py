"""A figure as SVG whose marks tell their values when a pointer rests on them.

SVG has this built in (the element ``title``), so that it needs no script, and the optimizer of a
line is known by its colour (`style.MARKS`), so that it needs nothing of the code that drew it.
"""

import io
import re
from xml.etree import ElementTree

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
MARKED = "marked-line-"
LONG_NUMBER = re.compile(r"(\.\d\d)\d+")


def to_svg(fig: Figure, labels: dict[str, str], settings: dict[str, object]) -> bytes:
    """``fig`` as SVG, the same figure giving the same bytes.

    ``labels``: the label of each colour; ``settings``: matplotlib's, as the figure was drawn with.
    """
    lines = []
    for ax in fig.axes:
        for line in ax.lines:
            label = labels.get(to_hex(line.get_color()).upper())
            if label:
                line.set_gid(f"{MARKED}{len(lines)}")
                lines.append((label, line, ax))
    buffer = io.BytesIO()
    with matplotlib.rc_context(settings):  # type: ignore[arg-type]
        fig.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    root = ElementTree.fromstring(buffer.getvalue())
    for path in root.iter(f"{{{SVG}}}path"):  # in points: six decimals are twice the bytes
        path.set("d", LONG_NUMBER.sub(r"\1", path.get("d", "")))
    groups = {group.get("id"): group for group in root.iter(f"{{{SVG}}}g")}
    for place, (label, line, ax) in enumerate(lines):
        group = groups.get(f"{MARKED}{place}")
        if group is not None:
            del group.attrib["id"]
            _tell(group, line, label, ax)
        line.set_gid(None)
    text = ElementTree.tostring(root, encoding="unicode")
    return text.replace("'DejaVu Sans'", "'DejaVu Sans', Verdana, sans-serif").encode()


def _tell(group: ElementTree.Element, line: Line2D, label: str, ax: Axes) -> None:
    """A title for each mark of a line, or for the whole line where it has none."""
    data = np.asarray(line.get_xydata(), dtype=float)
    points = data[np.isfinite(data).all(axis=1)]
    marks = list(group.iter(f"{{{SVG}}}use"))
    if len(marks) == len(points):
        for mark, (x, y) in zip(marks, points, strict=True):
            title = f"{label}: {y:,.4g} {ax.get_ylabel()}, {ax.get_xlabel()} {_place(x, ax)}"
            ElementTree.SubElement(mark, f"{{{SVG}}}title").text = title
    elif len(points):
        title = ElementTree.Element(f"{{{SVG}}}title")
        title.text = f"{label}: {points[-1][1]:,.4g} {ax.get_ylabel()} at the end"
        group.insert(0, title)


def _place(x: float, ax: Axes) -> str:
    """The value on the axis; where its ticks are set, the nearest, as marks may be dodged."""
    if not isinstance(ax.xaxis.get_major_locator(), FixedLocator):
        return f"{x:,.4g}"
    ticks, texts = ax.get_xticks(), [label.get_text() for label in ax.get_xticklabels()]
    nearest = int(np.abs(ticks - x).argmin())
    return texts[nearest] if len(texts) == len(ticks) else f"{ticks[nearest]:g}"
