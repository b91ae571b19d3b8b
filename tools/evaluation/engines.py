"""The two matchers of boxes behind one face: hotcoco (compiled, quick) and pycocotools (the reference)."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tools.evaluation.reading import (
    CATEGORY,
    IMAGE,
    SCORE,
    H,
    X,
    load_plain_results,
    read_truth,
    truth_is_plain,
)

Arrays = dict[str, Any]  # precision [T, R, K, A, M], recall [T, K, A, M], scores [T, R, K, A, M]; -1: undefined


class Engine(Protocol):
    """Ground truth that can be matched with detections."""

    image_ids: list[int]
    categories: dict[int, str]

    def complete(self) -> dict[str, Any]:
        """Ground truth as `read_truth` gives it."""

    def count(self, images: set[int]) -> dict[int, tuple[int, int]]:
        """By category: how many of `images` show it, and how many of its boxes there are no crowds."""

    def read(self, path: Path) -> Any | None:
        """A results file read natively, or None where the engine cannot vouch for it."""

    def native_count(self, native: Any, images: list[int]) -> int:
        """How many detections of a natively read file are on `images`."""

    def match(self, detections: Any, images: list[int]) -> Arrays:
        """Match rows [N, 7], or what `read` gave, on some images."""


class HotcocoEngine:
    """Hands files straight to the compiled reader where they are complete."""

    def __init__(self, source: Path | dict[str, Any]) -> None:
        self._source = source
        self._truth: dict[str, Any] | None = None
        self._gt = self._load()
        self.image_ids: list[int] = sorted(self._gt.get_img_ids())
        categories = self._gt.load_cats(self._gt.get_cat_ids())
        self.categories = {record["id"]: record["name"] for record in sorted(categories, key=lambda each: each["id"])}

    def complete(self) -> dict[str, Any]:
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

    def read(self, path: Path) -> Any | None:
        return load_plain_results(path, self._gt)

    def native_count(self, native: Any, images: list[int]) -> int:
        return len(native.get_ann_ids(img_ids=images)) if images else 0  # an empty list would mean all

    def match(self, detections: Any, images: list[int]) -> Arrays:
        if not images or not self.categories:
            return undefined(len(self.categories))
        return dict(self.matching(detections, images).eval or {})

    def matching(self, detections: Any, images: list[int]) -> Any:
        """hotcoco's `COCOeval` of rows [N, 7], or of what `read` gave, matched on some images (one or more)."""
        from hotcoco import COCOeval

        if isinstance(detections, np.ndarray):
            detections = self._gt.load_res(detections)
        matching = COCOeval(self._gt, detections, "bbox")
        matching.params.img_ids = images
        matching.evaluate()
        matching.accumulate()
        return matching

    def annotations(self, images: list[int]) -> list[dict[str, Any]]:
        """The ground truth of some images (one or more), with the ids that matchings speak of."""
        return self._gt.load_anns(self._gt.get_ann_ids(img_ids=images))

    def _load(self) -> Any:
        from hotcoco import COCO

        if isinstance(self._source, Path):
            # The slow reader below finds the words for whatever is wrong with the file.
            with contextlib.suppress(ValueError, OSError):
                gt = COCO(str(self._source))
                if truth_is_plain(self._source, gt):
                    return gt
        return COCO(self.complete())


class PycocotoolsEngine:
    """The reference, with its prints kept quiet."""

    def __init__(self, source: Path | dict[str, Any]) -> None:
        self._truth = read_truth(source)
        self._gt = _reference(self._truth)
        self.image_ids: list[int] = sorted(self._gt.getImgIds())
        records = sorted(self._truth["categories"], key=lambda each: each["id"])
        self.categories: dict[int, str] = {record["id"]: record["name"] for record in records}

    def complete(self) -> dict[str, Any]:
        return self._truth

    def count(self, images: set[int]) -> dict[int, tuple[int, int]]:
        shown: dict[int, set[int]] = {category: set() for category in self.categories}
        boxes = dict.fromkeys(self.categories, 0)
        for record in self._truth["annotations"]:
            if record["image_id"] in images:
                shown[record["category_id"]].add(record["image_id"])
                boxes[record["category_id"]] += not record["iscrowd"]
        return {category: (len(shown[category]), boxes[category]) for category in self.categories}

    def read(self, path: Path) -> Any | None:
        return None

    def native_count(self, native: Any, images: list[int]) -> int:
        raise NotImplementedError("pycocotools reads nothing natively")

    def match(self, detections: Any, images: list[int]) -> Arrays:
        from pycocotools.cocoeval import COCOeval

        if not images or not self.categories:
            return undefined(len(self.categories))
        annotations = [
            {**record, "id": number, "area": record["bbox"][2] * record["bbox"][3], "iscrowd": 0}
            for number, record in enumerate(records(detections), start=1)
        ]
        with contextlib.redirect_stdout(io.StringIO()):
            matching = COCOeval(self._gt, _reference({**self._truth, "annotations": annotations}), "bbox")
            matching.params.imgIds = images
            matching.evaluate()
            matching.accumulate()
        return matching.eval


def records(rows: np.ndarray) -> list[dict[str, Any]]:
    """Rows [N, 7] as COCO results."""
    images, categories = rows[:, IMAGE].astype(np.int64).tolist(), rows[:, CATEGORY].astype(np.int64).tolist()
    boxes, scores = rows[:, X : H + 1].tolist(), rows[:, SCORE].tolist()
    return [
        {"image_id": image, "category_id": category, "bbox": box, "score": score}
        for image, category, box, score in zip(images, categories, boxes, scores, strict=True)
    ]


def undefined(categories: int) -> Arrays:
    """What the engines would give where there is nothing to match."""
    shape = (10, 101, categories, 4, 3)
    return {
        "precision": -np.ones(shape),
        "recall": -np.ones((shape[0], *shape[2:])),
        "scores": -np.ones(shape),
    }


def _reference(data: dict[str, Any]) -> Any:
    """A pycocotools COCO of data in memory."""
    from pycocotools.coco import COCO

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = data
        coco.createIndex()
    return coco
