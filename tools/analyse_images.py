"""A labelled batch for looking into a net: images of a folder of classes, or objects of the built-in shapes."""

from __future__ import annotations

import json
from itertools import zip_longest
from pathlib import Path

import numpy as np
from torch import Tensor

from backbones.base import Backbone
from backbones.errors import UserError
from classification.data import ClassFolder, collate, decode, item
from classification.source import spread
from classification.transforms import Normalise, Views

Picture = tuple[np.ndarray, int]  # pixels [H, W, C] and label


def read_batch(data: Path | None, count: int, *, size: int | None, backbone: Backbone) -> tuple[Tensor, Tensor, int]:
    """Training images without augmentation, every class with its part.

    Args:
        data: folder with train/CLASS/*; None for the objects of the built-in shapes.
        size: side of the images in pixels; absent: the shorter side of the first one.
        backbone: whose channels and normalisation count.

    Returns:
        Images [count, C, size, size] as a classification net takes them, labels [count], number of classes.

    Raises:
        UserError: where there are too few images, or one does not decode.
    """
    if data is None:
        pictures, classes = _shapes(count, backbone.in_channels)
    else:
        pictures, classes = _folder(data, count, backbone.in_channels)
    if len(pictures) < count:
        raise UserError(
            f"{data or 'shapes'}: {len(pictures)} training images, {count} wanted; take fewer with --images"
        )
    size = size or min(pictures[0][0].shape[:2])
    views = Views("center", size, size, Normalise(backbone.mean, backbone.std))
    items = [item(views(image), label=label, index=place) for place, (image, label) in enumerate(pictures)]
    (images,), targets = collate(items)
    return images, targets["label"], classes


def _folder(data: Path, count: int, in_channels: int) -> tuple[list[Picture], int]:
    """Images at even distances in the order of classes, and the number of classes."""
    files = ClassFolder(data / "train", None, in_channels=in_channels)
    pictures = []
    for row in spread(len(files), count):
        path = files.path(row)
        pictures.append((decode(path.read_bytes(), str(path), in_channels), int(files.labels[row])))
    return pictures, len(files.classes)


def _shapes(count: int, in_channels: int) -> tuple[list[Picture], int]:
    """Objects of the built-in shapes, cut out, the categories in turn."""
    from detection.data import find_split
    from tools import shapes

    path, folder = find_split(shapes.prepare(), "train")
    truth = json.loads(path.read_text(encoding="utf-8"))
    files = {image["id"]: folder / image["file_name"] for image in truth["images"]}
    categories = [category["id"] for category in truth["categories"]]
    objects = [[record for record in truth["annotations"] if record["category_id"] == key] for key in categories]
    turns = [(record, label) for turn in zip_longest(*objects) for label, record in enumerate(turn) if record]
    return [(_cut(files[r["image_id"]], r["bbox"], in_channels), label) for r, label in turns[:count]], len(categories)


def _cut(path: Path, box: list[float], in_channels: int) -> np.ndarray:
    """The square about a box `[x, y, width, height]` as far as it lies in the image."""
    image = decode(path.read_bytes(), str(path), in_channels)
    x, y, width, height = box
    half = max(width, height) / 2
    left, top = (max(0, round(middle - half)) for middle in (x + width / 2, y + height / 2))
    side = max(1, round(2 * half))
    return image[top : top + side, left : left + side]
