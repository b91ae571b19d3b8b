"""Masks of objects in COCO's formats, checked before a library reads them.

hotcoco and pycocotools do not check masks: a mask of another size has IoU 0 with everything, and a code that ends too
early makes pycocotools run forever.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from hotcoco import mask

from backbones.common.coco import CompressedMask, RunLengths
from backbones.common.outlines import MOST_DIGITS, checked_polygon, checked_runs
from backbones.common.values import LONGEST_SIDE
from backbones.errors import UserError

Size: TypeAlias = tuple[int, int]  # height, width in pixels
AnyMask: TypeAlias = list[list[float]] | RunLengths | CompressedMask
MOST_PIXELS = 2**30  # in an image; OpenCV refuses larger ones
MOST_MASK_PIXELS = 2**28  # of an image; a boundary needs the decoded mask, one byte a pixel
FIRST, FIRST_CONTINUED, LAST = 48, 80, 111  # character codes of digits; digits from FIRST_CONTINUED on have successors
FORMATS = 'polygons [[x1, y1, x2, y2, ...], ...] or an RLE {"size": [height, width], "counts": ...}'


def read_mask(segmentation: object, size: Size, record_name: str) -> AnyMask:
    """Check the mask of one object, and return it as it is.

    Polygons with points far outside the image are returned as a run-length code, because pycocotools needs much time
    and memory for them.

    Args:
        segmentation: value from a JSON file: polygons, or a run-length code with a list or text.
        size: height and width of the image.
        record_name: file and record, for messages.

    Raises:
        UserError: the mask is missing, malformed, or has another size than the image.
    """
    if segmentation is None:
        raise UserError(f"{record_name}: `segmentation` is missing; masks need {FORMATS}, or evaluate boxes only")
    if size[0] * size[1] > MOST_MASK_PIXELS:
        raise UserError(
            f"{record_name}: its image has {size[0]} x {size[1]} pixels, too many for a mask; check `height` and "
            "`width` of the image"
        )
    try:
        farthest = _check(segmentation, size)
    except ValueError as error:
        raise UserError(f"{record_name}: `segmentation` has {error}; write {FORMATS}") from None
    checked: AnyMask = segmentation  # type: ignore[assignment]
    return _compressed(checked, size) if farthest > LONGEST_SIDE else checked


def compress(segmentation: object, size: Size, record_name: str) -> CompressedMask:
    """Check the mask of one object, and return it as a compressed run-length code.

    Raises:
        UserError: as `read_mask` does.
    """
    return _compressed(read_mask(_with_text(segmentation), size, record_name), size)


def compress_all(
    segmentations: Sequence[object], sizes: Sequence[Size], record_name: Callable[[int], str]
) -> list[CompressedMask]:
    """Check many masks, and return them as compressed run-length codes. Codes that are compressed are checked fast.

    Args:
        segmentations: N values from a JSON file or from a model; `counts` may be bytes.
        sizes: height and width of the image of each mask.
        record_name: returns file and record of the mask with a given index, for messages.

    Raises:
        UserError: as `read_mask` does, for the first faulty mask.
    """
    given = [_with_text(each) for each in segmentations]
    plain = _plain_codes(given, sizes)
    if plain is not None:
        return plain
    return [
        compress(each, size, record_name(index)) for index, (each, size) in enumerate(zip(given, sizes, strict=True))
    ]


def areas(masks: Sequence[CompressedMask]) -> np.ndarray:
    """Return the areas `[N]` of masks in pixels."""
    return np.array(mask.area(as_dicts(masks)), dtype=np.float64) if masks else np.empty(0)


def boxes(masks: Sequence[CompressedMask]) -> np.ndarray:
    """Return the boxes `[N, 4]` (x, y, width, height) of masks; four zeros for an empty mask."""
    return np.asarray(mask.toBbox(as_dicts(masks))).reshape(-1, 4) if masks else np.empty((0, 4))


def as_dicts(masks: Sequence[CompressedMask]) -> list[dict[str, Any]]:
    """Return masks as the plain dicts that hotcoco's type hints ask for."""
    return [{**each} for each in masks]


