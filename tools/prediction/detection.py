"""Prediction with a detector: writes detections in the chosen forms, and draws boxes and masks."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from backbones.errors import UserError
from detection.results import Detections
from detection.tiles import Tiles, detect_in_tiles
from detection.trained import TrainedDetector
from tools.prediction.detection_files import open_forms
from tools.prediction.inputs import Read
from tools.prediction.naming import NumberedImage
from tools.prediction.outputs import PictureWriter
from tools.prediction.settings import PredictionSettings
from tools.prediction.tasks import choose_classes, read_image_file, to_array

DRAWN_SCORE = 0.5  # least score of a drawn detection without --score
OVERLAP = 0.25  # of tiles without --overlap


class DetectionPrediction:
    """Predicts with a detector and collects the detections of all images. Implements `PredictionTask`."""

    def __init__(self, model: TrainedDetector, settings: PredictionSettings, folder: Path) -> None:
        self.model, self.batch_size = model, settings.batch_size
        self.read: Read[Tensor] = partial(read_image_file, model.read)
        # The model itself leaves out lower scores, if --score names a limit.
        self.drawn_score = DRAWN_SCORE if settings.score is None else 0.0
        chosen = choose_classes(settings.class_names, model.categories.names)
        self.chosen_ids = {model.categories.ids[index] for index in chosen}
        side = model.model.transform.min_size[-1] if settings.tile == "auto" else settings.tile
        self.tiles = Tiles(side, OVERLAP if settings.overlap is None else settings.overlap) if side else None
        self.limits_memory = self.tiles is None  # an image in tiles needs as much as a batch of images
        if settings.masks_as != "rle" and not model.model.has_masks:
            raise UserError(f"--masks-as {settings.masks_as}: the model predicts no masks; leave the option out")
        self.forms = open_forms(settings.forms, folder, model.categories, masks_as=settings.masks_as)

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
        keep = [i for i, label in enumerate(result.labels.tolist()) if label in self.chosen_ids]
        found = result.where(torch.tensor(keep, dtype=torch.long))
        for form in self.forms:
            form.add(image, found)
        drawn = found.where(torch.from_numpy(found.scores.numpy() >= self.drawn_score))
        draw = partial(drawn.draw, to_array(image.content))
        pictures.add(image.name, image.source, draw, is_frame=image.frame is not None)

    def finish(self, folder: Path) -> list[str]:
        return [line for form in self.forms for line in form.finish()]
