"""Outcomes of a detection run on each image: objects found or missed, and detections correct or false."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from backbones.common.files import JsonObject
from tools.evaluation.detections import Detections
from tools.evaluation.overlaps import iou
from tools.evaluation.reading import SCORE
from tools.evaluation.thresholds import MatchedClasses
from tools.runs.detection import EvaluatedDetections
from tools.runs.folder import RunFolder

if TYPE_CHECKING:
    from hotcoco import COCOeval

IOU = 0.5  # least IoU of a detection with the object that it finds
NEAR = 0.1  # a detection whose IoU with every object is lower is on the background; the bounds are TIDE's
Box: TypeAlias = tuple[float, float, float, float]  # x, y, width, height in pixels


@dataclass(frozen=True)
class ObjectOutcome:
    """An annotated object, and whether a detection matched it.

    Attributes:
        area: area in square pixels, from the annotations.
        status: "ignored" for a crowd, which does not count.
    """

    box: Box
    name: str
    area: float
    status: Literal["found", "missed", "ignored"]


@dataclass(frozen=True)
class DetectionOutcome:
    """A detection with a score above the report's threshold, and whether it is correct.

    Attributes:
        status: "ignored" for a detection on a crowd, which does not count.
        cause: cause of a false positive: background, wrong class, poor localization or duplicate.
    """

    box: Box
    name: str
    score: float
    status: Literal["correct", "false positive", "ignored"]
    cause: str = ""


@dataclass
class ImageOutcome:
    """An image with the outcomes of its objects and detections. Detections are sorted by score, best first.

    Attributes:
        size: height and width according to the annotations.
        bits: bits that the values of 16-bit images use.
    """

    id: int
    path: Path
    size: tuple[int, int]
    bits: int
    objects: list[ObjectOutcome] = field(default_factory=list)
    detections: list[DetectionOutcome] = field(default_factory=list)

    @property
    def counted_objects(self) -> list[ObjectOutcome]:
        """The objects that count, which are all except crowds."""
        return [each for each in self.objects if each.status != "ignored"]

    @property
    def found(self) -> int:
        """Number of objects that a detection matches."""
        return sum(each.status == "correct" for each in self.detections)

    @property
    def missed(self) -> int:
        """Number of objects that no detection matches."""
        return sum(each.status == "missed" for each in self.objects)

    @property
    def false_positives(self) -> int:
        """Number of detections that match no object."""
        return sum(each.status == "false positive" for each in self.detections)

    @property
    def f1(self) -> float:
        """F1 score of the image: 2 * found / (objects + detections); 1 if there are neither objects nor detections."""
        total = 2 * self.found + self.missed + self.false_positives
        return 2 * self.found / total if total else 1.0


@dataclass(frozen=True)
class BoxPredictions:
    """The detections of a run and their outcomes: correct, false positive or ignored.

    Attributes:
        evaluated: the detections as the run wrote them.
        evaluation: hotcoco's evaluation of all detections.
        confident: hotcoco's evaluation of the detections with at least the score of the report, except detections
            on crowds.
        categories: names of the categories by id.
        digest: value that is equal for runs that were evaluated on the same images and annotations.
    """

    run: RunFolder
    evaluated: EvaluatedDetections
    evaluation: COCOeval
    confident: COCOeval
    categories: Mapping[int, str]
    images: list[ImageOutcome]
    digest: object

    @cached_property
    def precision(self) -> np.ndarray:
        """COCO's precision `[10, 101, K]` by IoU threshold, recall and class; -1 for a class without objects."""
        return (self.evaluation.eval or {})["precision"][:, :, :, 0, -1]  # all sizes, all detections that count

    @cached_property
    def matched(self) -> MatchedClasses:
        """Matches of all detections with the objects: of all classes together, and of each class."""
        found = self.evaluated
        return MatchedClasses.of(
            self.evaluation,
            found.rows,
            images=found.images,
            categories=found.engine.categories,
            objects=found.objects,
        )

    @classmethod
    def read(cls, run: RunFolder, *, data: str | None, score: float) -> BoxPredictions:
        """Match the detections of a run with the annotations, and determine the outcome of each.

        Args:
            data: folder of the data set; None for the run's own.
            score: least score of the detections that get an outcome.

        Raises:
            UserError: if a file is missing or malformed, or if the AP is not that of results.json.
        """
        evaluated = EvaluatedDetections.read(run, data=data)
        engine, images = evaluated.engine, evaluated.images
        rows = evaluated.rows[evaluated.rows[:, SCORE] >= score]
        confident = engine.matching(Detections(rows), images, evaluated.most)
        diagnosis = confident.image_diagnostics(iou_thr=IOU)
        outcomes = _outcomes(confident, diagnosis, evaluated)
        # hotcoco's confusion matrix counts detections on crowds as false positives: leave them out.
        known = diagnosis["dt_status"]
        ignored = [index for index in range(len(rows)) if index + 1 not in known]  # hotcoco's ids count from 1
        if ignored:
            confident = engine.matching(Detections(np.delete(rows, ignored, axis=0)), images, evaluated.most)
        return cls(run, evaluated, evaluated.evaluation, confident, engine.categories, outcomes, evaluated.digest)


