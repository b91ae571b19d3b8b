"""LabelMe: a JSON file for each image, beside the image or in a folder of its own.

Source: https://github.com/wkentaro/labelme
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from backbones.common.datasets import Record
from backbones.common.image_finder import ImageFinder
from backbones.common.labelme_masks import POLYGONS, decode_mask
from backbones.common.outlines import box_of_mask, paint, run_lengths
from backbones.common.turning import ellipse, turned
from backbones.errors import UserError
from detection.data.layouts.base import LAYOUTS, Reading, Sign
from detection.data.layouts.collector import NO_AREA, Collector, box_around, numbers
from detection.data.layouts.images import UNSPLIT, files_below, folders_of_splits, has_images, image_folder
from detection.data.layouts.json_files import read_json
from detection.data.layouts.places import Place, PlacedLayout
from detection.data.layouts.sniffing import head_of, json_kind
from detection.data.truth import Truth

FOLDERS = ("annotations", "labels", "json", "Annotations")
GROUPED = "shapes of a group that are one object with another shape"
_EMBEDDED = re.compile(r'"imageData"\s*:\s*"')
Outlined = tuple[list[float], list[list[float]] | Record]  # box, and polygons or run lengths
UNLABELLED = "images without a JSON file, which are left out"


@LAYOUTS.register("labelme")
class LabelMeLayout(PlacedLayout):
    """LabelMe's files, in one folder or in a folder for each split."""

    name = "labelme"
    form = "LabelMe's JSON file for each image"
    file = "a JSON file of LabelMe for each image"

    def places(self, root: Path) -> dict[str, Place]:
        found = {folder.name: pair for folder in folders_of_splits(root) if (pair := _pair(folder))}
        pair = None if found else _pair(root)
        return {UNSPLIT: pair} if pair else found

    def signs(self, root: Path) -> Iterator[Sign]:
        """Yield the signs; images inside the JSON files count, so that reading them tells what to do."""
        for text, found in super().signs(root):
            yield text, found or any(_holds_image(folder) for folder, _ in self.places(root).values())

    def read_place(self, root: Path, split: str, places: Mapping[str, Place], how: Reading) -> Truth:
        truths = {
            name: _read(*pair, how if name == split else Reading("keep", on_problem=_ignore))
            for name, pair in places.items()
        }
        used = [{str(shape["label"]).strip() for shape in shapes} for _, shapes in truths.values()]
        return truths[split][0].finish(splits=used)


def _pair(root: Path) -> Place | None:
    for folder in (root, *(root / name for name in FOLDERS)):
        files = files_below(folder, ".json")[:3]
        if any(json_kind(path) == "labelme" for path in files):
            beside = any(map(has_images, {folder, files[0].parent}))
            return folder, folder if beside else image_folder(root)
    return None


def _holds_image(folder: Path) -> bool:
    """Return whether the first JSON file in a folder holds its image as text."""
    return any(_EMBEDDED.search(head_of(path)) for path in files_below(folder, ".json")[:1])


def _read(folder: Path, images: Path, how: Reading) -> tuple[Collector, list[Record]]:
    """Read the files of a folder; return the collected records, and the shapes that have a class."""
    records = Collector("labelme", folder, ImageFinder(images), how, "shape")
    shapes: list[Record] = []
    for path in files_below(folder, ".json"):
        try:
            data = _content(path)
        except UserError as error:
            how.on_problem("malformed annotation", str(path), error)
            continue
        named = _image_name(data.get("imagePath"), path.relative_to(folder), records.images)
        if how.absent_images == "error" and data.get("imageData") and not records.images.fitting(named):
            given = str(data.get("imagePath") or f"{path.stem}.jpg").replace("\\", "/").rpartition("/")[2][:200]
            text = f"{path}: its image is only inside the file (`imageData`); write it beside the file as {given!r}, "
            how.on_problem("missing file", str(path), UserError(f"{text}such as with `labelme_export_json`"))
            continue
        image = records.add_image(named, path, size=_size(data))
        if image is not None:
            shapes += _add_shapes(data["shapes"], (image["height"], image["width"]), records)
    records.note_unlisted(UNLABELLED)
    return records, shapes


