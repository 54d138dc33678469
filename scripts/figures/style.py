"""One look for all figures: the mark of each optimizer, matplotlib settings, reproducible files.

Figures are built with `matplotlib.figure.Figure`, never with pyplot, so that nothing needs a
display and nothing is kept open; importing this module changes no global setting.
"""

import hashlib
import io
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from runners.collect import write_if_changed
from scripts.figures import hover
from scripts.statistics import MIN_INTERVAL


class Mark(NamedTuple):
    label: str
    colour: str
    marker: str
    linestyle: Any  # a matplotlib name, or (offset, (on, off, ...))
    width: float = 1.3


# Colours of Okabe and Ito (2008), which stay apart for the colour-blind; markers and line styles
# keep the optimizers apart in grey too. LaProp, the subject, has the one solid thick vermilion.
MARKS: Mapping[str, Mark] = MappingProxyType({
    "laprop": Mark("LaProp", "#D55E00", "o", "-", 2.2),
    "adam": Mark("Adam", "#0072B2", "s", (0, (6, 1.5))),
    "amsgrad": Mark("AMSGrad", "#009E73", "^", (0, (3, 1.2))),
    "radam": Mark("RAdam", "#56B4E9", "D", (0, (1, 1.2))),
    "adabound": Mark("AdaBound", "#CC79A7", "v", (0, (6, 1.5, 1, 1.5))),
    "signsgd": Mark("signSGD", "#000000", "X", (0, (4, 1.2, 1, 1.2, 1, 1.2))),
    "adamw": Mark("AdamW", "#5B3A91", "P", (0, (8, 2))),
    "sgd": Mark("SGD", "#8C6D1F", "<", (0, (2, 2))),
    "rmsprop": Mark("RMSprop", "#7F7F7F", ">", (0, (5, 1, 1, 1, 1, 1))),
})  # fmt: skip

_FALLBACK_COLOURS = ("#B79F00", "#A50F15", "#4D4D4D", "#2B8C3E", "#4A1486")
_FALLBACK_MARKERS = ("*", "h", "p", "d", "8")

# For `matplotlib.rc_context(RC)`. Text stays text in PDF and SVG.
RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same glyphs on every machine
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.labelsize": 8,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 8,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.3,
    "lines.markersize": 4.5,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "laprop",
    "path.simplify": True,
    "figure.facecolor": "white",
}


def mark(optimizer: str) -> Mark:
    """The look of an optimizer; one that is not listed gets one from its name, always the same."""
    if optimizer in MARKS:
        return MARKS[optimizer]
    # not hash(): that differs from process to process
    digest = hashlib.sha256(optimizer.encode()).digest()
    colour = _FALLBACK_COLOURS[digest[0] % len(_FALLBACK_COLOURS)]
    marker = _FALLBACK_MARKERS[digest[1] % len(_FALLBACK_MARKERS)]
    return Mark(optimizer, colour, marker, (0, (2 + digest[2] % 6, 1.5, 1, 1.5)))


def in_order(optimizers: Any) -> list[str]:
    """Optimizers in the order of MARKS, the unlisted ones after them by name; each once."""
    known = list(MARKS)
    return sorted(set(optimizers), key=lambda o: (known.index(o) if o in MARKS else len(known), o))


def legend(fig: Figure, names: Sequence[str], top: float) -> None:
    """One legend for the whole figure, below its title."""
    marks = [mark(name) for name in names]
    lines = [
        Line2D([], [], color=m.colour, marker=m.marker, linestyle=m.linestyle, linewidth=m.width)
        for m in marks
    ]
    tight = min(1.0, 6 / max(len(names), 1))  # more than the usual six still take one row
    fig.legend(lines, [m.label for m in marks], loc="upper center", bbox_to_anchor=(0.54, top),
               ncols=len(names), frameon=False, handlelength=3.4 * tight, fontsize=8 * tight,
               columnspacing=1.5 * tight)  # fmt: skip


def values_text(tidy: Any, *columns: str) -> str:
    """What the runs of a figure have in ``columns``, for its caption: each value, or tuple of them,
    once; those of runs that have none (NaN) are left out."""
    rows = tidy[list(columns)].dropna().drop_duplicates().sort_values(list(columns))
    texts = [", ".join(f"{value:g}" for value in row) for row in rows.itertuples(index=False)]
    return " or ".join(f"({text})" if len(columns) > 1 else text for text in texts)


