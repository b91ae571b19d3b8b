"""A detection run matched with its truth: what was found, missed and invented, image by image."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backbones.errors import UserError
from tools.evaluation.diagnosis import iou
from tools.evaluation.engines import HotcocoEngine
from tools.evaluation.reading import CATEGORY, IMAGE, SCORE, read_results
from tools.evaluation.summary import summarize
from tools.runs.folder import RunFolder

if TYPE_CHECKING:
    from detection.data.annotations import CocoAnnotations

IOU = 0.5  # from here on a detection has found an object
NEAR = 0.1  # below, a detection is on the background; the bounds are TIDE's
ROUNDING = 1e-6  # other versions of the libraries may sum in another order
Box = tuple[float, float, float, float]  # x, y, width, height in pixels


@dataclass(frozen=True)
class Truth:
    """An object, and what became of it.

    Attributes:
        status: hit, missed or crowd (which does not count).
    """

    box: Box
    name: str
    area: float
    status: str


@dataclass(frozen=True)
class Found:
    """A detection of at least the report's score.

    Attributes:
        status: hit, invented, or crowd (on one, so that it does not count).
        why: of an invented one, what it is: background, another class, a loose box, a second box.
    """

    box: Box
    name: str
    score: float
    status: str
    why: str = ""


@dataclass
class Seen:
    """An image with its objects and detections.

    Attributes:
        size: height and width by the annotations.
    """

    id: int
    path: Path
    size: tuple[int, int]
    truths: list[Truth] = field(default_factory=list)
    found: list[Found] = field(default_factory=list)

    @property
    def hits(self) -> int:
        return sum(found.status == "hit" for found in self.found)

    @property
    def missed(self) -> int:
        return sum(truth.status == "missed" for truth in self.truths)

    @property
    def invented(self) -> int:
        return sum(found.status == "invented" for found in self.found)

    @property
    def f1(self) -> float:
        """2 hits / (objects + detections); 1 where there is nothing to find and nothing was found."""
        total = 2 * self.hits + self.missed + self.invented
        return 2 * self.hits / total if total else 1.0


@dataclass(frozen=True)
class Matched:
    """A detection run with all that hotcoco says of it.

    Attributes:
        full: its evaluation of all detections; sure: of those of at least the report's score that are on no crowd.
        arrays: precision, recall and scores as COCO's evaluation has them.
        digest: of the truth, the same for runs that were measured on the same.
    """

    run: RunFolder
    full: Any
    sure: Any
    arrays: dict[str, Any]
    categories: dict[int, str]
    images: list[Seen]
    digest: tuple[Any, ...]


@dataclass(frozen=True)
class Measured:
    """A run's detections matched anew with its truth.

    Attributes:
        truth: the annotations; places: of the images that were measured among them.
        rows: detections [N, 7]; full: hotcoco's evaluation of them.
    """

    truth: CocoAnnotations
    places: np.ndarray
    engine: HotcocoEngine
    rows: np.ndarray
    full: Any

    @cached_property
    def images(self) -> list[int]:
        """Ids of the images."""
        return self.truth.image_ids[self.places].tolist()

    @cached_property
    def objects(self) -> list[dict[str, Any]]:
        """Their annotations."""
        return self.engine.annotations(self.images)

    def digest(self) -> tuple[Any, ...]:
        """Of the truth, the same for runs that were measured on the same."""
        boxes = sorted((a["image_id"], a["category_id"], *a["bbox"], bool(a.get("iscrowd"))) for a in self.objects)
        names = tuple(self.truth.file_names[self.places].tolist())
        return tuple(sorted(self.engine.categories.items())), names, tuple(boxes)


def measure(run: RunFolder, *, data: str | None) -> Measured:
    """Match a run's detections with the annotations that it was measured on.

    Raises:
        UserError: where a file that it needs is missing or malformed, or the annotations are not the run's.
    """
    from detection.data.dataset import select

    truth = truth_of(run, data)
    limit = run.config.get("limit")
    places = select(truth, limit=limit if isinstance(limit, int) else None)
    images = truth.image_ids[places].tolist()
    engine = HotcocoEngine(truth.source if isinstance(truth.source, Path) else json.loads(truth.source))
    rows = _rows(run, images, list(engine.categories), truth.path)
    full = engine.matching(rows, images)
    _require_same_figures(run, dict(full.eval or {}), truth.path)
    return Measured(truth, places, engine, rows, full)


def match(run: RunFolder, *, data: str | None, score: float) -> Matched:
    """A run with its truth, and what became of each object and detection; see `measure` for the errors."""
    found = measure(run, data=data)
    truth, places, engine, images = found.truth, found.places, found.engine, found.images
    names = truth.file_names[places].tolist()
    sizes = [(int(height), int(width)) for height, width in truth.sizes[places]]
    blank = [Seen(key, truth.folder / name, size) for key, name, size in zip(images, names, sizes, strict=True)]
    high = found.rows[found.rows[:, SCORE] >= score]
    sure = engine.matching(high, images)
    seen = _seen(sure, found.objects, engine.categories, blank)
    statuses = sure.image_diagnostics(iou_thr=IOU)["dt_status"]
    ignored = [row for row in range(len(high)) if row + 1 not in statuses]  # ids count the rows from 1
    if ignored:  # those on crowds: hotcoco's confusion matrix would take them for invented
        sure = engine.matching(np.delete(high, ignored, axis=0), images)
    return Matched(run, found.full, sure, dict(found.full.eval or {}), engine.categories, seen, found.digest())


def _rows(run: RunFolder, images: Sequence[int], categories: Sequence[int], path: Path) -> np.ndarray:
    """The run's detections as rows [N, 7], all on `images`, those of unknown categories left out."""
    detections = run.file("detections.json")
    if detections is None:
        raise UserError(f"{run.folder}: has no detections.json; measure again with --eval-only --resume")
    rows = read_results(detections)
    strangers = int((~np.isin(rows[:, IMAGE], images)).sum())
    if strangers or len(images) != run.results["images"]:
        what = f"{len(images)} images, results.json {run.results['images']}"
        what += f"; {strangers} detections are on images that it does not have" if strangers else ""
        raise UserError(f"{path}: is not what {run.folder} was measured on ({what}); name its data with --data")
    return rows[np.isin(rows[:, CATEGORY], categories)]