def _add_shapes(shapes: list[object], size: tuple[int, int], records: Collector) -> Iterator[Record]:
    """Add the shapes of an image of size (height, width); yield those that have a class.

    Shapes of one class and one group (`group_id`) are one object, as in LabelMe's own conversion to COCO.
    """
    groups: dict[object, list[tuple[int, Record, Outlined]]] = {}
    for ordinal, shape in enumerate(shapes, 1):
        found = _read_shape(ordinal, shape, size, records)
        if found is None or not isinstance(shape, dict):
            continue
        group = shape.get("group_id")
        key = ordinal if not isinstance(group, (int, str)) else (str(shape.get("label")), group)
        groups.setdefault(key, []).append((ordinal, shape, found))
    for members in groups.values():
        ordinal, shape, (box, outline) = members[0]
        for _ in members[1:]:
            records.note(GROUPED)
        if len(members) > 1:
            box, outline = _united([each for _, _, each in members], size)
        records.add_object(shape.get("label"), box, ordinal, outline=outline)
        if isinstance(shape.get("label"), str) and shape["label"].strip():
            yield shape


def _read_shape(ordinal: int, shape: object, size: tuple[int, int], records: Collector) -> Outlined | None:
    """Return box and outline of a shape; None after counting or reporting one that has none."""
    if not isinstance(shape, dict):
        records.refuse(ordinal, "is not an object; fix the file")
        return None
    kind, points = shape.get("shape_type") or "polygon", numbers(shape.get("points"))
    if kind in ("point", "points", "line", "linestrip"):
        records.note(NO_AREA)
        return None
    if points is None or len(points) % 2 or len(points) < (6 if kind == "polygon" else 4):
        records.refuse(ordinal, f"its points {str(shape.get('points'))[:60]} are no {kind}; fix the shape")
        return None
    try:
        return _outlined(kind, points, shape.get("mask"), size)
    except ValueError as error:
        records.refuse(ordinal, f"{error}; fix the shape")
        return None


def _united(parts: list[Outlined], size: tuple[int, int]) -> Outlined:
    """Return box and outline of several shapes that are one object. Rectangles become polygons."""
    corners = [value for (x, y, w, h), _ in parts for value in (x, y, x + w, y + h)]
    outlines = [outline or [turned(box, 0, (0, 0))] for box, outline in parts]
    polygons = [outline for outline in outlines if isinstance(outline, list)]
    if len(polygons) == len(outlines):
        return box_around(corners), [polygon for outline in polygons for polygon in outline]
    masks = [paint(outline, size) for outline in outlines]
    return box_around(corners), dict(run_lengths(np.any(masks, axis=0)))


def _outlined(kind: object, points: list[float], text: object, size: tuple[int, int]) -> Outlined:
    """Return box and outline of a shape; the outline is empty for rectangles.

    Args:
        text: the shape's mask; a shape of type mask without one is its box.
        size: height and width of the image.

    Raises:
        ValueError: the mask is malformed.
    """
    if kind == "circle":
        radius = math.dist(points[:2], points[2:4])
        box = [points[0] - radius, points[1] - radius, 2 * radius, 2 * radius]
        return box, [ellipse(box)]
    if kind == "mask" and text is not None:
        mask = decode_mask(text, (points[0], points[1], points[2], points[3]), size)
        if mask.any():
            return [float(side) for side in box_of_mask(mask)], dict(run_lengths(mask))
    return box_around(points), [points] if kind in POLYGONS else []


def _image_name(named: object, path: Path, images: ImageFinder) -> str:
    """Return the name of the image of a JSON file, whose path below its folder is given.

    The name is that of the image beside the file, or else `imagePath`, or else the name of the file.
    """
    if isinstance(named, str) and named.strip():
        beside = (path.parent / named.replace("\\", "/").rpartition("/")[2]).as_posix()
        if beside in images.files:
            return beside
        if images.fitting(named):
            return named
    return path.with_suffix("").name


def _content(path: Path) -> Record:
    data = read_json(path)
    if not isinstance(data, dict) or not isinstance(data.get("shapes"), list):
        raise UserError(f"{path}: has no list `shapes`; move files that LabelMe did not write to another folder")
    return data


def _size(data: Record) -> tuple[object, ...]:
    sides = (data.get("imageWidth"), data.get("imageHeight"))
    return sides if all(sides) else ()


def _ignore(kind: str, file: str, error: UserError) -> None:
    """Ignore a problem of another split, of which only the class names are read."""
