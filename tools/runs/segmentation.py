"""Reads the label maps that a segmentation run predicted, and counts pixels by true and predicted class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from backbones.errors import UserError
from segmentation.data.classes import IGNORE
from segmentation.data.dataset import LabelSource
from segmentation.data.folders import open_source
from segmentation.data.unused import keep_classes
from segmentation.label_maps import NAME, read_maps
from segmentation.metrics import CONFUSION
from segmentation.options import SegmentationDataOptions
from tools.evaluation.reading import read_json
from tools.runs.folder import RunFolder
from tools.synthetic import shapes


@dataclass(frozen=True)
class MaskPredictions:
    """Label maps that a segmentation run predicted for N images, with pixel counts for K classes.

    Attributes:
        rows: index of each image in its split.
        names: names of the image files without suffix.
        intersections: number of pixels `[N, K]` that have the class as predicted and as true class.
        true_pixels: number of pixels `[N, K]` that have the class as true class.
        predicted_pixels: number of pixels `[N, K]` that have the class as predicted class.
        maps: predicted label maps `[H, W]` by row.
        source: the images and their true label maps.
    """

    run: RunFolder
    rows: tuple[int, ...]
    names: tuple[str, ...]
    intersections: np.ndarray
    true_pixels: np.ndarray
    predicted_pixels: np.ndarray
    maps: Mapping[int, np.ndarray]
    source: LabelSource

    @property
    def digest(self) -> object:
        """Value that is equal for two runs if and only if they were evaluated on the same images and label maps."""
        return self.rows, self.names, self.true_pixels.tobytes()

    @property
    def unions(self) -> np.ndarray:
        """Number of pixels `[N, K]` of each image that have the class as predicted class, as true class, or as both."""
        return self.true_pixels + self.predicted_pixels - self.intersections

    @property
    def image_ious(self) -> np.ndarray:
        """Mean IoU `[N]` of each image over the classes in its true label map; NaN if that has no class."""
        present = self.true_pixels > 0
        sums = np.where(present, self.intersections / np.maximum(self.unions, 1), 0).sum(axis=1)
        return np.where(present.any(axis=1), sums / np.maximum(present.sum(axis=1), 1), np.nan)

    def class_ious(self, weights: np.ndarray) -> np.ndarray:
        """Return the IoU `[K]` of each class over the pixels of all images; NaN for a class that no image has.

        Args:
            weights: how often each image counts `[N]`.
        """
        intersection, union = weights @ self.intersections, weights @ self.unions
        return np.where(union > 0, intersection / np.maximum(union, 1e-12), np.nan)

    @classmethod
    def read(cls, run: RunFolder, *, data: str | None) -> MaskPredictions:
        """Read the label maps that a run predicted, and compare their pixels with the true label maps.

        Args:
            data: folder of the data set; None for the run's own.

        Raises:
            UserError: if label maps or data are missing, or do not give the confusion matrix of the run.
        """
        path = run.file(NAME)
        if path is None:
            raise UserError(
                f"{run.folder}: has no {NAME}, the file of predicted label maps; write it with --eval-only --resume"
            )
        source, maps = _open_source(run, data), read_maps(path)
        classes = len(source.classes)
        total = np.zeros((classes, classes), np.int64)
        counts = []
        for (row, name), labels in maps.items():
            _require_image(path, source, row, name, labels)
            matrix = confusion_matrix(source.labels(row, labels.shape), labels, classes)
            total += matrix
            counts.append((np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)))
        if not np.array_equal(total, read_confusion(run)):
            raise UserError(
                f"{path}: its label maps, compared with {source.where}, do not give the run's confusion matrix, so "
                "one of the files has changed; evaluate again with --eval-only --resume"
            )
        intersections, true_pixels, predicted_pixels = (np.array(column) for column in zip(*counts, strict=True))
        rows, names = tuple(row for row, _ in maps), tuple(name for _, name in maps)
        by_row = {row: labels for (row, _), labels in maps.items()}
        return cls(run, rows, names, intersections, true_pixels, predicted_pixels, by_row, source)


def read_confusion(run: RunFolder) -> np.ndarray:
    """Return a run's confusion matrix: pixels `[K, K]` int64 by true class (row) and predicted class (column).

    It is in confusion.json. Earlier versions wrote it into results.json.

    Raises:
        UserError: there is no matrix of the run's classes.
    """
    path, size = run.file(CONFUSION), len(run.classes)
    try:
        matrix = np.array(read_json(path)["matrix"] if path else run.results["confusion"], np.int64)
    except (KeyError, ValueError, TypeError, OverflowError):
        matrix = np.zeros(0, np.int64)
    if matrix.shape != (size, size):
        raise UserError(
            f"{path or run.folder / CONFUSION}: holds no confusion matrix that fits the run's list of classes; "
            "evaluate again with --eval-only --resume"
        )
    return matrix


def confusion_matrix(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Count pixels by true class (row) and predicted class (column); return `[classes, classes]`."""
    from hotcoco.metrics import pixel_confusion

    return np.asarray(pixel_confusion(truth, predicted, classes, ignore_index=IGNORE)).astype(np.int64)


def _require_image(path: Path, source: LabelSource, row: int, name: str, labels: np.ndarray) -> None:
    """Refuse a predicted label map if the data have another image at its position."""
    if row >= len(source) or source.file(row).stem != name or labels.shape != tuple(source.size(row)):
        raise UserError(
            f"{path}: holds a label map of {name}, which {source.where} does not have at row {row}; "
            "name the run's data with --data"
        )


def _open_source(run: RunFolder, data: str | None) -> LabelSource:
    """Open the images and true label maps of the split on which a run was evaluated."""
    known = {field.name for field in fields(SegmentationDataOptions)}
    options = {name: value for name, value in run.config.items() if name in known}
    if isinstance(options.get("scales"), list):
        options["scales"] = tuple(options["scales"])
    options["bits"] = run.bits
    root = run.data_root(data) or shapes.prepare()
    source = open_source(root, "val" if run.split is None else "train", SegmentationDataOptions(**options))
    kept = {number for number, name in enumerate(source.classes.names) if name in run.classes}
    return keep_classes(source, kept) if len(kept) == len(run.classes) else source
