"""Matches detections with ground truth by the names of images and categories, if their ids differ.

`tools/predict.py` numbers its images 1..N and writes their names to `images.json`. Ground truth has other ids.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from backbones.errors import UserError
from tools.evaluation.reading import CATEGORY, IMAGE, read_bytes

UNKNOWN = -1  # id of a category that the ground truth does not have


@dataclass(frozen=True)
class IdNames:
    """File names of images by image id, and names of categories by category id."""

    images: Mapping[int, str]
    categories: Mapping[int, str]

    @classmethod
    def of(cls, data: object) -> IdNames:
        """Return the names in the content of a COCO file. Records without an id or a name are ignored."""
        lists = data if isinstance(data, dict) else {}
        return cls(_names(lists.get("images"), "file_name"), _names(lists.get("categories"), "name"))

    @classmethod
    def read(cls, path: Path) -> IdNames:
        """Return the names in a JSON file; empty if the content is not JSON.

        Raises:
            UserError: the file is missing or unreadable.
        """
        content = read_bytes(path)
        try:
            return cls.of(json.loads(content))
        except (ValueError, RecursionError):
            return cls({}, {})


def renumber(rows: np.ndarray, given: IdNames, truth: IdNames, path: Path) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Give detections the image and category ids that the ground truth uses for the same names.

    Args:
        rows: detections `[N, 7]`.
        given: names of the ids in `rows`.
        truth: names of the ids of the ground truth.
        path: file of `given`, for messages.

    Returns:
        The rows on images that the ground truth has by name, their indices in `rows`, and notes on what was changed or
        left out.

    Raises:
        UserError: no image can be matched, `given` lacks an image of `rows`, or two images match the same name.
    """
    notes: list[str] = []
    kept = np.arange(len(rows))
    if given.images and truth.images:
        rows, kept = _renumber_images(rows, given.images, truth.images, path, notes)
    if given.categories and truth.categories:
        rows = _renumber_categories(rows, given.categories, truth.categories, path, notes)
    return rows, kept, notes


def _renumber_images(
    rows: np.ndarray, given: Mapping[int, str], truth: Mapping[int, str], path: Path, notes: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Give detections the ids of the images with the same names. Return them, and their indices in `rows`."""
    unlisted = set(np.unique(rows[:, IMAGE]).astype(np.int64).tolist()) - given.keys()
    if unlisted:
        raise UserError(
            f"{path}: does not list image {min(unlisted)}, which the detections contain; add the image to "
            "this file, or delete the file so that images are matched by id"
        )
    matched = match_names(given, truth)
    if not matched and len(rows):
        one, other = next(iter(given.values())), next(iter(truth.values()))
        raise UserError(
            f"{path}: no file name in it occurs in the ground truth (for example {one} here, {other} "
            "there); name the annotations of these images, or delete this file so that images are "
            "matched by id"
        )
    _refuse_shared(matched, given, path)
    known = np.isin(rows[:, IMAGE], list(matched))
    if any(key != number for key, number in matched.items()):
        notes.append(f"{len(matched)} images were matched by file name, because their ids differ ({path.name})")
    if len(matched) < len(given):
        what = f"{len(given) - len(matched)} of {len(given)} images have no file name of the ground truth"
        notes.append(f"{what}; their {int((~known).sum())} detections are left out ({path.name})")
    return _replaced(rows[known], IMAGE, matched), np.flatnonzero(known)


def _renumber_categories(
    rows: np.ndarray, given: Mapping[int, str], truth: Mapping[int, str], path: Path, notes: list[str]
) -> np.ndarray:
    """Give detections the category ids that the ground truth uses for the same names; `UNKNOWN` for other names."""
    ids = {name: key for key, name in truth.items()}
    if len(ids) < len(truth) or all(truth.get(key) == name for key, name in given.items()):
        return rows
    matched = {key: ids.get(name, UNKNOWN) for key, name in given.items()}
    absent = [name for name in given.values() if name not in ids]
    text = f"{len(given) - len(absent)} categories were matched by name, because their ids differ ({path.name})"
    notes.append(text + (f"; the ground truth has no category {', '.join(absent[:5])}" if absent else ""))
    return _replaced(rows, CATEGORY, matched)


def match_names(given: Mapping[int, str], truth: Mapping[int, str]) -> dict[int, int]:
    """Return a dict from ids in `given` to ids in `truth` whose file names match.

    Names match by the longest common end of their paths: `/data/val/a/1.jpg` matches `a/1.jpg`. It also matches `1.jpg`
    if that is the only file of this name.
    """
    exact = {_path(name): key for key, name in truth.items()}
    alone = _unique((path.name, key) for path, key in exact.items())
    matched = {}
    for key, name in given.items():
        path = _path(name)
        ends = (PurePosixPath(*path.parts[start:]) for start in range(len(path.parts)))
        found = next((exact[end] for end in ends if end in exact), alone.get(path.name))
        if found is not None:
            matched[key] = found
    return matched


def _path(name: str) -> PurePosixPath:
    return PurePosixPath(name.replace("\\", "/"))


def _unique(pairs: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Return as a dict the pairs whose first value occurs only once."""
    found: dict[str, list[int]] = {}
    for name, key in pairs:
        found.setdefault(name, []).append(key)
    return {name: keys[0] for name, keys in found.items() if len(keys) == 1}


def _refuse_shared(matched: Mapping[int, int], given: Mapping[int, str], path: Path) -> None:
    owners: dict[int, int] = {}
    for key, number in matched.items():
        if number in owners:
            raise UserError(
                f"{path}: {given[owners[number]]} and {given[key]} both fit image {number} of the ground truth; "
                "predict each image once"
            )
        owners[number] = key


def _replaced(rows: np.ndarray, column: int, ids: Mapping[int, int]) -> np.ndarray:
    """Return a copy of `rows` whose ids in `column` are replaced as `ids` says; `UNKNOWN` for ids that `ids` lacks."""
    rows = rows.copy()
    rows[:, column] = [ids.get(int(key), UNKNOWN) for key in rows[:, column]]
    return rows


def _names(records: object, field: str) -> dict[int, str]:
    found = {}
    for record in records if isinstance(records, list) else ():
        key, name = (record.get("id"), record.get(field)) if isinstance(record, dict) else (None, None)
        if isinstance(key, int) and isinstance(name, str):
            found[key] = name
    return found
