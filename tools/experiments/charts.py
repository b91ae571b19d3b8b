"""What an experiment says at a glance: learning curves over the data, differences with intervals, and costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools.experiments.groups import Group, varying
from tools.experiments.tables import FIGURES, Chapter, spread
from tools.reports.style import COLOURS, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from tools.experiments.differences import Difference

FRACTION = "fraction"
COSTS = {"parameters (M)": "parameters (M)", "GFLOPs": "GFLOPs", "minutes": "minutes of training"}


def draw_learning(path: Path, chapters: Sequence[Chapter]) -> bool:
    """Draw the score over the share of the data: a line through the means, bars of a standard deviation, runs as dots.

    Returns:
        Whether a task has several shares.

    Raises:
        UserError: where the picture cannot be written.
    """
    shown = [chapter for chapter in chapters if len(_shares(chapter)) > 1]
    if not shown:
        return False
    figure, axes = new_figure(1, len(shown), width=4.2 * len(shown) + 0.6, height=3.8)
    for panel, chapter in zip(axes[0], shown, strict=True):
        _draw_learning(panel, chapter)
    save_figure(figure, path)
    return True


def draw_differences(path: Path, chapters: Sequence[Chapter]) -> bool:
    """Draw a forest plot: each difference beside zero with its interval, thick the part that the images alone make.

    Returns:
        Whether there are differences.

    Raises:
        UserError: where the picture cannot be written.
    """
    shown = [(c, [d for d in c.differences if d.bounds]) for c in chapters]
    shown = [(chapter, rows) for chapter, rows in shown if rows]
    if not shown:
        return False
    rows = [len(found) for _, found in shown]
    height = 0.34 * sum(rows) + 0.95 * len(rows)
    figure, axes = new_figure(len(shown), 1, width=9.0, height=height, height_ratios=rows)
    for (panel,), (chapter, found) in zip(axes, shown, strict=True):
        _draw_forest(panel, chapter, found)
    save_figure(figure, path)
    return True


def draw_costs(path: Path, chapters: Sequence[Chapter]) -> bool:
    """Draw the score over parameters, multiply-adds and minutes, a dot a group; a cost alike in all is left out.

    Returns:
        Whether any cost differs.

    Raises:
        UserError: where the picture cannot be written.
    """
    found = {title for chapter in chapters for title in _costs(chapter)}
    titles = [title for title in COSTS if title in found]
    if not titles:
        return False
    rows, columns = len(chapters), len(titles)
    figure, axes = new_figure(rows, columns, width=3.6 * columns + 2.6, height=3.2 * rows)
    for line, chapter in zip(axes, chapters, strict=True):
        for panel, title in zip(line, titles, strict=True):
            _draw_costs(panel, chapter, title)
        handles: Any = next((each for panel in line if (each := panel.get_legend_handles_labels())[0]), ([], []))
        line[-1].legend(*handles, loc="center left", bbox_to_anchor=(1.0, 0.5))
    save_figure(figure, path)
    return True


def _draw_learning(panel: Axes, chapter: Chapter) -> None:
    names = [name for name in varying(chapter.groups) if name != FRACTION]
    lines: dict[str, list[Group]] = {}
    for group in (group for group in chapter.groups if group.finished):
        lines.setdefault(group.name(names) if names else "", []).append(group)
    for number, (name, members) in enumerate(lines.items()):
        members = sorted(members, key=_share)
        colour = COLOURS[number % len(COLOURS)]
        spreads = [spread(group, chapter.task.primary) for group in members]
        aside = 1 + 0.03 * (number - (len(lines) - 1) / 2)  # so that bars do not hide one another
        shares, means = [aside * _share(group) for group in members], [middle or 0.0 for middle, _ in spreads]
        bars = [deviation or 0.0 for _, deviation in spreads]
        panel.errorbar(shares, means, bars, color=colour, marker="o", capsize=3, linewidth=2, label=name or None)
        for share, group in zip(shares, members, strict=True):
            values = [v for run in group.finished if (v := chapter.task.primary.percent(run.results or {})) is not None]
            panel.plot([share] * len(values), values, ".", color=colour, alpha=0.5)
    shares = _shares(chapter)
    panel.set_xscale("log")
    panel.set_xticks(shares, [f"{100 * share:g} %" for share in shares])
    panel.minorticks_off()
    panel.set(xlabel="share of the training images", ylabel=chapter.task.axis, title=chapter.name)
    if any(lines):
        panel.legend(loc="best")


def _draw_forest(panel: Axes, chapter: Chapter, found: Sequence[Difference]) -> None:
    for place, each in enumerate(found):
        low, high = each.bounds or (0.0, 0.0)
        colour = COLOURS[7] if not each.sure else COLOURS[1] if each.change > 0 else COLOURS[0]
        panel.plot([low, high], [place, place], color=colour, linewidth=1.4)
        if each.images:
            panel.plot(each.images, [place, place], color=colour, linewidth=4, alpha=0.45, solid_capstyle="butt")
        panel.plot(each.change, place, "o", color=colour)
    panel.axvline(0, color="#555555", linewidth=1)
    names = [f"{each.axis}: {each.other} over {each.first}{_rest(each)}" for each in found]
    panel.set_yticks(range(len(found)), names)
    panel.set_ylim(len(found) - 0.4, -0.6)
    panel.set(xlabel=f"difference in {found[0].metric}, points", title=chapter.name)
    panel.grid(axis="y", visible=False)


def _draw_costs(panel: Axes, chapter: Chapter, title: str) -> None:
    names = varying(chapter.groups)
    for number, group in enumerate(chapter.groups):
        cost, (middle, deviation) = _cost(title)(group), spread(group, chapter.task.primary)
        if cost is None or middle is None:
            continue
        colour = COLOURS[number % len(COLOURS)]
        panel.errorbar(
            [cost], [middle], [deviation or 0.0], color=colour, marker="o", capsize=3, label=group.name(names)
        )
    panel.set(xlabel=COSTS[title], ylabel=chapter.task.axis, title=chapter.name)
    panel.margins(x=0.15)
    if not panel.containers:  # the cost is not known here
        panel.axis("off")


def _costs(chapter: Chapter) -> list[str]:
    """Titles of the costs that differ between groups."""
    found = []
    for title in COSTS:
        known = {round(cost, 6) for group in chapter.groups if (cost := _cost(title)(group)) is not None}
        found += [title] if len(known) > 1 else []
    return found


def _cost(title: str) -> Callable[[Group], float | None]:
    return next(figure.of for figure in FIGURES if figure.title == title)


def _rest(each: Difference) -> str:
    return f" ({', '.join(f'{axis} {value}' for axis, value in each.rest.items())})" if each.rest else ""


def _share(group: Group) -> float:
    return float(group.runs[0].config.get(FRACTION, 1.0))


def _shares(chapter: Chapter) -> list[float]:
    """The shares of the data that have finished runs, rising."""
    return sorted({_share(group) for group in chapter.groups if group.finished})
