"""Reads the detections of a run and matches them again with the annotations on which the run was evaluated."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backbones.common.category_options import CategoryOptions
from backbones.common.data_split import Side
from backbones.common.files import JsonObject
from backbones.errors import UserError, counted
from detection.data.annotations import CocoAnnotations
from detection.data.dataset import select
from detection.data.folders import read_annotations
from detection.options import DetectionDataOptions
from tools.evaluation.detections import Detections, with_masks
from tools.evaluation.engines import HotcocoEngine
from tools.evaluation.reading import CATEGORY, IMAGE, read_results, result_records, result_rows
from tools.evaluation.summary import LIMIT, PREFIXES, summarize
from tools.runs.folder import RunFolder
from tools.synthetic import shapes

if TYPE_CHECKING:
    from hotcoco import COCOeval

ROUNDING = 1e-6  # other versions of the libraries may sum in another order
MOST_BOUNDARIES = 20_000  # detections; each takes about a millisecond


@dataclass(frozen=True)
class EvaluatedDetections:
    """The detections of a run, and their match with the annotations.

    Attributes:
        annotations: annotations of the split.
        indices: indices of the evaluated images among the annotations' images.
        rows: detections `[N, 7]`: image id, x, y, width, height, score, category id.
        evaluation: hotcoco's evaluation of all detections.
        most: number of detections per image and class that count.
    """

    run: RunFolder
    annotations: CocoAnnotations
    indices: np.ndarray
    engine: HotcocoEngine
    rows: np.ndarray
    evaluation: COCOeval
    most: int

    @classmethod
    def read(cls, run: RunFolder, *, data: str | None) -> EvaluatedDetections:
        """Match the detections of a run with the annotations.

        Args:
            data: folder of the data set; None for the run's own.

        Raises:
            UserError: if a file is missing or malformed, or if annotations and detections do not give the AP of
                results.json.
        """
        annotations = read_truth(run, data)
        limit = run.config.get("limit")
        names = annotations.file_names.tolist()
        among = None if run.split is None else run.split.rows(names, "val")
        indices = select(annotations, limit=limit if isinstance(limit, int) else None, among=among)
        images = annotations.image_ids[indices].tolist()
        source = annotations.source
        engine = HotcocoEngine(source if isinstance(source, Path) else json.loads(source))
        rows = _read_rows(run, images, list(engine.categories), annotations.path)
        most = int(run.config.get("max_detections", LIMIT))  # runs of earlier versions do not have the option
        evaluation = engine.matching(Detections(rows), images, most)
        _require_same_ap(run, evaluation, annotations.path, most)
        return cls(run, annotations, indices, engine, rows, evaluation, most)

    def masks(self) -> COCOeval:
        """Match the masks of the run, and return hotcoco's evaluation.

        Raises:
            UserError: a detection or an object has no usable mask.
        """
        return self._matched_masks(*result_records(self.run.folder / "detections.json"))

    def boundary_metrics(self) -> dict[str, float | None] | None:
        """Compute COCO's metrics with the IoU of Boundary AP; None for more than `MOST_BOUNDARIES` detections.

        Raises:
            UserError: a detection or an object has no usable mask.
        """
        if len(self.rows) > MOST_BOUNDARIES:
            return None
        engine, found = self._with_masks(*result_records(self.run.folder / "detections.json"))
        arrays = engine.match(found, self.images, self.most, "boundary")
        return dict(summarize(arrays["precision"], arrays["recall"], self.most))

    def _matched_masks(self, records: Sequence[Mapping[str, Any]], where: str) -> COCOeval:
        engine, found = self._with_masks(records, where)
        return engine.matching(found, self.images, self.most, "segm")

    def _with_masks(self, records: Sequence[Mapping[str, Any]], where: str) -> tuple[HotcocoEngine, Detections]:
        """Return an engine that knows the masks of the objects, and detections with masks."""
        source = self.annotations.source
        engine = HotcocoEngine(source if isinstance(source, Path) else json.loads(source), masks=True)
        rows = result_rows(records, where, masks=True)
        outlines = [record["segmentation"] for record in records]
        found = with_masks(rows, outlines, engine.sizes, lambda index: f"{where}: result {index}")
        return engine, found.select(np.isin(rows[:, CATEGORY], list(engine.categories)))

    def metrics(self, records: Sequence[Mapping[str, Any]], *, where: str) -> dict[str, float | None]:
        """Compute COCO's metrics of other detections on the same images, with those of masks if the run has them.

        Args:
            records: COCO's results.
            where: what messages call the records.
        """
        rows = result_rows(records, where)
        found = Detections(rows[np.isin(rows[:, CATEGORY], list(self.engine.categories))])
        evaluations = {"": self.engine.matching(found, self.images, self.most)}
        if f"{PREFIXES['segm']}AP" in self.run.results and records and "segmentation" in records[0]:
            evaluations[PREFIXES["segm"]] = self._matched_masks(records, where)
        metrics: dict[str, float | None] = {}
        for prefix, evaluation in evaluations.items():
            arrays = evaluation.eval or {}
            values = summarize(arrays["precision"], arrays["recall"], self.most)
            metrics |= {f"{prefix}{name}": value for name, value in values.items()}
        return metrics

    @cached_property
    def images(self) -> list[int]:
        """Ids of the images on which the run was evaluated."""
        return self.annotations.image_ids[self.indices].tolist()

    @cached_property
    def objects(self) -> list[JsonObject]:
        """COCO records of the objects in the evaluated images."""
        return self.engine.annotations(self.images)

    @cached_property
    def digest(self) -> object:
        """Value that is equal for two runs if and only if they were evaluated on the same images and annotations."""
        boxes = sorted((a["image_id"], a["category_id"], *a["bbox"], bool(a.get("iscrowd"))) for a in self.objects)
        names = tuple(self.annotations.file_names[self.indices].tolist())
        return tuple(sorted(self.engine.categories.items())), names, tuple(boxes)


def read_truth(run: RunFolder, data: str | None) -> CocoAnnotations:
    """Read the annotations on which a run was evaluated.

    Args:
        data: folder of the data set; None for the run's own.

    Raises:
        UserError: if the annotations do not exist.
    """
    side: Side = "val" if run.split is None else "train"  # which side of the data has the validation images
    files = (f"{side}_annotations", f"{side}_images")
    if side == "train" and run.config.get("annotations"):
        files = ("annotations", "images")
    options: dict[str, Any] = {name: run.config[name] for name in (f"{side}_split", *files) if name in run.config}
    if options.get(files[0]) and data is None:
        options |= {name: str(run.locate(str(options.get(name)))) for name in files}
        if not Path(options[files[0]]).is_file():
            raise UserError(f"{options[files[0]]}: no such file; name the run's data with --data")
    else:
        root = run.data_root(data) or shapes.prepare()
        options |= {"data": str(root), **dict.fromkeys(files)}
    options["allow_outside"] = bool(run.config.get("allow_outside"))
    options["layout"] = run.config.get("layout") if data is None else None
    names = {field.name for field in fields(CategoryOptions)}
    categories = CategoryOptions(**{name: value for name, value in run.config.items() if name in names})
    options["without_mask"] = run.config.get("without_mask", "error")
    data_options = DetectionDataOptions(**options, bad_boxes="drop")
    masks = bool(run.config.get("masks"))
    return read_annotations(data_options, side, absent_images="keep", masks=masks, categories=categories)


def _read_rows(run: RunFolder, images: Sequence[int], categories: Sequence[int], annotations: Path) -> np.ndarray:
    """Read the detections `[N, 7]` of a run, except those of categories that the annotations lack."""
    path = run.file("detections.json")
    if path is None:
        raise UserError(f"{run.folder}: has no detections.json; evaluate again with --eval-only --resume")
    rows = read_results(path)
    elsewhere = int((~np.isin(rows[:, IMAGE], images)).sum())
    if elsewhere or len(images) != run.results["images"]:
        what = f"it has {counted(len(images), 'image')}, results.json {run.results['images']}"
        what += f"; {elsewhere} detections are on images that it does not have" if elsewhere else ""
        raise UserError(
            f"{annotations}: {run.folder} was evaluated on other data ({what}); name the run's data with --data"
        )
    return rows[np.isin(rows[:, CATEGORY], categories)]


def _require_same_ap(run: RunFolder, evaluation: COCOeval, annotations: Path, most: int) -> None:
    """Refuse detections or annotations that changed after the run: their AP differs from that in results.json."""
    arrays = evaluation.eval or {}
    ap, written = summarize(arrays["precision"], arrays["recall"], most)["AP"], run.results.get("AP")
    if ap != written and (ap is None or written is None or abs(ap - written) > ROUNDING):
        raise UserError(
            f"{annotations}: gives an AP of {ap} with the detections of {run.folder}, but results.json "
            f"says {written}, so one of the files has changed; evaluate again with --eval-only --resume"
        )