def counted(n: int, noun: str) -> str:
    """1 seed, 10 seeds."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def interval_text(n: int, words: str) -> str:
    """For a caption: ``words`` on intervals over n seeds, or that these are too few for any."""
    return (
        words if n >= MIN_INTERVAL else f"no intervals, for which {counted(n, 'seed')} are too few"
    )


def dodged(
    names: Sequence[str], levels: Sequence[float], spread: float = 0.75
) -> list[tuple[str, float]]:
    """Each name with its shift along an axis of levels, so that no mark hides another; all of them
    take up ``spread`` of the least distance of two levels."""
    gap = min(np.diff(sorted(levels)), default=1.0)
    shifts = (np.arange(len(names)) - (len(names) - 1) / 2) * gap * spread / max(len(names), 1)
    return list(zip(names, shifts.tolist(), strict=True))


def level_axis(ax: Axes, levels: Sequence[float]) -> None:
    """A tick at each level, with room at both sides for dodged marks."""
    levels = sorted(levels)
    margin = 0.6 * min(np.diff(levels), default=1.0)
    ax.set_xlim(levels[0] - margin, levels[-1] + margin)
    ax.set_xticks(levels, [f"{level:g}" for level in levels])


def line(ax: Axes, x: Any, y: Any, look: Mark, **more: Any) -> Line2D:
    """An optimizer's line; a thick one runs below the others."""
    (drawn,) = ax.plot(x, y, color=look.colour, linestyle=look.linestyle, linewidth=look.width,
                       **{"zorder": 3 - 0.1 * look.width, **more})  # fmt: skip
    return drawn


def band(
    ax: Axes, x: Any, low: Any, high: Any, look: Mark, opacity: float = 0.13, **more: Any
) -> None:
    """What belongs to an optimizer's line: quartiles, or an interval."""
    ax.fill_between(x, low, high, color=look.colour, alpha=opacity, linewidth=0, **more)


def intervals(
    ax: Axes, x: Any, value: Any, low: Any, high: Any, look: Mark, ceiling: float = math.inf,
    beyond_it: str = "beyond", floor: float = -math.inf,
) -> None:  # fmt: skip
    """Points with interval bars; what lies beyond the ceiling is an open mark with an arrow on it.

    The line joins neighbours that are both below the ceiling: a censored value has no height.
    ``beyond_it``: what the ceiling is to these, for their tooltips, as "not reached within". What
    lies below the floor is drawn on it.
    """
    x, value, low, high = (np.asarray(column, dtype=float) for column in (x, value, low, high))
    beyond = ~(value <= ceiling)
    known = np.where(beyond, np.nan, np.maximum(value, floor))
    below = value < floor
    line(ax, x, known, look, marker=look.marker,
         markevery=np.flatnonzero(~below).tolist() if below.any() else None)  # fmt: skip
    if below.any():
        alone = look._replace(linestyle="none")
        marks = line(ax, x[below], known[below], alone, marker=look.marker)
        hover.instead(marks, f"below {floor:g}")
    bottom, top = np.clip(low, floor, ceiling), np.clip(high, floor, ceiling)
    ax.vlines(x, bottom, top, color=look.colour, linewidth=0.9, zorder=2)
    if beyond.any():
        height = np.full(int(beyond.sum()), ceiling)
        marks, _, _ = ax.errorbar(
            x[beyond], height, yerr=0.22 * height, lolims=True, linestyle="none",
            color=look.colour, marker=look.marker, markerfacecolor="white", markersize=4.5,
            elinewidth=0.8, capsize=1.8, zorder=4,
        )  # fmt: skip
        hover.instead(marks, f"{beyond_it} {ceiling:,.6g}")


def clashes(fig: Figure) -> list[str]:
    """Texts that overlap another or leave the page; an empty list is a readable figure."""
    canvas = FigureCanvasAgg(fig)
    canvas.draw()
    texts = [*fig.texts, *(t for legend in fig.legends for t in legend.get_texts())]
    for ax in fig.axes:
        titles: Any = [ax.title, getattr(ax, "_left_title", ax.title)]
        texts += [*titles, ax.xaxis.label, ax.yaxis.label, *ax.texts]
    renderer = canvas.get_renderer()
    boxes = [(t.get_text(), t.get_window_extent(renderer)) for t in dict.fromkeys(texts)
             if t.get_text() and t.get_visible()]  # fmt: skip
    page, found = fig.bbox, []
    for i, (text, box) in enumerate(boxes):
        if box.x0 < page.x0 or box.x1 > page.x1 or box.y0 < page.y0 or box.y1 > page.y1:
            found.append(f"{text!r} leaves the page")
        found += [f"{text!r} overlaps {other!r}" for other, second in boxes[:i]
                  if box.overlaps(second)]  # fmt: skip
    return found


def save(fig: Figure, folder: str | os.PathLike[str], name: str = "figure") -> list[Path]:
    """Write PNG (200 dpi), PDF and SVG; the same figure gives the same bytes, each appears whole."""
    # what matplotlib would stamp into the file: its version and the time
    metadata = {
        "png": {"Software": None},
        "pdf": {"CreationDate": None, "ModDate": None, "Producer": None, "Creator": None},
    }
    content = {}
    for kind, stamps in metadata.items():
        buffer = io.BytesIO()
        with matplotlib.rc_context(RC):
            fig.savefig(buffer, format=kind, dpi=200, metadata=stamps)
        content[kind] = buffer.getvalue()
    content["svg"] = hover.to_svg(fig, {m.colour.upper(): m.label for m in MARKS.values()}, RC)
    written = [Path(folder) / f"{name}.{kind}" for kind in content]
    for path, data in zip(written, content.values(), strict=True):
        write_if_changed(path, data)
    return written
