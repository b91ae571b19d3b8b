"""The chapters of a report on detection: COCO's metrics, classes, curves, error types, calibration and sizes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np

from tools.evaluation.summary import LIMIT, metric_names
from tools.reports import detection_images, explanations
from tools.reports.cells import (
    blocks_by_run,
    count_cell,
    fraction_cell,
    percent,
    run_columns,
    tables_by_presence,
    text_cell,
    text_column,
)
from tools.reports.charts import ChartSeries, line_chart
from tools.reports.differences import MetricDifference, detection_differences
from tools.reports.masks import mask_sections, mask_tables
from tools.reports.matrix import confusion_blocks
from tools.reports.object_sizes import SIZES, sizes_section
from tools.reports.outline import TaskReport
from tools.reports.page import (
    Block,
    FoldedBlocks,
    Paragraph,
    Section,
    SideBySide,
    SortableTable,
    SvgChart,
    TableCell,
    TableColumn,
)
from tools.reports.scores import scaled_series, scores_section
from tools.runs.folder import RunFolder
from tools.runs.outcomes import IOU, BoxPredictions

DEFINITIONS = {
    "AP": "mean over all classes and IoU 0.50 to 0.95",
    "AP50": "mean over all classes at IoU 0.50",
    "AP75": "mean over all classes at IoU 0.75",
    "APs": f"AP of objects {SIZES['small']}",
    "APm": f"AP of objects {SIZES['medium']}",
    "APl": f"AP of objects {SIZES['large']}",
    "AR1": "recall with 1 detection per image",
    "AR10": "recall with 10 detections per image",
    "AR100": "recall with 100 detections per image",
    "ARs": f"recall of objects {SIZES['small']}",
    "ARm": f"recall of objects {SIZES['medium']}",
    "ARl": f"recall of objects {SIZES['large']}",
}
ERROR_TYPES = {  # TIDE's name -> ours, definition
    "Cls": ("wrong class", "IoU 0.5 or higher with an object of another class"),
    "Loc": ("poor localization", "IoU 0.1 to 0.5 with an object of the same class"),
    "Both": ("wrong class and poor localization", "IoU 0.1 to 0.5 with an object of another class"),
    "Dupe": ("duplicate", "another detection already found the object"),
    "Bkg": ("background", "IoU below 0.1 with every object"),
    "Miss": ("missed", "an object without a detection near it"),
}
CLASS_CURVES = 6  # classes in the chart of precision-recall curves
THRESHOLDS = {"IoU 0.50": 0, "IoU 0.75": 5, "IoU 0.90": 8}  # name -> index among 0.50, 0.55, ... 0.95
MOST_ROWS = 14  # of a table beside a chart; longer tables are folded


class DetectionReport(TaskReport[BoxPredictions]):
    """Makes the chapters of a report on detection runs."""

    def read(self, run: RunFolder) -> BoxPredictions:
        return BoxPredictions.read(run, data=self.settings.data, score=self.settings.score)

    def metrics_section(self, runs: Sequence[RunFolder]) -> Section:
        return metrics_section(runs)

    def differences(self, first: BoxPredictions, other: BoxPredictions) -> list[MetricDifference]:
        return detection_differences(first, other, resamples=self.settings.bootstrap)

    def sections_from_results(self, runs: Sequence[RunFolder]) -> list[Section]:
        return [classes_section(runs)]

    def sections_from_predictions(self, found: Sequence[BoxPredictions]) -> list[Section]:
        return [
            precision_section(found),
            errors_section(found),
            confusion_section(found, score=self.settings.score),
            scores_section(found, count=self.settings.bootstrap),
            calibration_section(found),
            sizes_section(found, score=self.settings.score),
            *mask_sections(found, score=self.settings.score, number=self.settings.images),
        ]

    def changed_section(self, found: Sequence[BoxPredictions]) -> Section:
        return detection_images.changed_section(found, number=self.settings.images)

    def image_sections(self, found: Sequence[BoxPredictions]) -> list[Section]:
        number, several = self.settings.images, len(found) > 1
        named = [(each, each.run.name if several else "") for each in found]
        images = [(name, detection_images.image_blocks(each, number=number, name=name)) for each, name in named]
        objects = [(name, detection_images.error_blocks(each, number=number, name=name)) for each, name in named]
        text = (
            f"Detections with score {self.settings.score:g} or higher. A detection finds an object of its class at IoU "
            f"{IOU:g} or higher."
        )
        return [
            Section("Images", blocks_by_run(images), text),
            Section("Missed objects and false positives", blocks_by_run(objects), text),
            *explanations.detections_sections(found, self.settings),
        ]


def _limit(run: RunFolder) -> int:
    """Return how many detections per image and class count. Runs of earlier versions do not record it: 100."""
    return int(run.results.get("max_detections") or LIMIT)


def _definition(metric: str) -> str:
    return DEFINITIONS.get(metric, f"recall with {metric.removeprefix('AR')} detections per image and class")


def metrics_section(runs: Sequence[RunFolder]) -> Section:
    """Return the chapter with COCO's metrics, made from results.json alone."""
    columns = [text_column("metric"), *run_columns(runs, "percent"), text_column("definition")]
    rows = [
        [text_cell(name), *(fraction_cell(run.results.get(name)) for run in runs), text_cell(_definition(name))]
        for name in dict.fromkeys(chain.from_iterable(metric_names(_limit(run)) for run in runs))
    ]
    blocks: list[Block] = [SortableTable("COCO metrics in percent", columns, rows), *mask_tables(runs)]
    for run in runs:
        reasons = {name: str(text).replace("^2", "²") for name, text in (run.results.get("reasons") or {}).items()}
        of_run, prefix = (f" of {run.name}", f"{run.name}: ") if len(runs) > 1 else ("", "")
        blocks += [Paragraph(f"{name}{of_run}: {reason}") for name, reason in reasons.items()]
        blocks += [Paragraph(f"{prefix}{text}", warning=True) for text in run.results.get("warnings") or ()]
    return Section("COCO metrics", blocks)


