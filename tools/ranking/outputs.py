"""Writes a ranking as table, JSON and chart, and compares it with a finished study."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backbones.common.files import JsonObject, write_json, write_text
from backbones.errors import UserError, counted
from tools.ranking.agreement import Agreement, weighted_tau
from tools.ranking.candidates import Candidate
from tools.ranking.ranking import Ranked, Ranking
from tools.ranking.remarks import TITLES
from tools.ranking.samples import NORMAL, Estimate
from tools.reports.style import COLOURS, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PERCENT = {"probe", "knn"}
ERROR = "error %"  # end of the titles of metrics of a study that are better if they are lower
HALF_WIDTH = 56  # characters of a model's name of which two fit side by side
OF_MODEL = {"backbone", "weights", "weights_from", "variant"}  # options that do not choose the data of a run


@dataclass(frozen=True)
class StudyGroup:
    """Runs of a study that differ only in the seed.

    Attributes:
        backbone, weights: model of the group; None if the study does not say, as older studies of one model do.
        data: the group's task, data set and part of it, as JSON. Means on different data are not comparable.
        mean: mean of the study's first metric in percent, of errors 100 minus it, so that higher is better; None if no
            run is finished.
        error: standard error of the mean over the seeds; 0 with one seed.
    """

    backbone: str | None
    weights: str | None
    data: str
    mean: float | None
    error: float


def table(ranking: Ranking) -> str:
    """Return the ranking in Markdown, best first, with 95 % intervals over the images."""
    columns = [ranking.by, *(name for name in TITLES if name != ranking.by)]
    head = ["", "backbone", "weights", *(TITLES[name] for name in columns), "parameters (M)", "GFLOPs", "images/s"]
    rows = [
        [
            str(place),
            row.candidate.backbone,
            row.candidate.weights + (f" from {row.candidate.weights_from}" if row.candidate.weights_from else ""),
            *(_shown(name, row.estimates[name]) for name in columns),
            f"{row.parameters / 1e6:.2f}",
            f"{row.gflops:.2f}",
            f"{row.speed:.1f}",
        ]
        for place, row in enumerate(ranking.rows, 1)
    ]
    rule = ["---:", "---", "---", *["---:"] * (len(head) - 3)]
    lines = [f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |" for cells in (head, rule, *rows)]
    failed = [f"- {name} could not be scored: {error}" for name, error in ranking.failed.items()]
    notes = [*failed, *(f"- {warning}" for warning in ranking.warnings)]
    return "\n".join([*lines, *([""] if notes else []), *notes])


def write(folder: Path, ranking: Ranking, data: JsonObject, agreement: Agreement | None) -> None:
    """Write ranking.md, ranking.json and ranking.png.

    Args:
        data: what was ranked: task, images, size and levels.
        agreement: agreement with a study, if one was given.

    Raises:
        UserError: a file cannot be written.
    """
    write_text(folder / "ranking.md", table(ranking) + "\n")
    content: JsonObject = {**data, "by": ranking.by, "ranking": [row.as_json() for row in ranking.rows]}
    content |= {"failed": dict(ranking.failed), "warnings": ranking.warnings}
    content |= {"agreement": None if agreement is None else asdict(agreement)}
    write_json(folder / "ranking.json", _without_nan(content))
    draw(folder / "ranking.png", ranking)


def front(rows: Sequence[Ranked], by: str) -> set[int]:
    """Return the indices of the rows on the Pareto front: no cheaper row (in GFLOPs) has as high a score."""
    chosen: set[int] = set()
    best = -float("inf")
    for index in sorted(range(len(rows)), key=lambda at: (rows[at].gflops, -rows[at].estimates[by].value)):
        if rows[index].estimates[by].value > best:
            best = rows[index].estimates[by].value
            chosen.add(index)
    return chosen


def draw(path: Path, ranking: Ranking) -> None:
    """Draw the score over the cost with intervals. Places of the ranking number the dots; the front is connected."""
    rows, by = ranking.rows, ranking.by
    figure, axes = new_figure(1, 1, width=8, height=4.5 + 0.15 * len(rows))
    panel = axes[0, 0]
    best = front(rows, by)
    for index, row in enumerate(rows):
        estimate, colour = row.estimates[by], COLOURS[1] if index in best else COLOURS[7]
        errors = [[max(estimate.value - estimate.low, 0)], [max(estimate.high - estimate.value, 0)]]
        panel.errorbar(row.gflops, estimate.value, yerr=errors, fmt="o", color=colour, capsize=2, elinewidth=1)
        place = (row.gflops, estimate.value)
        panel.annotate(str(index + 1), place, xytext=(6, 4), textcoords="offset points", fontsize=8, color=colour)
    line = sorted((rows[at].gflops, rows[at].estimates[by].value) for at in best)
    panel.plot([x for x, _ in line], [y for _, y in line], color=COLOURS[1], linewidth=1, zorder=0)
    panel.set_xlabel("GFLOPs of the backbone for one image")
    panel.set_ylabel(f"{TITLES[by]} (95 % interval over images)")
    panel.margins(x=0.1, y=0.1)
    _name_places(figure, [row.candidate.label for row in rows], best)
    save_figure(figure, path)


def _name_places(figure: Figure, names: Sequence[str], best: set[int]) -> None:
    """List the models below the chart, best first; those of the Pareto front in its colour and bold."""
    from matplotlib.lines import Line2D  # slow to import

    nothing = [Line2D([], [], linestyle="none")] * len(names)
    texts = [f"{place}  {name}" for place, name in enumerate(names, 1)]
    columns = 2 if max(map(len, names)) <= HALF_WIDTH else 1
    style = {"handlelength": 0, "handletextpad": 0, "frameon": False, "fontsize": 8}
    legend = figure.legend(nothing, texts, loc="outside lower left", ncols=columns, **style)
    for index, text in enumerate(legend.get_texts()):
        text.set(color=COLOURS[1] if index in best else COLOURS[7], weight="bold" if index in best else "normal")


def read_study(study: Path) -> list[StudyGroup]:
    """Return the groups of runs of a study of tools/compare.py.

    Args:
        study: folder with table.json, or this file.

    Raises:
        UserError: the file is missing or is not the table of a study.
    """
    path = study / "table.json" if study.is_dir() else study
    try:
        tasks = json.loads(path.read_text(encoding="utf-8"))
        return [_group(group, task["task"]) for task in tasks for group in task["groups"]]
    except (OSError, ValueError, TypeError, KeyError, StopIteration, AttributeError) as error:
        text = error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        raise UserError(
            f"--against {path}: cannot be read as table.json of a study ({text}); name its folder"
        ) from None


def require_covered(names: Sequence[Candidate], study: Sequence[StudyGroup]) -> None:
    """Check that a study has results of at least two candidates, and some data on which all of these have results.

    Raises:
        UserError: it has results of fewer, or no data are common.
    """
    found = [results for name in names if (results := _results(name, study))]
    if len(found) < 2:
        raise UserError(
            f"--against: the study has results of {len(found)} of the {len(names)} ranked backbones; name a study with "
            "at least two of them"
        )
    if not set.intersection(*map(set, found)):
        raise UserError(
            "--against: the study has no data on which all of its ranked backbones have results; finish its runs with "
            "compare.py, or rank fewer backbones"
        )


def agree(ranking: Ranking, study: Sequence[StudyGroup], *, seed: int) -> Agreement:
    """Compare a ranking with the results of a study.

    A group of the study belongs to a candidate if it has the candidate's backbone and weights. If a candidate has
    several groups (fractions of the data, data sets), their mean counts. Data on which a candidate has no results, such
    as those of a failed run, count for no candidate, because their results may be higher or lower than those on others.

    Raises:
        UserError: fewer than two candidates occur in the study, or they have no data in common.
    """
    require_covered([row.candidate for row in ranking.rows], study)
    found = [(row, results) for row in ranking.rows if (results := _results(row.candidate, study))]
    estimates = [row.estimates[ranking.by] for row, _ in found]
    common = set.intersection(*(set(results) for _, results in found))
    averages = [_average([_average(results[data]) for data in sorted(common)]) for _, results in found]
    agreement = weighted_tau(
        [estimate.value for estimate in estimates],
        [mean for mean, _ in averages],
        score_errors=[(estimate.high - estimate.low) / (2 * NORMAL) for estimate in estimates],
        result_errors=[error for _, error in averages],
        seed=seed,
    )
    left_out = sum(len(groups) for _, results in found for data, groups in results.items() if data not in common)
    return replace(agreement, left_out=left_out)


def _average(groups: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return the mean of independent means, given as pairs of a mean and its standard error, and its standard error."""
    count = len(groups)
    return sum(mean for mean, _ in groups) / count, sum(error**2 for _, error in groups) ** 0.5 / count


