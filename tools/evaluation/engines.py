"""Two libraries that match detections with objects, with one interface: hotcoco (fast), pycocotools (reference)."""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypedDict

import numpy as np

from backbones.common.coco import InstancesFile, ResultRecord
from tools.evaluation.reading import (
    CATEGORY,
    IMAGE,
    SCORE,
    H,
    TruthSource,
    X,
    load_plain_results,
    read_truth,
    truth_is_plain,
)
from tools.evaluation.summary import LIMIT, limits_of

if TYPE_CHECKING:
    import pycocotools.coco
    from hotcoco import COCO, COCOeval


class Arrays(TypedDict):
    """Result of matching. Axes: IoU thresholds T, recalls R, classes K, size ranges A, limits M. -1 means undefined."""

    precision: np.ndarray  # [T, R, K, A, M]
    recall: np.ndarray  # [T, K, A, M]
    scores: np.ndarray  # [T, R, K, A, M]


class Engine(Protocol):
    """Interface of a library that holds COCO ground truth and matches detections with it."""

    image_ids: list[int]
    categories: dict[int, str]

    def complete(self) -> InstancesFile:
        """Return the ground truth with all fields that the evaluation of boxes needs, as `read_truth` does."""

    def count(self, images: set[int]) -> dict[int, tuple[int, int]]:
        """Return for each category id how many of `images` show it, and its number of objects without crowds."""

    def read(self, path: Path) -> COCO | None:
        """Parse a results file with the library's fast reader; None if the file must be checked record by record."""

    def native_count(self, native: COCO, images: list[int]) -> int:
        """Count the detections on `images` in a results file that `read` parsed."""

    def knows_categories(self, native: COCO) -> bool:
        """Return whether the ground truth has all categories of a results file that `read` parsed."""

    def crowded(self, images: list[int], most: int) -> dict[tuple[int, int], int]:
        """Return the number of objects by image id and category id, where it exceeds `most`, for the given images."""

    def match(self, detections: np.ndarray | COCO, images: list[int], most: int = LIMIT) -> Arrays:
        """Match detections (rows [N, 7], or the result of `read`) with the ground truth of `images`.

        Args:
            most: detections per image and class that count.
        """


class HotcocoEngine:
    """Engine that uses hotcoco, a compiled library. hotcoco itself parses files that have all fields, which is fast."""

    def __init__(self, source: TruthSource) -> None:
        self._source = source
        self._truth: InstancesFile | None = None
        self._gt = self._load()
        self.image_ids: list[int] = sorted(self._gt.get_img_ids())
        categories = self._gt.load_cats(self._gt.get_cat_ids())
        self.categories = {record["id"]: record["name"] for record in sorted(categories, key=lambda each: each["id"])}

    def complete(self) -> InstancesFile:
        if self._truth is None:
            self._truth = read_truth(self._source)
        return self._truth

    def count(self, images: set[int]) -> dict[int, tuple[int, int]]:
        chosen = sorted(images)
        return {
            category: (
                len(images.intersection(self._gt.get_img_ids(cat_ids=[category]))),
                len(self._gt.get_ann_ids(img_ids=chosen, cat_ids=[category], iscrowd=False)) if chosen else 0,
            )
            for category in self.categories
        }

    def read(self, path: Path) -> COCO | None:
        return load_plain_results(path, self._gt)

    def native_count(self, native: COCO, images: list[int]) -> int:
        return len(native.get_ann_ids(img_ids=images)) if images else 0  # hotcoco reads an empty list as "all images"

    def knows_categories(self, native: COCO) -> bool:
        known = native.get_ann_ids(cat_ids=list(self.categories)) if self.categories else []
        return len(known) == len(native.get_ann_ids())

    def crowded(self, images: list[int], most: int) -> dict[tuple[int, int], int]:
        full = [image for image in images if len(self._gt.get_ann_ids(img_ids=[image], iscrowd=False)) > most]
        counts = {
            (image, category): len(self._gt.get_ann_ids(img_ids=[image], cat_ids=[category], iscrowd=False))
            for image in full
            for category in self.categories
        }
        return {key: count for key, count in counts.items() if count > most}

    def match(self, detections: np.ndarray | COCO, images: list[int], most: int = LIMIT) -> Arrays:
        if not images or not self.categories:
            return undefined(len(self.categories), most)
        return _arrays(self.matching(detections, images, most).eval)

    def matching(self, detections: np.ndarray | COCO, images: list[int], most: int = LIMIT) -> COCOeval:
        """Match the detections and return hotcoco's `COCOeval`. There must be at least one image."""
        from hotcoco import COCOeval

        if isinstance(detections, np.ndarray):
            detections = self._gt.load_res(detections)
        matching = COCOeval(self._gt, detections, "bbox")
        matching.params.img_ids = images
        matching.params.max_dets = limits_of(most)
        matching.evaluate()
        matching.accumulate()
        return matching

    def annotations(self, images: list[int]) -> list[dict[str, Any]]:
        """Return the annotations of at least one image, with the ids that `matching` uses."""
        return self._gt.load_anns(self._gt.get_ann_ids(img_ids=images))

    def _load(self) -> COCO:
        from hotcoco import COCO

        if isinstance(self._source, Path):
            # A file that fails here is read by `complete`, whose errors name the faulty record.
            with contextlib.suppress(ValueError, OSError):
                gt = COCO(str(self._source))
                if truth_is_plain(self._source, gt):
                    return gt
        return COCO(dict(self.complete()))


