"""The first steps of each optimizer on the contours of the noise-free Rosenbrock function."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from scripts.figures import hover, style
from scripts.figures.training import pick

VIEW = (-0.35, 1.35)  # of x and of y


def panels(
    fig: Figure, tidy: pd.DataFrame, names: Sequence[str], config: Mapping[str, Any]
) -> None:
    """One small contour per optimizer and noise level; all share their axes."""
    rows = pick(tidy, tidy.metric.isin(["x", "y"])).astype({"optimizer": str, "metric": str})
    if rows.empty:
        fig.text(0.5, 0.25, "no paths were recorded", ha="center", color="#555555")
        return
    keys = ["optimizer", "sigma", "seed", "step"]
    paths = rows.pivot_table(index=keys, columns="metric", values="value").reset_index()
    sigmas = sorted(config["path_sigmas"])
    grid = fig.add_gridspec(len(sigmas), len(names), left=0.09, right=0.99, top=0.352, bottom=0.098,
                            hspace=0.08, wspace=0.08)  # fmt: skip
    x, y = np.meshgrid(np.linspace(*VIEW, 120), np.linspace(*VIEW, 120))
    height = np.log10((1 - x) ** 2 + 100 * (y - x * x) ** 2 + 1e-4)
    for i, sigma in enumerate(sigmas):
        for j, name in enumerate(names):
            ax = fig.add_subplot(grid[i, j])
            ax.contour(x, y, height, levels=np.arange(-2.5, 3, 0.5), colors="#BDBDBD",
                       linewidths=0.5, linestyles="-")  # fmt: skip
            here = pick(paths, (paths.optimizer == name) & np.isclose(paths.sigma, sigma))
            _path(ax, here, style.mark(name).colour, config["tol"])
            ax.set(xlim=VIEW, ylim=VIEW, aspect="equal", xticks=[0, 1],
                   yticks=[0, 1])  # fmt: skip
            ax.grid(False)
            ax.spines[["top", "right"]].set_visible(True)
            ax.tick_params(labelleft=j == 0, labelbottom=i == len(sigmas) - 1, pad=2)
            if i == 0:
                ax.set_title(style.mark(name).label, fontsize=8, pad=3)
            if i == len(sigmas) - 1:
                ax.set_xlabel("x", labelpad=0)
            if j == 0:
                ax.set_ylabel(f"σ = {sigma:g}\ny", labelpad=1)
    seeds = ", ".join(str(s) for s in sorted(set(paths.seed)))
    fig.text(0.09, 0.388, f"c  Paths of the first {int(paths.step.max()):,} steps: lr "
             f"{config['common_lr']:g}, seed {seeds}", fontsize=9)  # fmt: skip


def _path(ax: Axes, path: pd.DataFrame, colour: str, tol: float) -> None:
    path = path.sort_values(by="step")
    ax.add_patch(Circle((1, 1), tol, fill=False, linewidth=0.8, color="black", zorder=4))
    ax.plot(1, 1, marker="*", color="black", markersize=5, zorder=4)
    x, y = np.r_[0.0, path.x], np.r_[0.0, path.y]  # every path starts at (0, 0)
    inside = np.isfinite(x) & np.isfinite(y)
    # far points would overflow the renderer; clipping them keeps the direction of the exit
    x, y = np.clip(x[inside], -9, 9), np.clip(y[inside], -9, 9)
    (line,) = ax.plot(x, y, color=colour, linewidth=0.8, zorder=3)
    hover.instead(line, "")  # it may be clipped; the mark at its end tells where that is
    ax.plot(0, 0, marker="o", color="black", markersize=3.5, zorder=5)
    if path.empty:
        ax.text(0.5, 0.5, "no path", ha="center", color="#555555", fontsize=7)
    elif max(abs(x[-1]), abs(y[-1])) > VIEW[1]:
        ax.text(0.97, 0.03, "leaves", transform=ax.transAxes, ha="right", fontsize=7)
    else:
        ax.plot(x[-1], y[-1], marker="s", color=colour, mec="black", mew=0.7, markersize=4,
                zorder=5)  # fmt: skip
