"""Computes the primary metric of a run for given image weights, which the bootstrap over images needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from backbones.common.files import JsonObject
from tools.runs.classification import ClassPredictions
from tools.runs.detection import EvaluatedDetections
from tools.runs.folder import RunFolder
from tools.runs.label_sets import LabelSetPredictions
from tools.runs.segmentation import MaskPredictions

if TYPE_CHECKING:
    from hotcoco import COCOeval

RECALLS = np.linspace(0.0, 1.0, 101)  # the recalls at which COCO reads the precision
Score: TypeAlias = Callable[[np.ndarray], float]  # image weights [N], whole numbers -> a fraction 0..1, or NaN


@dataclass(frozen=True)
class ImageScore:
    """Primary metric of a run as a function of image weights (how often each image counts).

    Attributes:
        digest: value that is equal for runs that were evaluated on the same images.
        size: number of images N.
        score: maps image weights `[N]` to a fraction 0..1; NaN if the weighted images have nothing to measure.
    """

    digest: object
    size: int
    score: Score

    @cached_property
    def whole(self) -> float:
        """The metric on all images, each counted once."""
        return self.score(np.ones(self.size))


def read_score(run: RunFolder, metric: str | None = None) -> ImageScore:
    """Return a run's AP, mIoU, top-1 accuracy or (with several classes an image) mAP as a function of image weights.

    Args:
        metric: "segm_AP" for the AP of masks; by default the primary metric of the run's task.

    Raises:
        UserError: if the run kept no predictions, or its data is missing.
    """
    if metric == "segm_AP":
        return _detection(run, masks=True)
    readers = {"detection": _detection, "segmentation": _segmentation, "classification": _classification}
    return readers[run.task](run)


def _classification(run: RunFolder) -> ImageScore:
    if run.is_multi_label:
        sets = LabelSetPredictions.read(run)
        return ImageScore(sets.digest, len(sets.names), sets.mean_average_precision)
    predictions = ClassPredictions.read(run)
    correct = predictions.correct.astype(float)
    return ImageScore(predictions.digest, len(correct), lambda weights: float(weights @ correct / weights.sum()))


def _segmentation(run: RunFolder) -> ImageScore:
    predictions = MaskPredictions.read(run, data=None)
    return ImageScore(
        predictions.digest, len(predictions.rows), lambda weights: _known_mean(predictions.class_ious(weights))
    )


def _known_mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def _detection(run: RunFolder, *, masks: bool = False) -> ImageScore:
    evaluated = EvaluatedDetections.read(run, data=None)
    score = average_precision(evaluated.masks() if masks else evaluated.evaluation, evaluated.images)
    return ImageScore(evaluated.digest, len(evaluated.images), score)


def average_precision(evaluation: COCOeval, images: Sequence[int]) -> Score:
    """Return a function from image weights `[N]` to COCO's AP. Weights of 1 give the AP of `summarize`.

    Args:
        evaluation: an evaluation by hotcoco, after `evaluate`.
        images: ids of the images, in the order of the weights.
    """
    indices = {image: index for index, image in enumerate(images)}
    all_areas = list(evaluation.params.area_rng[0])
    by_class: dict[int, list[JsonObject]] = {}
    for entry in evaluation.eval_imgs:
        if entry is not None and list(entry["aRng"]) == all_areas:
            by_class.setdefault(entry["category_id"], []).append(entry)
    classes = [_ClassMatches.from_entries(entries, indices) for entries in by_class.values()]

    def score(weights: np.ndarray) -> float:
        values = [each.average_precision(weights) for each in classes]
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if known else float("nan")

    return score


@dataclass(frozen=True)
class _ClassMatches:
    """Matches of the D detections of one class, highest score first, at each of T IoU thresholds.

    Attributes:
        image: index of the image of each detection `[D]`.
        correct: whether a detection matches an object `[T, D]`.
        wrong: whether a detection matches neither object nor crowd `[T, D]`.
        objects: number `[N]` of objects in each image, without crowds.
    """

    image: np.ndarray
    correct: np.ndarray
    wrong: np.ndarray
    objects: np.ndarray

    @classmethod
    def from_entries(cls, entries: Sequence[JsonObject], indices: Mapping[int, int]) -> _ClassMatches:
        """Join the matches of one class, which hotcoco computed for each image separately.

        Args:
            indices: index of each image by its id.
        """
        objects = np.zeros(len(indices))
        for entry in entries:
            objects[indices[entry["image_id"]]] += np.sum(~np.asarray(entry["gtIgnore"], bool))
        entries = sorted(entries, key=lambda entry: entry["image_id"])  # the order of equal scores in COCO's code
        scores = np.concatenate([np.asarray(entry["dtScores"], float) for entry in entries])
        image = np.concatenate([np.full(len(entry["dtScores"]), indices[entry["image_id"]]) for entry in entries])
        matched = np.concatenate([np.asarray(entry["dtMatches"]).reshape(10, -1) > 0 for entry in entries], axis=1)
        ignored = np.concatenate([np.asarray(entry["dtIgnore"], bool).reshape(10, -1) for entry in entries], axis=1)
        order = np.argsort(-scores, kind="stable")
        return cls(image[order], (matched & ~ignored)[:, order], (~matched & ~ignored)[:, order], objects)

    def average_precision(self, weights: np.ndarray) -> float | None:
        """Return the mean precision over IoU thresholds and recalls; None for a class without objects."""
        total = float(weights @ self.objects)
        if total == 0:
            return None
        # Count correct and wrong detections from the highest score down.
        each = weights[self.image]
        correct, wrong = np.cumsum(self.correct * each, axis=1), np.cumsum(self.wrong * each, axis=1)
        recall = correct / total
        precision = correct / np.maximum(correct + wrong, np.finfo(float).eps)
        # Replace each precision by the largest one at the same or a higher recall.
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        # Read it at 101 recalls; a recall that is never reached has precision 0.
        padded = np.concatenate([envelope, np.zeros((len(envelope), 1))], axis=1)
        first = [np.searchsorted(row, RECALLS, side="left") for row in recall]
        return float(np.mean([row[at] for row, at in zip(padded, first, strict=True)]))
