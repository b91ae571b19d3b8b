"""The score of a run on images that count different numbers of times, which a bootstrap over images asks for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tools.runs.folder import RunFolder

RECALLS = np.linspace(0.0, 1.0, 101)  # where COCO reads precision


@dataclass(frozen=True)
class Scored:
    """A run's figure as a function of how often each image counts.

    Attributes:
        digest: of the images and their truth, the same for runs that were measured on the same.
        size: number of images N.
        score: weights `[N]`, whole numbers -> a fraction 0..1; NaN where nothing is left to measure.
    """

    digest: Any
    size: int
    score: Callable[[np.ndarray], float]


def read(run: RunFolder) -> Scored:
    """AP of a detector, mIoU of a segmenter, top-1 accuracy of a classifier.

    Raises:
        UserError: where the run kept no predictions of its images, or its data is not at hand.
    """
    return {"detection": _detection, "segmentation": _segmentation, "classification": _classification}[run.task](run)


def _classification(run: RunFolder) -> Scored:
    from tools.runs.classification import Predictions

    found = Predictions.read(run)
    right = found.right.astype(float)
    digest = found.classes, found.names, found.truth.tobytes()
    return Scored(digest, len(right), lambda weights: float(weights @ right / weights.sum()))


def _segmentation(run: RunFolder) -> Scored:
    from tools.runs.segmentation import Maps

    found = Maps.read(run, data=None)
    digest = found.rows, found.names, found.truth.tobytes()
    return Scored(digest, len(found.rows), lambda weights: _mean(found.ious(weights)))


def _mean(values: np.ndarray) -> float:
    """Of what is known; NaN where nothing is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def _detection(run: RunFolder) -> Scored:
    from tools.runs.detection import measure

    found = measure(run, data=None)
    return Scored(found.digest(), len(found.images), average_precision(found.full, found.images))


def average_precision(evaluation: Any, images: list[int]) -> Callable[[np.ndarray], float]:
    """COCO's AP of an evaluation as a function of image weights `[N]`; with ones it is `summarize`'s.

    Args:
        evaluation: hotcoco's `COCOeval`, evaluated.
        images: ids, in the order of the weights.
    """
    places = {image: place for place, image in enumerate(images)}
    by_class: dict[int, list[Any]] = {}
    whole = list(evaluation.params.area_rng[0])  # the first range of areas is "all"
    for each in evaluation.eval_imgs:
        if each is not None and list(each["aRng"]) == whole:
            by_class.setdefault(each["category_id"], []).append(each)
    classes = [_ClassMatches.of(entries, places, len(images)) for entries in by_class.values()]

    def score(weights: np.ndarray) -> float:
        found = [each.average_precision(weights) for each in classes]
        known = [value for value in found if value is not None]
        return float(np.mean(known)) if known else float("nan")

    return score


@dataclass(frozen=True)
class _ClassMatches:
    """A class's detections by falling score.

    Attributes:
        place: the image of each detection `[D]`.
        hit, wrong: by IoU threshold `[T, D]`; a detection on a crowd is neither.
        objects: that count, by image `[N]`.
    """

    place: np.ndarray
    hit: np.ndarray
    wrong: np.ndarray
    objects: np.ndarray

    @classmethod
    def of(cls, entries: list[Any], places: dict[int, int], size: int) -> _ClassMatches:
        objects = np.zeros(size)
        for each in entries:
            objects[places[each["image_id"]]] += np.sum(~np.asarray(each["gtIgnore"], bool))
        entries = sorted(entries, key=lambda each: each["image_id"])  # ties of scores stand in this order
        scores = np.concatenate([np.asarray(each["dtScores"], float) for each in entries])
        place = np.concatenate([np.full(len(each["dtScores"]), places[each["image_id"]]) for each in entries])
        matched = np.concatenate([np.asarray(each["dtMatches"]).reshape(10, -1) > 0 for each in entries], axis=1)
        ignored = np.concatenate([np.asarray(each["dtIgnore"], bool).reshape(10, -1) for each in entries], axis=1)
        order = np.argsort(-scores, kind="stable")
        return cls(place[order], (matched & ~ignored)[:, order], (~matched & ~ignored)[:, order], objects)

    def average_precision(self, weights: np.ndarray) -> float | None:
        """Mean over IoU thresholds and recalls; None of a class without objects."""
        total = float(weights @ self.objects)
        if total == 0:
            return None
        each = weights[self.place]
        hits, wrongs = np.cumsum(self.hit * each, axis=1), np.cumsum(self.wrong * each, axis=1)
        recall = hits / total
        precision = hits / np.maximum(hits + wrongs, np.finfo(float).eps)
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        padded = np.concatenate([envelope, np.zeros((len(envelope), 1))], axis=1)
        first = [np.searchsorted(row, RECALLS, side="left") for row in recall]
        return float(np.mean([row[at] for row, at in zip(padded, first, strict=True)]))
