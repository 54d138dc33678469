"""Optimizers side by side over the plane of (u, v), a colour a cell."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec

from scripts.figures import style
from scripts.figures.training import pick


def panels(
    fig: Figure, grid: GridSpec, plane: pd.DataFrame, names: Sequence[str], norm: Normalize,
    label: str, told: Callable[[Any], str],
) -> None:  # fmt: skip
    """A panel for each of ``names`` and a colour bar, in the cells of ``grid``, of one row.

    ``plane`` has a row a cell: optimizer, beta1, beta2, value; ``told``: what is written into the
    cell of a row.
    """
    mesh: Any = None
    for place, name in enumerate(names):
        ax = fig.add_subplot(grid[0, place])
        mesh = _panel(ax, pick(plane, plane.optimizer == name), norm, told)
        ax.set_title(f"{'ab'[place]}  {style.mark(name).label}", loc="left")
        ax.set_xlabel("ν (of the second moment)")
        if place:
            ax.tick_params(labelleft=False)
        else:
            ax.set_ylabel("μ (of the momentum)")
    fig.colorbar(mesh, cax=fig.add_subplot(grid[0, len(names)])).set_label(label)


def _panel(ax: Axes, part: pd.DataFrame, norm: Normalize, told: Callable[[Any], str]) -> Any:
    cells = part.pivot(index="beta1", columns="beta2", values="value")
    us, vs = list(cells.index), list(cells.columns)
    mesh = ax.imshow(cells.to_numpy(), origin="lower", aspect="auto", cmap="viridis_r", norm=norm)
    rows: Any = part.itertuples()
    for row in rows:
        dark = not norm(row.value) <= 0.5
        ax.text(vs.index(row.beta2), us.index(row.beta1), told(row), ha="center", va="center",
                color="white" if dark else "black", fontsize=6.5)  # fmt: skip
    # the line u = sqrt(v) as the border between cells, which are not evenly spaced in u and v
    heights = [sum(u <= np.sqrt(v) + 1e-12 for u in us) - 0.5 for v in vs]
    ax.stairs(heights, np.arange(len(vs) + 1) - 0.5, baseline=None, color="black", linewidth=1.6)
    ax.set_xticks(range(len(vs)), [f"{v:g}" for v in vs])
    ax.set_yticks(range(len(us)), [f"{u:g}" for u in us])
    return mesh