def _outcomes(
    evaluation: COCOeval, diagnosis: Mapping[str, Mapping[int, str]], evaluated: EvaluatedDetections
) -> list[ImageOutcome]:
    """Return all images with the outcomes of their objects and detections.

    Args:
        diagnosis: hotcoco's `image_diagnostics` of the evaluation: the status of each object and detection by id.
    """
    categories = evaluated.engine.categories
    images = {image.id: image for image in _empty_images(evaluated)}
    for record in evaluated.objects:
        x, y, w, h = record["bbox"]
        status = _object_status(record, diagnosis["gt_status"])
        name = categories[record["category_id"]]
        images[record["image_id"]].objects.append(ObjectOutcome((x, y, w, h), name, record.get("area", w * h), status))
    # Judge the detections once all objects of their image are known.
    detections = evaluation.coco_dt
    for record in detections.load_anns(detections.get_ann_ids(img_ids=list(images))):
        image, name = images[record["image_id"]], categories[record["category_id"]]
        image.detections.append(_detection_outcome(record, name, image.objects, diagnosis["dt_status"]))
    for image in images.values():
        image.detections.sort(key=lambda each: -each.score)
    return list(images.values())


def _empty_images(evaluated: EvaluatedDetections) -> list[ImageOutcome]:
    annotations, indices = evaluated.annotations, evaluated.indices
    names = annotations.file_names[indices].tolist()
    sizes = [(int(height), int(width)) for height, width in annotations.sizes[indices]]
    return [
        ImageOutcome(key, annotations.folder / name, size, evaluated.run.bits)
        for key, name, size in zip(evaluated.images, names, sizes, strict=True)
    ]


def _object_status(record: JsonObject, statuses: Mapping[int, str]) -> Literal["found", "missed", "ignored"]:
    status = statuses.get(record["id"], "ignored")
    if record.get("iscrowd"):
        return "ignored"
    if status == "matched":
        return "found"
    return "missed" if status in ("fn", "missed") else "ignored"


def _detection_outcome(
    record: JsonObject, name: str, objects: Sequence[ObjectOutcome], statuses: Mapping[int, str]
) -> DetectionOutcome:
    x, y, w, h = record["bbox"]
    box, score, status = (x, y, w, h), record["score"], statuses.get(record["id"], "ignored")
    if status == "tp":
        return DetectionOutcome(box, name, score, "correct")
    if status == "fp":
        return DetectionOutcome(box, name, score, "false positive", _cause(box, name, objects))
    return DetectionOutcome(box, name, score, "ignored")


def _cause(box: Box, name: str, objects: Sequence[ObjectOutcome]) -> str:
    """Return the cause of a false positive, such as "duplicate", by the IoU thresholds of TIDE (Bolya et al. 2020)."""
    counted = [each for each in objects if each.status != "ignored"]
    if not counted:
        return "background"
    ious = iou(np.array([box]), np.array([each.box for each in counted]))[0]
    same = max((value for value, each in zip(ious, counted, strict=True) if each.name == name), default=0.0)
    other = max((value for value, each in zip(ious, counted, strict=True) if each.name != name), default=0.0)
    if same >= IOU:
        return "duplicate"
    if other >= IOU:
        return f"wrong class, {counted[int(ious.argmax())].name}"
    if same >= NEAR:
        return f"poor localization, IoU {same:.2f}"
    return "wrong class and poor localization" if other >= NEAR else "background"
