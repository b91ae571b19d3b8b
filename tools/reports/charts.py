"""Charts as SVG that takes its colours from the page, so that one picture serves bright and dark screens.

matplotlib draws them: it is a dependency already, a chart is some 10 KB that need no script, and text stays text.
plotly would put 3 to 4 MB of script into each report before the first point is drawn.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np

from tools.reports.page import Chart, Line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = 10  # of the page's palette
INK, DIM, GRID = "#010203", "#010204", "#010205"  # stand for the page's own until the SVG is text
SERIES = [f"#0102{16 + number:02x}" for number in range(COLOURS)]
MOST_POINTS = 600  # of a curve; more are averaged in groups
WIDTH, HEIGHT = 4.4, 2.75  # inches; small, so that the text is readable on a phone
_numbers = count()


@dataclass(frozen=True)
class Series:
    """Points of one curve.

    Attributes:
        x, y: sequences or arrays of numbers.
        colour: its number in the palette.
    """

    name: str
    x: Any
    y: Any
    colour: int
    dashed: bool = False
    dots: bool = False


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    x: str,
    y: str,
    note: str = "",
    log: bool = False,
    square: bool = False,
    bottom: float | None = None,
    top: float | None = None,
) -> Chart:
    """Curves over common axes, with the legend below, where it hides nothing.

    Args:
        log: a logarithmic vertical axis.
        square: both axes from 0 to 1, with the diagonal drawn.
        bottom, top: limits of the vertical axis.
    """

    from matplotlib.ticker import FuncFormatter, NullFormatter

    def draw(axes: Axes) -> None:
        if square:
            axes.plot([0, 1], [0, 1], color=DIM, linewidth=0.8, linestyle=(0, (2, 3)))
            axes.set(xlim=(0, 1), ylim=(0, 1))
        for each in series:
            places, values = thinned(each.x, each.y)
            marker = "o" if each.dots or len(places) == 1 else None
            style: Any = (0, (4, 2)) if each.dashed else "solid"
            colour = SERIES[each.colour % COLOURS]
            axes.plot(places, values, color=colour, linewidth=1.6, linestyle=style, marker=marker, markersize=3)
        if log:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
        if bottom is not None or top is not None:
            axes.set_ylim(bottom=bottom, top=top)
        axes.set_xlabel(x)
        axes.set_ylabel(y)

    lines = [Line(each.name, each.colour % COLOURS, each.dashed) for each in series]
    return Chart(title, svg(draw, label=title), lines, note)


def thinned(x: Sequence[float], y: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Points of a curve, averaged in groups where they are too many to be told apart."""
    places, values = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if len(places) <= MOST_POINTS:
        return places, values
    groups = np.array_split(np.arange(len(places)), MOST_POINTS)
    return np.array([places[g].mean() for g in groups]), np.array([values[g].mean() for g in groups])


def heat_map(title: str, shares: np.ndarray, *, x: str, y: str, note: str = "") -> Chart:
    """A matrix `[rows, columns]` of 0..1 as shades of one colour, for one too large to be a table."""

    def draw(axes: Axes) -> None:
        pixels = np.zeros((*shares.shape, 4))
        pixels[..., :3] = np.array([0x2B, 0x7C, 0xCC]) / 255
        pixels[..., 3] = np.sqrt(shares.clip(0, 1))  # small shares are the interesting ones
        axes.imshow(pixels, interpolation="nearest", aspect="equal")
        axes.grid(False)
        axes.set_xlabel(x)
        axes.set_ylabel(y)

    return Chart(title, svg(draw, label=title, height=WIDTH), (), note)


def svg(draw: Any, *, label: str, width: float = WIDTH, height: float = HEIGHT) -> str:
    """What `draw` puts on a figure's axes, as an `svg` element in the colours of the page."""
    import matplotlib
    from matplotlib.figure import Figure

    from tools.reports.style import STYLE

    own: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": f"chart{next(_numbers)}",  # ids must differ between the charts of a page
        "text.parse_math": False,  # names may hold dollar signs
        "font.size": 9,
        **{key: INK for key in ("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor")},
        **{key: DIM for key in ("axes.edgecolor", "xtick.color", "ytick.color")},
        "grid.color": GRID,
    }
    with matplotlib.rc_context({**STYLE, **own}):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure.subplots())
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _for_the_page(out.getvalue(), label)


def _for_the_page(text: str, label: str) -> str:
    from markupsafe import escape

    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[A-Za-z_.0-9]+"', "<g", text)  # the same in each chart, and nothing refers to them
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(
        r'<svg [^>]*?viewBox="([^"]*)"[^>]*>',
        rf'<svg viewBox="\1" role="img" aria-label="{escape(label)}">',
        text,
        count=1,
    )
    text = text.replace("xlink:href", "href")
    text = text.replace(INK, "currentColor").replace(DIM, "var(--dim)").replace(GRID, "var(--grid)")
    for number, token in enumerate(SERIES):
        text = text.replace(token, f"var(--c{number})")
    text = re.sub(r"(font: [\d.]+px )[^;\"]*", r"\1sans-serif", text)
    return re.sub(r"\n\s*", "\n", text)
