"""COCO box metrics: collect predictions on each process, merge them, compute a dictionary.

    evaluator = CocoEvaluator("annotations/instances_val.json", category_ids=ids)
    evaluator.update(predictions, targets)
    evaluator.merge(states_of_all_processes)
    print(format_table(evaluator.compute()))

Two engines match boxes, hotcoco (compiled, quick) and pycocotools (the reference). One summary computes the
figures from either's precision and recall arrays, so they are the same to the last bit.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from backbones.errors import UserError
from tools import coco_diagnosis as diagnosis
from tools.coco_files import (
    CATEGORY,
    IMAGE,
    SCORE,
    H,
    W,
    X,
    load_plain_results,
    read_results,
    read_truth,
    truth_is_plain,
)

Engine = Literal["hotcoco", "pycocotools"]
BOX_DECIMALS, SCORE_DECIMALS = 3, 8  # what `detections()` writes is what `compute()` scored
THRESHOLDS = np.linspace(0.5, 0.95, 10)  # of IoU
LIMITS = (1, 10, 100)  # detections per image and class
AREAS = ("all", "small", "medium", "large")
AP_METRICS = {  # name -> IoU threshold's place (None: mean of all), area range
    "AP": (None, "all"),
    "AP50": (0, "all"),
    "AP75": (5, "all"),
    "APs": (None, "small"),
    "APm": (None, "medium"),
    "APl": (None, "large"),
}
AR_METRICS = {  # name -> detections per image, area range
    "AR1": (1, "all"),
    "AR10": (10, "all"),
    "AR100": (100, "all"),
    "ARs": (100, "small"),
    "ARm": (100, "medium"),
    "ARl": (100, "large"),
}
METRICS = (*AP_METRICS, *AR_METRICS)


class CocoEvaluator:
    """COCO detection metrics of predictions that arrive in pieces.

    Args:
        annotations: COCO ground truth, a file or its content. Missing `area` and `iscrowd` are filled in.
        category_ids: label k (from 1) stands for `category_ids[k - 1]`; None when labels are original ids.
        image_ids: score these images only; all of the ground truth when None.
        engine: what matches the boxes; the figures are identical.

    Raises:
        UserError: for malformed ground truth, or an image id that it does not have.
    """

    def __init__(
        self,
        annotations: Path | str | dict[str, Any],
        *,
        category_ids: Sequence[int] | None = None,
        image_ids: Sequence[int] | None = None,
        engine: Engine = "hotcoco",
    ) -> None:
        if engine not in ("hotcoco", "pycocotools"):
            raise UserError(f"evaluator {engine!r}: unknown; choose hotcoco or pycocotools")
        self.engine = engine
        self.category_ids = None if category_ids is None else np.asarray(category_ids, dtype=np.int64)
        self._source = annotations if isinstance(annotations, dict) else Path(annotations)
        self._truth: dict[str, Any] | None = None
        self._gt = self._load_truth()
        self._known = set(self._gt.get_img_ids() if engine == "hotcoco" else self._gt.getImgIds())
        self.image_ids = sorted(self._known if image_ids is None else {int(key) for key in image_ids})
        self._refuse_unknown(np.array(self.image_ids, dtype=np.int64), "image_ids")
        self._seen: list[int] = []
        self._pieces: list[np.ndarray] = []
        self._file: tuple[Path, Any] | None = None  # results that hotcoco read by itself

    def update(self, predictions: Sequence[Mapping[str, Any]], targets: Sequence[Mapping[str, Any]]) -> None:
        """Add the detections of some images.

        Args:
            predictions: per image `boxes` [N, 4] (x1, y1, x2, y2 in pixels), `scores` [N], `labels` [N].
            targets: per image `image_id`, an integer or a 0-d tensor.

        Raises:
            UserError: for an image that the ground truth does not have, a value that is not finite, or a label
                without a category.
        """
        for prediction, target in zip(predictions, targets, strict=True):
            image = int(target["image_id"])
            self._refuse_unknown(np.array([image]), "update")
            self._pieces.append(self._rows(prediction, image))
            self._seen.append(image)

    def load(self, results: Path | str | Sequence[dict[str, Any]]) -> None:
        """Take the detections from a COCO results file, or its content, in place of `update`.

        Raises:
            UserError: for malformed results, or image ids that the ground truth does not have.
        """
        source = Path(results) if isinstance(results, (str, Path)) else results
        self._seen, self._pieces, self._file = [], [], None
        if isinstance(source, Path) and self.engine == "hotcoco":
            plain = load_plain_results(source, self._gt)
            if plain is not None:
                self._file = (source, plain)
                return
        rows = read_results(source)
        self._refuse_unknown(rows[:, IMAGE].astype(np.int64), str(source) if isinstance(source, Path) else "load")
        self._pieces = [rows]
        self._seen = np.unique(rows[:, IMAGE]).astype(np.int64).tolist()

    def state(self) -> dict[str, Any]:
        """What this process has collected: plain arrays, to be pickled and sent to the others."""
        rows = self._ordered_rows()
        seen = self._seen or np.unique(rows[:, IMAGE]).tolist()
        return {"images": np.array(seen, dtype=np.int64), "rows": rows}

    def merge(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Hold the union of all processes' states (this one's included), whatever their number and order.

        Raises:
            UserError: when two processes scored the same image.
        """
        seen = np.concatenate([np.asarray(state["images"], dtype=np.int64) for state in states])
        keys, counts = np.unique(seen, return_counts=True)
        if (counts > 1).any():
            raise UserError(
                f"image {keys[counts > 1][0]} was evaluated {counts.max()} times; give each process its own images"
            )
        self._seen, self._file = keys.tolist(), None
        self._pieces = [np.asarray(state["rows"]).reshape(-1, 7) for state in states]
        self._pieces = [self._ordered_rows()]

    def detections(self) -> list[dict[str, Any]]:
        """The detections in COCO's results format, ordered by image: original category ids, boxes x, y, w, h."""
        columns = self._ordered_rows()
        images = columns[:, IMAGE].astype(np.int64).tolist()
        categories = columns[:, CATEGORY].astype(np.int64).tolist()
        boxes, scores = columns[:, X : H + 1].tolist(), columns[:, SCORE].tolist()
        return [
            {"image_id": image, "category_id": category, "bbox": box, "score": score}
            for image, category, box, score in zip(images, categories, boxes, scores, strict=True)
        ]

    def compute(self) -> dict[str, Any]:
        """The metrics, from 0 to 1, or None with an entry in `reasons`.

        Returns:
            The twelve COCO metrics (AP, AP50, AP75, APs, APm, APl, AR1, AR10, AR100, ARs, ARm, ARl); `reasons`
            by metric, also for an AP of 0; `warnings`; `per_class`, a list of `id`, `name`, `AP`, `AP50`,
            `images` (that show the class) and `boxes` (without crowds); counts of `images`, `boxes`, `detections`.

        Raises:
            UserError: when one image was given twice.
        """
        if len(set(self._seen)) != len(self._seen):
            twice = next(key for key in self._seen if self._seen.count(key) > 1)
            raise UserError(f"image {twice} was evaluated twice; give each image once")
        arrays = self._match_hotcoco() if self.engine == "hotcoco" else self._match_pycocotools()
        results = summarize(arrays["precision"], arrays["recall"])
        per_class = self._per_class(arrays["precision"])
        counts = {
            "images": len(self.image_ids),
            "boxes": sum(entry["boxes"] for entry in per_class),
            "detections": self._detection_count(),
        }
        reasons, warnings = self._explain(results, arrays["scores"])
        return {**results, "reasons": reasons, "warnings": warnings, "per_class": per_class, **counts}

    # --- ground truth ---

    def _load_truth(self) -> Any:
        if self.engine == "pycocotools":
            return _reference_dataset(self._complete_truth())
        from hotcoco import COCO

        if isinstance(self._source, Path):
            try:
                gt = COCO(str(self._source))
                if truth_is_plain(self._source, gt):
                    return gt
            except (ValueError, OSError):
                pass  # the slow reader finds the words for it
        return COCO(self._complete_truth())

    def _complete_truth(self) -> dict[str, Any]:
        if self._truth is None:
            self._truth = read_truth(self._source)
        return self._truth

    def _refuse_unknown(self, images: np.ndarray, where: str) -> None:
        unknown = sorted(set(np.unique(images).tolist()) - self._known)
        if not unknown:
            return
        some = ", ".join(str(key) for key in unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        if len(unknown) == len(np.unique(images)) and self._known and len(unknown) > 1:
            example = min(self._known)
            raise UserError(
                f"{where}: no image id in common with the ground truth: here {some}, there {example}, ...; "
                "use the annotations of the images that were predicted"
            )
        raise UserError(
            f"{where}: {len(unknown)} image ids are not in the ground truth: {some}; "
            "use the annotations of the images that were predicted"
        )

    # --- detections ---

    def _rows(self, prediction: Mapping[str, Any], image: int) -> np.ndarray:
        """One image's detections as rows [N, 7]."""
        boxes = _array(prediction["boxes"]).reshape(-1, 4)
        scores, labels = _array(prediction["scores"]), _array(prediction["labels"]).astype(np.int64)
        if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
            raise UserError(f"image {image}: a predicted box or score is NaN or infinite; look for a diverged model")
        rows = np.empty((len(boxes), 7))
        rows[:, IMAGE] = image
        rows[:, X:W] = boxes[:, :2].round(BOX_DECIMALS)
        rows[:, W : H + 1] = (boxes[:, 2:] - boxes[:, :2]).round(BOX_DECIMALS)
        rows[:, SCORE] = scores.round(SCORE_DECIMALS)
        rows[:, CATEGORY] = self._categories(labels, image)
        return rows + 0.0  # no minus zero in the files

    def _categories(self, labels: np.ndarray, image: int) -> np.ndarray:
        if self.category_ids is None:
            return labels
        count = len(self.category_ids)
        if len(labels) and not (labels.min() >= 1 and labels.max() <= count):
            raise UserError(f"image {image}: labels run {labels.min()}..{labels.max()}, the categories 1..{count}")
        return self.category_ids[labels - 1]

    def _ordered_rows(self) -> np.ndarray:
        """All rows, by image id; an image's own order stays, since it decides between equal scores."""
        pieces = [read_results(self._file[0])] if self._file else self._pieces
        rows = np.concatenate(pieces) if pieces else np.empty((0, 7))
        return rows[np.argsort(rows[:, IMAGE], kind="stable")]

    def _detection_count(self) -> int:
        """Detections on the images that are scored."""
        if self._file:
            return len(self._file[1].get_ann_ids(img_ids=self.image_ids)) if self.image_ids else 0
        rows = self._ordered_rows()
        return int(np.isin(rows[:, IMAGE], self.image_ids).sum())

    def _scored_rows(self) -> np.ndarray:
        """Rows of the images and categories that are scored."""
        rows = self._ordered_rows()
        categories = self._gt.get_cat_ids() if self.engine == "hotcoco" else self._gt.getCatIds()
        keep = np.isin(rows[:, IMAGE], self.image_ids) & np.isin(rows[:, CATEGORY], categories)
        return rows[keep]

    # --- the engines ---

    def _match_hotcoco(self) -> dict[str, Any]:
        from hotcoco import COCOeval

        if not self.image_ids or not self._gt.get_cat_ids():
            return _undefined(len(self._gt.get_cat_ids()))
        dt = self._file[1] if self._file else self._gt.load_res(self._scored_rows())
        matching = COCOeval(self._gt, dt, "bbox")
        matching.params.img_ids = self.image_ids
        matching.evaluate()
        matching.accumulate()
        return matching.eval

    def _match_pycocotools(self) -> dict[str, Any]:
        from pycocotools.cocoeval import COCOeval

        if not self.image_ids or not self._gt.getCatIds():
            return _undefined(len(self._gt.getCatIds()))
        rows = self._scored_rows()
        annotations = [
            {**record, "id": number, "area": record["bbox"][2] * record["bbox"][3], "iscrowd": 0}
            for number, record in enumerate(_records(rows), start=1)
        ]
        dt = _reference_dataset({**self._complete_truth(), "annotations": annotations})
        with contextlib.redirect_stdout(io.StringIO()):
            matching = COCOeval(self._gt, dt, "bbox")
            matching.params.imgIds = self.image_ids
            matching.evaluate()
            matching.accumulate()
        return matching.eval
