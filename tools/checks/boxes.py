"""Checks of boxes in COCO's annotation file, or in VOC's or YOLO's files. A field is checked in all records at once."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from backbones.common.datasets import leads_out, read_coco
from backbones.common.image_finder import ImageFinder, fitting_file, is_foreign
from backbones.common.images import decode_image
from backbones.common.listing import describe_passed_over, is_file, list_files
from backbones.common.suffixes import IMAGE_SUFFIXES
from backbones.common.values import LARGEST_NUMBER
from backbones.errors import UserError, counted
from detection.data.annotations import FRACTIONS, SMALLEST_SIDE, are_fractions
from detection.data.folders import file_layout, open_file, open_split
from detection.data.layouts.base import Reading
from detection.data.truth import ProblemHandler, Truth
from tools.checks.box_sizes import Boxes
from tools.checks.findings import CheckReport
from tools.checks.images import DAMAGED, UNDECODABLE, Findings, SplitImages
from tools.checks.outlines import Outlines
from tools.checks.records import NO_ID, RecordList

BEYOND = 1.0  # pixels by which a box may extend beyond its image without a problem


def check_coco(
    path: Path, folder: Path, split: str, report: CheckReport, *, allow_outside: bool = False
) -> SplitImages:
    """Check the COCO annotations of a split and report their problems.

    Args:
        path: COCO instances file.
        folder: folder of its images.
        allow_outside: allow file names that lead out of `folder`.

    Returns:
        The image files of the split, which are not checked yet.

    Raises:
        UserError: if the annotation file does not exist.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; fix the option that names the annotations of {split}")
    if file_layout(path) is not None:
        how = Reading("keep", on_problem=_reporting(split, report))
        return _check(open_file(path, folder, how), split, report, allow_outside)
    try:
        data = read_coco(path)
    except UserError as error:
        report.add("no COCO file", split, file=str(path), text=str(error).removeprefix(f"{path}: "))
        report.checked[split] = {"images": 0, "annotations": 0}
        return SplitImages(split, folder, [], [], lambda index, content: [])
    return _check(Truth("coco", path, folder, data, coco_file=path), split, report, allow_outside)


def check_folder(root: Path, split: str, report: CheckReport, *, layout: str) -> SplitImages:
    """Check the annotations of a split in another layout than COCO's and report their problems.

    Args:
        layout: name of the layout.

    Raises:
        UserError: if the folder does not have this split, or has no classes.
    """
    handler = _reporting(split, report)
    truth = open_split(root, split, layout=layout, absent_images="keep", on_problem=handler)
    return _check(truth, split, report, allow_outside=False)


def _reporting(split: str, report: CheckReport) -> ProblemHandler:
    """Return a handler that adds the problems of a split to the report."""

    def add(kind: str, file: str, error: UserError) -> None:
        report.add(kind, split, file=file, text=str(error).removeprefix(f"{file}: "))

    return add


def _check(truth: Truth, split: str, report: CheckReport, allow_outside: bool) -> SplitImages:
    data, path = truth.data, truth.path
    images, categories, annotations = (
        RecordList(data.get(name), name, path, split, report) for name in ("images", "categories", "annotations")
    )
    report.checked[split] = {"images": len(images.records), "annotations": len(annotations.records)}
    names = images.texts("file_name")
    images.files = [name or str(path) for name in names]
    image_ids, sizes, category_ids = images.ids("id"), _sizes(images), categories.ids("id")
    rows = annotations.rows_of("image_id", image_ids, kind="unknown image", target="images")
    annotations.files = [images.files[row] if row >= 0 else str(path) for row in rows]
    if truth.ordinals:
        # Name each annotation by its file and its line or object there, because its id is not in the file.
        places = [truth.locate(index) for index in range(len(annotations.records))]
        annotations.files, annotations.names = [file for file, _ in places], [name for _, name in places]
        images.names = [""] * len(images.records)
    annotations.rows_of("category_id", category_ids, kind="unknown category", target="categories")
    images.report_duplicates(image_ids)
    categories.report_duplicates(category_ids)
    annotations.report_odd_ids()
    _check_category_names(categories)
    crowd = annotations.column("iscrowd")
    boxes = _check_boxes(annotations, rows, sizes)
    _check_duplicate_boxes(annotations, rows, boxes)
    if are_fractions(boxes):
        report.add("boxes as fractions", split, file=str(path), text=FRACTIONS)
    if all(crowd) and images.records and categories.records and isinstance(data.get("annotations"), list):
        text = "no annotation is an object; there is nothing to learn or to measure"
        report.add("no objects", split, file=str(path), text=text)
    if truth.layout.startswith("coco"):
        Outlines(annotations.records, rows, sizes, boxes).check(annotations.add)
    for what, count in truth.notes.items():
        report.add("other notation", split, file=str(path), text=f"{what}: {count}")
    if others := describe_passed_over(truth.passed_over):
        report.add("passed over", split, file=str(truth.folder), text=f"files that are not read: {others}")
    found = _image_files(images, names, sizes, truth, allow_outside)
    found.classes = _classes(categories, category_ids)
    found.boxes = _valid_boxes(annotations, boxes, rows, sizes, found.classes)
    return found