class PycocotoolsEngine:
    """Engine that uses pycocotools, COCO's reference code, without its printed output."""

    def __init__(self, source: TruthSource) -> None:
        self._truth = read_truth(source)
        self._gt = _reference(self._truth)
        self.image_ids: list[int] = sorted(self._gt.getImgIds())
        records = sorted(self._truth["categories"], key=lambda each: each["id"])
        self.categories: dict[int, str] = {record["id"]: record["name"] for record in records}

    def complete(self) -> InstancesFile:
        return self._truth

    def count(self, images: set[int]) -> dict[int, tuple[int, int]]:
        shown: dict[int, set[int]] = {category: set() for category in self.categories}
        boxes = dict.fromkeys(self.categories, 0)
        for record in self._truth["annotations"]:
            if record["image_id"] in images:
                shown[record["category_id"]].add(record["image_id"])
                boxes[record["category_id"]] += not record["iscrowd"]
        return {category: (len(shown[category]), boxes[category]) for category in self.categories}

    def read(self, path: Path) -> COCO | None:
        return None

    def native_count(self, native: COCO, images: list[int]) -> int:
        raise TypeError("PycocotoolsEngine.read never returns a native file")

    def knows_categories(self, native: COCO) -> bool:
        raise TypeError("PycocotoolsEngine.read never returns a native file")

    def crowded(self, images: list[int], most: int) -> dict[tuple[int, int], int]:
        chosen = set(images)
        counts = Counter(
            (record["image_id"], record["category_id"])
            for record in self._truth["annotations"]
            if record["image_id"] in chosen and not record["iscrowd"]
        )
        return {key: counts[key] for key in sorted(counts) if counts[key] > most}

    def match(self, detections: np.ndarray | COCO, images: list[int], most: int = LIMIT) -> Arrays:
        from pycocotools.cocoeval import COCOeval

        if not images or not self.categories:
            return undefined(len(self.categories), most)
        assert isinstance(detections, np.ndarray), "`read` never returns a native file"
        annotations = [
            {**record, "id": number, "area": record["bbox"][2] * record["bbox"][3], "iscrowd": 0}
            for number, record in enumerate(records(detections), start=1)
        ]
        with contextlib.redirect_stdout(io.StringIO()):
            matching = COCOeval(self._gt, _reference({**self._truth, "annotations": annotations}), "bbox")
            matching.params.imgIds = images
            matching.params.maxDets = limits_of(most)
            matching.evaluate()
            matching.accumulate()
        return _arrays(matching.eval)


def records(rows: np.ndarray) -> list[ResultRecord]:
    """Convert detections [N, 7] to COCO's results format: one dict per detection."""
    images, categories = rows[:, IMAGE].astype(np.int64).tolist(), rows[:, CATEGORY].astype(np.int64).tolist()
    boxes, scores = rows[:, X : H + 1].tolist(), rows[:, SCORE].tolist()
    return [
        {"image_id": image, "category_id": category, "bbox": box, "score": score}
        for image, category, box, score in zip(images, categories, boxes, scores, strict=True)
    ]


def undefined(categories: int, most: int = LIMIT) -> Arrays:
    """Return the result of matching if there are no images or no categories: all values are -1 (undefined)."""
    shape = (10, 101, categories, 4, len(limits_of(most)))
    return {
        "precision": -np.ones(shape),
        "recall": -np.ones((shape[0], *shape[2:])),
        "scores": -np.ones(shape),
    }


def _arrays(evaluation: Any) -> Arrays:
    """Return precision, recall and scores from the `eval` attribute of a library's COCOeval."""
    return {"precision": evaluation["precision"], "recall": evaluation["recall"], "scores": evaluation["scores"]}


def _reference(data: Mapping[str, object]) -> pycocotools.coco.COCO:
    """Return a pycocotools COCO object made from ground truth in memory."""
    from pycocotools.coco import COCO

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = data
        coco.createIndex()
    return coco
