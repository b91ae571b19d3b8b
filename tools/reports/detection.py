"""The chapters of a detection report: COCO's figures, classes, curves, errors, sizes and pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tools.evaluation.summary import AREAS, METRICS
from tools.reports.charts import Series, line_chart
from tools.reports.matrix import confusions
from tools.reports.page import (
    Cell,
    Column,
    Folded,
    Note,
    Section,
    Side,
    Table,
    count,
    percent,
    share,
    titles,
    word,
)
from tools.runs.detection import IOU, Matched, Seen, Truth
from tools.runs.folder import RunFolder

SIZES = {name: text.replace("^2", "²") for name, text in AREAS.items() if name != "all"}
MEANINGS = {
    "AP": "mean over IoU .50 to .95 and all classes",
    "AP50": "at IoU .50",
    "AP75": "at IoU .75",
    "APs": f"objects {SIZES['small']}",
    "APm": f"objects {SIZES['medium']}",
    "APl": f"objects {SIZES['large']}",
    "AR1": "recall with 1 detection an image",
    "AR10": "recall with 10 detections an image",
    "AR100": "recall with 100 detections an image",
    "ARs": f"recall of objects {SIZES['small']}",
    "ARm": f"recall of objects {SIZES['medium']}",
    "ARl": f"recall of objects {SIZES['large']}",
}
TIDE = {
    "Cls": ("wrong class", "the place is right, the class is not"),
    "Loc": ("loose box", "the class is right, IoU .1 to .5"),
    "Both": ("wrong class and loose box", "IoU .1 to .5 with an object of another class"),
    "Dupe": ("second box", "the object was found already"),
    "Bkg": ("background", "IoU below .1 with all objects"),
    "Miss": ("missed", "no detection is near the object"),
}
CLASS_CURVES = 6  # classes that get a precision-recall curve of their own


def figures_section(runs: Sequence[RunFolder]) -> Section:
    """The COCO table; it needs results.json alone."""
    columns = [Column("figure", number=False), *titles(runs, "percent"), Column("what it is", number=False)]
    rows = [[word(name), *(share(run.results.get(name)) for run in runs), word(MEANINGS[name])] for name in METRICS]
    blocks: list[Any] = [Table("COCO figures in percent", columns, rows)]
    for run in runs:
        reasons = run.results.get("reasons") or {}
        who = f"{run.name}: " if len(runs) > 1 else ""
        blocks += [Note(f"{who}{name} {reason}") for name, reason in reasons.items()]
        blocks += [Note(f"{who}{text}", warning=True) for text in run.results.get("warnings") or ()]
    return Section("COCO figures", blocks)


def classes_section(runs: Sequence[RunFolder]) -> Section:
    """AP of each class with its counts."""
    several = len(runs) > 1
    columns = [Column("class", number=False), Column("images"), Column("objects")]
    for run in runs:
        columns += [Column(f"{name} {run.name}" if several else name) for name in ("AP", "AP50")]
    by_run = [{entry["id"]: entry for entry in run.results.get("per_class") or ()} for run in runs]
    rows = []
    for key, entry in by_run[0].items():
        figures = [share(classes.get(key, {}).get(name)) for classes in by_run for name in ("AP", "AP50")]
        rows.append([word(str(entry["name"])), count(entry["images"]), count(entry["boxes"]), *figures])
    note = "A class of few objects has an AP of little meaning."
    return Section("Classes", [Table("AP by class in percent", columns, rows, note)])


def precision_section(found: Sequence[Matched]) -> Section:
    """Precision over recall, as mean and by class."""
    recall = np.linspace(0, 1, 101)
    charts = []
    if len(found) == 1:
        means = [
            (name, _mean_precision(found[0], place)) for name, place in (("IoU .50", 0), ("IoU .75", 5), ("IoU .90", 8))
        ]
        series = [
            Series(name, recall, values, colour) for colour, (name, values) in enumerate(means) if values is not None
        ]
        charts.append(_unit_chart("Mean over the classes", series))
        charts.append(_unit_chart("Classes at IoU .50", _class_curves(found[0], recall)))
    else:
        for place, name in ((0, "IoU .50"), (5, "IoU .75")):
            curves = [(each.run.name, _mean_precision(each, place)) for each in found]
            series = [Series(name, recall, values, c) for c, (name, values) in enumerate(curves) if values is not None]
            charts.append(_unit_chart(f"Mean over the classes at {name}", series))
    intro = (
        "How precise the detections are (the share that is right) when the score is lowered until a share of the "
        "objects is found."
    )
    return Section("Precision and recall", [Side([chart for chart in charts if chart.lines])], intro)


def errors_section(found: Sequence[Matched]) -> Section:
    """TIDE's errors: what they are, how many, and what mending each kind would bring."""
    several = len(found) > 1
    errors = [each.full.tide_errors(pos_thr=IOU) for each in found]
    columns = [Column("error", number=False)]
    for each in found:
        name = f" {each.run.name}" if several else ""
        columns += [Column(f"count{name}"), Column(f"%{name}", help="of all errors"), Column(f"AP50 lost{name}")]
    columns.append(Column("what it is", number=False))
    most = max(max(error["delta_ap"][key] for key in TIDE) for error in errors) or 1.0
    rows = []
    for key, (name, meaning) in TIDE.items():
        cells = []
        for error in errors:
            number, lost = error["counts"][key], error["delta_ap"][key]
            part = number / max(sum(error["counts"][other] for other in TIDE), 1)
            cells += [count(number), share(part), Cell(percent(lost), key=lost, bar=max(0.0, lost / most))]
        rows.append([word(name), *cells, word(meaning)])
    text = (
        "Detections of all scores are counted, and most of the errors are unsure ones. AP50 lost is what mending that "
        "kind alone would bring, in points: it says which matter."
    )
    return Section("Errors", [Table("Errors by kind (TIDE)", columns, rows)], text)


