"""Draws learning curves of an experiment, as in figures 1, 4 and 6 of the ResNet paper."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from tools.experiments.cell_runs import CellRun
from tools.experiments.groups import Group, varying_axes
from tools.reports.style import COLOURS, DASHED, new_figure, save_figure
from tools.runs.log import evaluations
from tools.runs.metrics import Metric, TaskMetrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

XAxis: TypeAlias = Literal["epochs", "iterations"]
Curve: TypeAlias = list[tuple[float, float]]  # epoch or iteration, and percent
BEGINNING = 0.1  # part of a run whose values need not fit into the picture


def draw_curves(path: Path, groups: Sequence[Group], metrics: TaskMetrics, *, x: XAxis = "epochs") -> bool:
    """Draw the primary metric on training images (dashed) and validation images (solid) over training.

    Each group has a colour, with thin lines for seeds and a thick line for their mean. Plain nets and residual nets get
    panels side by side.

    Returns:
        Whether any run has an evaluation; otherwise nothing is drawn.

    Raises:
        UserError: the chart cannot be written.
    """
    shown = [group for group in groups if any(evaluations(run.lines) for run in group.runs)]
    if not shown:
        return False
    panels = _panels(shown)
    figure, axes = new_figure(1, len(panels), width=5.2 * len(panels) + 1.0, height=4.4, sharey=True)
    for panel, (title, members) in zip(axes[0], panels.items(), strict=True):
        colours = [COLOURS[shown.index(group) % len(COLOURS)] for group in members]
        _draw_panel(panel, members, metrics, x=x, names=varying_axes(groups), colours=colours)
        panel.set_title(title)
    axes[0][0].set_ylabel(metrics.axis)
    _limit_height(axes[0][0], shown, metrics)
    save_figure(figure, path)
    return True


def curve(run: CellRun, metric: Metric, x: XAxis) -> Curve:
    """Return a run's curve of a metric: one point for each evaluation that measured the metric."""
    key = "epoch" if x == "epochs" else "step"
    points = ((line[key], metric.percent(line)) for line in evaluations(run.lines))
    return [(at, value) for at, value in points if value is not None]


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """Return the mean of several curves at the epochs or iterations that all of them have. Empty curves are ignored."""
    values = [dict(points) for points in curves if points]
    common = sorted(set.intersection(*(set(points) for points in values))) if values else []
    return [(at, float(np.mean([points[at] for points in values]))) for at in common]


def _panels(shown: Sequence[Group]) -> dict[str, list[Group]]:
    """Return the panels by title, with the groups of runs in each: one panel per family of backbones, or one for all.

    A family is a backbone's name without its depth. Families get panels if there are two or three, each with several
    groups.
    """
    families: dict[str, list[Group]] = {}
    for group in shown:
        backbone = str(group.runs[0].config.get("backbone", ""))
        families.setdefault(re.sub(r"\d+$", "", backbone), []).append(group)
    separate = 2 <= len(families) <= 3 and all(len(members) > 1 for members in families.values())
    return families if separate else {"": list(shown)}


def _draw_panel(
    panel: Axes, members: Sequence[Group], metrics: TaskMetrics, *, x: XAxis, names: list[str], colours: list[str]
) -> None:
    for group, colour in zip(members, colours, strict=True):
        if metrics.training:
            _draw_group(panel, group, metrics.training, x=x, colour=colour, style=DASHED, name=None)
        _draw_group(panel, group, metrics.primary, x=x, colour=colour, style="solid", name=group.name(names))
    if metrics.training:
        panel.plot([], [], color="#555555", linestyle="solid", label="held out")
        panel.plot([], [], color="#555555", linestyle=DASHED, label="training")
    panel.set_xlabel("epoch" if x == "epochs" else "iteration")
    panel.legend(loc="best")
    panel.margins(x=0.02)


def _draw_group(
    panel: Axes, group: Group, metric: Metric, *, x: XAxis, colour: str, style: object, name: str | None
) -> None:
    """Draw a curve for each run of a group (runs that differ only in the seed), and their mean.

    Args:
        name: name in the legend; without a name the line is thinner.
    """
    curves = [points for run in group.runs if (points := curve(run, metric, x))]
    if len(curves) > 1:
        for points in curves:
            panel.plot(*zip(*points, strict=True), color=colour, linestyle=style, linewidth=0.7, alpha=0.35)
    mean = mean_curve(curves)
    dot = "o" if len(mean) == 1 else None  # a line of one point is invisible
    xs, values = [point[0] for point in mean], [point[1] for point in mean]
    width = 1.4 if name is None else 2.2
    panel.plot(xs, values, color=colour, linestyle=style, linewidth=width, marker=dot, label=name)


def _limit_height(panel: Axes, shown: Sequence[Group], metrics: TaskMetrics) -> None:
    """Limit the y axis to the errors after the first part of training, because the first errors are much higher."""
    errors = [metric for metric in (metrics.primary, metrics.training) if metric and metric.as_error]
    curves = [points for group in shown for run in group.runs for m in errors if (points := curve(run, m, "epochs"))]
    late = [value for points in curves for at, value in points if at >= BEGINNING * points[-1][0]]
    if late:
        panel.set_ylim(0, min(100.0, 1.05 * max(late)))
    else:
        panel.set_ylim(bottom=0)
