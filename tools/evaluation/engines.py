"""Two libraries that match detections with objects, with one interface: hotcoco (fast), pycocotools (reference)."""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypedDict

import numpy as np

from backbones.common.coco import InstancesFile
from tools.evaluation.detections import Detections
from tools.evaluation.masks import Size, areas, as_dicts
from tools.evaluation.plain import load_plain_results, truth_is_plain
from tools.evaluation.reading import TruthSource, read_truth
from tools.evaluation.summary import LIMIT, IouType, limits_of

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
    sizes: dict[int, Size]  # height and width by image id; empty if only boxes are evaluated

    def complete(self) -> InstancesFile:
        """Return the ground truth with all fields that the evaluation needs, as `read_truth` does."""

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

    def match(
        self, detections: Detections | COCO, images: list[int], most: int = LIMIT, iou: IouType = "bbox"
    ) -> Arrays:
        """Match detections (or the result of `read`) with the ground truth of `images`.

        Args:
            most: detections per image and class that count.
            iou: what the IoU compares: boxes, masks, or masks and their boundaries.
        """


class HotcocoEngine:
    """Engine that uses hotcoco, a compiled library. hotcoco itself parses files that have all fields, which is fast.

    Args:
        masks: whether masks are evaluated, so that each annotation needs one.
    """

    def __init__(self, source: TruthSource, *, masks: bool = False) -> None:
        self._source, self._masks = source, masks
        self._truth: InstancesFile | None = None
        self._gt = self._load()
        self.image_ids: list[int] = sorted(self._gt.get_img_ids())
        categories = self._gt.load_cats(self._gt.get_cat_ids())
        self.categories = {record["id"]: record["name"] for record in sorted(categories, key=lambda each: each["id"])}
        images = self._gt.load_imgs(self.image_ids) if masks else []
        self.sizes: dict[int, Size] = {record["id"]: (record["height"], record["width"]) for record in images}

    def complete(self) -> InstancesFile:
        if self._truth is None:
            self._truth = read_truth(self._source, masks=self._masks)
        return self._truth

    def count(self, images: set[int]) -> dict[int, tuple[int, int]]:
        # hotcoco reads an empty list as "all images", and searches a long list for each annotation.
        chosen = [] if len(images) == len(self.image_ids) else sorted(images)
        return {
            category: (
                len(images.intersection(self._gt.get_img_ids(cat_ids=[category]))),
                len(self._gt.get_ann_ids(img_ids=chosen, cat_ids=[category], iscrowd=False)) if images else 0,
            )
            for category in self.categories
        }

    def read(self, path: Path) -> COCO | None:
        return load_plain_results(path, self._gt, masks=self._masks)

    def native_count(self, native: COCO, images: list[int]) -> int:
        if len(images) == len(self.image_ids):
            return int(native.stats()["annotation_count"])
        return len(native.get_ann_ids(img_ids=images)) if images else 0  # hotcoco reads an empty list as "all images"

    def knows_categories(self, native: COCO) -> bool:
        if not native.load_warnings:
            return True
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

    def match(
        self, detections: Detections | COCO, images: list[int], most: int = LIMIT, iou: IouType = "bbox"
    ) -> Arrays:
        if not images or not self.categories:
            return undefined(len(self.categories), most)
        if iou == "boundary":
            return _match_reference(self.complete(), detections, images, most, iou)
        return _arrays(self.matching(detections, images, most, iou).eval)

    def matching(
        self, detections: Detections | COCO, images: list[int], most: int = LIMIT, iou: IouType = "bbox"
    ) -> COCOeval:
        """Match the detections and return hotcoco's `COCOeval`. There must be at least one image.

        Args:
            iou: "bbox" or "segm".
        """
        from hotcoco import COCOeval

        native = self._load_detections(detections, iou) if isinstance(detections, Detections) else detections
        matching = COCOeval(self._gt, native, iou)
        matching.params.img_ids = images
        matching.params.max_dets = limits_of(most)
        matching.evaluate()
        matching.accumulate()
        return matching

    def annotations(self, images: list[int]) -> list[dict[str, Any]]:
        """Return the annotations of at least one image, with the ids that `matching` uses."""
        return self._gt.load_anns(self._gt.get_ann_ids(img_ids=images))

    def _load_detections(self, detections: Detections, iou: IouType) -> COCO:
        if iou == "bbox":
            return self._gt.load_res(detections.rows)
        native = self._gt.load_res(detections.rows, segmentation=[*as_dicts(detections.masks)])
        native.update_anns(ids=native.get_ann_ids(), area=areas(detections.masks))  # in place of the boxes' areas
        return native

    def _load(self) -> COCO:
        from hotcoco import COCO

        if isinstance(self._source, Path):
            # A file that fails here is read by `complete`, whose errors name the faulty record.
            with contextlib.suppress(ValueError, OSError):
                gt = COCO(str(self._source))
                if truth_is_plain(self._source, gt, masks=self._masks):
                    return gt
        return COCO(dict(self.complete()))


class PycocotoolsEngine:
    """Engine that uses pycocotools, COCO's reference code, without its printed output.

    Args:
        masks: whether masks are evaluated, so that each annotation needs one.
    """

    def __init__(self, source: TruthSource, *, masks: bool = False) -> None:
        self._truth = read_truth(source, masks=masks)
        self._gt = _reference(self._truth)
        self.image_ids: list[int] = sorted(self._gt.getImgIds())
        records = sorted(self._truth["categories"], key=lambda each: each["id"])
        self.categories: dict[int, str] = {record["id"]: record["name"] for record in records}
        images = self._truth["images"] if masks else []
        self.sizes: dict[int, Size] = {each["id"]: (int(each["height"]), int(each["width"])) for each in images}

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

    def match(
        self, detections: Detections | COCO, images: list[int], most: int = LIMIT, iou: IouType = "bbox"
    ) -> Arrays:
        if not images or not self.categories:
            return undefined(len(self.categories), most)
        return _match_reference(self._truth, detections, images, most, iou)


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


def _match_reference(
    truth: InstancesFile, detections: Detections | COCO, images: list[int], most: int, iou: IouType
) -> Arrays:
    """Match detections with pycocotools."""
    from pycocotools import mask
    from pycocotools.cocoeval import COCOeval

    from tools.evaluation.boundary import BoundaryEval

    assert isinstance(detections, Detections), "`read` never returns a native file for this engine or IoU"
    annotations: list[dict[str, object]] = []
    for number, record in enumerate(detections.records(), start=1):
        width, height = record["bbox"][2:]
        area = width * height if iou == "bbox" else float(mask.area(record["segmentation"]))
        annotations.append({**record, "id": number, "area": area, "iscrowd": 0})
    given = {**truth, "annotations": [{**record} for record in truth["annotations"]]}  # pycocotools changes them
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = BoundaryEval if iou == "boundary" else COCOeval
        found = _reference({**truth, "annotations": annotations})
        matching = evaluation(_reference(given), found, "bbox" if iou == "bbox" else "segm")
        matching.params.imgIds = images
        matching.params.maxDets = limits_of(most)
        matching.evaluate()
        matching.accumulate()
    return _arrays(matching.eval)


def _reference(data: Mapping[str, object]) -> pycocotools.coco.COCO:
    """Return a pycocotools COCO object made from ground truth in memory."""
    from pycocotools.coco import COCO

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = data
        coco.createIndex()
    return coco
