"""Checks of boxes, of COCO's instances file or of files for each image: every record in one pass, columns at a time."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from backbones.common.datasets import leads_out
from backbones.common.images import decode_image
from backbones.errors import UserError
from detection.data.annotations import SMALLEST_SIDE
from detection.data.coco import is_number, read_json
from detection.data.folders import read_folder
from detection.data.truth import Truth
from segmentation.data.coco import FIELDS
from tools.checks.findings import Report
from tools.checks.images import DAMAGED, UNDECODABLE, Findings, Images
from tools.checks.outlines import Outlines

STICKS_OUT = 1.0  # pixels beyond the image that anybody would see
MALFORMED, DUPLICATE = "malformed field", "duplicate id"


def check_coco(path: Path, folder: Path, split: str, report: Report, *, allow_outside: bool = False) -> Images:
    """Check the annotations of a split.

    Args:
        allow_outside: take file names that lead out of `folder`.

    Returns:
        Its image files, which are not looked at yet.

    Raises:
        UserError: where there is no such annotation file.
    """
    data = _read(path, split, report)
    if data is None:
        return Images(split, folder, [], [], lambda place, content: [])
    return _check(Truth("coco", path, folder, data), split, report, allow_outside)


def check_folder(root: Path, split: str, report: Report) -> Images:
    """Check a split of a folder in Pascal VOC's layout or YOLO's, as `check_coco` does.

    Raises:
        UserError: where it has no such split, or no classes.
    """

    def note(kind: str, file: str, error: UserError) -> None:
        report.add(kind, split, file=file, text=str(error).removeprefix(f"{file}: "))

    truth = read_folder(root, split, absent_images="keep", note=note)
    assert truth is not None
    return _check(truth, split, report, allow_outside=False)


def _check(truth: Truth, split: str, report: Report, allow_outside: bool) -> Images:
    data, path = truth.data, truth.path
    images, categories, annotations = (
        Table(data.get(name), name, path, split, report) for name in ("images", "categories", "annotations")
    )
    report.checked[split] = {"images": len(images.records), "annotations": len(annotations.records)}
    names = images.column("file_name", *FIELDS["images"]["file_name"])
    images.files = [name or str(path) for name in names]
    ids, sizes, known = images.ids("id"), _sizes(images), categories.ids("id")
    rows = _check_references(annotations, "image_id", ids, "unknown image", "images")
    annotations.files = [images.files[row] if row >= 0 else str(path) for row in rows]
    if truth.layout != "coco":
        places = [truth.place(index) for index in range(len(annotations.records))]
        annotations.files, annotations.names = [file for file, _ in places], [name for _, name in places]
        images.names = [""] * len(images.records)
    _check_references(annotations, "category_id", known, "unknown category", "categories")
    for table, own in ((images, ids), (categories, known), (annotations, annotations.ids("id"))):
        table.refuse_twice(own)
    _check_category_names(categories)
    annotations.column("iscrowd", *FIELDS["annotations"]["iscrowd"])
    boxes = _check_boxes(annotations, rows, sizes)
    if truth.layout == "coco":
        Outlines(annotations.records, rows, sizes, boxes).check(annotations.add)
    return _image_files(images, names, sizes, truth.folder, allow_outside)


class Table:
    """The records of one list of a file, read field by field; what is malformed is noted.

    Attributes:
        records: objects; an empty one stands for what is none.
        files: the file that each record speaks of `[N]`, for the report.
        names: what to call each record `[N]`, where it is not by its id.
    """

    def __init__(self, records: Any, name: str, path: Path, split: str, report: Report) -> None:
        self.name, self.split, self.report = name, split, report
        if not isinstance(records, list):
            report.add("no list", split, file=str(path), text=f"has no list `{name}`")
            records = []
        elif not records and name != "annotations":
            report.add("empty list", split, file=str(path), text=f"has none in its `{name}`")
        self.whole = [isinstance(record, dict) for record in records]
        self.records = [record if whole else {} for record, whole in zip(records, self.whole, strict=True)]
        self.files = [str(path)] * len(records)
        self.names: list[str] | None = None
        for place in np.flatnonzero(~np.array(self.whole, bool)):
            self.add(int(place), MALFORMED, f"is {reprlib.repr(records[place])}, not an object")

    def called(self, place: int) -> str:
        """A record by its name, or its id, or else by its place in the list."""
        if self.names is not None:
            return self.names[place]
        identifier = self.records[place].get("id")
        singular = {"categories": "category"}.get(self.name, self.name[:-1])
        return f"{singular} {reprlib.repr(identifier)}" if isinstance(identifier, int) else f"{self.name}[{place}]"

    def add(self, place: int, kind: str, text: str) -> None:
        """Note a problem of a record."""
        self.report.add(kind, self.split, record=self.called(place), file=self.files[place], text=text)

    def column(self, name: str, holds: Callable[[Any], bool], wanted: str) -> list[Any]:
        """A field of all records; None where it is malformed, which is noted."""
        values = [record.get(name) for record in self.records]
        for place in [place for place, value in enumerate(values) if not holds(value)]:
            if self.whole[place]:
                found = f"is {reprlib.repr(values[place])}" if name in self.records[place] else "is missing"
                self.add(place, MALFORMED, f"`{name}` {found}; expected {wanted}")
            values[place] = None
        return values

    def ids(self, name: str) -> np.ndarray:
        """A field of ids `[N]`; -1 where it is malformed."""
        values = self.column(name, *FIELDS["images"]["id"])
        return np.array([-1 if value is None else value for value in values], np.int64)

    def refuse_twice(self, ids: np.ndarray) -> None:
        """Note records whose id another before them has."""
        _, first = np.unique(ids, return_index=True)
        again = np.ones(len(ids), bool)
        again[first] = False
        for place in np.flatnonzero(again & (ids >= 0)):
            self.add(int(place), DUPLICATE, f"id {ids[place]} stands before")


def _read(path: Path, split: str, report: Report) -> dict[str, Any] | None:
    if not path.is_file():
        raise UserError(f"{path}: no such file; name the annotations of {split}")
    try:
        return read_json(path)
    except UserError as error:
        report.add("no COCO file", split, file=str(path), text=str(error).removeprefix(f"{path}: "))
        report.checked[split] = {"images": 0, "annotations": 0}
        return None


def _check_category_names(categories: Table) -> None:
    names = categories.column("name", *FIELDS["categories"]["name"])
    seen: set[Any] = set()
    for place, name in enumerate(names):
        if name is not None and name in seen:
            categories.add(place, "duplicate category name", f"{reprlib.repr(name)} stands before")
        seen.add(name)


def _sizes(images: Table) -> np.ndarray:
    """Heights and widths `[I, 2]`; 0 where they are malformed."""
    columns = [images.column(side, *FIELDS["images"][side]) for side in ("height", "width")]
    return np.array([[value or 0 for value in column] for column in columns], np.int64).T


def _check_references(table: Table, name: str, known: np.ndarray, kind: str, where: str) -> np.ndarray:
    """The row `[N]` of the record in `known` that each one names; -1 where there is none."""
    ids = table.ids(name)
    rows = np.full(len(ids), -1)
    if len(known):
        order = np.argsort(known, kind="stable")
        found = order[np.searchsorted(known[order], ids).clip(max=len(known) - 1)]
        same = (known[found] == ids) & (ids >= 0)
        rows[same] = found[same]
    for place in np.flatnonzero((ids >= 0) & (rows < 0)):
        table.add(int(place), kind, f"`{name}` {ids[place]} is not in `{where}`")
    return rows


def _check_boxes(annotations: Table, rows: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Boxes xyxy `[N, 4]`, NaN where they are malformed; those without area and those that stick out are noted."""
    values = annotations.column("bbox", _is_box, "four numbers [x, y, w, h]")
    boxes = np.array([[np.nan] * 4 if value is None else value for value in values], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    limits = np.zeros((len(rows), 2))
    limits[rows >= 0] = sizes[rows[rows >= 0], ::-1]
    known = limits.min(axis=1, initial=np.inf) > 0
    inside = boxes.clip(0, np.where(known[:, None], limits, np.inf)[:, [0, 1, 0, 1]])
    empty = (inside[:, 2:] - inside[:, :2]).min(axis=1, initial=np.inf) <= SMALLEST_SIDE
    beyond = np.abs(inside - boxes).max(axis=1, initial=0)
    for place in np.flatnonzero(empty):
        text = f"{values[place]} has none inside its image{_of(limits[place])}"
        annotations.add(int(place), "box without area", text)
    for place in np.flatnonzero(~empty & known & (beyond > STICKS_OUT)):
        text = f"{values[place]} sticks out of its image{_of(limits[place])} by {beyond[place]:.3g} pixels"
        annotations.add(int(place), "box outside its image", text)
    return boxes


def _of(limits: Iterable[float]) -> str:
    width, height = limits
    return f" of {width:.0f}x{height:.0f}" if width else ""


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(is_number, value))


