"""Supervisely: `meta.json` with the classes, and folders of data sets with `ann/NAME.jpg.json` and `img/NAME.jpg`.

Source: https://developer.supervisely.com/getting-started/supervisely-annotation-format
"""

from __future__ import annotations

import base64
import binascii
import io
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from backbones.common.datasets import Record
from backbones.common.image_finder import ImageFinder
from backbones.common.listing import visible
from backbones.common.outlines import blank, box_of_mask, paint, run_lengths
from backbones.common.values import is_text
from backbones.errors import UserError
from detection.data.layouts.base import LAYOUTS, Reading
from detection.data.layouts.collector import NO_AREA, Collector, box_around, numbers
from detection.data.layouts.files import split_word
from detection.data.layouts.images import UNSPLIT
from detection.data.layouts.json_files import read_json
from detection.data.layouts.places import Place, PlacedLayout
from detection.data.layouts.sniffing import head_of
from detection.data.truth import Truth

META = "meta.json"
WITHOUT_BOX = ("point", "line", "graph", "cuboid", "cuboid_2d", "cuboid_3d", "polyline_3d")  # types of classes
UNLABELLED = "images without an annotation file, which are left out"
LARGEST = 2**27  # bytes of an unpacked bitmap
Shape = tuple[list[float], list[list[float]] | Record]  # box, and polygons or run lengths


@LAYOUTS.register("supervisely")
class SuperviselyLayout(PlacedLayout):
    """A project of Supervisely. Its data sets are splits if the name of each names another split."""

    name = "supervisely"
    form = "Supervisely's meta.json, SET/ann/*.json and SET/img"
    file = f"{META} of Supervisely and folders ann"

    def places(self, root: Path) -> dict[str, Place]:
        sets = sorted(
            folder.parent for pattern in ("ann", "*/ann", "*/datasets/*/ann") for folder in visible(root, pattern)
        )
        if not sets or '"classes"' not in head_of(root / META):
            return {}
        words = {word: folder for folder in sets if (word := split_word(folder))}
        found = words if len(words) == len(sets) else {UNSPLIT: root}
        return {name: (folder, folder) for name, folder in found.items()}

    def read_place(self, root: Path, split: str, places: Mapping[str, Place], how: Reading) -> Truth:
        folder, images = places[split]
        records = Collector("supervisely", folder, ImageFinder(images), how, "object")
        for path in sorted(visible(folder, "**/ann/*.json")):
            try:
                data = _content(path)
            except UserError as error:
                how.on_problem("malformed annotation", str(path), error)
                continue
            name = (path.parent.parent / "img" / path.stem).relative_to(folder).as_posix()
            image = records.add_image(name, path, size=[data["size"].get(side) for side in ("width", "height")])
            if image is not None:
                _add_objects(data["objects"], (image["height"], image["width"]), records)
        records.note_unlisted(UNLABELLED)
        truth = records.finish(_titles(root / META))
        return replace(truth, passed_over=Counter(truth.passed_over) - Counter({".json": int(folder == root)}))


def _add_objects(objects: list[object], size: tuple[int, int], records: Collector) -> None:
    """Add the objects of an image of size (height, width)."""
    for ordinal, thing in enumerate(objects, 1):
        if not isinstance(thing, dict):
            records.refuse(ordinal, "is not an object; export the file again")
            continue
        try:
            shape = _shape(thing, size)
        except ValueError as error:
            records.refuse(ordinal, f"{error}; fix the object")
            continue
        if shape is None:
            records.note(NO_AREA)
        else:
            records.add_object(thing.get("classTitle"), shape[0], ordinal, outline=shape[1])


def _shape(thing: Record, size: tuple[int, int]) -> Shape | None:
    """Return box and outline of an object; None for points, lines and other shapes without an area.

    Raises:
        ValueError: the shape is malformed.
    """
    kind = thing.get("geometryType")
    if kind == "bitmap":
        mask = _bitmap(thing.get("bitmap"), size)
        return ([*map(float, box_of_mask(mask))], dict(run_lengths(mask))) if mask.any() else None
    if kind not in ("rectangle", "polygon"):
        return None
    given = thing["points"] if isinstance(thing.get("points"), dict) else {}
    inner = given.get("interior")
    outer, holes = numbers(given.get("exterior")), [numbers(hole) for hole in inner] if isinstance(inner, list) else []
    if not outer or len(outer) % 2 or len(outer) < (4 if kind == "rectangle" else 6):
        raise ValueError(f"its points {str(given.get('exterior'))[:60]} are no {kind}")
    known = [hole for hole in holes if hole and len(hole) >= 6 and not len(hole) % 2]
    if len(known) < len(holes):
        raise ValueError("a hole has fewer than three points")
    if kind == "polygon" and known:
        return box_around(outer), dict(run_lengths(paint([outer], size) & ~paint(known, size)))
    return box_around(outer), [outer] if kind == "polygon" else []


def _bitmap(bitmap: object, size: tuple[int, int]) -> np.ndarray:
    """Return the mask `[H, W]` bool of a packed PNG in an image of size (height, width).

    Raises:
        ValueError: it is no PNG, or not inside the image.
    """
    given = bitmap if isinstance(bitmap, dict) else {}
    corner = numbers(given.get("origin")) or []
    if len(corner) != 2:
        raise ValueError("its bitmap has no `origin`")
    left, top = map(int, corner)
    try:
        unpacker = zlib.decompressobj()
        content = unpacker.decompress(base64.b64decode(str(given.get("data"))), LARGEST)
        with Image.open(io.BytesIO(content)) as image:
            width, height = image.size
            if not (0 <= left <= size[1] - width and 0 <= top <= size[0] - height):
                raise ValueError("its bitmap is not inside the image")
            transparent = "transparency" in image.info or image.mode in ("RGBA", "LA")
            pixels = np.asarray(image.convert("RGBA"))[..., 3] if transparent else np.asarray(image.convert("L"))
    except (binascii.Error, zlib.error, OSError, SyntaxError, Image.DecompressionBombError):
        raise ValueError("its bitmap is no image") from None
    whole = blank(size)
    whole[top : top + height, left : left + width] = pixels > 0
    return whole


def _content(path: Path) -> Record:
    data = read_json(path)
    if (
        not isinstance(data, dict)
        or not isinstance(data.get("objects"), list)
        or not isinstance(data.get("size"), dict)
    ):
        raise UserError(f"{path}: has no list `objects` and no `size`; export the project again")
    return data


def _titles(path: Path) -> list[str]:
    """Return the names of the classes of a project whose objects can have a box."""
    data = read_json(path)
    classes = data.get("classes") if isinstance(data, dict) else None
    known = [each for each in classes if isinstance(each, dict)] if isinstance(classes, list) else []
    titles = [each.get("title") for each in known if each.get("shape") not in WITHOUT_BOX]
    return [str(title).strip() for title in titles if is_text(title) and str(title).strip()]