def classes_section(runs: Sequence[RunFolder]) -> Section:
    """Return the chapter with AP, number of images and number of objects of each class."""
    several = len(runs) > 1
    columns = [text_column("class"), TableColumn("images"), TableColumn("objects")]
    for run in runs:
        columns += [TableColumn(f"{name} {run.name}" if several else name) for name in ("AP", "AP50")]
    by_run = [run.results.get("per_class") or {} for run in runs]
    rows = []
    for key, entry in by_run[0].items():
        values = [fraction_cell(classes.get(key, {}).get(name)) for classes in by_run for name in ("AP", "AP50")]
        rows.append([text_cell(key), count_cell(entry["images"]), count_cell(entry["boxes"]), *values])
    note = "The AP of a class with few objects is uncertain."
    table = SortableTable("AP by class in percent", columns, rows, note)
    is_present = [any(bool(classes.get(key, {}).get("boxes")) for classes in by_run) for key in by_run[0]]
    return Section("Classes", tables_by_presence(table, is_present, "objects"))


def precision_section(found: Sequence[BoxPredictions]) -> Section:
    """Return the chapter with curves of precision over recall: means over the classes, and one curve per class."""
    recall = np.linspace(0, 1, 101)
    if len(found) == 1:
        means = [(name, _mean_precision(found[0], index)) for name, index in THRESHOLDS.items()]
        charts = [
            _precision_chart("Mean over the classes", _known_series(means, recall)),
            _precision_chart("Classes at IoU 0.50", _class_series(found[0], recall)),
        ]
    else:
        charts = []
        for threshold, index in list(THRESHOLDS.items())[:2]:
            curves = [(each.run.name, _mean_precision(each, index)) for each in found]
            charts.append(_precision_chart(f"Mean over the classes at {threshold}", _known_series(curves, recall)))
    intro = (
        "Precision is the fraction of the detections that are correct, recall the fraction of the objects that are "
        "found. Along a curve the score threshold falls from left to right."
    )
    return Section("Precision and recall", [SideBySide([chart for chart in charts if chart.legend])], intro)


def errors_section(found: Sequence[BoxPredictions]) -> Section:
    """Return the chapter with TIDE's error types: how many errors there are, and how much AP50 each type costs."""
    several = len(found) > 1
    errors = [each.evaluation.tide_errors(pos_thr=IOU) for each in found]
    columns = [text_column("error")]
    for each in found:
        of_run = f" {each.run.name}" if several else ""
        columns += [
            TableColumn(f"count{of_run}"),
            TableColumn(f"%{of_run}", help="percent of all errors"),
            TableColumn(f"AP50 lost{of_run}", help="points that AP50 gains if all errors of the type are fixed"),
        ]
    columns.append(text_column("definition"))
    most = max(max(error["delta_ap"][key] for key in ERROR_TYPES) for error in errors) or 1.0
    rows = []
    for key, (name, definition) in ERROR_TYPES.items():
        cells = []
        for error in errors:
            number, lost = error["counts"][key], error["delta_ap"][key]
            fraction = number / max(sum(error["counts"][other] for other in ERROR_TYPES), 1)
            lost_cell = TableCell(percent(lost), key=lost, bar=max(0.0, lost / most))
            cells += [count_cell(number), fraction_cell(fraction), lost_cell]
        rows.append([text_cell(name), *cells, text_cell(definition)])
    text = (
        "The counts include detections of all scores, and most errors have low scores. AP50 lost shows which errors "
        "matter: it is the number of points that AP50 gains if all errors of the type are fixed."
    )
    return Section("Errors", [SortableTable("Errors by type (TIDE)", columns, rows)], text)


