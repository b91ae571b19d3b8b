"""Finds the image folder of a data set whose annotation file lies beside the images or above them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from backbones.common.listing import files_of, is_hidden, subfolders, visible
from backbones.common.suffixes import IMAGE_SUFFIXES
from backbones.errors import UserError

FOLDERS = ("images", "data", "JPEGImages", "imgs", "img", "Images")
USUAL = (*map(str.lower, FOLDERS), "annotations", "labels", "annots", "masks", "xml", "xmls", "json")
UNSPLIT = "train"  # the split of a data set that is not split
SPLIT_WORDS = ("train", "training", "val", "valid", "validation", "dev", "test", "testing")


def has_images(folder: Path) -> bool:
    """Return whether a folder directly holds an image file."""
    return first_of(folder, IMAGE_SUFFIXES) is not None


def has_images_below(folder: Path) -> bool:
    """Return whether a folder holds an image file, or folders, which may hold some."""
    return has_images(folder) or bool(subfolders(folder))


def first_of(folder: Path, suffixes: Iterable[str]) -> Path | None:
    """Return a file in a folder, without its subfolders, that has one of the suffixes; None if there is none."""
    wanted = tuple(suffixes)
    try:
        with os.scandir(folder) as entries:
            found = (e.name for e in entries if e.name.lower().endswith(wanted) and not is_hidden(e.name))
            name = next(found, None)
    except OSError:
        return None
    return None if name is None else folder / name


def files_below(folder: Path, suffix: str) -> list[Path]:
    """Return the visible files with a suffix in a folder and its subfolders, sorted.

    Subfolders are left out if one of them is that of a split, or has a usual name for images or annotations, as in
    layouts that do not keep annotations beside their images; or if the folder holds nothing but one subfolder.
    """
    found, names = files_of(folder, suffix), [each.name.lower() for each in subfolders(folder)]
    other = any(name in USUAL or name.startswith(("train", "val", "test")) for name in names)
    if not names or other or (len(names) == 1 and not found and folder.name.lower() not in SPLIT_WORDS):
        return found
    return sorted(visible(folder, f"**/*{suffix}"))


def image_folder(root: Path, *names: str) -> Path:
    """Return the folder of the images: the first of `names` and of the usual names that exists in `root`, or `root`."""
    return next((root / name for name in (*names, *FOLDERS) if (root / name).is_dir()), root)


def folders_of_splits(root: Path) -> list[Path]:
    """Return the folders in `root` that have the name of a split, sorted."""
    return [folder for folder in subfolders(root) if folder.name.lower() in SPLIT_WORDS]


def require_split(split: str, splits: Iterable[str], root: Path) -> None:
    """Check that a data set has a split.

    Raises:
        UserError: it has not.
    """
    known = list(splits)
    if split not in known:
        raise UserError(f"--data {root}: has no split {split}; name one of its splits ({', '.join(known) or 'none'})")
