"""The chapters of a report on segmentation: metrics, classes, confusion matrix and images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from backbones.errors import UserError
from segmentation.draw import paint_labels, viewable
from tools.reports.cells import (
    blocks_by_run,
    fraction_cell,
    percent,
    run_columns,
    tables_by_presence,
    text_cell,
    text_column,
)
from tools.reports.differences import MetricDifference, segmentation_differences
from tools.reports.matrix import confusion_blocks
from tools.reports.outline import TaskReport
from tools.reports.page import (
    Block,
    ColourLegend,
    Gallery,
    GalleryItem,
    Paragraph,
    Section,
    SortableTable,
    TableCell,
    TableColumn,
)
from tools.reports.pictures import embed
from tools.runs.folder import RunFolder
from tools.runs.segmentation import MaskPredictions, read_confusion

SIDE = 360  # pixels of an image
DEFINITIONS = {
    "mIoU": "mean IoU of the classes",
    "pixel_accuracy": "fraction of the pixels whose class is predicted correctly",
    "mean_accuracy": "mean recall of the classes",
    "frequency_weighted_IoU": "mean IoU of the classes, weighted by their pixels",
}
RANKING = "Ranked by the mean IoU over the classes in the truth of an image."


class SegmentationReport(TaskReport[MaskPredictions]):
    """Makes the chapters of a report on segmentation runs."""

    def read(self, run: RunFolder) -> MaskPredictions:
        return MaskPredictions.read(run, data=self.settings.data)

    def results_digest(self, run: RunFolder) -> object:
        return super().results_digest(run), read_confusion(run).sum(axis=1).tolist()

    def metrics_section(self, runs: Sequence[RunFolder]) -> Section:
        return metrics_section(runs)

    def differences(self, first: MaskPredictions, other: MaskPredictions) -> list[MetricDifference]:
        return segmentation_differences(first, other, resamples=self.settings.bootstrap)

    def sections_from_results(self, runs: Sequence[RunFolder]) -> list[Section]:
        return [classes_section(runs), confusion_section(runs)]

    def changed_section(self, found: Sequence[MaskPredictions]) -> Section:
        return changed_section(found, number=self.settings.images)

    def image_sections(self, found: Sequence[MaskPredictions]) -> list[Section]:
        return [images_section(found, number=self.settings.images)]


def metrics_section(runs: Sequence[RunFolder]) -> Section:
    """Return the chapter on mIoU and related metrics, made from results.json alone."""
    columns = [text_column("metric"), *run_columns(runs, "percent"), text_column("definition")]
    rows = [
        [text_cell(name), *(fraction_cell(run.results.get(name)) for run in runs), text_cell(definition)]
        for name, definition in DEFINITIONS.items()
    ]
    blocks: list[Block] = [SortableTable("Metrics in percent", columns, rows)]
    absent = runs[0].results.get("absent")
    if absent:
        names = ", ".join(map(str, absent))
        blocks.append(Paragraph(f"Left out of the means, because neither truth nor prediction has them: {names}."))
    return Section("Metrics", blocks)


def classes_section(runs: Sequence[RunFolder]) -> Section:
    """Return the chapter with IoU, recall, precision and fraction of the pixels of each class."""
    several = len(runs) > 1
    columns = [text_column("class"), TableColumn("% of pixels")]
    for run in runs:
        names = ("IoU",) if several else ("IoU", "recall", "precision")
        columns += [TableColumn(f"{name} {run.name}" if several else name) for name in names]
    matrices = [read_confusion(run) for run in runs]
    first = matrices[0]
    rows = []
    for label, name in enumerate(runs[0].classes):
        fraction = float(first[label].sum() / max(first.sum(), 1))
        cells = [text_cell(name), TableCell(percent(fraction, 2), key=fraction)]
        for run, matrix in zip(runs, matrices, strict=True):
            cells.append(fraction_cell(run.results["per_class"].get(name, {}).get("IoU")))
            if not several:
                correct, true, predicted = matrix[label, label], matrix[label].sum(), matrix[:, label].sum()
                cells += [fraction_cell(correct / total if total else None) for total in (true, predicted)]
        rows.append(cells)
    # A class that is only predicted wrongly stays in the table.
    is_present = [any(m[label].any() or m[:, label].any() for m in matrices) for label in range(len(rows))]
    table = SortableTable("Classes in percent", columns, rows)
    return Section("Classes", tables_by_presence(table, is_present, "pixels"))


def confusion_section(runs: Sequence[RunFolder]) -> Section:
    """Return the chapter with the confusion matrix of each run, in percent of the pixels of the true class."""
    title = "Pixels by class, percent of the true class"
    matrices = [(run.name if len(runs) > 1 else title, read_confusion(run)) for run in runs]
    blocks = confusion_blocks(matrices, runs[0].classes, unit="pixels", in_percent=True)
    text = "Rows: true class; columns: predicted class; values: percent of the pixels of the true class."
    return Section("Confusion matrix", blocks, text)


def images_section(found: Sequence[MaskPredictions], *, number: int) -> Section:
    """Return the chapter with the worst and the best images. Each is shown with its true and predicted label map.

    Args:
        number: number of images in a gallery.
    """
    parts = []
    for each in found:
        of_run = f" of {each.run.name}" if len(found) > 1 else ""
        ious = each.image_ious
        known = np.flatnonzero(~np.isnan(ious))
        order = known[np.argsort(ious[known], kind="stable")]
        worst, best = order[:number], order[number:][::-1][:number]
        blocks: list[Block] = [
            Gallery(title, [_item([each], int(index)) for index in chosen])
            for title, chosen in ((f"Worst images{of_run}", worst), (f"Best images{of_run}", best))
            if len(chosen)
        ]
        parts.append((each.run.name, blocks))
    text = f"{RANKING} Black pixels are ignored."
    return Section("Images", [_legend(found[0]), *blocks_by_run(parts)], text)


def changed_section(found: Sequence[MaskPredictions], *, number: int) -> Section:
    """Return the chapter with the images whose mean IoU differs most between the first run and each other run."""
    first, parts = found[0], []
    for other in found[1:]:
        blocks: list[Block] = []
        change = other.image_ious - first.image_ious
        known = np.flatnonzero(~np.isnan(change))
        for title, sign in (("better", -1), ("worse", 1)):
            order = known[np.argsort(sign * change[known], kind="stable")][:number]
            items = [_item([first, other], int(index)) for index in order if sign * change[index] < 0]
            if items:
                blocks.append(Gallery(f"{other.run.name} {title} than {first.run.name}", items))
        parts.append((f"{other.run.name} against {first.run.name}", blocks or [Paragraph("No image changed.")]))
    return Section("Changed images", blocks_by_run(parts), RANKING)


def _item(found: Sequence[MaskPredictions], index: int) -> GalleryItem:
    """Return a gallery entry: an image, its true label map, and the label map that each run predicted."""
    first, row = found[0], found[0].rows[index]
    name, source = first.names[index], first.source
    text = "mean IoU " + " → ".join(f"{100 * each.image_ious[index]:.0f}" for each in found)
    try:
        image = viewable(source.image(row))
    except UserError:
        return GalleryItem([], name, f"{text}; the image cannot be read")
    layers = [("truth", source.labels(row, image.shape[:2]))]
    layers += [(each.run.name if len(found) > 1 else "prediction", each.maps[row]) for each in found]
    images = [embed(image, name="image", alt=f"{name}: image", side=SIDE)]
    images += [
        embed(paint_labels(image, labels, source.classes), name=layer, alt=f"{name}: {layer}", side=SIDE)
        for layer, labels in layers
    ]
    return GalleryItem(images, name, text)


def _legend(predictions: MaskPredictions) -> ColourLegend:
    classes = predictions.source.classes
    entries = []
    for label in classes.coloured:
        red, green, blue = (int(value) for value in classes.colours[label])
        entries.append((classes.names[label], (red, green, blue)))
    return ColourLegend([*entries, ("ignored", (0, 0, 0))])
