"""Finds the columns of a CSV file of boxes: those of the image, the class, the box and the split, by their usual names.

Names are compared without capitals, spaces and signs: `X_Min`, `x-min` and `xmin` are one name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from backbones.common.suffixes import IMAGE_SUFFIXES
from backbones.errors import UserError, first_names
from detection.data.layouts.collector import as_number, box_around
from detection.data.layouts.csv_files import first_cells
from detection.data.layouts.yolo import BEYOND

Sides = Sequence[float]

# A column of the second group counts only if the file has none of the first.
IMAGES = (
    "filename image imagename imagefile imagepath img imgname imgpath imgfile path filepath file frame photo picture",
    "imageid imgid",
)
CLASSES = (
    "class label classname labelname category categoryname classlabel labels object objectclass species",
    "classid labelid categoryid",
)
SPLITS = ("split set subset partition",)
IMAGE_SIDES = [("imagewidth", "imageheight"), ("imgwidth", "imgheight"), ("imgw", "imgh"), ("width", "height")]
EMPTY = ("", "nan", "none", "null", "no_box")  # cells of an image without objects, as pandas and others write them


def _corners(sides: Sides) -> list[float]:
    """Return left, top, width and height of a box given by its corners."""
    return [sides[0], sides[1], sides[2] - sides[0], sides[3] - sides[1]]


def _centred(sides: Sides) -> list[float]:
    """Return left, top, width and height of a box given by centre, width and height."""
    return [sides[0] - sides[2] / 2, sides[1] - sides[3] / 2, sides[2], sides[3]]


# Columns of a box, and what makes left, top, width and height of their values. A box of which an earlier line has a
# column is not another one: `width` belongs to the image if there are `w`, or both corners.
BOXES: list[tuple[str, Callable[[Sides], list[float]]]] = [
    ("x1 y1 x2 y2 x3 y3 x4 y4", box_around),
    ("xmin ymin xmax ymax", _corners),
    ("x0 y0 x1 y1", _corners),
    ("x1 y1 x2 y2", _corners),
    ("left top right bottom", _corners),
    ("minx miny maxx maxy", _corners),
    ("xtl ytl xbr ybr", _corners),
    ("bboxxmin bboxymin bboxxmax bboxymax", _corners),
    ("bboxx1 bboxy1 bboxx2 bboxy2", _corners),
    ("xcenter ycenter w h", _centred),
    ("xcenter ycenter width height", _centred),
    ("cx cy w h", _centred),
    ("cx cy width height", _centred),
    ("bboxx bboxy bboxwidth bboxheight", list),
    ("bboxx bboxy bboxw bboxh", list),
    ("x y w h", list),
    ("x y width height", list),
    ("left top width height", list),
    ("xmin ymin width height", list),
    ("x1 y1 w h", list),
    ("bbox", list),
    ("box", list),
    ("boundingbox", list),
    ("xywh", list),
    ("xyxy", _corners),
    ("boxesstring", _corners),  # several boxes, with semicolons between
]
# Headers of files without one, by the kinds of the cells of the first line: File, Number, Text and Empty.
HEADERLESS = {
    r"F(NNNN[TN]|EEEEE)": "filename x1 y1 x2 y2 class",  # keras-retinanet
    r"[TN]NNNNFNN": "class x y w h filename image_width image_height",  # makesense.ai
    r"TF[TN]NNEENNEE": "set filename class xmin ymin - - xmax ymax - -",  # Google's AutoML and Vertex AI
}


@dataclass(frozen=True)
class Columns:
    """The columns of a CSV file of boxes.

    Attributes:
        image, label, split: name of the column of the images, classes and splits; "" if there is none.
        box: names of the columns of the box: one with texts of four numbers, or one for each number.
        as_box: makes left, top, width and height of the numbers.
        sides: columns of the image's width and height; () if there are none.
        unread: the other columns.
    """

    image: str
    label: str
    split: str
    box: tuple[str, ...]
    as_box: Callable[[Sides], list[float]]
    sides: tuple[str, ...]
    unread: tuple[str, ...]

    def has_box(self, row: dict[str, str]) -> bool:
        """Return whether a row has a box. A row without one is an image without objects."""
        return any(row[name].strip().lower() not in EMPTY for name in self.box)

    def boxes(self, row: dict[str, str]) -> list[list[float] | None]:
        """Return the numbers of the boxes of a row, none for an image without objects; None for malformed ones."""
        if not self.has_box(row):
            return []
        cells = [row[name].strip() for name in self.box]
        if len(cells) > 1:
            return [_numbers(cells)]
        parts = [re.split(r"[,\s]+", part.strip(" \t[]()")) for part in cells[0].split(";") if part.strip()]
        return [_numbers(part) if len(part) == 4 else None for part in parts]


def names_of_headerless(path: Path) -> list[str]:
    """Return the names of the columns of a CSV file without header, by its first line; [] for others."""
    kinds = kinds_of_cells(path, 0)
    return next((names.split() for kind, names in HEADERLESS.items() if re.fullmatch(kind, kinds)), [])


def kinds_of_cells(path: Path, line: int) -> str:
    """Return a letter for each cell of a line, from 0, of a CSV file; see `HEADERLESS`."""
    return "".join(map(_kind, first_cells(path, line)))


def has_boxes(names: Sequence[str]) -> bool:
    """Return whether a header holds the columns of a box."""
    return bool(_boxes({_squeezed(name): name for name in names}))


def find_columns(path: Path, names: Sequence[str]) -> Columns:
    """Return what each column of a file with boxes holds.

    Raises:
        UserError: the file has no column of the images, or it is not clear which columns to read.
    """
    known = {_squeezed(name): name for name in names}
    boxes = _boxes(known)
    images, labels, splits = (_named(known, groups) for groups in (IMAGES, CLASSES, SPLITS))
    if len(images) != 1 or len(boxes) != 1 or len(labels) > 1 or len(splits) > 1:
        raise UserError(
            f"{path}: needs one column of images (such as filename), one of classes (such as class) and those of one "
            f"box (such as xmin, ymin, xmax and ymax), but has {first_names(list(names), 12)}; rename or remove columns"
        )
    ((box, as_box),) = boxes
    sides = next((pair for pair in IMAGE_SIDES if {*pair} <= known.keys() and not {*pair} & {*box}), ())
    read = {*images, *labels, *splits, *sides, *box}
    squeezed = [_squeezed(name) for name in names]
    if twice := [known[name] for name in sorted(read) if squeezed.count(name) > 1]:
        raise UserError(f"{path}: has several columns {twice[0]}; rename or remove all but one")
    return Columns(
        image=known[images[0]],
        label=known[labels[0]] if labels else "",
        split=known[splits[0]] if splits else "",
        box=tuple(known[name] for name in box),
        as_box=as_box,
        sides=tuple(known[name] for name in sides),
        unread=tuple(name for each, name in known.items() if each and each not in read),
    )


def are_fractions(sides: Sides) -> bool:
    """Return whether numbers are from 0 to 1, or beyond by no more than rounding explains."""
    return all(-BEYOND <= side <= 1 + BEYOND for side in sides)


def _boxes(known: dict[str, str]) -> list[tuple[tuple[str, ...], Callable[[Sides], list[float]]]]:
    """Return the boxes whose columns a header holds; each column belongs to one box."""
    found: list[tuple[tuple[str, ...], Callable[[Sides], list[float]]]] = []
    for names, as_box in BOXES:
        box = tuple(names.split())
        if {*box} <= known.keys() and not any({*box} & {*other} for other, _ in found):
            found.append((box, as_box))
    return found


def _named(known: dict[str, str], groups: Sequence[str]) -> list[str]:
    """Return the columns of the first group of which a header holds any."""
    return next((found for group in groups if (found := [name for name in group.split() if name in known])), [])


def _numbers(cells: Sequence[str]) -> list[float] | None:
    values = [as_number(cell) for cell in cells]
    known = [value for value in values if value is not None]
    return known if len(known) == len(values) else None


def _kind(cell: str) -> str:
    """Return whether a cell holds the name of an image file (F), a number (N), another text (T) or nothing (E)."""
    if not cell:
        return "E"
    return "N" if as_number(cell) is not None else "F" if cell.lower().endswith(IMAGE_SUFFIXES) else "T"


def _squeezed(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
