"""Reads the predictions of a classification run with several classes an image: predictions.csv as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from classification.multi_label import average_precision, split_names
from tools.runs.classification import malformed_predictions, read_table, require_all_images
from tools.runs.folder import RunFolder

NAMES = ("image", "classes", "predicted")  # columns before those of the classes


@dataclass(frozen=True)
class LabelSetPredictions:
    """The predictions of a run with several classes an image, on its N validation images.

    Attributes:
        names: names of the images, relative to the folder of their split.
        classes: names of the K classes by number.
        labels: whether each image has each class, `[N, K]`.
        scores: probabilities `[N, K]`; -1 for an image that could not be read.
    """

    names: tuple[str, ...]
    classes: tuple[str, ...]
    labels: np.ndarray
    scores: np.ndarray

    @property
    def digest(self) -> object:
        """Value that is equal for two runs if and only if they were evaluated on the same images and classes."""
        return self.classes, self.names, self.labels.tobytes()

    @classmethod
    def read(cls, run: RunFolder) -> LabelSetPredictions:
        """Read the predictions of a run.

        Raises:
            UserError: if the file is missing or malformed, or does not hold the images of results.json.
        """
        path = run.folder / "predictions.csv"
        header, *rows = read_table(path) or [[]]
        classes = tuple(header[len(NAMES) :])
        try:
            labels = np.array([_has(classes, row[1]) for row in rows]).reshape(len(rows), len(classes))
            scores = np.array([[float(cell or -1) for cell in row[len(NAMES) :]] for row in rows]).reshape(labels.shape)
        except (IndexError, ValueError) as error:
            raise malformed_predictions(path, error) from None
        require_all_images(run, path, len(rows))
        return cls(tuple(row[0] for row in rows), classes, labels, scores)

    def mean_average_precision(self, weights: np.ndarray) -> float:
        """Return mAP if each image counts as often as its weight `[N]`, a whole number; NaN without any class."""
        rows = np.repeat(np.arange(len(self.names)), np.asarray(weights, int))
        pairs = zip(self.labels[rows].T, self.scores[rows].T, strict=True)
        known = [value for labels, scores in pairs if (value := average_precision(labels, scores)) is not None]
        return float(np.mean(known)) if known else float("nan")


def _has(classes: Sequence[str], joined: str) -> list[bool]:
    """Return whether each class is in a cell of joined names."""
    numbers = {name: number for number, name in enumerate(classes)}
    named = {numbers.get(name) for name in split_names(joined)}
    if None in named:
        raise ValueError(f"{joined} names a class that is no column")
    return [number in named for number in range(len(classes))]
