"""A labelled batch for looking into a net: images of a folder of classes, or the built-in shapes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor

from backbones.base import Backbone
from backbones.errors import UserError
from classification.data.decoding import decode
from classification.data.folders import ClassFolder
from classification.data.items import collate, make_item
from classification.data.source import spread
from classification.transforms import Normalise, Views

Picture = tuple[np.ndarray, int]  # pixels [H, W, C] and label


def read_batch(data: Path | None, count: int, *, size: int | None, backbone: Backbone) -> tuple[Tensor, Tensor, int]:
    """Training images without augmentation, every class with its part.

    Args:
        data: folder with train/CLASS/*; None for the built-in shapes.
        size: side of the images in pixels; absent: the shorter side of the first one.
        backbone: whose channels and normalisation count.

    Returns:
        Images [count, C, size, size] as a classification net takes them, labels [count], number of classes.

    Raises:
        UserError: where there are too few images, or one does not decode.
    """
    if data is None:
        from tools.synthetic import crops

        data = crops.prepare()
    pictures, classes = _folder(data, count, backbone.in_channels)
    if len(pictures) < count:
        raise UserError(f"{data}: {len(pictures)} training images, {count} wanted; take fewer with --images")
    size = size or min(pictures[0][0].shape[:2])
    views = Views("center", size, size, Normalise(backbone.mean, backbone.std))
    items = [make_item(views(image), label=label, index=place) for place, (image, label) in enumerate(pictures)]
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
