"""Collects the images and objects of a split in any layout as records of COCO's form."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from backbones.common.datasets import Record
from backbones.common.image_finder import ImageFinder
from backbones.common.images import image_size
from backbones.common.spellings import note_of, spellings_of
from backbones.common.values import LONGEST_SIDE, is_text
from backbones.errors import UserError, first_names
from detection.data.layouts.base import Reading
from detection.data.truth import Truth, unknown_size

FURTHEST = 2**31  # pixels; limit of coordinates
NO_NAME = "objects without a class, which are left out"
NO_AREA = "points, lines and other shapes without a box, which are left out"


class NoImageError(UserError):
    """No image of an annotation file can be read.

    Attributes:
        notes: number of cases in which something was left out, by description.
    """

    def __init__(self, path: Path, notes: Counter[str]) -> None:
        why = f" ({first_names([f'{what}: {count}' for what, count in notes.items()])})" if notes else ""
        super().__init__(f"{path}: names no image that can be read{why}; check the file and the image folder")
        self.notes = notes


class Collector:
    """Collects images, and the objects of the image that was added last.

    Args:
        layout: name of the layout.
        path: file or folder to name in messages.
        images: the image files.
        how: what to do about missing images and malformed records.
        word: what an object is in its file, such as "shape".
    """

    def __init__(self, layout: str, path: Path, images: ImageFinder, how: Reading, word: str) -> None:
        self.how, self.images = how, images
        data: Record = {"images": [], "annotations": [], "categories": []}
        self.truth = Truth(layout, path, images.folder, data, word=word, passed_over=images.passed_over)
        self._names: list[str] = []  # class of each annotation
        self._owners: dict[str, str] = {}

    def add_image(self, name: object, file: Path, *, size: Sequence[object] = (), where: str = "") -> Record | None:
        """Add an image that an annotation file names; return its record, or None after a problem.

        Args:
            name: name of the image as the annotation file has it.
            file: the annotation file.
            size: width and height; empty if the annotation file does not have them, so that the image file is read.
            where: place of the name in the annotation file, for messages.
        """
        place = f"{file}: {where}".removesuffix(": ")
        try:
            found, is_present = self._find(name, place)
            if found in self._owners:
                raise UserError(f"{place}: names the image {found} again, after {self._owners[found]}; fix one of them")
            width, height = self._size(found, is_present, size, place)
        except UserError as error:
            self.how.on_problem("malformed annotation", str(file), error)
            return None
        self._owners[found] = place
        self.truth.files.append(str(file))
        record: Record = {"id": len(self.truth.files), "file_name": found, "width": width, "height": height}
        self.truth.data["images"].append(record)
        return record

    def add_object(
        self,
        name: object,
        box: Sequence[object],
        ordinal: int,
        *,
        outline: Sequence[Sequence[float]] | Record = (),
        crowd: bool = False,
        kept: Mapping[str, object] | None = None,
    ) -> None:
        """Add an object to the image that was added last.

        Args:
            name: class name.
            box: left, top, width and height in pixels.
            ordinal: position of the object in its file, from 1.
            outline: polygons or run lengths as in COCO's `segmentation`.
            crowd: whether the object is a region to ignore.
            kept: further fields of the record.
        """
        file = self.truth.files[-1]
        try:
            title, sides = self._checked(name, box, f"{file}: {self.truth.word} {ordinal}")
        except UserError as error:
            self.how.on_problem("malformed object", file, error)
            return
        self._names.append(title)
        self.truth.ordinals.append(ordinal)
        record: Record = {"id": len(self._names), "image_id": len(self.truth.files), "category_id": 0, "bbox": sides}
        record |= {"area": sides[2] * sides[3], "iscrowd": int(crowd), **(kept or {})}
        if outline:
            record |= {"segmentation": outline, "area": outline_area(outline)}
        self.truth.data["annotations"].append(record)

    def refuse(self, ordinal: int, text: str) -> None:
        """Report a malformed object of the image that was added last."""
        file = self.truth.files[-1]
        self.how.on_problem("malformed object", file, UserError(f"{file}: {self.truth.word} {ordinal}: {text}"))

    def note(self, what: str) -> None:
        """Count something that is left out or read in another way than it is written."""
        self.truth.notes[what] += 1

    def note_unlisted(self, what: str, names: Iterable[object] = ()) -> None:
        """Count the image files that are left out because no annotation file names them.

        Args:
            what: description of such files.
            names: further names of images in annotation files, such as those of other splits.
        """
        left_out = self.images.files.keys() - {image["file_name"] for image in self.truth.data["images"]}
        if left_out:
            left_out -= {file for name in names if is_text(name) for file in self.images.fitting(str(name))}
        if left_out:
            self.truth.notes[what] += len(left_out)

    def finish(self, classes: Iterable[str] | None = None, *, splits: Iterable[Collection[str]] = ()) -> Truth:
        """Return the collected records.

        Args:
            classes: all class names in the order of their ids; None for the sorted names of the objects and `splits`.
            splits: class names that each split uses; absent: `classes` are a list of their own. Names that differ in
                capitals only are united.

        Raises:
            NoImageError: there are no images.
            UserError: there are no classes.
        """
        if not self.truth.data["images"]:
            raise NoImageError(self.truth.path, self.truth.notes)
        used = [names for names in splits if names]
        classes = None if classes is None else list(classes)
        spellings = spellings_of(used or [{*self._names}], () if used or classes is None else classes)
        self._respell(spellings)
        listed = {*self._names}.union(*used) if classes is None else [*classes, *self._names]
        names = list(dict.fromkeys(spellings.get(name, name) for name in listed))
        names = sorted(names) if classes is None else names
        if not names:
            raise UserError(f"{self.truth.path}: has no object with a class; label at least one object")
        numbers = {name: number for number, name in enumerate(names, 1)}
        self.truth.data["categories"] += [{"id": number, "name": name} for name, number in numbers.items()]
        for record, name in zip(self.truth.data["annotations"], self._names, strict=True):
            record["category_id"] = numbers[name]
        self.truth.renamed.update(self.images.renamed)
        return replace(self.truth, passed_over=self._passed_over())

    def _respell(self, spellings: Mapping[str, str]) -> None:
        """Replace spellings of class names in the objects, and count them."""
        for name in self._names:
            if name in spellings:
                self.note(note_of(name, spellings))
        self._names = [spellings.get(name, name) for name in self._names]

    def _passed_over(self) -> Mapping[str, int]:
        """Return the number of files in the image folder by suffix that are neither images nor read annotations."""
        files = {self.truth.path, *map(Path, self.truth.files)}
        beside = [file for file in files if file.is_relative_to(self.images.folder) and file.is_file()]
        return Counter(self.images.passed_over) - Counter(file.suffix.lower() for file in beside)

    def _find(self, name: object, place: str) -> tuple[str, bool]:
        """Return the file of an image, and whether the file exists."""
        if not isinstance(name, str) or not name.strip() or not is_text(name):
            raise UserError(f"{place}: has no name of an image; fix the file")
        found = self.images.find(name)
        if found is not None:
            return found, True
        if self.how.absent_images == "error":
            raise UserError(
                f"{place}: image {name[:200]!r} fits {self.images.describe(name)} in {self.images.folder}; add the "
                "image, or pass --on-bad-image skip"
            )
        return name.replace("\\", "/").rpartition("/")[2] or name, False

    def _size(self, name: str, is_present: bool, size: Sequence[object], place: str) -> tuple[int, int]:
        """Return width and height of an image, from the annotation file or else from the image file."""
        sides = [as_number(side) for side in size]
        if len(sides) == 2 and any(sides):
            for side, given in zip(sides, size, strict=True):
                if side is None or not 1 <= side <= LONGEST_SIDE or side != int(side):
                    raise UserError(f"{place}: size {str(given)[:40]!r} is not a whole number of pixels; fix the size")
            return int(sides[0] or 0), int(sides[1] or 0)
        if not is_present:
            return unknown_size()
        height, width = image_size(self.images.folder / name, apply_exif=True)
        return width, height

    def _checked(self, name: object, box: Sequence[object], place: str) -> tuple[str, list[float]]:
        if isinstance(name, int) and not isinstance(name, bool):
            name = str(name)
        if not isinstance(name, str) or not name.strip() or not is_text(name):
            raise UserError(f"{place}: has no class; name its class, or delete the {self.truth.word}")
        sides = [as_number(value) for value in box]
        if len(sides) != 4 or None in sides:
            raise UserError(f"{place}: its box {str(list(box))[:80]} is not four numbers of pixels; fix the box")
        return name.strip(), [side for side in sides if side is not None]


def outline_area(outline: Sequence[Sequence[float]] | Record) -> float:
    """Return the area of an outline in square pixels, which COCO's `area` is."""
    if isinstance(outline, dict):
        return float(sum(outline["counts"][1::2]))
    return sum(abs(_signed_area(polygon)) for polygon in outline)


def _signed_area(polygon: Sequence[float]) -> float:
    """Return the area of a polygon `x, y, ...` by the shoelace formula, negative for one of the two directions."""
    xs, ys = polygon[0::2], polygon[1::2]
    return sum(x * ys[i - 1] - xs[i - 1] * y for i, (x, y) in enumerate(zip(xs, ys, strict=True))) / 2


def as_number(value: object) -> float | None:
    """Return a number, given as a number or as text; None if it is neither, or if no image can have the coordinate."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and abs(number) < FURTHEST else None


def numbers(values: object) -> list[float] | None:
    """Return a flat list of coordinates, from numbers or from pairs `[x, y]`; None if one is malformed."""
    if not isinstance(values, list):
        return None
    flat = [part for value in values for part in (value if isinstance(value, list) else [value])]
    found = [as_number(value) for value in flat]
    return None if None in found else [value for value in found if value is not None]


def box_around(points: Sequence[float]) -> list[float]:
    """Return left, top, width and height of the box around points `x, y, x, y, ...`, of which there is at least one."""
    xs, ys = points[0::2], points[1::2]
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
