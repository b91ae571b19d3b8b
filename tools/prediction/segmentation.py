"""Prediction with a segmentation model: writes label maps as PNGs of class numbers, and draws them."""

from __future__ import annotations

import io
from collections.abc import Hashable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from backbones.common.files import write_text
from segmentation.draw import draw_labels, viewable
from segmentation.trained import LabelMap, TrainedSegmenter
from tools.prediction.inputs import Read
from tools.prediction.naming import NumberedImage
from tools.prediction.outputs import PictureWriter, write_bytes
from tools.prediction.settings import PredictionSettings
from tools.prediction.tasks import choose_classes


class SegmentationPrediction:
    """Predicts with a segmentation model and writes the label map of each image. Implements `PredictionTask`."""

    def __init__(self, model: TrainedSegmenter, settings: PredictionSettings, folder: Path) -> None:
        self.model, self.folder = model, folder
        self.read: Read[Tensor] = model.read
        names = settings.class_names
        self.chosen = choose_classes(names, model.classes.names) if names else model.classes.coloured

    def pixels(self, content: Tensor) -> int:
        return content[0].numel()

    def group(self, content: Tensor) -> Hashable:
        """Return the size of an image. Images of equal size need no padding in a batch."""
        return tuple(content.shape)

    def predict(self, contents: Sequence[Tensor]) -> list[LabelMap]:
        return self.model.predict(contents)

    def add(self, image: NumberedImage[Tensor], result: LabelMap, pictures: PictureWriter) -> None:
        classes, labels = self.model.classes, result.labels.numpy()
        is_frame = image.frame is not None
        name = f"{image.name}/{image.frame:06d}" if is_frame else image.name
        write_bytes(self.folder / "labels" / f"{name}.png", palette_png(labels, classes.colours))
        # List the classes that an image shows. A video's pictures need one size, so they list all classes.
        shown = self.chosen if is_frame else set(np.unique(labels).tolist())
        legend = [number for number in self.chosen if number in shown]
        draw = partial(
            draw_labels,
            viewable(image.content.permute(1, 2, 0).numpy()),
            labels,
            classes,
            chosen=self.chosen,
            legend=legend,
        )
        pictures.add(image.name, image.source, draw, is_frame=is_frame)

    def finish(self, folder: Path) -> list[str]:
        classes = self.model.classes
        lines = [
            f"{name} {' '.join(map(str, colour))}\n"
            for name, colour in zip(classes.names, classes.colours, strict=True)
        ]
        write_text(folder / "classes.txt", "".join(lines))
        return ["labels/ (PNGs of class numbers)", "classes.txt (names and colours of the classes)"]


def palette_png(labels: np.ndarray, colours: Sequence[tuple[int, int, int]]) -> bytes:
    """Encode a label map `[H, W]` uint8 as a PNG of class numbers. Viewers show it in the colours of the classes."""
    picture, content = Image.fromarray(labels), io.BytesIO()
    picture.putpalette([value for colour in colours for value in colour])
    picture.save(content, "PNG", compress_level=1)
    return content.getvalue()
