"""Finds a constant by which the ids of detections differ from those of the ground truth."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import numpy as np

from tools.evaluation.overlaps import iou, pairs
from tools.evaluation.reading import CATEGORY, IMAGE, SCORE, H, X

SAME_PLACE = 0.5  # IoU of a detection and the object that it shows
MOST = 0.5  # a shift is reported if more than this fraction of the detections fits it
FEWEST = 3  # detections at the place of an object, and ids, from which a shift is concluded


def fitting_shift(given: Collection[int], known: Collection[int]) -> int | None:
    """Return the smallest number that, added to each id in `given`, gives an id in `known`; None if implausible."""
    known = set(known)
    first = min(given)
    fits = [key - first for key in known if all(other + key - first in known for other in given)]
    shift = min(fits, key=abs, default=None)
    # Few ids fit many shifts by chance; a shift by one is the usual mistake.
    return shift if shift is not None and (len(given) >= FEWEST or abs(shift) == 1) else None


def category_hint(truth: np.ndarray, detections: np.ndarray, categories: Sequence[int]) -> str | None:
    """Return a hint on how to change the detections' category ids so that they match the objects they overlap.

    Args:
        categories: ids of the ground truth's categories, ascending.
        truth: rows `[G, 7]` of image id, x, y, width, height, iscrowd, category id.
        detections: rows `[N, 7]` of image id, x, y, width, height, score, category id.

    Returns:
        The hint, or None if the ids match already or no change makes them match.
    """
    given, there = _categories_by_place(truth[truth[:, SCORE] == 0], detections)
    if len(given) < FEWEST or (given == there).mean() > MOST:
        return None
    text = f"{(given != there).sum()} of {len(given)} detections that overlap an object have another category id"
    shifts, counts = np.unique(there - given, return_counts=True)
    fits = there - given == shifts[counts.argmax()]
    # A detector that has learned nothing gives one category to all objects; that is no shift.
    if fits.mean() > MOST and len(np.unique(given[fits])) > 1:
        return f"{text}; {_addition(int(shifts[counts.argmax()]))} each of their category ids would fit"
    # Ids with gaps, such as COCO's 1..90, are often replaced by positions in the list of categories.
    positions = np.searchsorted(categories, there)
    for first in (0, 1):
        fits = positions + first == given
        if fits.mean() > MOST and len(np.unique(given[fits])) > 1:
            return f"{text}; their ids are positions in the list of categories, counted from {first}; write its ids"
    return None


def unknown_hint(given: Collection[int], known: Collection[int]) -> str:
    """Return a hint with the number to add to each id so that the ground truth has it; "" if there is none."""
    shift = fitting_shift(given, known)
    return f"; {_addition(shift)} each id would fit" if shift else ""


def _addition(shift: int) -> str:
    return f"adding {shift} to" if shift > 0 else f"subtracting {-shift} from"


def some(ids: Iterable[float] | np.ndarray) -> str:
    """Return the first few distinct ids as text, such as "3, 7, 12, ..."."""
    distinct = np.unique(np.asarray(list(ids))).astype(np.int64)
    return ", ".join(str(key) for key in distinct[:3]) + (", ..." if len(distinct) > 3 else "") or "none"


def _categories_by_place(truth: np.ndarray, detections: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pair detections with the objects of any category that they overlap; return the category ids of both."""
    given, there = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for found, objects in pairs(detections, truth, [IMAGE]):
        overlaps = iou(found[:, X : H + 1], objects[:, X : H + 1])
        hits = overlaps.max(axis=1) >= SAME_PLACE
        given.append(found[hits, CATEGORY].astype(np.int64))
        there.append(objects[overlaps.argmax(axis=1)[hits], CATEGORY].astype(np.int64))
    return np.concatenate(given), np.concatenate(there)