def confusion_section(found: Sequence[BoxPredictions], *, score: float) -> Section:
    """Return the chapter with the confusion matrix of each run, with the background as a class.

    Args:
        score: least score of the detections.
    """
    matrices = []
    for each in found:
        counted = each.confident.confusion_matrix(iou_thr=IOU)
        title = each.run.name if len(found) > 1 else "Objects by class"
        matrices.append((title, np.asarray(counted["matrix"]).astype(np.int64)))
    names = [*(str(name) for name in counted["cat_names"]), "background"]
    text = (
        f"Detections with score {score:g} or higher, matched with objects of any class at IoU {IOU:g}. Rows: true "
        "class; columns: predicted class. The last column counts missed objects, the last row false positives."
    )
    return Section("Confusion matrix", confusion_blocks(matrices, names, unit="objects", background=True), text)


def calibration_section(found: Sequence[BoxPredictions]) -> Section:
    """Return the chapter that compares the scores of detections with the fraction of correct detections."""
    calibrations = [each.evaluation.calibration(n_bins=10, iou_threshold=IOU) for each in found]
    series, notes = [], []
    for colour, (each, calibration) in enumerate(zip(found, calibrations, strict=True)):
        bins = [entry for entry in calibration["bins"] if entry["count"]]
        x, y = [entry["avg_confidence"] for entry in bins], [entry["avg_accuracy"] for entry in bins]
        series.append(ChartSeries(each.run.name, x, y, colour, dots=True))
        after, note = scaled_series(each.run.name, each.matched.whole.scores, each.matched.whole.correct, colour)
        series += after
        notes += note
    chart = line_chart("Fraction correct by score", series, x="score", y="fraction correct", square=True)
    columns = [text_column("class"), *run_columns([each.run for each in found], "error", "error ")]
    rows = [[text_cell("all"), *(fraction_cell(calibration["ece"]) for calibration in calibrations)]]
    for name in found[0].categories.values():
        errors = [calibration["per_category"].get(name) for calibration in calibrations]
        rows.append([text_cell(name), *map(fraction_cell, errors)])
    table = SortableTable("Expected calibration error in percent", columns, rows)
    text = (
        f"In a calibrated detector four of five detections with score 0.8 are correct (IoU {IOU:g}). Below the "
        "diagonal the scores are too high. All detections count, and most of them have low scores."
    )
    by_class = table if len(rows) < MOST_ROWS else FoldedBlocks("By class", [table])
    return Section("Calibration", [SideBySide([chart, by_class]), *notes], text)


def _mean_precision(predictions: BoxPredictions, threshold: int) -> np.ndarray | None:
    """Return the mean precision at each recall `[101]` over all classes with objects; None if no class has objects.

    Args:
        threshold: index of the IoU threshold.
    """
    values = predictions.precision[threshold]
    known = values[:, (values > -1).all(axis=0)]
    return known.mean(axis=1) if known.size else None


def _class_series(predictions: BoxPredictions, recall: np.ndarray) -> list[ChartSeries]:
    """Return a curve of precision over recall at IoU 0.50 for each class, or for the best and worst of many classes."""
    values = predictions.precision[0]
    names = list(predictions.categories.values())
    known = [label for label in range(len(names)) if (values[:, label] > -1).all()]
    known.sort(key=lambda label: -values[:, label].mean())
    if len(known) > CLASS_CURVES:
        known = known[: CLASS_CURVES // 2] + known[-CLASS_CURVES // 2 :]
    return [ChartSeries(names[label], recall, values[:, label], colour) for colour, label in enumerate(known)]


def _known_series(curves: Sequence[tuple[str, np.ndarray | None]], recall: np.ndarray) -> list[ChartSeries]:
    return [
        ChartSeries(name, recall, values, colour) for colour, (name, values) in enumerate(curves) if values is not None
    ]


def _precision_chart(title: str, series: Sequence[ChartSeries]) -> SvgChart:
    return line_chart(title, series, x="recall", y="precision", bottom=0, top=1.02)
