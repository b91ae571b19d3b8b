"""How our pictures look, and how they are written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backbones.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#D1495B", "#00798C", "#EDAE49", "#30638E", "#6A994E", "#8E5EA2", "#B5651D", "#5C6B73", "#E07A9B", "#2BB3A3")
DASHED = (0, (4, 2))
STYLE: Any = {
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


def new_figure(rows: int, columns: int, *, width: float, height: float, **options: Any) -> tuple[Figure, Any]:
    """An empty figure in our style, which needs no display, and its axes as an array [rows, columns].

    Args:
        width, height: in inches.
        options: further ones of `matplotlib.pyplot.subplots`.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams.update(STYLE)
    return pyplot.subplots(rows, columns, figsize=(width, height), squeeze=False, layout="constrained", **options)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG under a temporary name, rename it, and free its memory.

    Raises:
        UserError: where it cannot be written.
    """
    from matplotlib import pyplot

    temporary = path.with_name(f".{path.name}.tmp")
    try:
        figure.savefig(temporary, dpi=150, format="png")
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None
    finally:
        pyplot.close(figure)
