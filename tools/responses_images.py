"""A labelled batch for looking into a net: images of a folder of classes, or objects of the built-in shapes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

import numpy as np
from PIL import Image

from backbones.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


def read_images(
    data: Path | None, count: int, *, size: int | None, in_channels: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """The first training images of each class in turn, so that every class has its part.

    Args:
        data: folder with train/CLASS/*; None for the objects of the built-in shapes.
        size: side in pixels that the images are cropped to, after scaling their short side; absent: the short side of
            the first image.
        in_channels: 3 for colours, 1 for grey.

    Returns:
        Images uint8 [count, in_channels, size, size], labels [count], number of classes.

    Raises:
        UserError: where there are too few images, or one does not decode.
    """
    if in_channels not in (1, 3):
        raise UserError(
            f"in_channels {in_channels}: images of {data or 'shapes'} have 1 or 3 channels; take such a net"
        )
    classes = _folders(data) if data else _shapes()
    turns = [(entry, label) for turn in zip_longest(*classes) for label, entry in enumerate(turn) if entry is not None]
    if len(turns) < count:
        raise UserError(f"{data or 'shapes'}: {len(turns)} training images, {count} wanted; take fewer with --images")
    pictures = [(_open(*entry), label) for entry, label in turns[:count]]
    size = size or min(pictures[0][0].size)
    mode = "RGB" if in_channels == 3 else "L"
    pixels = [np.asarray(_fit(picture.convert(mode), size)).reshape(size, size, in_channels) for picture, _ in pictures]
    return np.stack(pixels).transpose(0, 3, 1, 2), np.array([label for _, label in pictures]), len(classes)


Entry = tuple[Path, "tuple[float, float, float, float] | None"]  # a file, and the part of it that counts


def _folders(data: Path) -> list[list[Entry]]:
    """The files of each class, classes and files in order of their names."""
    root = data / "train"
    if not root.is_dir():
        raise UserError(f"--data {data}: has no train/CLASS/ folders; name a folder of classes")
    folders = sorted(path for path in root.iterdir() if path.is_dir())
    return [
        [(path, None) for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES] for folder in folders
    ]


def _shapes() -> list[list[Entry]]:
    """The objects of the built-in shapes by category."""
    from tools import shapes

    root = shapes.prepare()
    (path,) = root.glob("annotations/instances_train*.json")
    truth = json.loads(path.read_text(encoding="utf-8"))
    (folder,) = (entry for entry in root.iterdir() if entry.is_dir() and entry.name.startswith("train"))
    files = {image["id"]: folder / image["file_name"] for image in truth["images"]}
    return [list(_objects(truth["annotations"], files, category["id"])) for category in truth["categories"]]


def _objects(annotations: Sequence[dict], files: dict[int, Path], category: int) -> Iterator[Entry]:
    for record in annotations:
        if record["category_id"] == category:
            x, y, width, height = record["bbox"]
            yield files[record["image_id"]], (x, y, x + width, y + height)


def _open(path: Path, box: tuple[float, float, float, float] | None) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.load()
            return image.crop(tuple(map(round, box))) if box else image
    except OSError as error:
        raise UserError(f"{path}: does not decode ({error}); repair or remove it") from None


def _fit(image: Image.Image, size: int) -> Image.Image:
    from PIL import ImageOps

    return image if image.size == (size, size) else ImageOps.fit(image, (size, size))
