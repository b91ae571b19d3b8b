"""Draws figure 7 of the ResNet paper, and a similar chart of gradients, for any number of models."""

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
class MeasuredModel:
    """Responses of the layers of one model.

    Attributes:
        name: its name in legends and tables.
        state: "initial" for random weights, or "trained".
    """

    name: str
    state: str
    responses: list[Response]


def write_csv(path: Path, models: Sequence[MeasuredModel]) -> None:
    """Write a table with one row for each convolution of each model, in the order of computation.

    Raises:
        UserError: if it cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["net", "state", "index", "layer", "kernel", "std", "gradient_norm"])
    for model in models:
        for index, response in enumerate(model.responses, start=1):
            kernel = "x".join(map(str, response.kernel))
            values = (response.layer, kernel, response.std, response.gradient)
            writer.writerow([model.name, model.state, index, *values])
    write_text(path, text.getvalue())


def draw_responses(path: Path, models: Sequence[MeasuredModel]) -> None:
    """Draw the responses' std in each model's 3x3 layers: in the order of the layers (above) and sorted (below).

    Models with random weights are drawn only if no model is trained: batch norm makes each of their responses 1.

    Raises:
        UserError: if the chart cannot be written.
    """
    models = [model for model in models if model.state == TRAINED] or models
    values = [[response.std for response in kernel3x3(model.responses)] for model in models]
    ranked = [sorted(stds, reverse=True) for stds in values]
    _draw(path, models, [("layer index (original)", values), ("layer index (sorted by magnitude)", ranked)], "std")


def draw_gradients(path: Path, models: Sequence[MeasuredModel]) -> None:
    """Draw the gradient norm of each convolution's weight, in the order of computation, on a logarithmic scale.

    Raises:
        UserError: if the chart cannot be written.
    """
    norms = [[response.gradient for response in model.responses] for model in models]
    panel = ("convolution, in order of computation", norms)
    _draw(path, models, [panel], "norm of the weight's gradient", log=True)


def _draw(
    path: Path,
    models: Sequence[MeasuredModel],
    panels: Sequence[tuple[str, list[list[float]]]],
    y: str,
    *,
    log: bool = False,
) -> None:
    """Draw panels one below the other. Each has the title of its x axis and one curve per model."""
    height = 3.0 * len(panels) + (1.4 if len(panels) == 1 else 0)
    figure, axes = new_figure(len(panels), 1, width=8.4, height=height)
    for panel, (x, curves) in zip(axes[:, 0], panels, strict=True):
        _draw_panel(panel, models, curves)
        panel.set(xlabel=x, ylabel=y, yscale="log" if log else "linear")
        if not log:
            panel.set_ylim(bottom=0)
    axes[0][0].legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    save_figure(figure, path)


def _draw_panel(panel: Axes, models: Sequence[MeasuredModel], curves: Sequence[Sequence[float]]) -> None:
    names = dict.fromkeys(model.name for model in models)
    colours = dict(zip(names, COLOURS * len(models), strict=False))
    for model, values in zip(models, curves, strict=True):
        panel.plot(
            range(1, len(values) + 1),
            values,
            color=colours[model.name],
            linestyle=STYLES[model.state],
            linewidth=1.8,
            marker="o",
            markersize=2.5,
            label=f"{model.name}, {model.state}",
        )
    panel.margins(x=0.02)
