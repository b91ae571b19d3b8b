"""TODO-DOC tools/runs/segmentation.py."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from backbones.errors import UserError
from segmentation.label_maps import NAME, read_maps
from tools.runs.folder import RunFolder

IGNORE = 255


@dataclass(frozen=True)
class Maps:
    """A run's predicted label maps beside the truth.

    Attributes:
        rows, names: of the images in their split.
        common, truth, guess: pixels by image and class `[N, K]`: right, true, predicted.
        labels: the maps.
        source: images and truth.
    """

    run: RunFolder
    rows: tuple[int, ...]
    names: tuple[str, ...]
    common: np.ndarray
    truth: np.ndarray
    guess: np.ndarray
    labels: dict[int, np.ndarray]
    source: Any

    @property
    def scores(self) -> np.ndarray:
        """Mean IoU of each image over the classes that it shows `[N]`; NaN where it shows none that counts."""
        union = self.truth + self.guess - self.common
        shown = self.truth > 0
        sums = np.where(shown, self.common / np.maximum(union, 1), 0).sum(axis=1)
        return np.where(shown.any(axis=1), sums / np.maximum(shown.sum(axis=1), 1), np.nan)

    def ious(self, weights: np.ndarray) -> np.ndarray:
        """IoU of each class `[K]` of images that count `weights` `[N]` times; NaN of a class that occurs nowhere."""
        common, union = weights @ self.common, weights @ (self.truth + self.guess - self.common)
        return np.where(union > 0, common / np.maximum(union, 1e-12), np.nan)

    @classmethod
    def read(cls, run: RunFolder, *, data: str | None) -> Maps:
        """Measure a run's kept label maps anew, image by image.

        Raises:
            UserError: where maps or data are missing, or they are not what was measured.
        """
        from hotcoco.metrics import pixel_confusion

        path = run.file(NAME)
        if path is None:
            text = "was made before predictions were kept; measure again with --eval-only --resume for the images"
            raise UserError(f"{run.folder}: has no {NAME}: it {text}")
        source, maps = _source(run, data), read_maps(path)
        size = len(source.classes)
        total, parts = np.zeros((size, size), np.int64), []
        for (row, name), labels in maps.items():
            if row >= len(source) or source.file(row).stem != name or labels.shape != tuple(source.size(row)):
                raise UserError(f"{path}: holds {name}, which {source.where} does not; name the run's data with --data")
            truth = source.labels(row, labels.shape)
            matrix = np.asarray(pixel_confusion(truth, labels, size, ignore_index=IGNORE)).astype(np.int64)
            total += matrix
            parts.append((np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)))
        if total.tolist() != run.results.get("confusion"):
            raise UserError(
                f"{path}: does not give the figures of results.json with {source.where}; one of them changed"
            )
        common, truths, guesses = (np.array(column) for column in zip(*parts, strict=True))
        rows, names = tuple(row for row, _ in maps), tuple(name for _, name in maps)
        return cls(run, rows, names, common, truths, guesses, {row: m for (row, _), m in maps.items()}, source)


def _source(run: RunFolder, data: str | None) -> Any:
    """Images and truth of the split that a run was measured on."""
    from segmentation.data.folders import open_source
    from segmentation.options import SegmentationDataOptions

    known = {field.name for field in fields(SegmentationDataOptions)}
    options = {name: value for name, value in run.config.items() if name in known}
    if isinstance(options.get("scales"), list):
        options["scales"] = tuple(options["scales"])
    root = run.data_root(data)
    return open_source(SegmentationDataOptions(**{**options, "data": None if root is None else str(root)}), "val")
