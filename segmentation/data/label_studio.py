"""Reads Label Studio's JSON and JSON-MIN: brush strokes, polygons, rectangles and ellipses of each image."""

from __future__ import annotations

import json
import reprlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from backbones.common.datasets import SPLIT_NAMES, existing_split
from backbones.common.image_finder import ImageFinder, fitting_file
from backbones.common.label_studio import ANNOTATED, FURTHER, UNLABELLED, usable_annotations
from backbones.common.listing import visible
from backbones.common.spellings import spellings_of
from backbones.common.turning import ellipse, turned
from backbones.common.values import is_number, is_text
from backbones.errors import UserError
from segmentation.data.painted import OutlinedImage, PaintedLabels, Shape
from segmentation.data.undivided import one_split

SPLITS = {"test", *SPLIT_NAMES, *(name for names in SPLIT_NAMES.values() for name in names)}
AGAIN = "further tasks of the same image, which are not read"
GEOMETRY = {"rle", "points", "height", "radiusX"}  # keys of the shapes that have an area


def exports_of(root: Path, split: str = "") -> list[Path]:
    """Return the JSON exports of a split: `SPLIT.json`, or all files if none has the name of a split; [] for none."""
    files = [file for file in sorted(visible(root, "*.json")) if file.is_file()]
    name = existing_split(split, lambda name: (root / f"{name}.json") in files) if split else ""
    named = [file for file in files if file.stem == name]
    is_whole = len(files) == 1 or not any(file.stem.lower() in SPLITS for file in files)
    chosen = named or (files if is_whole else [])
    return chosen if all(map(_is_export, chosen)) else []


def is_label_studio(root: Path) -> bool:
    """Return whether a folder holds a JSON export of Label Studio with outlines."""
    return any(exports_of(root, split) for split in ("", "train"))


def read_label_studio(root: Path, split: str, *, bits: int | None) -> PaintedLabels:
    """Open a split: `SPLIT.json`, or all exports of the folder. The images lie below the folder.

    The classes are the sorted labels of all exports. Of several annotations of a task, one counts; see
    `usable_annotations`. Tasks without an annotation are left out.

    Raises:
        UserError: there is no such split, a record is malformed, an image is missing, or two exports contradict.
    """
    paths = exports_of(root, split)
    if not paths or paths == exports_of(root):
        one_split(root, split)
        paths = exports_of(root)
    if not paths:
        raise UserError(f"--data {root}: has no JSON export of Label Studio for {split}; call one {split}.json")
    left_out = Counter[str]()
    images = _images(paths, ImageFinder(root), left_out)
    every = [each for each in sorted(visible(root, "*.json")) if _is_export(each)]
    labels = [{label for task in _tasks(each) for label in _labels(task)} for each in every]
    spellings = spellings_of(labels)
    names = sorted({spellings.get(label, label) for part in labels for label in part})
    where = str(paths[0] if len(paths) == 1 else root)
    return PaintedLabels(images, names=names, spellings=spellings, where=where, bits=bits, left_out=left_out)


def _images(paths: Sequence[Path], finder: ImageFinder, left_out: Counter[str]) -> list[OutlinedImage]:
    """Return the images of several exports. An image of several tasks is read once; see `_chosen`."""
    found: dict[Path, OutlinedImage] = {}
    for path in paths:
        for index, task in enumerate(_tasks(path)):
            annotations = usable_annotations(task.get("annotations"))
            if not annotations:
                left_out[UNLABELLED] += 1
                continue
            left_out.update([FURTHER] * len(annotations[1:]))
            image = _image(task, index, path, finder, left_out)
            former = found.get(image.path)
            found[image.path] = image if former is None else _chosen(former, image, left_out)
    return list(found.values())


def _chosen(one: OutlinedImage, other: OutlinedImage, left_out: Counter[str]) -> OutlinedImage:
    """Return which of two tasks of an image to read, and count the other one.

    Raises:
        UserError: both have outlines, and these differ.
    """
    if one.shapes and other.shapes and one.shapes != other.shapes:
        raise UserError(
            f"{other.where}: the image {one.path.name} has other outlines in {one.where}; delete one of the two tasks"
        )
    left_out[AGAIN] += 1
    return one if one.shapes else other


def _tasks(path: Path) -> list[Any]:
    try:
        tasks = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not JSON ({error}); export it from Label Studio as JSON") from None
    return [_whole(task) for task in tasks] if isinstance(tasks, list) else []


def _is_export(path: Path) -> bool:
    try:
        tasks = _tasks(path)
    except UserError:
        return False
    are_tasks = all(isinstance(task, dict) and "id" in task for task in tasks)
    return are_tasks and any("data" in task and "annotations" in task for task in tasks)