def describe(agreement: Agreement, by: str) -> str:
    """Return a sentence about the agreement with a study."""
    left_out = (
        f" {counted(agreement.left_out, 'result')} of the study did not count, because not all of these models have "
        "results on the same data."
        if agreement.left_out
        else ""
    )
    if isnan(agreement.tau):
        return (
            f"weighted Kendall tau of {TITLES[by]} and the study's results: unknown, because all {agreement.pairs} "
            f"models have the same score or the same result.{left_out}"
        )
    interval = f"{agreement.low:.2f} to {agreement.high:.2f}"
    words = (
        "agrees with" if agreement.low > 0 else "contradicts" if agreement.high < 0 else "is not shown to agree with"
    )
    return (
        f"weighted Kendall tau of {TITLES[by]} and the study's results: {agreement.tau:.2f} (95 % interval {interval}, "
        f"{agreement.pairs} models). The ranking {words} the study.{left_out}"
    )


def _group(entry: Mapping[str, Any], task: str) -> StudyGroup:
    title, metric = next(iter(entry["metrics"].items()))
    runs = sum(bool(run["finished"]) for run in entry["runs"])
    error = float(metric["std"] or 0) / max(runs, 1) ** 0.5
    values = entry["values"]
    model = entry.get("model", values)  # tables of earlier versions hold only the names of varied options
    data = entry.get("data", {name: value for name, value in values.items() if name not in OF_MODEL})
    mean = None if metric["mean"] is None else float(metric["mean"])
    if mean is not None and title.endswith(ERROR):
        mean = 100 - mean
    return StudyGroup(
        model.get("backbone"), model.get("weights"), json.dumps([task, data], sort_keys=True), mean, error
    )


def _results(candidate: Candidate, study: Sequence[StudyGroup]) -> dict[str, list[tuple[float, float]]]:
    """Return mean and standard error of each group that belongs to a candidate, by the group's data."""
    found: dict[str, list[tuple[float, float]]] = {}
    for group in study:
        same = group.backbone in (None, candidate.backbone)
        if group.mean is not None and same and (group.weights is None or _same_start(candidate.weights, group.weights)):
            found.setdefault(group.data, []).append((group.mean, group.error))
    return found


def _same_start(weights: str, of_group: str) -> bool:
    """Return whether two starts are the same tag, the same file, or, for the name alone, a file of this name."""
    return of_group in (weights, Path(weights).name) or Path(weights).resolve() == Path(of_group).resolve()


def _without_nan(value: Any) -> Any:
    """Return JSON values with None in place of NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {name: _without_nan(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and isnan(value) else value


def _shown(name: str, estimate: Estimate) -> str:
    scale, form = (100, ".1f") if name in PERCENT else (1, ".3f")
    value, low, high = (f"{scale * each:{form}}" for each in (estimate.value, estimate.low, estimate.high))
    return f"{value} ({low} to {high})"
