"""Well-formed files of COCO ground truth and results, which hotcoco parses by itself, many times faster than Python.

The checks search the raw text, which takes milliseconds. A file that might be faulty is left to `reading`, whose
errors name the faulty record.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from backbones.errors import UserError
from tools.evaluation.masks import MOST_MASK_PIXELS, Size, are_complete, areas, compress_all
from tools.evaluation.reading import MOST_EXACT, RESULT_FIELDS, read_bytes

if TYPE_CHECKING:
    from hotcoco import COCO

# These fields change how an engine treats a results file, so files that contain one are parsed record by record.
FOREIGN_RESULT_FIELDS = ("area", "segmentation", "iscrowd", "id", "ignore")
# Values that are no finite numbers. Compressed masks contain such words by chance, so look at the neighbours as well.
# The letter of each word is rare, and one byte is found faster than a word.
ODD_NUMBERS = {
    letter: re.compile(word + rb"[,\]}\s]") for letter, word in ((b"N", b"NaN"), (b"I", b"Infinity"), (b"u", b"null"))
}
MASK = re.compile(rb'"size":\s*\[(\d+),\s*(\d+)\],\s*"counts":\s*"([^"]*)"')
IMAGE_ID = re.compile(rb'"image_id":\s*(\d+)')
BEFORE_VALUES = b":[, \t\r\n-"


def truth_is_plain(path: Path, gt: COCO, *, masks: bool = False) -> bool:
    """Return whether the file that hotcoco parsed as `gt` has all fields, so that `read_truth` is not needed.

    The test counts field names in the raw text, which takes milliseconds; parsing takes seconds. If a file might lack a
    field, `read_truth` reads it; the errors of `read_truth` name the faulty record.

    Args:
        masks: whether each annotation needs a correct mask.
    """
    raw = read_bytes(path)
    ids = gt.get_ann_ids()
    images, categories = gt.get_img_ids(), gt.get_cat_ids()
    fields = ("area", "iscrowd", "bbox", "category_id")
    return (
        all(_count(raw, name) == len(ids) for name in fields)
        and _count(raw, "ignore") == 0
        and not _has_odd_number(raw)
        and all(f'"{key}"'.encode() in raw for key in ("images", "annotations", "categories"))
        and len(set(ids)) == len(ids)
        and 0 not in ids
        and max([*ids, *images, *categories], default=0) < MOST_EXACT
        and len(set(images)) == len(images)
        and len(set(categories)) == len(categories)
        and _all_within(gt, ids, images, categories)
        and (not masks or _outlines_are_plain(raw, gt, ids))
    )


def load_plain_results(path: Path, gt: COCO, *, masks: bool = False) -> COCO | None:
    """Parse a results file with hotcoco; return None if the file must be checked record by record.

    Args:
        masks: whether each result needs a compressed mask. The areas of the results are then those of their masks.
    """
    raw = read_bytes(path)
    count = _count(raw, "score")
    has_boxes = b'"bbox"' in raw
    if not _results_are_plain(raw, count, masks=masks) or (masks and not _masks_are_plain(raw, gt, count)):
        return None
    del raw
    try:
        with native_stderr_silenced():  # hotcoco reports unknown categories on stderr
            dt = gt.load_res(str(path))
    except (ValueError, OSError):
        return None
    if dt.stats()["annotation_count"] != count or not _images_are_known(dt, gt, count):
        return None
    ids = dt.get_ann_ids() if masks and has_boxes else []
    if ids:  # hotcoco computed the areas from the boxes
        dt.update_anns(ids=ids, area=areas([record["segmentation"] for record in dt.load_anns(ids)]))
    return dt


def _results_are_plain(raw: bytes, count: int, *, masks: bool) -> bool:
    """Return whether results have a box or mask each, no foreign fields, and finite numbers, judged by their text.

    hotcoco itself refuses results without `image_id` or `category_id`.
    """
    shape = "segmentation" if masks else "bbox"
    return (
        raw[:64].lstrip()[:1] == b"["
        and count > 0
        and _count(raw, shape) == count
        and (not masks or _count(raw, "bbox") in (0, count))
        and not _has_foreign_field(raw, count, shape)
        and not _has_odd_number(raw)
    )


def _has_foreign_field(raw: bytes, count: int, shape: str) -> bool:
    """Return whether results have a field that changes how an engine treats them.

    Results with the quotes of `RESULT_FIELDS` have no other field, which is faster than to search for each.

    Args:
        shape: "bbox", or "segmentation" if each result has a mask.
    """
    if shape == "bbox" and raw.count(b'"') == 2 * len(RESULT_FIELDS) * count:
        return False
    return any(_count(raw, name) for name in FOREIGN_RESULT_FIELDS if name != shape)


def _images_are_known(dt: COCO, gt: COCO, count: int) -> bool:
    """Return whether the images of all `count` results are in the ground truth."""
    images = gt.get_img_ids()
    return not dt.load_warnings or (bool(images) and len(dt.get_ann_ids(img_ids=images)) == count)


def _masks_are_plain(raw: bytes, gt: COCO, count: int) -> bool:
    """Return whether `count` results have correct compressed masks of the size of their image."""
    raw = raw.replace(b"\\\\", b"\\")  # JSON escapes the digit \
    found, images = MASK.findall(raw), IMAGE_ID.findall(raw)
    sizes = _sizes(gt)
    if sizes is None or not len(found) == len(images) == count:
        return False
    as_text = {b"%d" % key: (b"%d" % height, b"%d" % width) for key, (height, width) in sizes.items()}
    heights, widths, codes = zip(*found, strict=True)
    if any(
        as_text.get(key) != (height, width) for key, height, width in set(zip(images, heights, widths, strict=True))
    ):
        return False
    pixels = {key: height * width for key, (height, width) in zip(as_text, sizes.values(), strict=True)}
    return are_complete(codes, [pixels[key] for key in images])


def _outlines_are_plain(raw: bytes, gt: COCO, ids: list[int]) -> bool:
    """Return whether each annotation of ground truth has a correct mask, and each image a size."""
    sizes = _sizes(gt)
    return sizes is not None and _polygons_are_plain(raw, len(ids)) and _codes_are_plain(raw, gt, ids, sizes)


def _polygons_are_plain(raw: bytes, annotations: int) -> bool:
    """Return whether the innermost lists of numbers in ground truth are boxes, polygons, or belong to an RLE.

    A polygon has an even number of values, at least six. The ground truth has `annotations` boxes of four values.
    """
    text = np.frombuffer(raw, np.uint8)
    brackets = np.flatnonzero((text == ord("[")) | (text == ord("]")))
    opens = text[brackets] == ord("[")
    innermost = np.flatnonzero(opens[:-1] & ~opens[1:])
    starts, ends = brackets[innermost], brackets[innermost + 1]
    of_numbers = text[starts + 1] != ord("{")  # the others are lists of records
    starts, ends = starts[of_numbers], ends[of_numbers]
    commas = np.flatnonzero(text == ord(","))
    values = np.searchsorted(commas, ends) - np.searchsorted(commas, starts) + 1
    is_polygon = (values >= 6) & (values % 2 == 0)
    others = np.flatnonzero(~is_polygon & (values != 4)).tolist()
    before = [raw[max(0, starts[index] - 16) : starts[index]].rstrip() for index in others]
    return (
        int((values == 4).sum()) == annotations == _count(raw, "segmentation")
        and len(others) <= 2 * _count(raw, "counts")
        and all(text.endswith((b'"counts":', b'"size":')) for text in before)
    )


def _codes_are_plain(raw: bytes, gt: COCO, ids: list[int], sizes: Mapping[int, Size]) -> bool:
    """Return whether all run-length codes of ground truth are correct."""
    if not _count(raw, "counts"):
        return True
    crowds = gt.get_ann_ids(iscrowd=True)  # in COCO only crowds have codes, so try them first
    chosen = crowds if _count(raw, "counts") == len(crowds) else ids
    records = [record for record in gt.load_anns(chosen) if isinstance(record["segmentation"], dict)]
    if len(records) != _count(raw, "counts"):
        return False
    try:
        compress_all([each["segmentation"] for each in records], [sizes[each["image_id"]] for each in records], str)
    except UserError:
        return False
    return True


def _sizes(gt: COCO) -> dict[int, Size] | None:
    """Return height and width of the images by image id; None if an image lacks them or is too large for masks."""
    found = {}
    for record in gt.load_imgs(gt.get_img_ids()):
        height, width = record.get("height"), record.get("width")
        if not (isinstance(height, int) and isinstance(width, int) and 0 < height * width <= MOST_MASK_PIXELS):
            return None
        found[record["id"]] = (height, width)
    return found


@contextmanager
def native_stderr_silenced() -> Iterator[None]:
    """Context manager that discards what compiled code writes to file descriptor 2. Exceptions are raised as usual."""
    sys.stderr.flush()
    kept, sink = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(sink)


def _count(raw: bytes, name: str) -> int:
    return raw.count(f'"{name}"'.encode())


def _has_odd_number(raw: bytes) -> bool:
    return any(
        raw[max(0, found.start() - 1)] in BEFORE_VALUES
        for letter, word in ODD_NUMBERS.items()
        if letter in raw
        for found in word.finditer(raw)
    )


def _all_within(gt: COCO, ids: list[int], images: list[int], categories: list[int]) -> bool:
    """Return whether each of the annotations `ids` has one of `images` and one of `categories`.

    Empty lists are handled first, because hotcoco reads an empty list as "no filter".
    """
    if not images or not categories:
        return not ids
    return len(gt.get_ann_ids(img_ids=images, cat_ids=categories)) == len(ids)
