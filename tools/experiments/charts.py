"""Charts of an experiment: the metric by fraction of the data, differences with intervals, and the metric by cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

from tools.experiments.differences import Difference
from tools.experiments.groups import Group, varying_axes
from tools.experiments.tables import COST_COLUMNS
from tools.experiments.task_comparison import TaskComparison
from tools.reports.style import COLOURS, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Amount:
    """An option that says how much data a run is trained on, as the axis of a chart.

    Attributes:
        whole: value that stands for all training images; None if there is none.
        title: label of the axis.
        scale: factor on the values that are shown.
        unit: text after the values that are shown.
    """

    option: str
    whole: float | None
    title: str
    scale: float = 1.0
    unit: str = ""

    def of(self, group: Group) -> float | None:
        """Return the amount of data of a group's runs; None if the option does not say it."""
        value = group.runs[0].config.get(self.option)
        return self.whole if value is None else float(value)

    def values(self, task: TaskComparison) -> list[float]:
        """Return the amounts for which runs are finished, in rising order."""
        found = {self.of(group) for group in task.groups if group.finished}
        return sorted(value for value in found if value is not None)


AMOUNTS = (
    Amount("fraction", 1.0, "fraction of the training images", scale=100, unit=" %"),
    Amount("list_percent", 100.0, "percentage of the training images", unit=" %"),
    Amount("shots", None, "examples of each class"),
)
LABEL = 34  # characters of a line of a difference's label; 9 inches hold three such lines side by side
FOREST_KEY = (
    "line: interval over runs and images; grey: may be chance\nband: over images alone, of the models as trained"
)
# Title of a cost column -> label of its axis.
COST_AXES = {"parameters (M)": "parameters (M)", "GFLOPs": "GFLOPs", "minutes": "minutes of training"}
BETTER, WORSE, UNCERTAIN = COLOURS[1], COLOURS[0], COLOURS[7]


def draw_learning(path: Path, tasks: Sequence[TaskComparison]) -> bool:
    """Draw the metric over the amount of data: means as lines, standard deviations as bars, runs as dots.

    Returns:
        Whether a task has several amounts; otherwise nothing is drawn.

    Raises:
        UserError: the chart cannot be written.
    """
    shown = [(task, amount) for task in tasks if (amount := _amount(task)) is not None]
    if not shown:
        return False
    figure, axes = new_figure(1, len(shown), width=4.2 * len(shown) + 0.6, height=3.8)
    for panel, (task, amount) in zip(axes[0], shown, strict=True):
        _draw_learning(panel, task, amount)
    save_figure(figure, path)
    return True


def draw_differences(path: Path, tasks: Sequence[TaskComparison]) -> bool:
    """Draw each difference with its interval (a forest plot); the interval over images alone is thicker.

    Returns:
        Whether there are differences; otherwise nothing is drawn.

    Raises:
        UserError: the chart cannot be written.
    """
    shown = [(task, [each for each in task.differences if each.bounds]) for task in tasks]
    shown = [(task, differences) for task, differences in shown if differences]
    if not shown:
        return False
    rows = [len(differences) for _, differences in shown]
    lines = max(_label(each).count("\n") + 1 for _, differences in shown for each in differences)
    height = (0.17 + 0.17 * lines) * sum(rows) + 0.95 * len(rows)
    figure, axes = new_figure(len(shown), 1, width=9.0, height=height, height_ratios=rows)
    for (panel,), (task, differences) in zip(axes, shown, strict=True):
        _draw_forest(panel, task, differences)
    figure.supxlabel(FOREST_KEY, fontsize="small", color="#555555")
    save_figure(figure, path)
    return True


def draw_costs(path: Path, tasks: Sequence[TaskComparison]) -> bool:
    """Draw the metric over each cost (parameters, multiply-adds, minutes) that differs, with one dot per group of runs.

    Returns:
        Whether any cost differs; otherwise nothing is drawn.

    Raises:
        UserError: the chart cannot be written.
    """
    found = {title for task in tasks for title in _varying_costs(task)}
    titles = [title for title in COST_AXES if title in found]
    if not titles:
        return False
    rows, columns = len(tasks), len(titles)
    figure, axes = new_figure(rows, columns, width=3.6 * columns + 2.6, height=3.2 * rows)
    for panels, task in zip(axes, tasks, strict=True):
        for panel, title in zip(panels, titles, strict=True):
            _draw_costs(panel, task, title)
        _draw_shared_legend(panels)
    save_figure(figure, path)
    return True