def _valid_boxes(
    annotations: RecordList, boxes: np.ndarray, rows: np.ndarray, sizes: np.ndarray, classes: Mapping[int, str]
) -> Boxes | None:
    """Return the boxes of objects with area, clipped to their images; None if there are none.

    Args:
        boxes: xyxy `[N, 4]`, NaN for malformed boxes.
        rows: index of the image of each annotation `[N]`, -1 if unknown.
        sizes: heights and widths of the images `[I, 2]`, 0 if unknown.
        classes: names of the categories by id.
    """
    labels = [record.get("category_id") for record in annotations.records]
    crowds = [bool(record.get("iscrowd")) for record in annotations.records]
    known = [isinstance(key, int) and key in classes for key in labels]
    valid = np.flatnonzero(
        ~np.array(crowds, bool) & np.array(known, bool) & (rows >= 0) & np.isfinite(boxes).all(axis=1)
    )
    limits = sizes[rows[valid]]
    clipped = boxes[valid].clip(0, limits[:, [1, 0, 1, 0]])
    keep = ((clipped[:, 2:] - clipped[:, :2]) > SMALLEST_SIDE).all(axis=1) & (limits > 0).all(axis=1)
    if not keep.any():
        return None
    return Boxes(clipped[keep], limits[keep], [classes[labels[index]] for index in valid[keep].tolist()])


def _classes(categories: RecordList, ids: np.ndarray) -> dict[int, str]:
    """Return the names of the categories by id; {} if an id or a name is malformed or occurs twice."""
    names = [record.get("name") for record in categories.records]
    keys = ids.tolist()
    if None in names or NO_ID in keys or len(set(keys)) < len(keys) or len(set(map(str, names))) < len(names):
        return {}
    return dict(zip(keys, map(str, names), strict=True))


def report_other_categories(train: SplitImages, val: SplitImages, report: CheckReport) -> None:
    """Report category ids whose names differ between the splits. Training refuses such data."""
    if not train.classes or not val.classes:
        return  # their own problems are reported
    for key in sorted(train.classes.keys() | val.classes.keys()):
        here, there = train.classes.get(key, "absent"), val.classes.get(key, "absent")
        if here != there and str(here).casefold() == str(there).casefold():
            text = f"is {here} in {train.split}, {there} in {val.split}; it is the same class"
            report.add("other capitals", val.split, record=f"category {key}", text=text)
        elif here != there:
            text = f"is {here} in {train.split}, {there} in {val.split}"
            report.add("other category", val.split, record=f"category {key}", text=text)


def report_unnamed(splits: Iterable[SplitImages], report: CheckReport) -> None:
    """Report how many images in the folders of COCO splits are named by no record of any of the splits."""
    found = [split for split in splits if split.names]
    named = {os.path.realpath(split.folder / name) for split in found for name in split.names}
    for folder in dict.fromkeys(split.folder for split in found):
        split = next(each.split for each in found if each.folder == folder)
        others = [file for file in list_files(folder, IMAGE_SUFFIXES).files if os.path.realpath(file) not in named]
        if others:
            text = f"{counted(len(others), 'image')} that no record names, such as {others[0].relative_to(folder)}"
            report.add("unnamed image", split, file=str(folder), text=text)


def _check_category_names(categories: RecordList) -> None:
    """Report categories that have the same name, or names that differ only in case or spaces."""
    seen: set[object] = set()
    similar: dict[str, object] = {}
    for index, name in enumerate(categories.column("name")):
        if name is None:
            continue
        plain = "".join(str(name).split()).casefold()
        if name in seen:
            text = f"an earlier category has the same name {reprlib.repr(name)}"
            categories.add(index, "duplicate category name", text)
        elif plain in similar:
            text = f"{reprlib.repr(name)} and {reprlib.repr(similar[plain])} are two classes; are they the same?"
            categories.add(index, "similar class names", text)
        seen.add(name)
        similar.setdefault(plain, name)


def _check_duplicate_boxes(annotations: RecordList, rows: np.ndarray, boxes: np.ndarray) -> None:
    """Report boxes that repeat an earlier box: same image, same category and same four sides."""
    categories = np.array([_as_number(record.get("category_id")) for record in annotations.records])
    keys = np.column_stack([rows, categories, boxes]).astype(np.float64).reshape(-1, 6)
    known = np.flatnonzero((rows >= 0) & np.isfinite(keys).all(axis=1))
    _, first = np.unique(keys[known], axis=0, return_index=True)
    for index in np.setdiff1d(known, known[first]):
        annotations.add(int(index), "duplicate box", "an earlier annotation of this image has the same class and box")


