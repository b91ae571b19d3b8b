"""Prediction with a classifier: writes and draws the ranking, or the set, of the classes of each image."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from torch import Tensor

from backbones.common.files import write_text
from backbones.errors import UserError
from classification.draw import SIDE, fitted
from classification.multi_label import join_names
from classification.results import ClassSet, Ranking
from classification.trained import TrainedClassifier, read_pixels
from tools.prediction.inputs import Read
from tools.prediction.naming import NumberedImage
from tools.prediction.outputs import PictureWriter
from tools.prediction.settings import PredictionSettings
from tools.prediction.tasks import choose_classes

Views: TypeAlias = list[Tensor]
ViewsAndPicture: TypeAlias = tuple[Views, np.ndarray | None]  # the picture [H, W, C] uint8 to draw, if there is one


class CsvWriter(Protocol):
    """Interface of what `csv.writer` returns."""

    def writerow(self, row: Iterable[Any], /) -> object:
        """Write a line."""


class ClassificationPrediction:
    """Predicts with a classifier and collects the rankings or sets of classes of all images.

    Implements `PredictionTask`.
    """

    def __init__(self, model: TrainedClassifier, settings: PredictionSettings) -> None:
        if settings.tile:
            raise UserError("--tile: classifiers process an image as a whole; leave the option out")
        self.model = model
        chosen = choose_classes(settings.class_names, model.classes)
        model.among, model.top = chosen, min(settings.top, len(chosen))
        self.chosen = chosen
        read = partial(read_pixels, in_channels=model.model.backbone.in_channels, bits=model.trained.bits)
        self.read: Read[ViewsAndPicture] = partial(_read_views, model.read, read, settings.draw)
        self.limits_memory = True
        self.rows: list[tuple[int, str, Ranking]] = []

    def pixels(self, content: ViewsAndPicture) -> int:
        return sum(view[0].numel() for view in content[0])

    def group(self, content: ViewsAndPicture) -> Hashable:
        """Return the sizes of an image's views. Only images with equal sizes may share a batch."""
        return tuple((tuple(view.shape), view.dtype) for view in content[0])

    def predict(self, contents: Sequence[ViewsAndPicture]) -> list[Ranking]:
        return self.model.predict([views for views, _ in contents])

    def add(self, image: NumberedImage[ViewsAndPicture], result: Ranking, pictures: PictureWriter) -> None:
        # A file name may hold bytes that are not UTF-8, which a text file cannot hold.
        path = image.source.shown.encode("utf-8", "backslashreplace").decode("utf-8")
        self.rows.append((image.number, path if image.frame is None else f"{path}#{image.frame}", result))
        _, picture = image.content
        if picture is not None:
            draw = partial(result.draw, picture)
            pictures.add(image.name, image.source, draw, is_frame=image.frame is not None)

    def finish(self, folder: Path) -> list[str]:
        text = io.StringIO()
        writer = csv.writer(text)
        if self.model.multi_label:
            self._write_sets(writer)
            write_text(folder / "predictions.csv", text.getvalue())
            return ["predictions.csv (found classes, and the probability of each class)"]
        ranks = range(1, self.model.top + 1)
        writer.writerow(["image", *(title for rank in ranks for title in (f"class_{rank}", f"probability_{rank}"))])
        for _, file, ranking in sorted(self.rows, key=lambda row: row[0]):
            pairs = zip(ranking.names, ranking.probabilities.tolist(), strict=True)
            writer.writerow([file, *(cell for name, value in pairs for cell in (name, f"{value:.5f}"))])
        write_text(folder / "predictions.csv", text.getvalue())
        return ["predictions.csv"]

    def _write_sets(self, writer: CsvWriter) -> None:
        """Write the found classes of each image, with `;` between, and the probabilities of all chosen classes."""
        writer.writerow(["image", "classes", *(self.model.classes[number] for number in self.chosen)])
        for _, file, found in sorted(self.rows, key=lambda row: row[0]):
            assert isinstance(found, ClassSet)
            scores = (f"{found.scores[number]:.5f}" for number in self.chosen)
            writer.writerow([file, join_names(found.names), *scores])


def _read_views(
    read: Read[Views], decode: Callable[[Path], np.ndarray], draw: bool, image: Path | np.ndarray
) -> ViewsAndPicture:
    """Read an image's views for a classifier and, if `draw`, the image to draw on. Arrays (.npy) are not drawn."""
    if not draw:
        return read(image), None
    pixels = image if isinstance(image, np.ndarray) else decode(image)
    views = read(pixels)
    if pixels.dtype != np.uint8 or pixels.shape[2] not in (1, 3):
        return views, None
    # Keep large images at the size that they are drawn at.
    return views, np.ascontiguousarray(fitted(pixels) if max(pixels.shape[:2]) > SIDE else pixels)
