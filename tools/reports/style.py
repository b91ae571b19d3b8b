"""The style of all charts, and a function that writes them as PNG files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from backbones.common.files import atomic_file

COLOURS = ("#D1495B", "#00798C", "#EDAE49", "#30638E", "#6A994E", "#8E5EA2", "#B5651D", "#5C6B73", "#E07A9B", "#2BB3A3")
DASHED = (0, (4, 2))
STYLE: Any = {  # matplotlib types the value of each key
    "font.size": 10,
    "axes.grid": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "ytick.left": False,
    "ytick.minor.left": False,
    "legend.frameon": False,
}


def new_figure(
    rows: int,
    columns: int,
    *,
    width: float,
    height: float,
    sharey: bool = False,
    height_ratios: list[int] | None = None,
) -> tuple[Figure, np.ndarray]:
    """Return an empty figure in our style and its axes as an array `[rows, columns]`. It needs no display.

    Args:
        width: width of the figure in inches.
        height: height of the figure in inches.
        sharey: whether all axes have the same vertical limits.
        height_ratios: relative heights of the rows; equal by default.
    """
    matplotlib.rcParams.update(STYLE)
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, sharey=sharey, height_ratios=height_ratios)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG under a temporary name, then rename it.

    Raises:
        UserError: if it cannot be written.
    """
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")
