"""The chapters of a report on classification: metrics, classes, confusion matrix, calibration and images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from hotcoco.metrics import calibration_curve, calibration_error

from backbones.errors import counted
from tools.reports.cells import (
    blocks_by_run,
    count_cell,
    fraction_cell,
    run_columns,
    tables_by_presence,
    text_cell,
    text_column,
)
from tools.reports.charts import ChartSeries, line_chart
from tools.reports.differences import MetricDifference, classification_differences
from tools.reports.explanations import images_sections as explained_sections
from tools.reports.matrix import confusion_blocks
from tools.reports.outline import TaskReport
from tools.reports.page import (
    Block,
    Gallery,
    GalleryItem,
    Paragraph,
    Section,
    SideBySide,
    SortableTable,
    TableCell,
    TableColumn,
)
from tools.reports.pictures import embed, read_rgb
from tools.reports.scores import scaled_series
from tools.runs.classification import ClassPredictions, image_root
from tools.runs.folder import RunFolder

SMALL_SIDE = 220  # pixels of an image
BINS = 10  # of the confidence
DEFINITIONS = {
    "top1": "fraction of the images whose most probable class is the true class",
    "top5": "fraction of the images whose true class is among the five most probable",
    "train_top1": "top1 on training images, preprocessed as in evaluation",
    "train_top5": "top5 on training images, preprocessed as in evaluation",
    "balanced_accuracy": "mean over the classes with images of their recall",
    "mAP": "mean over the classes with images of the average precision, for several classes an image",
    "macro_f1": "mean over the classes of F1, the harmonic mean of precision and recall",
    "micro_f1": "F1 of all decisions on images and classes together",
    "exact_match": "fraction of the images whose predicted set of classes is the true one",
}


class ClassificationReport(TaskReport[ClassPredictions]):
    """Makes the chapters of a report on classification runs."""

    def read(self, run: RunFolder) -> ClassPredictions:
        return ClassPredictions.read(run)

    def metrics_section(self, runs: Sequence[RunFolder]) -> Section:
        return metrics_section(runs)

    def differences(self, first: ClassPredictions, other: ClassPredictions) -> list[MetricDifference]:
        return classification_differences(first, other, resamples=self.settings.bootstrap)

    def difference_notes(self, found: Sequence[ClassPredictions]) -> list[Paragraph]:
        old = [each.run.name for each in found if each.rank is None]
        text = "predictions.csv has no rank and loss of each image, so only top1 has an interval"
        return [Paragraph(f"{', '.join(old)}: {text}.")] if old else []

    def sections_from_predictions(self, found: Sequence[ClassPredictions]) -> list[Section]:
        return [classes_section(found), confusion_section(found), calibration_section(found)]

    def changed_section(self, found: Sequence[ClassPredictions]) -> Section:
        return changed_section(found, data=self.settings.data, number=self.settings.images)

    def image_sections(self, found: Sequence[ClassPredictions]) -> list[Section]:
        data, number = self.settings.data, self.settings.images
        roots = [image_root(each.run, each.names, data) for each in found]
        return [images_section(found, data=data, number=number), *explained_sections(found, roots, self.settings)]


def metrics_section(runs: Sequence[RunFolder]) -> Section:
    """Return the chapter on accuracy, made from results.json alone."""
    columns = [text_column("metric"), *run_columns(runs, "percent"), text_column("definition")]
    rows = [
        [text_cell(name), *(fraction_cell(run.results.get(name)) for run in runs), text_cell(definition)]
        for name, definition in DEFINITIONS.items()
        if any(run.results.get(name) is not None for run in runs)
    ]
    losses = [run.results.get("nll") for run in runs]
    if any(loss is not None for loss in losses):
        cells = [TableCell("n/a" if loss is None else f"{loss:.4f}", key=loss) for loss in losses]
        definition = "mean negative log-likelihood of the true class, not in percent; 0 is perfect"
        rows.append([text_cell("nll"), *cells, text_cell(definition)])
    several = [table for run in runs if (table := _label_table(run)) is not None]
    return Section("Metrics", [SortableTable("Metrics in percent", columns, rows), *several])


def _label_table(run: RunFolder) -> SortableTable | None:
    """Return the table of the classes of a run with several classes an image; None for other runs."""
    if not run.is_multi_label:
        return None
    columns = [text_column("class"), TableColumn("images")]
    columns += [TableColumn(name) for name in ("average precision", "F1", "threshold")]
    rows = [
        [
            text_cell(name),
            count_cell(entry["images"]),
            *(fraction_cell(entry[key]) for key in ("AP", "F1", "threshold")),
        ]
        for name, entry in run.results["per_class"].items()
    ]
    note = "A class is predicted if its probability reaches the threshold, which has the highest F1 on these images."
    return SortableTable(f"Classes of {run.name} in percent", columns, rows, note)


def classes_section(found: Sequence[ClassPredictions]) -> Section:
    """Return the chapter with recall, precision and number of images of each class."""
    several = len(found) > 1
    columns = [text_column("class"), TableColumn("images")]
    for each in found:
        columns += [TableColumn(f"{name} {each.run.name}" if several else name) for name in ("recall", "precision")]
    rows = []
    for label, name in enumerate(found[0].classes):
        cells = [text_cell(name), count_cell(int((found[0].truth == label).sum()))]
        for each in found:
            recall = _fraction_correct(each, each.truth == label)
            precision = _fraction_correct(each, each.predicted == label)
            cells += [fraction_cell(recall), fraction_cell(precision)]
        rows.append(cells)
    note = (
        "Recall: the fraction of the images of a class that are predicted as the class. Precision: the fraction of the "
        "images predicted as a class that belong to it."
    )
    # A class that is only predicted wrongly stays in the table.
    labels = np.concatenate([part for each in found for part in (each.truth, each.predicted)])
    is_present = np.isin(np.arange(len(rows)), labels).tolist()
    table = SortableTable("Classes in percent", columns, rows, note)
    return Section("Classes", tables_by_presence(table, is_present, "images"))


def confusion_section(found: Sequence[ClassPredictions]) -> Section:
    """Return the chapter with the confusion matrix of each run."""
    matrices = []
    for each in found:
        size = len(each.classes)
        pairs = (each.truth * size + each.predicted)[each.readable]
        matrix = np.bincount(pairs, minlength=size * size).reshape(size, size)
        matrices.append((each.run.name if len(found) > 1 else "Images by class", matrix))
    blocks = confusion_blocks(matrices, found[0].classes, unit="images")
    return Section("Confusion matrix", blocks, "Rows: true class; columns: predicted class.")


def calibration_section(found: Sequence[ClassPredictions]) -> Section:
    """Return the chapter that compares the confidence of predictions with their accuracy."""
    series, rows, notes = [], [], []
    for colour, each in enumerate(found):
        confidence, correct = each.confidence[each.readable], each.correct[each.readable]
        if not len(confidence):
            continue
        bins = [entry for entry in calibration_curve(confidence, correct, BINS) if entry["count"]]
        x, y = [entry["avg_confidence"] for entry in bins], [entry["avg_accuracy"] for entry in bins]
        series.append(ChartSeries(each.run.name, x, y, colour, dots=True))
        after, note = scaled_series(each.run.name, confidence, correct, colour)
        series += after
        notes += note
        mean, largest = calibration_error(confidence, correct, BINS)
        values = (mean, largest, float(confidence.mean()), float(correct.mean()))
        rows.append([text_cell(each.run.name), *map(fraction_cell, values)])
    columns = [
        text_column("run"),
        TableColumn("expected error", help=f"mean of |accuracy - confidence| over {BINS} bins, weighted by images"),
        TableColumn("largest error", help=f"largest |accuracy - confidence| of {BINS} bins"),
        TableColumn("mean confidence"),
        TableColumn("accuracy"),
    ]
    table = SortableTable("Calibration in percent", columns, rows)
    chart = line_chart("Accuracy by confidence", series, x="confidence", y="accuracy", square=True)
    text = (
        "A calibrated model is correct on four of five images that it classifies with confidence 0.8. Below the "
        "diagonal the confidence is too high."
    )
    return Section("Calibration", [SideBySide([chart, table]), *notes], text)


def images_section(found: Sequence[ClassPredictions], *, data: str | None, number: int) -> Section:
    """Return the chapter with the most confident errors and the least and most confident correct predictions.

    Args:
        data: folder of the data set; None for that of each run.
        number: half the number of images in a gallery, because these images are small.
    """
    parts = []
    for each in found:
        of_run = f" of {each.run.name}" if len(found) > 1 else ""
        parts.append(
            (each.run.name, _galleries(each, image_root(each.run, each.names, data), of_run, number=2 * number))
        )
    return Section("Images", blocks_by_run(parts))


def changed_section(found: Sequence[ClassPredictions], *, data: str | None, number: int) -> Section:
    """Return the chapter with the images that one run classifies correctly and another run does not."""
    first, parts = found[0], []
    root = image_root(first.run, first.names, data)
    for other in found[1:]:
        blocks: list[Block] = []
        for title, chosen in (("Fixed", ~first.correct & other.correct), ("Broken", first.correct & ~other.correct)):
            indices = np.flatnonzero(chosen)
            confidence = (first.confidence + other.confidence)[indices]
            order = indices[np.argsort(-confidence, kind="stable")][: 2 * number]
            items = [_changed_item(root, first, other, int(index)) for index in order]
            if items:
                note = "Images with the highest confidence in both runs first."
                blocks.append(
                    Gallery(f"{title} by {other.run.name}: {counted(len(indices), 'image')}", items, note, small=True)
                )
        parts.append((f"{other.run.name} against {first.run.name}", blocks or [Paragraph("No image changed.")]))
    text = (
        f"Compared with {first.run.name}: a fixed image was wrong and is now correct, a broken image was correct and "
        "is now wrong."
    )
    return Section("Changed images", blocks_by_run(parts), text)


def _galleries(predictions: ClassPredictions, root: Path | None, of_run: str, *, number: int) -> list[Block]:
    if root is None:
        data = predictions.run.data_name
        return [Paragraph(f"No images{of_run}: there is no {data}; name the folder of the data set with --data.")]
    blocks: list[Block] = []
    for title, order in _ranked(predictions):
        if len(order):
            items = [_item(root, predictions, int(index)) for index in order[:number]]
            blocks.append(Gallery(title + of_run, items, f"{counted(len(order), 'image')} in all.", small=True))
    return blocks


def _ranked(predictions: ClassPredictions) -> list[tuple[str, np.ndarray]]:
    """Return three gallery titles, each with indices of images: errors, and correct predictions, by confidence."""
    indices = np.arange(len(predictions.names))
    confidence = predictions.confidence
    wrong, correct = indices[~predictions.correct & predictions.readable], indices[predictions.correct]
    return [
        ("Most confident errors", wrong[np.argsort(-confidence[wrong], kind="stable")]),
        ("Least confident correct predictions", correct[np.argsort(confidence[correct], kind="stable")]),
        ("Most confident correct predictions", correct[np.argsort(-confidence[correct], kind="stable")]),
    ]


def _item(root: Path, predictions: ClassPredictions, index: int) -> GalleryItem:
    true, predicted = (predictions.classes[labels[index]] for labels in (predictions.truth, predictions.predicted))
    confidence = f"{100 * predictions.confidence[index]:.0f} %"
    title = f"{true} {confidence}" if true == predicted else f"{true}, predicted {predicted} {confidence}"
    return _image_item(root, predictions, index, title, Path(predictions.names[index]).name)


def _changed_item(root: Path | None, first: ClassPredictions, other: ClassPredictions, index: int) -> GalleryItem:
    def prediction(run: ClassPredictions) -> str:
        name = run.classes[run.predicted[index]] if run.predicted[index] >= 0 else "unreadable"
        return f"{name} {100 * run.confidence[index]:.0f} %"

    text = f"{prediction(first)} → {prediction(other)}; {Path(first.names[index]).name}"
    return _image_item(root, first, index, first.classes[first.truth[index]], text)


def _image_item(root: Path | None, predictions: ClassPredictions, index: int, title: str, text: str) -> GalleryItem:
    name = predictions.names[index]
    # The name comes from a file that others may have written: it must not lead out of the folder.
    is_inside = not Path(name).is_absolute() and ".." not in Path(name).parts
    pixels = read_rgb(root / name, bits=predictions.run.bits) if root is not None and is_inside else None
    if pixels is None:
        return GalleryItem([], title, f"{text}; no image")
    return GalleryItem([embed(pixels, alt=title, side=SMALL_SIDE)], title, text)


def _fraction_correct(predictions: ClassPredictions, chosen: np.ndarray) -> float | None:
    return float(predictions.correct[chosen].mean()) if chosen.any() else None
