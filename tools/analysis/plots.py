"""Figure 7 of the ResNet paper, and the same of gradients, for any number of nets."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from backbones.common.files import write_text
from tools.analysis.responses import Response, kernel3x3
from tools.reports.style import COLOURS, DASHED, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INITIAL, TRAINED = "initial", "trained"
STYLES = {INITIAL: DASHED, TRAINED: "solid"}


@dataclass(frozen=True)
class Measured:
    """A net's responses.

    Attributes:
        net: what the legend calls it.
        state: "initial" or "trained".
    """

    net: str
    state: str
    responses: list[Response]


def write_csv(path: Path, nets: Sequence[Measured]) -> None:
    """One row per convolution, in the order of computation.

    Raises:
        UserError: where it cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["net", "state", "index", "layer", "kernel", "std", "gradient_norm"])
    for net in nets:
        for index, one in enumerate(net.responses, start=1):
            kernel = "x".join(map(str, one.kernel))
            writer.writerow([net.net, net.state, index, one.layer, kernel, one.std, one.gradient])
    write_text(path, text.getvalue())


def draw_responses(path: Path, nets: Sequence[Measured]) -> None:
    """Standard deviations of the 3x3 layers, in order (above) and from large to small (below), as in figure 7.

    Nets with random weights are drawn only where no trained one is: batch norm makes each of their responses 1.

    Raises:
        UserError: where the picture cannot be written.
    """
    nets = [net for net in nets if net.state == TRAINED] or nets
    values = [[response.std for response in kernel3x3(net.responses)] for net in nets]
    ranked = [sorted(stds, reverse=True) for stds in values]
    _draw(path, nets, [("layer index (original)", values), ("layer index (sorted by magnitude)", ranked)], "std")


def draw_gradients(path: Path, nets: Sequence[Measured]) -> None:
    """Gradient norm of each convolution's weight, in order, on a logarithmic scale.

    Raises:
        UserError: where the picture cannot be written.
    """
    norms = [[response.gradient for response in net.responses] for net in nets]
    _draw(path, nets, [("convolution, in order of computation", norms)], "norm of the weight's gradient", log=True)


def _draw(
    path: Path, nets: Sequence[Measured], panels: Sequence[tuple[str, list[list[float]]]], y: str, *, log: bool = False
) -> None:
    height = 3.0 * len(panels) + (1.4 if len(panels) == 1 else 0)
    figure, axes = new_figure(len(panels), 1, width=8.4, height=height)
    for panel, (x, curves) in zip(axes[:, 0], panels, strict=True):
        _draw_panel(panel, nets, curves)
        panel.set(xlabel=x, ylabel=y, yscale="log" if log else "linear")
        if not log:
            panel.set_ylim(bottom=0)
    axes[0][0].legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    save_figure(figure, path)


def _draw_panel(panel: Axes, nets: Sequence[Measured], curves: Sequence[Sequence[float]]) -> None:
    colours = dict(zip(dict.fromkeys(net.net for net in nets), COLOURS * len(nets), strict=False))
    for net, values in zip(nets, curves, strict=True):
        panel.plot(
            range(1, len(values) + 1),
            values,
            color=colours[net.net],
            linestyle=STYLES[net.state],
            linewidth=1.8,
            marker="o",
            markersize=2.5,
            label=f"{net.net}, {net.state}",
        )
    panel.margins(x=0.02)
