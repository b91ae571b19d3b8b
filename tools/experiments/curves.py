"""The curves of an experiment, as figures 1, 4 and 6 of the paper draw them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from tools.experiments.groups import Group, varying
from tools.experiments.runs import Run
from tools.reports.style import COLOURS, DASHED, new_figure, save_figure
from tools.runs.log import evaluations
from tools.runs.metrics import Metric, TaskMetrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

X = Literal["epochs", "iterations"]
START = 0.1  # part of a run that the height of the picture need not show


def draw_curves(path: Path, found: Sequence[Group], task: TaskMetrics, *, x: X = "epochs") -> bool:
    """Draw training (dashed) and held-out (solid) curves: a colour per group, thin lines per seed, their mean bold.

    Plain nets and residual nets get panels of their own, side by side.

    Returns:
        Whether there was anything to draw.

    Raises:
        UserError: where the picture cannot be written.
    """
    shown = [group for group in found if any(evaluations(run.lines) for run in group.runs)]
    if not shown:
        return False
    families = _panels(shown)
    figure, axes = new_figure(1, len(families), width=5.2 * len(families) + 1.0, height=4.4, sharey=True)
    for panel, (title, members) in zip(axes[0], families.items(), strict=True):
        colours = [COLOURS[shown.index(group) % len(COLOURS)] for group in members]
        _draw_panel(panel, members, task, x=x, names=varying(found), colours=colours)
        panel.set_title(title)
    axes[0][0].set_ylabel(task.axis)
    _limit(axes[0][0], shown, task)
    save_figure(figure, path)
    return True


def curve(run: Run, metric: Metric, x: X) -> list[tuple[float, float]]:
    """Points (epoch or iteration, percent) of the evaluations that measured a metric."""
    key = "epoch" if x == "epochs" else "step"
    points = ((line[key], metric.percent(line)) for line in evaluations(run.lines))
    return [(place, value) for place, value in points if value is not None]


def mean_curve(curves: Sequence[Sequence[tuple[float, float]]]) -> list[tuple[float, float]]:
    """The mean at the places that every non-empty curve has."""
    values = [dict(points) for points in curves if points]
    places = sorted(set.intersection(*(set(points) for points in values))) if values else []
    return [(place, float(np.mean([points[place] for points in values]))) for place in places]


def _panels(shown: Sequence[Group]) -> dict[str, list[Group]]:
    """Groups by family of nets (the name without its depth) where two or three families have several each."""
    families: dict[str, list[Group]] = {}
    for group in shown:
        net = str(group.runs[0].config.get("backbone", ""))
        families.setdefault(re.sub(r"\d+$", "", net), []).append(group)
    apart = 2 <= len(families) <= 3 and all(len(members) > 1 for members in families.values())
    return families if apart else {"": list(shown)}


def _draw_panel(
    panel: Axes, members: Sequence[Group], task: TaskMetrics, *, x: X, names: list[str], colours: list[str]
) -> None:
    for group, colour in zip(members, colours, strict=True):
        if task.training:
            _draw_group(panel, group, task.training, x=x, colour=colour, style=DASHED, name=None)
        _draw_group(panel, group, task.primary, x=x, colour=colour, style="solid", name=group.name(names))
    if task.training:
        panel.plot([], [], color="#555555", linestyle="solid", label="held out")
        panel.plot([], [], color="#555555", linestyle=DASHED, label="training")
    panel.set_xlabel("epoch" if x == "epochs" else "iteration")
    panel.legend(loc="best")
    panel.margins(x=0.02)


def _draw_group(
    panel: Axes, group: Group, metric: Metric, *, x: X, colour: str, style: object, name: str | None
) -> None:
    curves = [points for run in group.runs if (points := curve(run, metric, x))]
    if len(curves) > 1:
        for points in curves:
            panel.plot(*zip(*points, strict=True), color=colour, linestyle=style, linewidth=0.7, alpha=0.35)
    bold = mean_curve(curves)
    dot = "o" if len(bold) == 1 else None  # a line of one point is invisible
    places, values = [point[0] for point in bold], [point[1] for point in bold]
    width = 1.4 if name is None else 2.2
    panel.plot(places, values, color=colour, linestyle=style, linewidth=width, marker=dot, label=name)


def _limit(panel: Axes, shown: Sequence[Group], task: TaskMetrics) -> None:
    """Leave the first steps of training out of the picture's height where the values fall from far above."""
    metrics = [metric for metric in (task.primary, task.training) if metric and metric.as_error]
    curves = [points for group in shown for run in group.runs for m in metrics if (points := curve(run, m, "epochs"))]
    late = [value for points in curves for place, value in points if place >= START * points[-1][0]]
    if late:
        panel.set_ylim(0, min(100.0, 1.05 * max(late)))
    else:
        panel.set_ylim(bottom=0)
