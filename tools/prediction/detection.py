"""Prediction with a detector: writes COCO results and a list of image ids and categories, and draws boxes and masks."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from backbones.common.files import JsonObject, write_json
from backbones.errors import counted
from detection.draw import draw_detections
from detection.runs import strips_of_codes
from detection.tiles import Tiles, detect_in_tiles
from detection.trained import Detections, TrainedDetector
from tools.prediction.inputs import Read
from tools.prediction.naming import NumberedImage
from tools.prediction.outputs import PictureWriter
from tools.prediction.settings import PredictionSettings
from tools.prediction.tasks import choose_classes, read_image_file, to_array

DRAWN_SCORE = 0.5  # least score of a drawn detection without --score
OVERLAP = 0.25  # of tiles without --overlap


class DetectionPrediction:
    """Predicts with a detector and collects the detections of all images. Implements `PredictionTask`."""

    def __init__(self, model: TrainedDetector, settings: PredictionSettings) -> None:
        self.model, self.batch_size = model, settings.batch_size
        self.read: Read[Tensor] = partial(read_image_file, model.read)
        self.score = settings.score or 0.0
        self.drawn_score = DRAWN_SCORE if settings.score is None else settings.score
        chosen = choose_classes(settings.class_names, model.categories.names)
        self.chosen_ids = {model.categories.ids[index] for index in chosen}
        heads = model.model.roi_heads
        heads.score_thresh = heads.score_thresh if settings.score is None else settings.score
        side = model.model.transform.min_size[-1] if settings.tile == "auto" else settings.tile
        self.tiles = Tiles(side, OVERLAP if settings.overlap is None else settings.overlap) if side else None
        self.rows: list[JsonObject] = []
        self.images: list[JsonObject] = []

    def pixels(self, content: Tensor) -> int:
        return content[0].numel()

    def group(self, content: Tensor) -> Hashable:
        """Return whether an image is wide or tall, as like shapes need less padding; None if it is cut into tiles."""
        if self.tiles and self.tiles.needed(content):
            return None
        return content.shape[1] > content.shape[2]

    def predict(self, contents: Sequence[Tensor]) -> list[Detections]:
        if self.tiles and self.tiles.needed(contents[0]):
            return [detect_in_tiles(self.model, each, self.tiles, batch_size=self.batch_size) for each in contents]
        return self.model.predict(contents)

    def add(self, image: NumberedImage[Tensor], result: Detections, pictures: PictureWriter) -> None:
        labels, scores = result.labels.tolist(), result.scores
        keep = [i for i, label in enumerate(labels) if label in self.chosen_ids and scores[i] >= self.score]
        found = result.where(torch.tensor(keep, dtype=torch.long))
        self.rows += _coco_rows(found, image.number)  # all at once: an interrupt leaves no image with some of its boxes
        self.images.append(_image_row(image))
        drawn = found.where(torch.from_numpy(found.scores.numpy() >= self.drawn_score))
        colours = [self.model.categories.ids.index(label) + 1 for label in drawn.labels.tolist()]
        draw = partial(
            draw_detections,
            to_array(image.content),
            drawn.boxes.numpy(),
            colours,
            drawn.names,
            drawn.scores.tolist(),
            strips_of_codes(drawn.outlines.codes) if drawn.outlines else None,
        )
        pictures.add(image.name, image.source, draw, is_frame=image.frame is not None)

    def finish(self, folder: Path) -> list[str]:
        known = self.model.categories
        categories = [{"id": key, "name": name} for key, name in zip(known.ids, known.names, strict=True)]
        images = sorted(self.images, key=lambda row: row["id"])
        rows = sorted(self.rows, key=lambda row: (row["image_id"], -row["score"]))
        write_json(folder / "predictions.json", rows, indent=None)
        write_json(folder / "images.json", {"images": images, "categories": categories}, indent=None)
        return [
            f"predictions.json ({counted(len(rows), 'box')}, COCO's results format)",
            "images.json (images and categories)",
        ]


def _coco_rows(found: Detections, number: int) -> list[JsonObject]:
    """Convert the detections of an image to COCO results: boxes as x, y, width, height, and masks as run lengths."""
    rows: list[JsonObject] = []
    for box, score, label in zip(found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True):
        left, top, right, bottom = box
        bbox = [round(value, 3) for value in (left, top, right - left, bottom - top)]
        rows.append({"image_id": number, "category_id": label, "bbox": bbox, "score": round(score, 5)})
    for row, code in zip(rows, found.outlines.codes if found.outlines else (), strict=False):
        row["segmentation"] = {"size": code["size"], "counts": code["counts"].decode()}
    return rows


def _image_row(image: NumberedImage[Tensor]) -> JsonObject:
    height, width = image.content.shape[1:]
    row = {"id": image.number, "file_name": str(image.source.path), "width": width, "height": height}
    return row if image.frame is None else {**row, "frame": image.frame}