def _require_same_figures(run: RunFolder, arrays: dict[str, Any], path: Path) -> None:
    """Refuse files that have changed since the run was measured: its tables and its pictures would not agree."""
    ap, written = summarize(arrays["precision"], arrays["recall"])["AP"], run.results.get("AP")
    if ap != written and (ap is None or written is None or abs(ap - written) > ROUNDING):
        raise UserError(
            f"{path}: gives {run.folder}'s detections an AP of {ap}, results.json {written}; one of them has changed"
        )


def truth_of(run: RunFolder, data: str | None) -> CocoAnnotations:
    """The annotations that a run was measured on.

    Args:
        data: the folder of the data set, if not where the run had it.

    Raises:
        UserError: where they are not there.
    """
    from detection.data.folders import read_annotations
    from detection.options import DataOptions

    given = {name: run.config[name] for name in ("val_split", "val_annotations", "val_images") if name in run.config}
    if given.get("val_annotations") and data is None:
        located: dict[str, Any] = {key: str(run.locate(str(given[key]))) for key in ("val_annotations", "val_images")}
        if not Path(located["val_annotations"]).is_file():
            raise UserError(f"{located['val_annotations']}: no such file; name the data with --data")
    else:
        root = run.data_root(data)
        located = {"data": None if root is None else str(root), "val_annotations": None, "val_images": None}
    outside = bool(run.config.get("allow_outside"))
    options = DataOptions(**(given | located), bad_boxes="drop", allow_outside=outside)
    return read_annotations(options, "val", absent_images="keep")


def _seen(
    sure: Any,
    annotations: Sequence[dict[str, Any]],
    categories: dict[int, str],
    blank: Sequence[Seen],
) -> list[Seen]:
    """The images with their objects and detections, each with what became of it."""
    diagnosis = sure.image_diagnostics(iou_thr=IOU)
    images = {seen.id: seen for seen in blank}
    for record in annotations:
        status = diagnosis["gt_status"].get(record["id"], "ignored")
        status = {"matched": "hit", "fn": "missed", "missed": "missed"}.get(status, "crowd")
        status = "crowd" if record.get("iscrowd") else status
        x, y, w, h = record["bbox"]
        truth = Truth((x, y, w, h), categories[record["category_id"]], record.get("area", w * h), status)
        images[record["image_id"]].truths.append(truth)
    for record in sure.coco_dt.load_anns(sure.coco_dt.get_ann_ids(img_ids=list(images))):
        status = {"tp": "hit", "fp": "invented"}.get(diagnosis["dt_status"].get(record["id"], "ignored"), "crowd")
        name, image = categories[record["category_id"]], images[record["image_id"]]
        x, y, w, h = record["bbox"]
        why = _why((x, y, w, h), name, image.truths) if status == "invented" else ""
        image.found.append(Found((x, y, w, h), name, record["score"], status, why))
    for image in images.values():
        image.found.sort(key=lambda found: -found.score)
    return list(images.values())


def _why(box: Box, name: str, truths: Sequence[Truth]) -> str:
    """What an invented detection is, by TIDE's bounds."""
    counted = [truth for truth in truths if truth.status != "crowd"]
    if not counted:
        return "background"
    overlaps = iou(np.array([box]), np.array([truth.box for truth in counted]))[0]
    same = max((o for o, truth in zip(overlaps, counted, strict=True) if truth.name == name), default=0.0)
    other = max((o for o, truth in zip(overlaps, counted, strict=True) if truth.name != name), default=0.0)
    if same >= IOU:
        return "a second box"
    if other >= IOU:
        return f"another class, {counted[int(overlaps.argmax())].name}"
    if same >= NEAR:
        return f"a loose box, IoU {same:.2f}"
    return "another class and a loose box" if other >= NEAR else "background"