def _as_number(value: object) -> float:
    return float(value) if isinstance(value, int) and abs(value) < LARGEST_NUMBER else np.nan


def _sizes(images: RecordList) -> np.ndarray:
    """Return the heights and widths of images as an array `[I, 2]`, with 0 for malformed values."""
    absent = [("no size", f"`{side}` is missing; it is read from the image file") for side in ("height", "width")]
    columns = [images.column(side, absent=text) for side, text in zip(("height", "width"), absent, strict=True)]
    return np.array([[value or 0 for value in column] for column in columns], np.int64).T


def _check_boxes(annotations: RecordList, rows: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Report boxes without area and boxes that extend beyond their image.

    Args:
        rows: index of the image of each annotation `[N]`, -1 if unknown.
        sizes: heights and widths of the images `[I, 2]`, 0 if unknown.

    Returns:
        The boxes as xyxy `[N, 4]`, NaN for malformed boxes.
    """
    values = annotations.column("bbox")
    boxes = np.array([[np.nan] * 4 if value is None else value for value in values], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    limits = np.zeros((len(rows), 2))  # width and height of the image of each box
    limits[rows >= 0] = sizes[rows[rows >= 0], ::-1]
    known = limits.min(axis=1, initial=np.inf) > 0
    # Clip the boxes to their images, and compare: what is left, and how much is cut off.
    inside = boxes.clip(0, np.where(known[:, None], limits, np.inf)[:, [0, 1, 0, 1]])
    empty = (inside[:, 2:] - inside[:, :2]).min(axis=1, initial=np.inf) <= SMALLEST_SIDE
    beyond = np.abs(inside - boxes).max(axis=1, initial=0)
    for index in np.flatnonzero(empty):
        text = f"the box {values[index]} has no area inside its image{_size_text(limits[index])}"
        annotations.add(int(index), "box without area", text)
    for index in np.flatnonzero(~empty & known & (beyond > BEYOND)):
        text = f"the box {values[index]} extends {beyond[index]:.3g} pixels beyond its image{_size_text(limits[index])}"
        annotations.add(int(index), "box outside its image", text)
    return boxes


def _size_text(limits: np.ndarray) -> str:
    width, height = limits
    return f" of {width:.0f}x{height:.0f} pixels" if width else ""


def _image_files(
    images: RecordList, names: list[str | None], sizes: np.ndarray, truth: Truth, allow_outside: bool
) -> SplitImages:
    """Return the image files without duplicates. Names that lead out of the folder need `allow_outside`."""
    folder, chosen = truth.folder, dict[str, int]()
    finder = ImageFinder(folder)
    for index, name in enumerate(names):
        if name is None:
            continue
        fitting = None if is_file(folder / name) else fitting_file(finder, name)
        if fitting is not None and is_foreign(name):
            images.add(index, "foreign file name", f"is read as {fitting}, which is in the folder")
            name = fitting
        elif name in truth.renamed:
            images.add(index, "foreign file name", f"is named {reprlib.repr(truth.renamed[name])} in the annotations")
        if leads_out(name) and not allow_outside:
            text = "the path leads out of the image folder, so the file is not checked; --allow-outside true allows it"
            images.add(index, "file outside the folder", text)
        elif chosen.setdefault(name, index) != index:
            images.add(index, "duplicate file name", f"{images.name_of(chosen[name])} has the same file name")
    indices = list(chosen.values())

    def inspect(number: int, content: np.ndarray) -> Findings:
        height, width = sizes[indices[number]].tolist()
        return _inspect(content, (height, width))

    return SplitImages(images.split, folder, list(chosen), [images.name_of(index) for index in indices], inspect)


def _inspect(content: np.ndarray, size: tuple[int, int]) -> Findings:
    """Decode an image file as training does, and return its problems.

    Args:
        size: height and width according to the annotations, 0 if unknown.
    """
    image = decode_image(content)
    if image is None:
        return [(UNDECODABLE, DAMAGED)]
    if image.shape[:2] == size or not all(size):
        return []
    stated = f"the annotations say {size[1]}x{size[0]}"
    raw = decode_image(content, apply_exif=False)
    if raw is not None and raw.shape[:2] == size:
        text = f"the image has {_pixels(image)} after its EXIF rotation; {stated}, which is the size before rotation"
        return [("EXIF orientation", text)]
    return [("other size", f"the image has {_pixels(image)}; {stated}")]


def _pixels(image: np.ndarray) -> str:
    return f"{image.shape[1]}x{image.shape[0]} pixels"
