"""What a name in somebody's data set may be before it becomes a path."""

from __future__ import annotations

import os
from pathlib import Path, PurePath
from typing import Any

from backbones.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
ARRAY_SUFFIX = ".npy"  # an array [H, W] or [H, W, bands], which classifiers read
PIXEL_SUFFIXES = (*IMAGE_SUFFIXES, ARRAY_SUFFIX)
LONGEST_NAME = 4096  # bytes that a path may have on Linux; an array of names is as wide as its longest


def is_file_name(value: Any) -> bool:
    """Whether a value can name a file."""
    try:
        return isinstance(value, str) and 0 < len(os.fsencode(value)) < LONGEST_NAME and "\0" not in value
    except UnicodeEncodeError:  # half of a pair of surrogates
        return False


def is_text(value: Any) -> bool:
    """Whether a value is a text that a file can hold; JSON can spell half of a pair of surrogates, which none can."""
    return isinstance(value, str) and value.encode(errors="ignore").decode() == value


def leads_out(name: str) -> bool:
    """Whether a file name may leave its folder by its text; links may point where their owner likes.

    Any `..` counts: behind a link it leads elsewhere than its text says.
    """
    return os.path.isabs(name) or os.pardir in PurePath(name).parts


def find_split(root: Path, split: str) -> tuple[Path, Path]:
    """Annotation file and image folder of a split in COCO's own layout.

    That is `annotations/instances_<split>*.json` beside a folder `<split>*` (or `images/<split>*`) of the same suffix.

    Raises:
        UserError: where there is no such file or folder, or there are several.
    """
    if not root.is_dir():
        raise UserError(f"--data {root}: no such folder")
    found = sorted((root / "annotations").glob(f"instances_{split}*.json"))
    if not found:
        raise UserError(
            f"--data {root}: has no annotations/instances_{split}*.json; "
            "lay it out like COCO, or name its files (--train-annotations and --train-images, the same for val)"
        )
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise UserError(
            f"--data {root}: has several files for {split} ({names}); name one by --train-annotations or --val-..."
        )
    name = found[0].stem.removeprefix("instances_")
    for folder in (root / name, root / "images" / name):
        if folder.is_dir():
            return found[0], folder
    raise UserError(f"--data {root}: has no image folder {name}/ or images/{name}/ for {found[0].name}")