def _whole(task: Any) -> Any:
    """Return a task of JSON-MIN, whose results are entries of the task, in the form of JSON; others as they are."""
    if not isinstance(task, dict) or "annotations" in task:
        return task
    lists = [value for value in task.values() if isinstance(value, list) and any(map(_is_minimal, value))]
    if not lists and ANNOTATED not in task:
        return task
    results = [
        {**value, "value": value, "type": _kind(value)} for part in lists for value in part if _is_minimal(value)
    ]
    texts = {name: value for name, value in task.items() if isinstance(value, str)}
    return {"id": task.get("id"), "data": texts, "annotations": [{"result": results}]}


def _is_minimal(value: Any) -> bool:
    return isinstance(value, dict) and bool({"rle", "points", "x"} & value.keys())


def _kind(value: dict[str, Any]) -> str:
    """Return the key of a result's list of classes, such as "brushlabels"; "" if it has none."""
    return next((name for name, names in value.items() if name.endswith("labels") and isinstance(names, list)), "")


def _results(task: Any) -> list[dict[str, Any]]:
    """Return the results of the annotation that counts."""
    usable = usable_annotations(task.get("annotations"))
    results = usable[0].get("result") if usable else []
    return [each for each in results if isinstance(each, dict)] if isinstance(results, list) else []


def _labels(task: Any) -> list[str]:
    return [label for result in _results(task) if (label := _label(result)) is not None]


def _label(result: dict[str, Any]) -> str | None:
    """Return the first class of a result with an area, or None for other results."""
    value = result.get("value")
    if not isinstance(value, dict) or not GEOMETRY & value.keys():
        return None
    names = value.get(_kind(value))
    return names[0] if names and is_text(names[0]) else None


def _image(task: Any, index: int, path: Path, finder: ImageFinder, left_out: Counter[str]) -> OutlinedImage:
    where = f"{path}: task {task.get('id', index)}"
    file = _file(task.get("data"), finder, where)
    shapes, size = [], None
    for result in _results(task):
        label = _label(result)
        if label is None:
            left_out[f"results of type {result.get('type')} left out"] += 1
            continue
        sides = result.get("original_height"), result.get("original_width")
        if not all(isinstance(side, int) and side > 0 for side in sides):
            raise UserError(f"{where}: a result has no `original_width` and `original_height`; export it again")
        size = (int(sides[0]), int(sides[1]))  # type: ignore[arg-type]
        shapes.append(_shape(label, result["value"], size, where))
    return OutlinedImage(file, size, shapes, where)


def _shape(label: str, value: dict[str, Any], size: tuple[int, int], where: str) -> Shape:
    """Return a result as a shape. Coordinates are percents of the image's sides."""
    if value.get("format") == "rle" and isinstance(value.get("rle"), list):
        return Shape(label, "brush", value["rle"])
    scales = (size[1] / 100, size[0] / 100)
    if "points" not in value:
        return Shape(label, "polygon", _corners(value, scales, where))
    points = value["points"] if isinstance(value["points"], list) else []
    flat = [number for point in points if isinstance(point, list) for number in point]
    if len(flat) < 6 or len(flat) % 2 or not all(map(is_number, flat)):
        raise _malformed(value, where)
    return Shape(label, "polygon", [number * scales[place % 2] for place, number in enumerate(flat)])


def _corners(value: dict[str, Any], scales: tuple[float, float], where: str) -> list[float]:
    """Return the points of a rectangle or ellipse in pixels, turned as Label Studio turns them.

    Args:
        scales: pixels of a percent of the image's width and height.
    """
    is_ellipse, angle = "radiusX" in value, value.get("rotation") or 0
    names = ("x", "y", "radiusX", "radiusY") if is_ellipse else ("x", "y", "width", "height")
    sides = [value.get(name) for name in names]
    if not all(map(is_number, (*sides, angle))):
        raise _malformed(value, where)
    x, y, across, down = (float(side or 0) * scale for side, scale in zip(sides, scales * 2, strict=True))
    if is_ellipse:
        return ellipse([x - across, y - down, 2 * across, 2 * down], angle)
    return turned([x, y, across, down], angle, (x, y))  # around the first corner


def _malformed(value: dict[str, Any], where: str) -> UserError:
    return UserError(f"{where}: the outline {reprlib.repr(value)} is malformed; export it again")


def _file(data: Any, finder: ImageFinder, where: str) -> Path:
    """Return the image of a task, which is the one file that an address in its data fits."""
    addresses = [each for each in data.values() if isinstance(each, str)] if isinstance(data, dict) else []
    for address in addresses:
        if (name := fitting_file(finder, address)) is not None:
            return finder.folder / name
    shown = reprlib.repr(addresses[0]) if addresses else "no address"
    raise UserError(f"{where}: the image ({shown}) is not in the folder of the export; put the images beside the JSON")
