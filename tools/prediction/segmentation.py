"""Prediction with a segmentation model: writes label maps as PNGs of class numbers, and draws them."""

from __future__ import annotations

import csv
import io
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from backbones.common.files import JsonObject, write_json, write_text
from segmentation.draw import draw_labels, viewable
from segmentation.results import LabelMap
from segmentation.trained import TrainedSegmenter
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
        self.limits_memory = bool(model.predictor.tile)  # otherwise scores have the image's size
        names = settings.class_names
        self.forms, self.tables = settings.forms, Tables()
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
        self.tables.add(image, result, self.forms)
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
        written = ["labels/ (PNGs of class numbers)", "classes.txt (names and colours of the classes)"]
        return written + self.tables.write(folder, self.forms)


@dataclass
class Tables:
    """Results of all images in other forms than label maps: areas of classes, and masks as COCO has them."""

    lines: list[list[object]] = field(default_factory=list)
    masks: list[JsonObject] = field(default_factory=list)
    images: list[JsonObject] = field(default_factory=list)

    def add(self, image: NumberedImage[Tensor], found: LabelMap, forms: Sequence[str]) -> None:
        """Take the label map of an image, in the chosen forms."""
        shown = image.source.shown.encode("utf-8", "backslashreplace").decode("utf-8")
        frame = "" if image.frame is None else image.frame
        if "csv" in forms:
            rows = found.rows()
            self.lines += [[shown, frame, row["name"], row["pixels"], f"{row['fraction']:.6f}"] for row in rows]
        if "coco" in forms:
            self.masks += found.to_coco(image.number)
            height, width = found.labels.shape
            self.images.append({"id": image.number, "file_name": shown, "width": width, "height": height})

    def write(self, folder: Path, forms: Sequence[str]) -> list[str]:
        """Write the chosen forms; return a line of text for each file."""
        written = []
        if "csv" in forms:
            text = io.StringIO()
            csv.writer(text).writerows([("image", "frame", "class", "pixels", "fraction"), *self.lines])
            write_text(folder / "predictions.csv", text.getvalue())
            written.append("predictions.csv (pixels of each class)")
        if "coco" in forms:
            write_json(folder / "predictions.json", self.masks, indent=None)
            write_json(folder / "images.json", {"images": self.images}, indent=None)
            written.append("predictions.json (a mask for each class, COCO's results format), images.json")
        return written


def palette_png(labels: np.ndarray, colours: Sequence[tuple[int, int, int]]) -> bytes:
    """Encode a label map `[H, W]` uint8 as a PNG of class numbers. Viewers show it in the colours of the classes."""
    picture, content = Image.fromarray(labels), io.BytesIO()
    picture.putpalette([value for colour in colours for value in colour])
    picture.save(content, "PNG", compress_level=1)
    return content.getvalue()
