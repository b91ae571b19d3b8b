"""CVAT's "CVAT for images 1.1": `annotations.xml` with an element <image> for each image, and the images.

"CVAT for video 1.1" has an element <track> for each object instead.

Source: https://docs.cvat.ai/docs/other/xml_format
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np

from backbones.common.datasets import Record
from backbones.common.image_finder import ImageFinder
from backbones.common.outlines import blank, run_lengths
from backbones.common.turning import box_of_ellipse, ellipse, turned
from backbones.errors import UserError
from detection.data.layouts.base import LAYOUTS, Reading
from detection.data.layouts.collector import NO_AREA, Collector, as_number, box_around
from detection.data.layouts.cvat_tracks import images_of_tracks
from detection.data.layouts.files import FileLayout
from detection.data.layouts.images import UNSPLIT, require_split
from detection.data.layouts.joined import join_files
from detection.data.layouts.sniffing import head_of
from detection.data.layouts.xml_files import parse_xml, read_bytes
from detection.data.truth import Truth

Shape = tuple[list[float], list[list[float]] | Record]  # box, and polygons or run lengths
WITHOUT_BOX = ("tag", "points", "polyline", "skeleton")  # types of labels


@LAYOUTS.register("cvat")
class CvatLayout(FileLayout):
    """CVAT for images. The images of a project belong to the splits that `subset` names."""

    name = "cvat"
    form = "CVAT's annotations.xml and images"
    file = "annotations.xml of CVAT for images or video 1.1"
    suffixes = (".xml",)
    joins = True  # the jobs of a task

    def reads(self, path: Path) -> bool:
        return _is_cvat(path)

    def splits(self, root: Path) -> list[str]:
        return sorted(_subsets(root, self) or super().splits(root))

    def read(self, root: Path, split: str, how: Reading) -> Truth:
        subsets = _subsets(root, self)
        if not subsets:
            return super().read(root, split, how)
        require_split(split, sorted(subsets), root)
        ((path, images),) = self.places(root).values()
        files, finder = self.files_at(path), self.images_in(images)
        declared, own = self.classes_of_each(files), [file for file in files if split in _subsets_in(file)]
        return join_files([read_cvat(file, finder, how, declared=declared, subset=split) for file in own], how)

    def read_file(self, path: Path, images: Path, how: Reading, *, others: list[Path]) -> Truth:
        return read_cvat(path, self.images_in(images), how, declared=self.classes_of_each((path, *others)))

    def classes_in(self, path: Path) -> list[str]:
        return _labels(_parse(path))


def read_cvat(
    path: Path, images: ImageFinder, how: Reading, *, declared: Sequence[Sequence[str]], subset: str | None = None
) -> Truth:
    """Read an XML file of CVAT.

    Args:
        declared: labels that this file and those of other splits declare, in the order of their ids.
        subset: value of `subset` of the images to read; None for all images.
    """
    records, root = Collector("cvat", path, images, how, "shape"), _parse(path)
    has_tracks = root.find("track") is not None
    for image in images_of_tracks(root, path, records) if has_tracks else root.iterfind("image"):
        if subset is not None and image.get("subset", UNSPLIT).lower() != subset:
            continue
        size = (image.get("width", ""), image.get("height", ""))
        record = records.add_image(image.get("name"), path, size=size, where=f"image {image.get('id', '')}".strip())
        if record is not None:
            _add_shapes(image, (record["width"], record["height"]), records)
    classes = list(dict.fromkeys(name for labels in declared or [_labels(root)] for name in labels))
    return records.finish(classes or None, splits=declared)


def _add_shapes(image: Element, size: tuple[int, int], records: Collector) -> None:
    """Add the shapes of an <image>, whose size is width and height."""
    for ordinal, element in enumerate(image, 1):
        if element.tag not in SHAPES:
            if element.tag != "tag":
                records.note(NO_AREA)
            continue
        try:
            box, outline = SHAPES[element.tag](element, size)
        except (UserError, ValueError) as error:
            records.refuse(ordinal, f"<{element.tag}> of image {image.get('name')}: {error}; fix the shape")
            continue
        occluded = {"occluded": "1"} if element.get("occluded") == "1" else {}
        records.add_object(element.get("label"), box, ordinal, outline=outline, kept=occluded)


def _box(element: Element, size: tuple[int, int]) -> Shape:
    left, top, right, bottom = (_number(element, name) for name in ("xtl", "ytl", "xbr", "ybr"))
    box = [left, top, right - left, bottom - top]
    angle = _number(element, "rotation") if element.get("rotation") else 0.0
    if not angle:
        return box, []
    corners = turned(box, angle, (left + box[2] / 2, top + box[3] / 2))
    return box_around(corners), [corners]


def _polygon(element: Element, size: tuple[int, int]) -> Shape:
    points = [as_number(value) for pair in element.get("points", "").split(";") for value in pair.split(",")]
    known = [value for value in points if value is not None]
    if len(points) < 6 or len(points) % 2 or len(known) < len(points):
        raise ValueError("`points` is not a list of at least three points x,y;x,y;x,y")
    return box_around(known), [known]


def _ellipse(element: Element, size: tuple[int, int]) -> Shape:
    x, y, across, down = (_number(element, name) for name in ("cx", "cy", "rx", "ry"))
    box = [x - across, y - down, 2 * across, 2 * down]
    angle = _number(element, "rotation") if element.get("rotation") else 0.0
    return box_of_ellipse(box, angle), [ellipse(box, angle)]


def _mask(element: Element, size: tuple[int, int]) -> Shape:
    """Return the box of a mask, and its run lengths. CVAT counts the rows of the box, COCO the columns of the image."""
    left, top, width, height = (int(_number(element, name)) for name in ("left", "top", "width", "height"))
    counts = [int(count) for count in element.get("rle", "").split(",")]
    inside = min(left, top) >= 0 and 0 < width <= size[0] - left and 0 < height <= size[1] - top
    if not inside or min(counts) < 0 or sum(counts) != width * height:
        raise ValueError("`rle` does not have the size of its box, or the box is not inside the image")
    part = np.repeat(np.arange(len(counts)) % 2, counts).reshape(height, width)
    whole = blank((size[1], size[0]))
    whole[top : top + height, left : left + width] = part
    return [float(left), float(top), float(width), float(height)], dict(run_lengths(whole))


SHAPES: dict[str, Callable[[Element, tuple[int, int]], Shape]] = {
    "box": _box,
    "polygon": _polygon,
    "ellipse": _ellipse,
    "mask": _mask,
}


def _number(element: Element, name: str) -> float:
    value = as_number(element.get(name, ""))
    if value is None:
        raise ValueError(f"`{name}` is {element.get(name, '')[:40]!r}, not a number of pixels")
    return value


def _is_cvat(path: Path) -> bool:
    head = head_of(path)
    return "<annotations>" in head and any(mark in head for mark in ("<version>", "<image ", "<track "))


def _parse(path: Path) -> Element:
    root = parse_xml(read_bytes(path), path)
    if root.tag != "annotations":
        raise UserError(f"{path}: begins with <{root.tag}>, not <annotations>; export it as CVAT for images 1.1")
    if root.find("track") is not None and root.find("image") is not None:
        raise UserError(f"{path}: holds both images and tracks; export the task as CVAT for images 1.1")
    return root


def _labels(root: Element) -> list[str]:
    """Return the names of the labels that the task or project declares, without those that cannot have a box."""
    found = []
    for label in root.iterfind("meta/*/labels/label"):
        name, kind = (label.findtext("name") or "").strip(), (label.findtext("type") or "any").strip()
        if name and kind not in WITHOUT_BOX and label.find("parent") is None:
            found.append(name)
    return list(dict.fromkeys(found))


def _subsets(root: Path, layout: CvatLayout) -> Counter[str]:
    """Return the subsets of the images in the files of a project without other splits, if there are several."""
    places = layout.places(root)
    files = layout.files_at(places[UNSPLIT][0]) if [*places] == [UNSPLIT] else []
    found = sum(map(_subsets_in, files), Counter[str]())
    return found if len(found) > 1 else Counter()


def _subsets_in(path: Path) -> Counter[str]:
    """Return the number of images of each subset. The frames of a video have no subset."""
    root = _parse(path)
    if root.find("track") is not None:
        return Counter([UNSPLIT])
    return Counter(image.get("subset", UNSPLIT).lower() for image in root.iterfind("image"))
