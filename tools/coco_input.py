"""Reading and checking what COCO evaluation is fed: the truth and the detections."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from backbones.errors import UserError

# A row of detections: image id, x, y, width, height in pixels, score, category id.
IMAGE, X, Y, WIDTH, HEIGHT, SCORE, CATEGORY = range(7)
MOST_EXACT = 2**53  # larger ids have no float64 of their own


def read_truth(annotations: Path | str | dict[str, Any]) -> dict[str, Any]:
    """Ground truth, complete: a missing `iscrowd` becomes 0, a missing `area` that of the mask or else of the box.

    Raises:
        UserError: naming the file and the record, where it is no COCO instances file.
    """
    name = "the annotations" if isinstance(annotations, dict) else str(annotations)
    data = annotations if isinstance(annotations, dict) else _read_json(Path(annotations))
    if not isinstance(data, dict):
        raise UserError(f"{name}: holds a {type(data).__name__}, not an object with images, annotations and categories")
    for kind in ("images", "annotations", "categories"):
        if not isinstance(data.get(kind), list):
            raise UserError(f"{name}: has no list `{kind}`; a COCO instances file has images, annotations, categories")
        _check_ids(data[kind], kind.removesuffix("s").replace("categorie", "category"), name)
    images = {image["id"]: image for image in data["images"]}
    completed = [_completed(annotation, images, name) for annotation in data["annotations"]]
    if any(annotation["id"] == 0 for annotation in completed):  # the reference takes a match with id 0 for none
        completed = [{**annotation, "id": number} for number, annotation in enumerate(completed, start=1)]
    return {**data, "annotations": completed}


def read_detections(path: Path | str) -> np.ndarray:
    """Rows `[N, 7]` of a COCO results file.

    Raises:
        UserError: naming the file and the record, where it is no list of boxes with scores.
    """
    import msgspec

    class Result(msgspec.Struct, gc=False):
        image_id: int
        category_id: int
        bbox: tuple[float, float, float, float]
        score: float

    try:
        results = msgspec.json.decode(Path(path).read_bytes(), type=list[Result])
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except msgspec.DecodeError as error:
        raise UserError(f"{path}: not a COCO results list of image_id, category_id, bbox, score ({error})") from None
    rows = [(r.image_id, *r.bbox, r.score, r.category_id) for r in results]
    return np.array(rows, dtype=np.float64).reshape(-1, 7)


def check_detections(rows: np.ndarray, truth: dict[str, Any], name: str) -> None:
    """Refuse numbers that are not finite and images that the truth does not have.

    Raises:
        UserError: naming the record or some of the images.
    """
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(bad):
        raise UserError(
            f"{name}: detection {bad[0]} of image {rows[bad[0], IMAGE]:.0f} has a number that is not finite"
        )
    known = [image["id"] for image in truth["images"]]
    found = np.unique(rows[:, IMAGE]).astype(np.int64)
    strange = np.setdiff1d(found, known)
    if len(strange):
        share = "none" if len(strange) == len(found) else f"only {len(found) - len(strange)}"
        raise UserError(
            f"{name}: {share} of its {len(found)} image ids are among the annotations' {len(known)} "
            f"(it has {_some(strange)}; the annotations have {_some(sorted(known))}); use files of one data set"
        )


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from None


def _check_ids(records: list[Any], kind: str, name: str) -> None:
    for place, record in enumerate(records):
        if not isinstance(record, dict) or not isinstance(record.get("id"), int):
            raise UserError(f"{name}: {kind} number {place} has no integer `id`")
        if not 0 <= record["id"] < MOST_EXACT:
            raise UserError(f"{name}: {kind} id {record['id']}: must lie between 0 and 2^53")
    twice = [key for key, count in Counter(record["id"] for record in records).items() if count > 1]
    if twice:
        raise UserError(f"{name}: {kind} id {twice[0]} stands more than once; ids must be unique")


def _completed(annotation: dict[str, Any], images: dict[int, Any], name: str) -> dict[str, Any]:
    box = annotation.get("bbox")
    numbers = isinstance(box, list) and len(box) == 4 and all(isinstance(value, (int, float)) for value in box)
    if not numbers or not np.isfinite(box).all():
        raise UserError(f"{name}: annotation {annotation['id']}: `bbox` is {box!r}, not four numbers [x, y, w, h]")
    for key in ("image_id", "category_id"):
        if not isinstance(annotation.get(key), int):
            raise UserError(f"{name}: annotation {annotation['id']} has no integer `{key}`")
    if "area" in annotation and "iscrowd" in annotation:
        return annotation
    image = images.get(annotation["image_id"], {})
    area = annotation["area"] if "area" in annotation else _area(annotation, image)
    return {**annotation, "area": area, "iscrowd": annotation.get("iscrowd", 0)}


def _area(annotation: dict[str, Any], image: dict[str, Any]) -> float:
    """Pixels of the mask where there is one, as COCO's own areas are; else of the box."""
    from pycocotools import mask

    outline = annotation.get("segmentation")
    if not outline or not {"width", "height"} <= image.keys():
        return annotation["bbox"][2] * annotation["bbox"][3]
    rle = outline
    if not isinstance(outline, dict) or isinstance(outline["counts"], list):
        rle = mask.frPyObjects(outline, image["height"], image["width"])
    return float(mask.area(mask.merge(rle) if isinstance(rle, list) else rle))


def _some(ids: Sequence[int] | np.ndarray) -> str:
    shown = ", ".join(str(value) for value in ids[:3])
    return f"{shown}, ..." if len(ids) > 3 else shown or "none"
