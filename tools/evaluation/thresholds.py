"""Chooses the score from which detections count: the highest F1 over all scores, with an interval; and calibrates.

Detections are matched in the order of their scores, so a limit of scores only removes the last of them: the matches of
the others stay the same, and one matching gives F1 at every limit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from hotcoco.metrics import calibration_error

from backbones.common.files import JsonObject
from tools.evaluation.reading import CATEGORY, IMAGE, SCORE
from tools.evaluation.resampling import resamples
from tools.evaluation.summary import class_keys

if TYPE_CHECKING:
    from hotcoco import COCOeval

IOU = 0.5  # of a correct detection and its object
RESAMPLES = 200  # of the images, for the interval of a best score
CONFIDENCE = 0.95
BINS = 10  # of scores, for the calibration error
LEAST_OBJECTS = 10  # of a class with a limit of its own; rarer classes use that of all classes
RANGE = (0.05, 20.0)  # of temperatures
TINY = 1e-6  # scores are at least as far from 0 and 1


@dataclass(frozen=True)
class ScoredMatches:
    """Detections of one or all classes with whether they are correct; those on ignored objects are left out.

    Attributes:
        scores: `[N]`, the highest first.
        correct: `[N]` bool.
        images: `[N]` index of the image.
        objects: number of objects in each image `[I]`, without crowds.
    """

    scores: np.ndarray
    correct: np.ndarray
    images: np.ndarray
    objects: np.ndarray

    def f1(self, weights: np.ndarray | None = None) -> np.ndarray:
        """Return F1 `[N]` of the first 1, 2, ... N detections: 2 TP / (detections + objects).

        Args:
            weights: how often each image counts `[I]`; by default once.
        """
        each = np.ones(len(self.scores)) if weights is None else weights[self.images]
        total = float(self.objects.sum() if weights is None else (weights * self.objects).sum())
        found, count = np.cumsum(each * self.correct), np.cumsum(each)
        return 2 * found / np.maximum(count + total, 1e-12)

    def limit(self, last: int) -> float:
        """Return a limit of scores that keeps the detections up to index `last`: midway to the next lower score."""
        here = float(self.scores[last])
        lower = self.scores[self.scores < here]
        return (here + float(lower[0])) / 2 if len(lower) else here * (1 - 1e-6)

    def best(self, weights: np.ndarray | None = None) -> tuple[float, float] | None:
        """Return the limit of scores with the highest F1, and this F1; None without a correct detection."""
        curve = self.f1(weights)
        # A limit cannot separate equal scores: judge each group at its last detection.
        last = np.flatnonzero(np.append(self.scores[1:] < self.scores[:-1], True)) if len(curve) else np.zeros(0, int)
        if not len(last) or curve[last].max() <= 0:
            return None
        index = int(last[curve[last].argmax()])
        return self.limit(index), float(curve[index])

    def at(self, limits: np.ndarray) -> np.ndarray:
        """Return F1 at each limit of scores `[L]`."""
        kept = np.searchsorted(-self.scores, -limits, side="right")
        curve = np.append(0.0, self.f1())
        return curve[kept]


@dataclass(frozen=True)
class MatchedClasses:
    """The matches of all classes together, and of each class.

    Attributes:
        by_class: by a unique name of the class.
        ids: category ids by this name.
    """

    whole: ScoredMatches
    by_class: Mapping[str, ScoredMatches]
    ids: Mapping[str, int]

    @classmethod
    def of(
        cls,
        evaluation: COCOeval,
        rows: np.ndarray,
        *,
        images: Sequence[int],
        categories: Mapping[int, str],
        objects: Sequence[JsonObject],
    ) -> MatchedClasses:
        """Return the matches of an evaluation at IoU 0.5.

        Args:
            evaluation: hotcoco's evaluation of `rows`.
            rows: detections `[N, 7]`: image id, x, y, width, height, score, category id.
            images: ids of the evaluated images.
            categories: names by category id.
            objects: COCO records of the objects in these images.
        """
        status = evaluation.image_diagnostics(iou_thr=IOU)["dt_status"] if len(rows) else {}
        known = np.array([index for index in range(len(rows)) if index + 1 in status], int)  # ids count from 1
        correct = np.array([status[index + 1] == "tp" for index in known.tolist()], bool)
        order = np.argsort(-rows[known, SCORE], kind="stable")
        rows, correct = rows[known][order], correct[order]
        index_of = {key: index for index, key in enumerate(images)}
        owners = np.array([index_of[int(key)] for key in rows[:, IMAGE]], int)
        counts = {key: np.zeros(len(images)) for key in categories}
        for record in objects:
            if not record.get("iscrowd"):
                counts[record["category_id"]][index_of[record["image_id"]]] += 1
        scores, labels = rows[:, SCORE], rows[:, CATEGORY]
        parts = {
            name: ScoredMatches(scores[labels == key], correct[labels == key], owners[labels == key], counts[key])
            for key, name in class_keys(categories).items()
        }
        every = np.sum(list(counts.values()), axis=0) if counts else np.zeros(len(images))
        ids = {name: key for key, name in class_keys(categories).items()}
        return cls(ScoredMatches(scores, correct, owners, every), parts, ids)

    def objects(self) -> dict[str, int]:
        """Return the number of objects of each class."""
        return {name: int(each.objects.sum()) for name, each in self.by_class.items()}

    def limits(self, best: JsonObject) -> dict[int, float]:
        """Return the limit of scores of each class by category id; {} without a correct detection.

        Args:
            best: what `best_scores` returns.
        """
        return {self.ids[name]: limit for name, limit in limits_of(best, self.objects()).items()}

    def best_scores(self, count: int = RESAMPLES) -> JsonObject:
        """Return the best limits of scores as results.json holds them.

        Returns:
            `score`, `f1`, and bounds `low` and `high` of the score, for all classes together; `per_class` with the same
            for each class (None without a correct detection); `temperature`, `ece` and `ece_scaled` of the scores.
        """
        draws = list(resamples(len(self.whole.objects), count)) if len(self.whole.objects) else []
        return {
            **(_summary(self.whole, draws) or dict.fromkeys(("score", "f1", "low", "high"))),
            "per_class": {name: _summary(each, draws) for name, each in self.by_class.items()},
            **calibration(self.whole.scores, self.whole.correct),
        }


def limits_of(best: JsonObject, objects: Mapping[str, int]) -> dict[str, float]:
    """Return the limit of scores of each class: its own, or that of all classes if it has few objects.

    Args:
        best: what `best_scores` returns.
        objects: number of objects of each class.
    """
    common = best["score"]
    if common is None:
        return {}
    own = {name: entry["score"] for name, entry in best["per_class"].items() if entry}
    return {name: own[name] if objects[name] >= LEAST_OBJECTS and name in own else common for name in objects}


def calibration(scores: np.ndarray, correct: np.ndarray) -> JsonObject:
    """Return `temperature`, and the expected calibration errors `ece` and `ece_scaled` before and after scaling.

    Args:
        scores: confidences `[N]` in 0..1.
        correct: `[N]` bool.
    """
    if not len(scores):
        return {"temperature": None, "ece": None, "ece_scaled": None}
    found = temperature(scores, correct)
    errors = (calibration_error(each, correct, BINS)[0] for each in (np.asarray(scores, float), scaled(scores, found)))
    return {"temperature": found, **dict(zip(("ece", "ece_scaled"), map(float, errors), strict=True))}


def temperature(scores: np.ndarray, correct: np.ndarray) -> float:
    """Return the temperature T at which sigmoid(logit(score) / T) has the highest likelihood (Guo et al. 2017).

    The scores of a softmax are taken as those of "correct or not". The likelihood has one maximum, which a search by
    thirds on a logarithmic axis finds.
    """
    low, high = np.log(RANGE)
    for _ in range(60):
        third = (high - low) / 3
        if _loss(scores, correct, np.exp(low + third)) < _loss(scores, correct, np.exp(high - third)):
            high -= third
        else:
            low += third
    return float(np.exp((low + high) / 2))


def scaled(scores: np.ndarray, by: float) -> np.ndarray:
    """Return scores `[N]` with their logits divided by a temperature."""
    clipped = np.clip(np.asarray(scores, np.float64), TINY, 1 - TINY)
    return 1 / (1 + np.exp(-np.log(clipped / (1 - clipped)) / by))


def _loss(scores: np.ndarray, correct: np.ndarray, by: float) -> float:
    values = np.clip(scaled(scores, by), 1e-15, 1 - 1e-15)
    return float(-np.log(np.where(correct, values, 1 - values)).mean())


def _summary(matches: ScoredMatches, draws: Sequence[np.ndarray]) -> JsonObject | None:
    found = matches.best()
    if found is None:
        return None
    resampled = [best[0] for weights in draws if (best := matches.best(weights)) is not None]
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(resampled, (tail, 100 - tail)).tolist() if resampled else (None, None)
    return {"score": found[0], "f1": found[1], "low": low, "high": high}
