"""Splits images into training and validation images, and stores the split by file names."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from backbones.common.near_equal import near_groups
from backbones.common.split_options import NEAR_EQUAL, SplitOptions
from backbones.common.stratified import ALWAYS_TRAINED, ItemClasses, divide
from backbones.common.unions import Unions
from backbones.errors import UserError, first_names

SPLITS_FILE = "splits.json"  # in a run folder
Side = Literal["train", "val"]


@dataclass(frozen=True)
class DataSplit:
    """A split of images into training and validation images.

    Attributes:
        options: the options that made the split.
        train, val: file names of the images, sorted.
        groups: number of groups that were kept together; None without groups.
        notes: what a user should know about the split.
    """

    options: SplitOptions
    train: tuple[str, ...]
    val: tuple[str, ...]
    groups: int | None = None
    notes: tuple[str, ...] = field(default=())

    def rows(self, names: Sequence[str], side: Side) -> np.ndarray:
        """Return the indices of the images of one side among `names`, ascending.

        Raises:
            UserError: `names` lacks an image of this side.
        """
        wanted = set(self.train if side == "train" else self.val)
        rows = np.array([row for row, name in enumerate(names) if name in wanted], np.int64)
        absent = sorted(wanted.difference(names))
        if absent:
            raise UserError(
                f"{SPLITS_FILE}: lists {first_names(absent, 3)} as {side} images, which the data do not have; use the "
                "data of that run"
            )
        return rows

    def describe(self) -> str:
        """Return the split as a line of the plan."""
        options, total = self.options, len(self.train) + len(self.val)
        how = f"fold {options.fold} of {options.folds}" if options.folds else f"--val-fraction {options.val_fraction}"
        parts = [f"{how}, seed {options.split_seed}: {len(self.val)} of {total} images validate"]
        parts[0] += f" ({len(self.val) / total:.1%})"
        if self.groups is not None:
            parts.append(f"{self.groups} groups by {options.group_by}")
        return "; ".join([*parts, *self.notes])

    def as_json(self) -> dict[str, object]:
        """Return the content of splits.json."""
        return {**asdict(self), "train": list(self.train), "val": list(self.val), "notes": list(self.notes)}

    @classmethod
    def read(cls, path: Path) -> DataSplit:
        """Read splits.json.

        Raises:
            UserError: the file cannot be read, or is malformed.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            lists = {name: tuple(map(str, values[name])) for name in ("train", "val", "notes")}
            return cls(SplitOptions(**values["options"]), groups=values["groups"], **lists)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path}: is not the split of a run ({error}); name the run folder it was made in"
            ) from None


def relative_names(files: Sequence[Path]) -> list[str]:
    """Return the paths of files relative to the nearest folder that contains them all, with slashes."""
    folder = os.path.commonpath([file.parent for file in files])
    return [Path(os.path.relpath(file, folder)).as_posix() for file in files]


def split_images(
    options: SplitOptions,
    names: Sequence[str],
    shown: ItemClasses,
    *,
    class_names: Sequence[str],
    hashes: Callable[[], Sequence[int | None]],
) -> DataSplit:
    """Split images by the options. The result does not depend on the order of the images.

    Args:
        names: file names of the images.
        shown: the classes that each image shows.
        class_names: by number.
        hashes: returns the perceptual hash of each image, None for an image that has none.

    Raises:
        UserError: no image is left to validate on, or --group-by fits no file name.
    """
    groups, notes = _groups(options, names, hashes)
    folds = options.folds
    fractions = [1 / folds] * folds if folds else [1 - (options.val_fraction or 0), options.val_fraction or 0]
    parts = divide(names, shown, fractions=fractions, groups=groups, seed=options.split_seed, folds=folds is not None)
    val = parts == (options.fold if folds else 1)
    if not val.any():
        way = "fewer folds" if folds else "a larger part"
        raise UserError(
            f"{options.option}: leaves no image to validate on, because every class must be trained on, and the data "
            f"have {len(names)} images in {len(set(names if groups is None else groups.tolist()))} groups; use "
            f"{way}, or other groups"
        )
    notes += _unvalidated(shown, val, class_names)
    if fixed := int((parts == ALWAYS_TRAINED).sum()):
        notes.append(f"images trained on in every fold, because they alone show some class: {fixed}")
    train, validate = (tuple(sorted({names[row] for row in np.flatnonzero(side).tolist()})) for side in (~val, val))
    count = None if groups is None else len(np.unique(groups))
    return DataSplit(options, train, validate, count, tuple(notes))


def _groups(
    options: SplitOptions, names: Sequence[str], hashes: Callable[[], Sequence[int | None]]
) -> tuple[np.ndarray | None, list[str]]:
    """Return the group of each image `[N]`, None without --group-by, and notes for the plan."""
    if options.group_by is None:
        return None, []
    if options.group_by == NEAR_EQUAL:
        found = hashes()
        readable = np.array([row for row, value in enumerate(found) if value is not None], np.int64)
        groups = np.arange(len(names))
        groups[readable] = readable[near_groups(np.array([found[row] for row in readable], np.uint64))]
        return _with_same_names(groups, names), []
    return _groups_by_name(options.group_by, names)


def _groups_by_name(pattern: str, names: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    matches = [re.search(pattern, name) for name in names]
    others = [name for name, match in zip(names, matches, strict=True) if match is None]
    if len(others) == len(names):
        raise UserError(f"--group-by {pattern}: matches no file name, such as {names[0]}; change the expression")
    keys = [
        f"\0{name}" if match is None else (match[1] if match.re.groups else match[0]) or ""
        for name, match in zip(names, matches, strict=True)
    ]
    if not others:
        return np.unique(keys, return_inverse=True)[1], []
    note = (
        f"images that --group-by does not match, such as {others[0]}, and that are groups of their own: {len(others)}"
    )
    return np.unique(keys, return_inverse=True)[1], [note]


def _with_same_names(groups: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Unite the groups of images that have the same file name."""
    unions, first = Unions(len(names)), dict[str, int]()
    for row, (name, group) in enumerate(zip(names, groups.tolist(), strict=True)):
        unions.connect(row, int(group))
        unions.connect(row, first.setdefault(name, row))
    return unions.groups()


def _unvalidated(shown: ItemClasses, val: np.ndarray, class_names: Sequence[str]) -> list[str]:
    """Return a note on the classes that no validation image shows."""
    present, validated = np.unique(shown.classes), np.unique(shown.classes[val[shown.items]])
    absent = [class_names[label] for label in np.setdiff1d(present, validated)]
    return [f"no validation image shows {first_names(absent)}"] if absent else []