def _image_files(
    images: Table, names: list[str | None], sizes: np.ndarray, folder: Path, allow_outside: bool
) -> Images:
    """The files that the images name, each once; those that lead out of the folder only where that is allowed."""
    chosen: dict[str, int] = {}
    for place, name in enumerate(names):
        if name is None:
            continue
        if leads_out(name) and not allow_outside:
            images.add(place, "file outside the folder", "leads out of the image folder, and is not looked at")
        elif chosen.setdefault(name, place) != place:
            images.add(place, "duplicate file name", f"{images.called(chosen[name])} has the same")
    places = list(chosen.values())

    def inspect(number: int, content: np.ndarray) -> Findings:
        return _compare(content, tuple(sizes[places[number]].tolist()))

    return Images(images.split, folder, list(chosen), [images.called(place) for place in places], inspect)


def _compare(content: np.ndarray, size: tuple[int, int]) -> Findings:
    """What is wrong with an image's file, decoded as training decodes it, for a size of the JSON (0: not known)."""
    image = decode_image(content)
    if image is None:
        return [(UNDECODABLE, DAMAGED)]
    if image.shape[:2] == size or not all(size):
        return []
    there, here = f"{image.shape[1]}x{image.shape[0]} pixels", f"the annotations say {size[1]}x{size[0]}"
    raw = decode_image(content, apply_exif=False)
    if raw is not None and raw.shape[:2] == size:
        return [("EXIF orientation", f"{there} as its EXIF turns it, but {here}, as it is unturned")]
    return [("other size", f"{there}, but {here}")]
