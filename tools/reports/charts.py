"""Draws charts as SVG in the colours of the page, so that a chart suits light and dark screens.

matplotlib draws them. It is already a dependency, a chart takes about 10 KB and no script, and its text stays text.
plotly would add 3 to 4 MB of script to each report.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any, TypeAlias

import matplotlib
import numpy as np
from markupsafe import escape
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from tools.reports.page import LegendEntry, SvgChart
from tools.reports.style import DASHED, STYLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = 10  # in the palette of the page
INK, DIM, GRID = "#010203", "#010204", "#010205"  # placeholders that the page's own colours replace in the SVG
SERIES = [f"#0102{16 + number:02x}" for number in range(COLOURS)]
MOST_POINTS = 600  # of a curve; more are averaged in groups
WIDTH, HEIGHT = 4.4, 2.75  # inches; small, so that the text is readable on a phone
CHART_STYLE: Any = {  # matplotlib types the value of each key
    **STYLE,
    "svg.fonttype": "none",
    "text.parse_math": False,  # names may hold dollar signs
    "font.size": 9,
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), INK),
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), DIM),
    "grid.color": GRID,
}
Numbers: TypeAlias = Sequence[float] | np.ndarray
_numbers = count()


@dataclass(frozen=True)
class ChartSeries:
    """One curve of a line chart: its points, name and colour.

    Attributes:
        colour: index in the palette.
        dots: whether each point has a dot.
    """

    name: str
    x: Numbers
    y: Numbers
    colour: int
    dashed: bool = False
    dots: bool = False


def line_chart(
    title: str,
    series: Sequence[ChartSeries],
    *,
    x: str,
    y: str,
    note: str = "",
    log: bool = False,
    square: bool = False,
    bottom: float | None = None,
    top: float | None = None,
) -> SvgChart:
    """Draw curves over common axes. The legend is below the chart, where it does not cover curves.

    Args:
        log: use a logarithmic vertical axis.
        square: let both axes run from 0 to 1, and draw the diagonal.
        bottom: lower limit of the vertical axis.
        top: upper limit of the vertical axis.
    """

    def draw(axes: Axes) -> None:
        if square:
            axes.plot([0, 1], [0, 1], color=DIM, linewidth=0.8, linestyle=(0, (2, 3)))
            axes.set(xlim=(0, 1), ylim=(0, 1))
        for each in series:
            _draw_series(axes, each)
        if log:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
        if bottom is not None or top is not None:
            axes.set_ylim(bottom=bottom, top=top)
        axes.set_xlabel(x)
        axes.set_ylabel(y)

    legend = [LegendEntry(each.name, each.colour % COLOURS, each.dashed) for each in series]
    return SvgChart(title, svg(draw, label=title), legend, note)


def thinned(x: Numbers, y: Numbers) -> tuple[np.ndarray, np.ndarray]:
    """Return the points of a curve. If there are more than `MOST_POINTS`, neighbouring points are averaged."""
    xs, ys = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if len(xs) <= MOST_POINTS:
        return xs, ys
    groups = np.array_split(np.arange(len(xs)), MOST_POINTS)
    return np.array([xs[group].mean() for group in groups]), np.array([ys[group].mean() for group in groups])


def heat_map(title: str, fractions: np.ndarray, *, x: str, y: str, note: str = "") -> SvgChart:
    """Draw a matrix `[rows, columns]` of values 0..1 as shades of one colour, for matrices too large for a table."""

    def draw(axes: Axes) -> None:
        pixels = np.zeros((*fractions.shape, 4))
        pixels[..., :3] = np.array([0x2B, 0x7C, 0xCC]) / 255
        pixels[..., 3] = np.sqrt(fractions.clip(0, 1))  # the root makes small fractions visible
        axes.imshow(pixels, interpolation="nearest", aspect="equal")
        axes.grid(False)
        axes.set_xlabel(x)
        axes.set_ylabel(y)

    return SvgChart(title, svg(draw, label=title, height=WIDTH), (), note)


def svg(draw: Callable[[Axes], None], *, label: str, width: float = WIDTH, height: float = HEIGHT) -> str:
    """Draw a figure and return it as an `svg` element in the colours of the page.

    Args:
        draw: draws on the axes of the figure.
        label: text for readers who do not see the chart.
        width: in inches.
        height: in inches.
    """
    salt = f"chart{next(_numbers)}"  # ids must differ between the charts of a page
    with matplotlib.rc_context(CHART_STYLE | {"svg.hashsalt": salt}):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure.subplots())
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _fit_to_page(out.getvalue(), label)


def _draw_series(axes: Axes, series: ChartSeries) -> None:
    xs, ys = thinned(series.x, series.y)
    axes.plot(
        xs,
        ys,
        color=SERIES[series.colour % COLOURS],
        linewidth=1.6,
        linestyle=DASHED if series.dashed else "solid",
        marker="o" if series.dots or len(xs) == 1 else None,  # a line of one point is invisible
        markersize=3,
    )


def _fit_to_page(text: str, label: str) -> str:
    """Convert matplotlib's SVG file to an `svg` element that can stand in the page."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[A-Za-z_.0-9]+"', "<g", text)  # the ids of groups repeat in each chart and are not used
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(
        r'<svg [^>]*?viewBox="([^"]*)"[^>]*>',
        rf'<svg viewBox="\1" role="img" aria-label="{escape(label)}">',
        text,
        count=1,
    )
    text = text.replace("xlink:href", "href")
    # Replace the placeholders by the colours of the page.
    text = text.replace(INK, "currentColor").replace(DIM, "var(--dim)").replace(GRID, "var(--grid)")
    for number, placeholder in enumerate(SERIES):
        text = text.replace(placeholder, f"var(--c{number})")
    text = re.sub(r"(font: [\d.]+px )[^;\"]*", r"\1sans-serif", text)
    return re.sub(r"\n\s*", "\n", text)
