"""Reads the polygons of LabelMe: a JSON file beside each image."""

from __future__ import annotations

import json
import math
import reprlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from backbones.common.datasets import existing_split, leads_out, listed_lines
from backbones.common.image_finder import ImageFinder, fitting_file
from backbones.common.images import image_size
from backbones.common.labelme_masks import POLYGONS, decode_mask
from backbones.common.listing import is_file, list_files
from backbones.common.outlines import run_lengths
from backbones.common.spellings import spellings_of
from backbones.common.turning import ellipse
from backbones.common.values import is_number, is_text
from backbones.errors import UserError
from segmentation.data.painted import OutlinedImage, PaintedLabels, Shape
from segmentation.data.undivided import one_split

CLASS_FILES = ("classes.txt", "labels.txt")
LOOKED_AT = 20  # JSON files that are read to recognise the layout


def is_labelme(root: Path) -> bool:
    """Return whether a folder, or a folder below it, holds JSON files of LabelMe beside images."""
    files = [file for file in list_files(root, (".json",)).files if not file.name.startswith("_")]
    return bool(files) and all(_is_labelme_file(file) for file in files[:LOOKED_AT])


def read_labelme(root: Path, split: str, *, bits: int | None) -> PaintedLabels:
    """Open a split: the JSON files below `root/SPLIT`, or all files of a data set without such folders.

    The classes are those of `classes.txt` or `labels.txt`, or else the sorted labels of all splits.

    Raises:
        UserError: there is no such split, or a file is malformed.
    """
    name = existing_split(split, lambda name: (root / name).is_dir())
    folder = root / name if (root / name).is_dir() else one_split(root, split)
    left_out, finder = Counter[str](), ImageFinder(folder)
    images = [_read(file, finder, left_out) for file in list_files(folder, (".json",)).files]
    where = f"{root} ({name})" if folder != root else str(root)
    given = _listed(root)
    labels = _labels(root, divided=folder != root) if given is None else [_labels_of(images)]
    spellings = spellings_of(labels, given or ())
    names = given or sorted({spellings.get(label, label) for part in labels for label in part})
    return PaintedLabels(images, names=names, spellings=spellings, where=where, bits=bits, left_out=left_out)


def _listed(root: Path) -> list[str] | None:
    """Return the classes of the first file that lists them; None without such a file."""
    file = next((root / name for name in CLASS_FILES if (root / name).is_file()), None)
    return None if file is None else [line for _, line in listed_lines(file.read_text(encoding="utf-8-sig"))]


def _labels(root: Path, *, divided: bool) -> list[set[str]]:
    """Return the labels of each split, whose folder is the first one below `root` if the data are divided."""
    finder, found = ImageFinder(root), dict[str, set[str]]()
    for file in list_files(root, (".json",)).files:
        part = file.relative_to(root).parts[0] if divided else ""
        found.setdefault(part, set()).update(_labels_of([_read(file, finder, Counter())]))
    return list(found.values())


def _labels_of(images: Iterable[OutlinedImage]) -> set[str]:
    return {shape.label for image in images for shape in image.shapes}


def _is_labelme_file(path: Path) -> bool:
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(data, dict) and isinstance(data.get("shapes"), list) and "imagePath" in data


def _read(path: Path, finder: ImageFinder, left_out: Counter[str]) -> OutlinedImage:
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not JSON ({error}); annotate the image again") from None
    shapes, name = (data.get(key) if isinstance(data, dict) else None for key in ("shapes", "imagePath"))
    if not isinstance(shapes, list) or not is_text(name):
        raise UserError(f"{path}: has no `shapes` and `imagePath`, as LabelMe writes them; remove the file")
    sides = data.get("imageHeight"), data.get("imageWidth")
    size = sides if all(isinstance(side, int) and side > 0 for side in sides) else None
    image = _image(path, str(name), finder)
    if size is None and any(isinstance(shape, dict) and shape.get("shape_type") == "mask" for shape in shapes):
        size = image_size(image, apply_exif=True)
    outlines = [shape for each in shapes if (shape := _shape(each, path, size, left_out)) is not None]
    return OutlinedImage(image, size, outlines, str(path))


def _image(path: Path, name: str, finder: ImageFinder) -> Path:
    """Return the image of a JSON file: `imagePath`, the file of its name beside the JSON, or the one file that fits."""
    given = name.replace("\\", "/")
    if not leads_out(given) and is_file(path.parent / given):
        return path.parent / given
    # LabelMe writes paths such as ../images/1.jpg if the JSON files lie elsewhere.
    beside = path.parent / Path(given).name
    if is_file(beside):
        return beside
    if (fitting := fitting_file(finder, name)) is not None:
        return finder.folder / fitting
    found = f"fits {finder.describe(name)} in {finder.folder}"
    raise UserError(
        f"{path}: `imagePath` {reprlib.repr(name)} {found}; put the image beside the JSON file (`labelme_export_json` "
        "writes it, if `imageData` holds it)"
    )


def _shape(shape: Any, path: Path, size: tuple[int, int] | None, left_out: Counter[str]) -> Shape | None:
    """Return a shape as a polygon or mask; None, and count it, if its kind has no area.

    Args:
        size: height and width of the image, which masks need.
    """
    values = shape if isinstance(shape, dict) else {}
    label, points, kind = values.get("label"), values.get("points"), values.get("shape_type") or "polygon"
    if not is_text(label) or not isinstance(points, list) or not all(map(_is_point, points)):
        raise UserError(f"{path}: the shape {reprlib.repr(shape)} has no `label` and `points`; fix the file")
    if kind == "mask" and size is not None and len(points) == 2:
        return Shape(str(label), "runs", _mask(values.get("mask"), points, path, size))
    if kind == "rectangle" and len(points) == 2:
        (left, top), (right, bottom) = points
        points = [[left, top], [right, top], [right, bottom], [left, bottom]]
    elif kind == "circle" and len(points) == 2:
        points = _circle(*points)
    elif kind not in POLYGONS or len(points) < 3:
        left_out[f"shapes of kind {kind} left out"] += 1
        return None
    return Shape(str(label), "polygon", [float(value) for point in points for value in point])


def _mask(text: object, points: list[list[float]], path: Path, size: tuple[int, int]) -> list[int]:
    """Return the run lengths of a shape's mask."""
    (left, top), (right, bottom) = points
    try:
        return run_lengths(decode_mask(text, (left, top, right, bottom), size))["counts"]
    except ValueError as error:
        raise UserError(f"{path}: a shape of type mask is malformed: {error}; fix the file") from None


def _is_point(point: object) -> bool:
    return isinstance(point, list) and len(point) == 2 and all(map(is_number, point))


def _circle(centre: list[float], edge: list[float]) -> list[list[float]]:
    radius = math.dist(centre, edge)
    flat = ellipse([centre[0] - radius, centre[1] - radius, 2 * radius, 2 * radius])
    return [list(pair) for pair in zip(flat[0::2], flat[1::2], strict=True)]