def confusion_section(found: Sequence[Matched], *, score: float) -> Section:
    """What was taken for what, the background included."""
    matrices = []
    for each in found:
        counted = each.sure.confusion_matrix(iou_thr=IOU)
        title = each.run.name if len(found) > 1 else "Objects by class"
        matrices.append((title, np.asarray(counted["matrix"]).astype(np.int64)))
    names = [*(str(name) for name in counted["cat_names"]), "background"]
    text = (
        f"Detections of score {score:g} and above, matched with the objects of any class at IoU {IOU:g}. Row: what it "
        "is; column: what it was taken for. The last column holds missed objects, the last row invented ones."
    )
    return Section("Confusion", confusions(matrices, names, unit="objects", background=True), text)


def calibration_section(found: Sequence[Matched]) -> Section:
    """Whether scores are probabilities."""
    calibrations = [each.full.calibration(n_bins=10, iou_threshold=IOU) for each in found]
    series = []
    for place, (each, calibration) in enumerate(zip(found, calibrations, strict=True)):
        bins = [entry for entry in calibration["bins"] if entry["count"]]
        x, y = [entry["avg_confidence"] for entry in bins], [entry["avg_accuracy"] for entry in bins]
        series.append(Series(each.run.name, x, y, place, dots=True))
    chart = line_chart("Share that is right by score", series, x="score", y="share right", square=True)
    columns = [Column("class", number=False), *titles([each.run for each in found], "error", "error ")]
    rows = [[word("all"), *(share(calibration["ece"]) for calibration in calibrations)]]
    for name in found[0].categories.values():
        rows.append([word(name), *(share(calibration["per_category"].get(name)) for calibration in calibrations)])
    table = Table("Expected calibration error in percent", columns, rows)
    text = (
        f"Of the detections with score .8, four in five should be right (IoU {IOU:g}). Below the diagonal the detector "
        "is too sure of itself. All detections are counted, so most lie at low scores."
    )
    return Section("Calibration", [Side([chart, table if len(rows) < 14 else Folded("By class", [table])])], text)


def sizes_section(found: Sequence[Matched], *, score: float) -> Section:
    """How recall depends on an object's size, shape and company."""
    tables = [
        _recall_table(found, "Objects by size", "size", [(text, _within(name)) for name, text in SIZES.items()]),
        _recall_table(found, "Objects by shape", "width : height", SHAPES),
        _recall_table(found, "Objects by how many the image shows", "in the image", CROWDS),
    ]
    text = f"Share of the objects found at score {score:g} and above, IoU {IOU:g}."
    return Section("Sizes and shapes", [Side(tables, tables=True)], text)


def _recall_table(found: Sequence[Matched], title: str, what: str, groups: Any) -> Table:
    columns = [Column(what, number=False), Column("objects"), *titles([each.run for each in found], "found", "found ")]
    rows = []
    for place, (name, test) in enumerate(groups):
        chosen = [[t for i in each.images for t in i.truths if t.status != "crowd" and test(i, t)] for each in found]
        recalls = [sum(t.status == "hit" for t in truths) / len(truths) if truths else None for truths in chosen]
        rows.append([Cell(name, key=place), count(len(chosen[0])), *map(share, recalls)])
    return Table(title, columns, rows)


def _within(area: str) -> Callable[[Seen, Truth], bool]:
    low, high = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, float("inf"))}[area]
    return lambda image, truth: low <= truth.area < high


def _shape(low: float, high: float) -> Callable[[Seen, Truth], bool]:
    return lambda image, truth: low <= truth.box[2] / max(truth.box[3], 1e-9) < high


def _company(low: int, high: float) -> Callable[[Seen, Truth], bool]:
    return lambda image, truth: low <= sum(t.status != "crowd" for t in image.truths) <= high


SHAPES = [
    ("below 1 : 2 (tall)", _shape(0, 0.5)),
    ("1 : 2 to 4 : 5", _shape(0.5, 0.8)),
    ("4 : 5 to 5 : 4 (square)", _shape(0.8, 1.25)),
    ("5 : 4 to 2 : 1", _shape(1.25, 2)),
    ("above 2 : 1 (wide)", _shape(2, float("inf"))),
]
CROWDS = [
    ("1", _company(1, 1)),
    ("2 to 5", _company(2, 5)),
    ("6 to 15", _company(6, 15)),
    ("16 and more", _company(16, float("inf"))),
]


def _mean_precision(matched: Matched, place: int) -> np.ndarray | None:
    """Precision `[101]` at an IoU threshold's place, over the classes that have objects."""
    values = matched.arrays["precision"][place, :, :, 0, -1]
    known = values[:, (values > -1).all(axis=0)]
    return known.mean(axis=1) if known.size else None


def _class_curves(matched: Matched, recall: np.ndarray) -> list[Series]:
    """Classes at IoU .50: all, or the best and the worst of many."""
    values = matched.arrays["precision"][0, :, :, 0, -1]
    names = list(matched.categories.values())
    known = [place for place in range(len(names)) if (values[:, place] > -1).all()]
    known.sort(key=lambda place: -values[:, place].mean())
    if len(known) > CLASS_CURVES:
        known = known[: CLASS_CURVES // 2] + known[-CLASS_CURVES // 2 :]
    return [Series(names[place], recall, values[:, place], colour) for colour, place in enumerate(known)]


def _unit_chart(title: str, series: Sequence[Series]) -> Any:
    return line_chart(title, series, x="recall", y="precision", bottom=0, top=1.02)
