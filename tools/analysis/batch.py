"""Reads a batch of labelled training images for an analysis, from class folders or from the built-in shapes."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

import numpy as np
from torch import Tensor

from backbones.base import Backbone
from backbones.common.bits import WHOLE_BITS, require_bits
from backbones.common.datasets import spread
from backbones.common.decoding import decode
from backbones.errors import UserError, counted
from classification.data.folders import ClassFolder
from classification.data.items import collate, make_item
from classification.data.layouts import read_split
from classification.transforms import Normalise, Views
from tools.synthetic import crops

LabelledPixels: TypeAlias = tuple[np.ndarray, int]  # pixels [H, W, C] and label


def read_batch(
    data: Path | None, count: int, *, size: int | None, backbone: Backbone, bits: int | None = None
) -> tuple[Tensor, Tensor, int]:
    """Read training images without augmentation, spread evenly over the classes.

    Args:
        data: folder with train/CLASS/*; None for the built-in shapes.
        count: number of images.
        size: side of the images in pixels; None for the shorter side of the first image.
        backbone: determines the channels and the normalisation of the images.
        bits: bits that the values of 16-bit images use; None if nobody named them, and small values are refused.

    Returns:
        Images `[count, C, size, size]` as a classification model takes them, labels `[count]`, and the number of
        classes.

    Raises:
        UserError: if there are too few images, an image does not decode, or 16-bit images have small values and no
            `bits`.
    """
    data = crops.prepare() if data is None else data
    images, classes = _read_images(data, count, backbone.in_channels, bits)
    if len(images) < count:
        raise UserError(
            f"{data}: has {counted(len(images), 'training image')}, fewer than --images {count}; lower --images"
        )
    size = size or min(images[0][0].shape[:2])
    views = Views("center", size, size, Normalise(backbone.mean, backbone.std))
    items = [make_item(views(pixels), label=label, index=index) for index, (pixels, label) in enumerate(images)]
    (batch,), targets = collate(items)
    return batch, targets["label"], classes


def _read_images(data: Path, count: int, in_channels: int, bits: int | None) -> tuple[list[LabelledPixels], int]:
    """Read `count` images, spread evenly over the classes. Also return the number of classes."""
    files = ClassFolder(read_split(data, "train"), None, in_channels=in_channels)
    require_bits([files.path(row) for row in range(len(files))], bits)
    images = []
    for row in spread(len(files), count):
        path = files.path(row)
        images.append((decode(path.read_bytes(), str(path), in_channels, bits or WHOLE_BITS), int(files.labels[row])))
    return images, len(files.classes)
