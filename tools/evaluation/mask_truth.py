"""Ground truth for the evaluation of masks, with sizes of images and masks that the annotation file may lack."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

from backbones.errors import UserError
from tools.evaluation.masks import Size, areas, compress

WithoutMask: TypeAlias = Literal["error", "box", "drop"]


def mask_truth(source: Path | bytes, sizes: Mapping[int, Size], without_mask: WithoutMask) -> Path | dict[str, Any]:
    """Return the ground truth of a split for an evaluator of masks.

    Args:
        source: COCO file, or the content of one.
        sizes: height and width by image id, as the split was read; the file may lack them.
        without_mask: whether an object without a usable mask is an error, has its box as its mask, or is left out.
    """
    data = json.loads(source.read_bytes() if isinstance(source, Path) else source)
    if isinstance(source, Path) and without_mask == "error" and all(map(_has_size, data["images"])):
        return source
    images = [{**image, **_sides(sizes.get(image["id"]))} for image in data["images"]]
    kept = (_with_mask(record, sizes.get(record["image_id"]), without_mask) for record in data["annotations"])
    return {**data, "images": images, "annotations": [record for record in kept if record is not None]}


def _has_size(image: dict[str, Any]) -> bool:
    return all(isinstance(image.get(side), int) and image[side] > 0 for side in ("height", "width"))


def _sides(size: Size | None) -> dict[str, int]:
    return {} if size is None else {"height": size[0], "width": size[1]}


def _with_mask(record: dict[str, Any], size: Size | None, without_mask: WithoutMask) -> dict[str, Any] | None:
    """Return an annotation with a usable mask; None if it has none and is to be left out."""
    if without_mask == "error" or size is None or record.get("iscrowd"):
        return record
    try:
        if areas([compress(record.get("segmentation"), size, "")])[0] > 0:
            return record
    except UserError:
        pass
    x, y, w, h = record["bbox"]
    outline = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    return {**record, "segmentation": outline} if without_mask == "box" else None