def mask_area(segmentation: object, size: tuple[float, float], box: Sequence[float]) -> float:
    """Return the area of an object's mask in pixels, or the area of its box if it has no usable mask.

    Args:
        segmentation: value from a JSON file, which may be malformed.
        size: width and height of the image.
        box: x, y, width, height.
    """
    width, height = size
    try:
        if isinstance(segmentation, list) and segmentation and 0 < width * height <= MOST_PIXELS:
            polygons = [checked_polygon(polygon).ravel().tolist() for polygon in segmentation]
            return float(mask.area(mask.merge(mask.frPyObjects(polygons, int(height), int(width)))))
        if isinstance(segmentation, dict):
            return float(mask.area({name: segmentation[name] for name in ("size", "counts")}))
    except (KeyError, TypeError, ValueError, OverflowError):
        pass  # the mask cannot be decoded: use the box
    return box[2] * box[3]


def _check(segmentation: object, size: Size) -> float:
    """Return the largest coordinate of a mask's polygons; 0 for a run-length code.

    Raises:
        ValueError: the mask is malformed; the text says how.
    """
    if isinstance(segmentation, Mapping):
        checked_runs(segmentation, size)
        return 0.0
    if not isinstance(segmentation, list):
        raise ValueError(f"the value {reprlib.repr(segmentation)}")
    if not segmentation:
        raise ValueError("no polygon")
    return max(float(np.abs(checked_polygon(polygon)).max()) for polygon in segmentation)


def _compressed(checked: AnyMask, size: Size) -> CompressedMask:
    if isinstance(checked, dict) and isinstance(checked["counts"], str):
        return {"size": list(size), "counts": checked["counts"]}
    if isinstance(checked, dict):
        code = mask.frPyObjects({**checked}, *size)
    else:
        code = mask.merge(mask.frPyObjects(checked, *size))
    return {"size": list(size), "counts": code["counts"].decode()}


def _with_text(segmentation: object) -> object:
    """Return a run-length code whose `counts` are bytes with text instead; any other value as it is."""
    if isinstance(segmentation, dict) and isinstance(segmentation.get("counts"), bytes):
        return {"size": list(segmentation.get("size", ())), "counts": segmentation["counts"].decode("latin-1")}
    return segmentation


def _plain_codes(segmentations: Sequence[object], sizes: Sequence[Size]) -> list[CompressedMask] | None:
    """Return masks as they are if all of them are correct compressed run-length codes with text; else None."""
    if any(height * width > MOST_MASK_PIXELS for height, width in set(sizes)):
        return None
    for each, (height, width) in zip(segmentations, sizes, strict=True):
        if not isinstance(each, dict) or each.get("size") != [height, width] or type(each.get("counts")) is not str:
            return None
    codes: list[CompressedMask] = segmentations  # type: ignore[assignment]
    texts = [each["counts"].encode("latin-1", "replace") for each in codes]
    return codes if are_complete(texts, [height * width for height, width in sizes]) else None


def are_complete(codes: Sequence[bytes], pixels: Sequence[int]) -> bool:
    """Return whether compressed run-length codes consist of digits, and their runs fill their masks exactly.

    Args:
        codes: the `counts` of N masks.
        pixels: number of pixels of each mask.
    """
    if not all(codes):
        return False
    text = np.frombuffer(b"".join(codes), np.uint8)
    if len(text) and (text.min() < FIRST or text.max() > LAST):
        return False
    continued = text >= FIRST_CONTINUED
    last = np.cumsum([len(code) for code in codes], dtype=np.int64) - 1
    if continued[last].any() or _longest_is(continued, MOST_DIGITS):
        return False
    return _fill(codes, pixels)


def _longest_is(continued: np.ndarray, length: int) -> bool:
    """Return whether `length` successive values are true."""
    together = continued
    for _ in range(length - 1):
        together = together[:-1] & continued[len(continued) - len(together) + 1 :]
    return bool(together.any())


def _fill(codes: Sequence[bytes], pixels: Sequence[int]) -> bool:
    """Return whether the runs of each code add up to its number of pixels.

    hotcoco refuses negative runs and runs that exceed a mask, and then names their sum. It does not refuse a code that
    is too short, so give it one pixel less. If another version words its refusal otherwise, the codes count as
    doubtful, and `checked_runs` decodes them.
    """
    forms = {count: ([count - 1, 1], f" {count} exceed") for count in set(pixels)}
    for code, count in zip(codes, pixels, strict=True):
        size, refusal = forms[count]
        try:
            mask.area({"size": size, "counts": code})
        except ValueError as error:
            if refusal not in error.args[0]:
                return False
        else:
            return False
    return True
