"""Writes label maps as regions of classes: as COCO's run lengths, LabelMe's masks and Label Studio's brush.

In these layouts class 0 is always the background, which no region has. One region of a class in an image has all pixels
of the class.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from backbones.common.brush import encode_brush
from backbones.common.files import link_file, write_json
from backbones.common.labelme_masks import encode_mask
from backbones.common.outlines import box_of_mask, encode_bitmap
from backbones.common.suffixes import IMAGE_SUFFIXES
from backbones.errors import UserError
from segmentation.data.classes import IGNORE
from segmentation.data.painted import BACKGROUND, IGNORED
from segmentation.data.writing import Lost, Writing, WrittenImage

ADDED = "data without a background (it adds the class background)"
COLOURS = "colours of classes"
ORDER = "order of the classes (it sorts them)"


def write_coco(data: Writing) -> Lost:
    """Write `annotations/instances_SPLIT.json` and `SPLIT/`. Ignored pixels are a crowd of the first class."""
    numbers = _numbers(data)
    lists: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": [], "categories": []}
    for key, image in enumerate(data.images(), 1):
        height, width = _size(image)
        lists["images"].append({"id": key, "file_name": image.name, "height": height, "width": width})
        for number, mask in _regions(image, numbers):
            record: dict[str, Any] = {
                "id": len(lists["annotations"]) + 1,
                "image_id": key,
                "iscrowd": int(number == IGNORE),
            }
            record |= {"category_id": 1 if number == IGNORE else numbers.index(number) + 1}
            record |= {"bbox": box_of_mask(mask), "area": int(mask.sum()), "segmentation": encode_bitmap(mask)}
            lists["annotations"].append(record)
        link_file(image.file, data.folder / data.split / image.name)
    lists["categories"] = [{"id": place, "name": data.classes.names[n]} for place, n in enumerate(numbers, 1)]
    (data.folder / "annotations").mkdir(parents=True, exist_ok=True)
    write_json(data.folder / "annotations" / f"instances_{data.split}.json", lists, indent=None)
    return _lost(data)


def write_labelme(data: Writing) -> Lost:
    """Write a JSON file of LabelMe beside each image in `SPLIT/`, and `labels.txt`."""
    numbers = _numbers(data)
    for image in data.images():
        height, width = _size(image)
        shapes: list[dict[str, Any]] = []
        for number, mask in _regions(image, numbers):
            text, points = encode_mask(mask)
            shape = {"label": _label(data, number), "points": points, "group_id": None, "description": ""}
            shapes.append({**shape, "shape_type": "mask", "flags": {}, "mask": text})
        content: dict[str, Any] = {
            "version": "5.5.0",
            "flags": {},
            "shapes": shapes,
            "imagePath": Path(image.name).name,
        }
        content |= {"imageData": None, "imageHeight": height, "imageWidth": width}
        link_file(image.file, data.folder / data.split / image.name)
        write_json(data.folder / data.split / f"{image.stem}.json", content)
    lines = [IGNORED[0], BACKGROUND[1], *(_label(data, number) for number in numbers)]
    (data.folder / "labels.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return _lost(data)


def write_label_studio(data: Writing) -> Lost:
    """Write `SPLIT.json`, an export of Label Studio with strokes of the brush, and the images in `SPLIT/`."""
    numbers, tasks = _numbers(data), list[dict[str, Any]]()
    for key, image in enumerate(data.images(), 1):
        height, width = _size(image)
        common = {"original_width": width, "original_height": height, "image_rotation": 0, "type": "brushlabels"}
        common |= {"from_name": "tag", "to_name": "image"}
        results = [
            {**common, "id": f"r{number}", "value": _stroke(mask, _label(data, number))}
            for number, mask in _regions(image, numbers)
        ]
        annotation = {"id": key, "result": results, "was_cancelled": False, "ground_truth": False}
        address = f"/data/local-files/?d={data.split}/{image.name}"
        tasks.append({"id": key, "data": {"image": address}, "annotations": [annotation], "predictions": []})
        link_file(image.file, data.folder / data.split / image.name)
    (data.folder / f"{data.split}.json").write_text(json.dumps(tasks), encoding="utf-8")
    lost, names = _lost(data), [data.classes.names[number] for number in numbers]
    return lost | {ORDER} if names != sorted(names) else lost


def _numbers(data: Writing) -> list[int]:
    """Return the numbers of the classes that have regions."""
    return list(range(int(data.has_background), len(data.classes)))


def _regions(image: WrittenImage, numbers: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the number and the mask `[H, W]` of each class with pixels in an image, and of ignored pixels."""
    labels = image.labels()
    for number in (*numbers, IGNORE):
        mask = labels == number
        if mask.any():
            yield number, mask


def _stroke(mask: np.ndarray, label: str) -> dict[str, Any]:
    return {"format": "rle", "rle": encode_brush(mask), "brushlabels": [label]}


def _label(data: Writing, number: int) -> str:
    """Return the name of a class, which must not be a name of the background or of ignored pixels.

    Raises:
        UserError: it is.
    """
    if number == IGNORE:
        return IGNORED[0]
    name = data.classes.names[number]
    if name.lower() in (*BACKGROUND, *IGNORED) or name != name.strip() or "#" in name:
        raise UserError(f"{data.where}: class {name!r} has another meaning in the new layout; change it with --rename")
    return name


def _size(image: WrittenImage) -> tuple[int, int]:
    """Return height and width of an image, which must be a photograph.

    Raises:
        UserError: the new layout cannot hold the file, or its label map has another size.
    """
    if not image.name.lower().endswith(IMAGE_SUFFIXES):
        raise UserError(f"{image.file}: is an array, which the new layout cannot hold; name another layout with --to")
    return image.upright_size()


def _lost(data: Writing) -> Lost:
    """Return what all layouts of regions cannot hold."""
    facts = {ADDED: not data.has_background, COLOURS: data.classes.given}
    return {what for what, is_lost in facts.items() if is_lost}
