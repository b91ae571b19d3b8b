"""The chapter of a report with heat maps: where a classifier or a detector finds a class (Grad-CAM)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

import classification
import detection
from backbones.errors import UserError
from classification.explain import explain as explain_image
from classification.trained import TrainedClassifier
from detection.explain import explain as explain_detection
from detection.results import Detection
from detection.trained import TrainedDetector
from tools.reports.cells import blocks_by_run
from tools.reports.page import Block, Gallery, GalleryItem, PageImage, Paragraph, Section
from tools.reports.pictures import embed, embed_crop
from tools.reports.settings import ReportSettings
from tools.runs.classification import ClassPredictions
from tools.runs.folder import RunFolder
from tools.runs.outcomes import BoxPredictions, DetectionOutcome, ImageOutcome

SIDE = 220  # longer side of a picture in pixels
TITLE = "Where the model looks"
OBJECTS = (
    "Heat maps of single detections (Grad-CAM): red is where the features raise the score of the class in the white "
    "box most. A map on the background shows that the surroundings, not the object, decide."
)
IMAGES = (
    "Heat maps (Grad-CAM): red is where the features raise the score of the class most, in the part of the image that "
    "the model sees. A map on the background shows that the surroundings, not the object, decide."
)
Model = TypeVar("Model")


def detections_sections(found: Sequence[BoxPredictions], settings: ReportSettings) -> list[Section]:
    """Return the chapter on detection: the most confident false positives and the most confident correct detections."""
    if not settings.explain:
        return []
    parts = [(each.run.name, _of_detector(each, settings)) for each in found]
    return [Section(TITLE, blocks_by_run(parts), OBJECTS)]


def images_sections(
    found: Sequence[ClassPredictions], roots: Sequence[Path | None], settings: ReportSettings
) -> list[Section]:
    """Return the chapter on classification: the most confident errors and the most confident correct predictions.

    Args:
        roots: for each run the folder to which its image names are relative; None if it does not exist.
    """
    if not settings.explain:
        return []
    parts = []
    for each, root in zip(found, roots, strict=True):
        of_run = [] if root is None else _of_classifier(each, root, settings)
        parts.append((each.run.name, of_run or [Paragraph("No heat maps: the images are not there.")]))
    return [Section(TITLE, blocks_by_run(parts), IMAGES)]


def _loaded(run: RunFolder, load: Callable[[], Model]) -> Model | Paragraph:
    """Return the model of a run, or a paragraph that says why there is none."""
    try:
        return load()
    except UserError as error:
        return Paragraph(f"No heat maps of {run.name}, because its model cannot be loaded: {error}")


def _of_detector(found: BoxPredictions, settings: ReportSettings) -> list[Block]:
    model = _loaded(found.run, lambda: detection.load(found.run.folder, device=settings.device))
    if isinstance(model, Paragraph):
        return [model]
    every = [(image, each) for image in found.images for each in image.detections]
    every.sort(key=lambda pair: -pair[1].score)
    blocks: list[Block] = []
    for title, status in (("Most confident false positives", "false positive"), ("Most confident finds", "correct")):
        chosen = [pair for pair in every if pair[1].status == status][: settings.explain]
        if chosen:
            blocks.append(Gallery(title, [_detection_item(model, *pair) for pair in chosen], small=True))
    return blocks or [Paragraph(f"No heat maps of {found.run.name}, because it has no detections of this score.")]


def _detection_item(model: TrainedDetector, image: ImageOutcome, each: DetectionOutcome) -> GalleryItem:
    x, y, w, h = each.box
    title, text = f"{each.name} {each.score:.2f}", f"{each.cause or each.status}; {image.path.name}"
    box = Detection((x, y, x + w, y + h), each.score, 0, each.name)

    def pictures() -> list[PageImage]:
        drawn = np.asarray(explain_detection(model, image.path, box).plot())
        return [embed_crop(drawn, each.box, (), alt=f"where the model finds {title}")]

    return _item(pictures, title, text)


def _of_classifier(found: ClassPredictions, root: Path, settings: ReportSettings) -> list[Block]:
    model = _loaded(found.run, lambda: classification.load(found.run.folder, device=settings.device))
    if isinstance(model, Paragraph):
        return [model]
    order = np.argsort(-found.confidence, kind="stable")
    wrong, correct = (order[kept[order]] for kept in (~found.correct & found.readable, found.correct))
    blocks: list[Block] = []
    for title, indices in (("Most confident errors", wrong), ("Most confident correct predictions", correct)):
        if len(indices):
            items = [_class_item(model, found, root, int(index)) for index in indices[: settings.explain]]
            blocks.append(Gallery(title, items, small=True))
    return blocks


def _class_item(model: TrainedClassifier, found: ClassPredictions, root: Path, index: int) -> GalleryItem:
    """Return the heat map of the predicted class, and beside it that of the true class if it is another one."""
    name = found.names[index]
    labels = dict.fromkeys((int(found.predicted[index]), int(found.truth[index])))
    classes = [found.classes[label] for label in labels]

    def pictures() -> list[PageImage]:
        # The name comes from a file that others may have written: it must not lead out of the folder.
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise UserError("the name of the image leads out of the folder of the data")
        drawn = [(each, np.asarray(explain_image(model, root / name, each).plot())) for each in classes]
        return [embed(pixels, name=each, alt=f"where the model finds {each}", side=SIDE) for each, pixels in drawn]

    return _item(pictures, ", but is ".join(classes), Path(name).name)


def _item(pictures: Callable[[], list[PageImage]], title: str, text: str) -> GalleryItem:
    """Return an entry with pictures of heat maps, or without pictures but with the reason."""
    try:
        return GalleryItem(pictures(), title, text)
    except UserError as error:
        return GalleryItem([], title, f"{text}; no heat map: {error}")
