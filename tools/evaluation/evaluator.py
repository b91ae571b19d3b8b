"""COCO's metrics of boxes and masks: processes collect detections, merge them, and compute the metrics.

    evaluator = CocoEvaluator("annotations/instances_val.json", category_ids=ids)
    evaluator.update(predictions, targets)
    evaluator.merge(states)  # of all processes, from `state()`
    print(format_table(evaluator.compute()))

Two engines match detections: hotcoco (compiled, fast) and pycocotools (the reference). One summary computes the metrics
from the precision and recall arrays of either engine, so the metrics are equal to the last bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import numpy as np

from backbones.common.coco import CompressedMask, MaskResultRecord
from backbones.errors import UserError
from tools.evaluation.detections import Detections, from_prediction, image_id, with_masks
from tools.evaluation.diagnosis import (
    NO_OVERLAP,
    SUSPICIOUS,
    crowded_warning,
    image_sizes,
    score_warning,
    truth_rows,
    undefined_reasons,
    unknown_categories,
    zero_reason,
)
from tools.evaluation.engines import Engine, HotcocoEngine, PycocotoolsEngine
from tools.evaluation.lvis import WARNING, lvis_figures
from tools.evaluation.naming import IdNames, renumber
from tools.evaluation.reading import CATEGORY, IMAGE, SCORE, Record, TruthSource, result_records, result_rows
from tools.evaluation.shifts import unknown_hint
from tools.evaluation.summary import LIMIT, PREFIXES, ClassMetrics, IouType, per_class, summarize
from tools.evaluation.thresholds import MatchedClasses
from tools.evaluation.voc import voc_figures

if TYPE_CHECKING:
    from hotcoco import COCO

    from tools.evaluation.detections import Values

EngineName = Literal["hotcoco", "pycocotools"]
Protocol = Literal["coco", "voc", "lvis"]
ENGINES: dict[str, type[HotcocoEngine] | type[PycocotoolsEngine]] = {
    "hotcoco": HotcocoEngine,
    "pycocotools": PycocotoolsEngine,
}


class CocoState(TypedDict):
    """The detections of one process."""

    images: np.ndarray  # ids of the predicted images [I]
    rows: np.ndarray  # [N, 7]
    masks: list[CompressedMask]  # N masks; empty if only boxes are evaluated


class Explanations(TypedDict):
    """Texts about metrics: `reasons`, by name of a metric that is undefined or low, and `warnings`."""

    reasons: dict[str, str]
    warnings: list[str]


class CocoEvaluator:
    """Accumulates detections and computes COCO metrics. `state()` and `merge()` combine several processes.

    Args:
        annotations: COCO ground truth, as a file or as the loaded JSON. Missing `area` and `iscrowd` are filled in.
        category_ids: maps label k (from 1) to the category id `category_ids[k - 1]`; None if labels are category ids.
        image_ids: images to score; None scores all images of the ground truth.
        engine: library that matches the detections; both give equal metrics.
        protocol: further metrics: "voc" adds Pascal VOC's (crowds count as difficult objects), "lvis" adds LVIS's.
        max_detections: number of detections per image and class that count in AP; COCO's number is 100.
        iou_types: what the IoU of a detection and an object compares: their boxes ("bbox"), their masks ("segm"), or
            masks and their boundaries ("boundary", Cheng et al. 2021). Each gives metrics of its own.

    Raises:
        UserError: if the ground truth is malformed, lacks a mask that is needed, or lacks one of `image_ids`.
    """

    def __init__(
        self,
        annotations: str | TruthSource,
        *,
        category_ids: Sequence[int] | None = None,
        image_ids: Sequence[int] | None = None,
        engine: EngineName = "hotcoco",
        protocol: Protocol = "coco",
        max_detections: int = LIMIT,
        iou_types: Sequence[IouType] = ("bbox",),
    ) -> None:
        if engine not in ENGINES:
            raise UserError(f"engine {engine!r}: unknown; use {' or '.join(ENGINES)}")
        unknown = [iou for iou in iou_types if iou not in PREFIXES]
        if unknown or not iou_types:
            raise UserError(f"iou_types {list(iou_types)}: use one or several of {', '.join(PREFIXES)}")
        if protocol != "coco" and "bbox" not in iou_types:
            raise UserError(f"protocol {protocol}: its metrics compare boxes; use COCO's protocol for masks")
        self.iou_types = tuple(iou for iou in PREFIXES if iou in iou_types)
        self._masks = self.iou_types != ("bbox",)
        self._source: TruthSource = annotations if isinstance(annotations, dict) else Path(annotations)
        self._protocol, self.max_detections = protocol, max_detections
        self._engine: Engine = ENGINES[engine](self._source, masks=self._masks)
        self.category_ids = None if category_ids is None else np.asarray(category_ids, dtype=np.int64)
        self._known = set(self._engine.image_ids)
        self.image_ids = sorted(self._known if image_ids is None else {int(key) for key in image_ids})
        self._refuse_unknown(self.image_ids, "image_ids")
        self._seen: list[int] = []
        self._pieces: list[Detections] = []
        self._notes: list[str] = []  # what `load` changed or left out
        self._native: tuple[Path, COCO] | None = None  # a results file in the engine's own representation

    def update(self, predictions: Sequence[Mapping[str, Values]], targets: Sequence[Mapping[str, Values]]) -> None:
        """Add the detections of a batch of images.

        Args:
            predictions: per image `boxes` [N, 4] (x1, y1, x2, y2 in pixels), `scores` [N], `labels` [N], and if masks
                are evaluated `rles`, N run-length codes {"size": [height, width], "counts": bytes or text}.
            targets: per image `image_id`, an integer or a 0-d tensor.

        Raises:
            UserError: if an image is not in the ground truth, an id is no integer, a value is not finite, a label has
                no category, or a mask is missing, malformed or of another size than its image.
        """
        for prediction, target in zip(predictions, targets, strict=True):
            image = image_id(target["image_id"])
            self._refuse_unknown([image], "update")
            size = self._engine.sizes[image] if self._masks else None
            self._pieces.append(from_prediction(prediction, image, self.category_ids, size))
            self._seen.append(image)

    def load(self, results: Path | str | Sequence[Record], *, names: Path | None = None) -> None:
        """Read the detections from a COCO results file, or from its loaded content, instead of calling `update`.

        Args:
            names: JSON with the names of the results' image and category ids (`images.json` of `tools/predict.py`).
                Images and categories are then matched by name if the ground truth has names too.

        Raises:
            UserError: if the results are malformed or contain image ids that are not in the ground truth.
        """
        source = Path(results) if isinstance(results, (str, Path)) else results
        self._seen, self._pieces, self._native, self._notes = [], [], None, []
        native = None
        if isinstance(source, Path) and names is None and self.iou_types in (("bbox",), ("segm",)):
            native = self._engine.read(source)
        if isinstance(source, Path) and native is not None:
            self._native = (source, native)
        else:
            found = self._read(source, names)
            self._seen = np.unique(found.rows[:, IMAGE]).astype(np.int64).tolist()
            self._pieces = [found]

    def _read(self, source: Path | Sequence[Record], names: Path | None = None) -> Detections:
        """Read and check all records of COCO results. If `names` is given, match images and categories by name."""
        records, where = result_records(source)
        rows, kept = result_rows(records, where, masks=self._masks), np.arange(len(records))
        if names is not None:
            truth = IdNames.of(self._engine.complete())
            rows, kept, self._notes = renumber(rows, IdNames.read(names), truth, names)
        images = rows[:, IMAGE].astype(np.int64).tolist()
        self._refuse_unknown(sorted(set(images)), where if isinstance(source, Path) else "load")
        if not self._masks:
            return Detections(rows)
        outlines = [records[index]["segmentation"] for index in kept.tolist()]
        return with_masks(rows, outlines, self._engine.sizes, lambda index: f"{where}: result {kept[index]}")

    def state(self) -> CocoState:
        """Return the detections of this process as plain arrays, ready to be sent to other processes."""
        found = self._ordered()
        seen = np.unique(found.rows[:, IMAGE]) if self._native else self._seen
        return {"images": np.array(seen, dtype=np.int64), "rows": found.rows, "masks": found.masks}

    def merge(self, states: Sequence[CocoState]) -> None:
        """Replace the detections by those of all processes, given as their states in any order.

        Raises:
            UserError: if two processes scored the same image.
        """
        # Check that no image was scored twice, then order the rows by image: the result is independent of the order.
        seen = np.concatenate([np.asarray(state["images"], dtype=np.int64) for state in states])
        self._seen, self._native = np.sort(seen).tolist(), None
        self._refuse_repeated_images()
        self._pieces = [Detections(np.asarray(state["rows"]).reshape(-1, 7), state["masks"]) for state in states]
        self._pieces = [self._ordered()]

    def detections(self) -> list[MaskResultRecord]:
        """Return the detections in COCO's results format, ordered by image, with category ids and boxes x, y, w, h.

        They have `segmentation` if masks are evaluated.
        """
        return self._ordered().records()

    def compute(self) -> dict[str, Any]:
        """Compute the metrics. A metric is a number from 0 to 1, or None with an explanation in `reasons`.

        Returns:
            The twelve COCO metrics (AP, AP50, AP75, APs, APm, APl, AR1, AR10, AR100, ARs, ARm, ARl), and the recall
            at `max_detections` if that is another number, such as AR300; `max_detections`; `reasons` by metric, also
            for an AP of 0; `warnings`; `per_class`, which maps the name of each class to its category `id`, `AP`,
            `AP50`, `images` (images with the class) and `boxes` (without crowds); counts of `images`, `boxes`,
            `detections`.
            The names of metrics of masks begin with "segm_" and those of boundaries with "boundary_": segm_AP.
            Protocol voc adds VOC07 (11 points) and VOC12 (all points) at IoU 0.5, overall and by class; lvis adds
            LVIS_AP and its parts.

        Raises:
            UserError: if one image was given twice.
        """
        self._refuse_repeated_images()
        detections = self._native[1] if self._native else self._scored(self._ordered())
        arrays = {
            iou: self._engine.match(detections, self.image_ids, self.max_detections, iou) for iou in self.iou_types
        }
        figures = {
            iou: summarize(each["precision"], each["recall"], self.max_detections) for iou, each in arrays.items()
        }
        counts = self._engine.count(set(self.image_ids))
        precision = {iou: each["precision"] for iou, each in arrays.items()}
        classes = per_class(precision, self._engine.categories, counts)
        return {
            **{PREFIXES[iou] + name: value for iou, each in figures.items() for name, value in each.items()},
            **self._further_figures(classes),
            **self._explanations(figures, next(iter(arrays.values()))["scores"]),
            "per_class": classes,
            "max_detections": self.max_detections,
            "images": len(self.image_ids),
            "boxes": sum(entry["boxes"] for entry in classes.values()),
            "detections": self._detection_count(),
        }

    def matched(self) -> MatchedClasses | None:
        """Return which boxes are correct, in order of their scores; None without images or detections."""
        rows = np.empty((0, 7)) if self._native else self._scored(self._ordered()).rows
        if not self.image_ids or not len(rows):
            return None
        engine = self._engine if isinstance(self._engine, HotcocoEngine) else HotcocoEngine(self._source)
        evaluation = engine.matching(Detections(rows), self.image_ids, self.max_detections)
        objects = engine.annotations(self.image_ids)
        return MatchedClasses.of(evaluation, rows, images=self.image_ids, categories=engine.categories, objects=objects)

    def _further_figures(self, classes: Mapping[str, ClassMetrics]) -> dict[str, float | None]:
        """Compute the further metrics of protocol "voc" or "lvis". VOC's metrics by class are added to `classes`."""
        if self._protocol == "coco":
            return {}
        rows = self._scored(self._ordered()).rows
        if self._protocol == "lvis":
            return lvis_figures(self._source, rows, self.image_ids)
        truth = truth_rows(self._engine.complete(), set(self.image_ids))
        found = voc_figures(truth, rows, list(self._engine.categories))
        for entry, own in zip(classes.values(), found["voc_per_class"], strict=True):
            entry["VOC07"], entry["VOC12"] = own["VOC07"], own["VOC12"]
        return {"VOC07": found["VOC07"], "VOC12": found["VOC12"]}

    def _explanations(self, figures: Mapping[IouType, Mapping[str, float | None]], scores: np.ndarray) -> Explanations:
        """Return reasons for undefined or low metrics, and warnings. The detections are parsed only if needed."""
        reasons: dict[str, str] = {}
        for iou, values in figures.items():
            low = values["AP"] is not None and values["AP"] < SUSPICIOUS
            if low or any(value is None for value in values.values()):
                found = self._reasons(iou, values, low=low)
                reasons |= {PREFIXES[iou] + name: reason for name, reason in found.items()}
        return {"reasons": reasons, "warnings": self._warnings(scores)}

    def _reasons(self, iou: IouType, figures: Mapping[str, float | None], *, low: bool) -> dict[str, str]:
        """Return reasons for undefined metrics, and for AP if it is `low`."""
        complete = self._engine.complete()
        truth = truth_rows(complete, set(self.image_ids))
        reasons = undefined_reasons(figures, truth)
        if low:
            is_zero = figures["AP"] == 0
            reason = zero_reason(
                truth,
                self._on_scored_images(self._ordered()).rows,
                image_sizes(complete),
                list(self._engine.categories),
                is_zero=is_zero and iou == "bbox",
            )
            reason = reason or (NO_OVERLAP[iou] if is_zero else None)
            reasons |= {"AP": reason} if reason else {}
        return reasons

    def _warnings(self, scores: np.ndarray) -> list[str]:
        lvis = [WARNING] if self._protocol == "lvis" else []
        return [*self._notes, *self._crowded(), *self._unknown_categories(), *self._equal_scores(scores), *lvis]

    def _crowded(self) -> list[str]:
        """Return a warning if images have more objects of a class than detections that count."""
        crowded = self._engine.crowded(self.image_ids, self.max_detections)
        warning = crowded_warning(crowded, self._engine.categories, self.max_detections)
        return [warning] if warning else []

    def _unknown_categories(self) -> list[str]:
        """Return a warning if detections have categories that the ground truth lacks."""
        known = list(self._engine.categories)
        if self._native and self._engine.knows_categories(self._native[1]):
            return []
        warning = unknown_categories(self._on_scored_images(self._ordered()).rows, known)
        return [warning] if warning else []

    def _equal_scores(self, scores: np.ndarray) -> list[str]:
        """Return a warning if all scores are equal. The scores of matched boxes are compared first, which is faster."""
        matched = scores[scores > 0]
        if matched.size and matched.min() != matched.max():
            return []
        warning = score_warning(self._on_scored_images(self._ordered()).rows[:, SCORE])
        return [warning] if warning else []

    def _refuse_repeated_images(self) -> None:
        keys, counts = np.unique(np.array(self._seen, dtype=np.int64), return_counts=True)
        if (counts > 1).any():
            raise UserError(f"image {keys[counts > 1][0]} was evaluated {counts.max()} times; evaluate each image once")

    def _refuse_unknown(self, images: Sequence[int], where: str) -> None:
        unknown = sorted(set(images) - self._known)
        if not unknown:
            return
        some = ", ".join(str(key) for key in unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        what = f"{len(unknown)} of {len(set(images))} image ids are not in the ground truth: {some}"
        if len(unknown) == len(set(images)):
            known = f"{min(self._known)}, ..." if self._known else "no images"
            what = f"no image id is in the ground truth: given are {some}; the ground truth has {known}"
        what += unknown_hint(set(images), self._known)
        raise UserError(f"{where}: {what}; use the annotation file of the predicted images")

    def _ordered(self) -> Detections:
        """Return all detections ordered by image id. Within an image the order is kept, as it decides ties."""
        return (self._read(self._native[0]) if self._native else Detections.joined(self._pieces)).by_image()

    def _on_scored_images(self, found: Detections) -> Detections:
        return found.select(np.isin(found.rows[:, IMAGE], self.image_ids))

    def _scored(self, found: Detections) -> Detections:
        """Return the detections whose image is scored and whose category is in the ground truth."""
        found = self._on_scored_images(found)
        return found.select(np.isin(found.rows[:, CATEGORY], list(self._engine.categories)))

    def _detection_count(self) -> int:
        """Count the detections on the scored images."""
        if self._native:
            return self._engine.native_count(self._native[1], self.image_ids)
        return len(self._on_scored_images(self._ordered()).rows)