def _draw_learning(panel: Axes, task: TaskComparison, amount: Amount) -> None:
    # One line for each combination of the other axes.
    axes = [name for name in varying_axes(task.groups) if name != amount.option]
    lines: dict[str, list[Group]] = {}
    for group in (group for group in task.groups if group.finished and amount.of(group) is not None):
        lines.setdefault(group.name(axes) if axes else "", []).append(group)
    for number, (name, members) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        offset = 1 + 0.03 * (number - (len(lines) - 1) / 2)  # keeps the bars of the lines apart
        _draw_learning_line(panel, task, members, amount, colour=colour, offset=offset, name=name)
    values = amount.values(task)
    panel.set_xscale("log")
    panel.set_xticks(values, [f"{amount.scale * value:g}{amount.unit}" for value in values])
    panel.minorticks_off()
    panel.set(xlabel=amount.title, ylabel=task.metrics.axis, title=task.name)
    if any(lines):
        panel.legend(loc="best")


def _draw_learning_line(
    panel: Axes,
    task: TaskComparison,
    members: Sequence[Group],
    amount: Amount,
    *,
    colour: str,
    offset: float,
    name: str,
) -> None:
    primary = task.metrics.primary
    members = sorted(members, key=lambda group: amount.of(group) or 0.0)
    spreads = [group.spread(primary) for group in members]
    xs, means = [offset * (amount.of(group) or 0.0) for group in members], [middle or 0.0 for middle, _ in spreads]
    bars = [std or 0.0 for _, std in spreads]
    panel.errorbar(xs, means, bars, color=colour, marker="o", capsize=3, linewidth=2, label=name or None)
    for x, group in zip(xs, members, strict=True):
        values = group.percents(primary)
        panel.plot([x] * len(values), values, ".", color=colour, alpha=0.5)


def _draw_forest(panel: Axes, task: TaskComparison, differences: Sequence[Difference]) -> None:
    for row, each in enumerate(differences):
        low, high = each.bounds or (0.0, 0.0)
        colour = UNCERTAIN if not each.sure else BETTER if each.change > 0 else WORSE
        panel.plot([low, high], [row, row], color=colour, linewidth=1.4)
        if each.images:
            panel.plot(each.images, [row, row], color=colour, linewidth=4, alpha=0.45, solid_capstyle="butt")
        panel.plot(each.change, row, "o", color=colour)
    panel.axvline(0, color="#555555", linewidth=1)
    panel.set_yticks(range(len(differences)), [_label(each) for each in differences])
    panel.set_ylim(len(differences) - 0.4, -0.6)
    panel.set(xlabel=f"difference in {differences[0].metric}, points", title=task.name)
    panel.grid(axis="y", visible=False)


def _label(each: Difference) -> str:
    """Return the label of a difference, broken into lines of at most `LABEL` characters."""
    return fill(f"{each.axis}: {each.other} over {each.first}{_rest(each)}", LABEL)


def _rest(each: Difference) -> str:
    return f" ({', '.join(f'{axis} {value}' for axis, value in each.rest.items())})" if each.rest else ""


def _draw_costs(panel: Axes, task: TaskComparison, title: str) -> None:
    axes = varying_axes(task.groups)
    for number, group in enumerate(task.groups):
        cost, (middle, std) = _cost(title)(group), group.spread(task.metrics.primary)
        if cost is None or middle is None:
            continue
        colour = COLOURS[number % len(COLOURS)]
        panel.errorbar([cost], [middle], [std or 0.0], color=colour, marker="o", capsize=3, label=group.name(axes))
    panel.set(xlabel=COST_AXES[title], ylabel=task.metrics.axis, title=task.name)
    panel.margins(x=0.15)
    if not panel.containers:  # no group has this cost
        panel.axis("off")


def _draw_shared_legend(panels: Sequence[Axes]) -> None:
    """Draw one legend to the right of the last panel, with the entries of the first panel that has any."""
    for panel in panels:
        handles, labels = panel.get_legend_handles_labels()
        if handles:
            break
    panels[-1].legend(handles, labels, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _varying_costs(task: TaskComparison) -> list[str]:
    """Return the titles of the costs (parameters, multiply-adds, minutes) that are not the same for all groups."""
    varying = []
    for title in COST_AXES:
        known = {round(cost, 6) for group in task.groups if (cost := _cost(title)(group)) is not None}
        varying += [title] if len(known) > 1 else []
    return varying


def _cost(title: str) -> Callable[[Group], float | None]:
    return next(column.of for column in COST_COLUMNS if column.title == title)


def _amount(task: TaskComparison) -> Amount | None:
    """Return the first amount of data that differs between the finished runs of a task; None if none does."""
    return next((amount for amount in AMOUNTS if len(amount.values(task)) > 1), None)
