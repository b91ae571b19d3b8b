"""Reads the classes of images from their paths, by a regular expression."""

from __future__ import annotations

import re
from pathlib import Path

from backbones.common.datasets import existing_split
from backbones.common.listing import list_files
from backbones.common.suffixes import PIXEL_SUFFIXES
from backbones.errors import UserError
from classification.data.listing import ALL, ClassListing, NoSplitError


def compiled(pattern: str) -> re.Pattern[str]:
    """Return the compiled pattern of `--label-from`.

    Raises:
        UserError: it is no regular expression, or has no group.
    """
    try:
        found = re.compile(pattern)
    except re.error as error:
        raise UserError(f"--label-from {pattern}: is no regular expression ({error}); fix it") from None
    if not found.groups:
        raise UserError(f"--label-from {pattern}: has no group; put the class into brackets, such as ^([a-z]+)_")
    return found


def read(root: Path, split: str, pattern: str) -> ClassListing:
    """List the images of a split; the first group of the pattern in an image's path is its class.

    The path is relative to the folder of the split. A data set without such folders has one split: all its images.

    Args:
        root: folder of the data set.
        split: name of the split; a data set with one split accepts "train" and "all".

    Raises:
        UserError: there is no such split, or the pattern does not fit an image.
    """
    expression = compiled(pattern)
    folder = root / existing_split(split, lambda name: (root / name).is_dir())
    if not folder.is_dir() and split in (ALL, "train"):
        folder = root
    if not folder.is_dir():
        raise NoSplitError(
            f"--data {root}: has no folder {split}/; divide the images with --val-fraction, or name other splits with "
            "--train-split and --val-split"
        )
    found = list_files(folder, PIXEL_SUFFIXES)
    paths = [file.relative_to(folder).as_posix() for file in found.files]
    labels = [match[1] if (match := expression.search(path)) else None for path in paths]
    strange = [path for path, label in zip(paths, labels, strict=True) if not label]
    if strange:
        raise UserError(
            f"--label-from {pattern}: gives no class to {len(strange)} of {len(paths)} images of {folder}, such as "
            f"{strange[0]}; change the expression, or move these images away"
        )
    pairs = [(path, label) for path, label in zip(paths, labels, strict=True) if label]
    return ClassListing.of(folder, pairs, where=str(folder))
