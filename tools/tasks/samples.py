"""Chooses the validation images of samples.png: spread evenly over the split, with many objects."""

from __future__ import annotations

from itertools import pairwise
from typing import TypeVar

import numpy as np

from tools.engine.bad_images import SizedDataset

Item = TypeVar("Item")


def sample_stretches(objects: np.ndarray, count: int) -> list[np.ndarray]:
    """Cut the indices of N images into `min(count, N)` stretches of almost equal length, in order.

    Args:
        objects: number of objects of each image `[N]`.
        count: number of stretches.

    Returns:
        The indices of each stretch, the image with most objects first. Images with equal numbers keep their order.
    """
    size, count = len(objects), min(count, len(objects))
    bounds = [size * number // count for number in range(count + 1)] if count else [0]
    stretches = [np.arange(start, end) for start, end in pairwise(bounds)]
    return [stretch[np.argsort(-objects[stretch], kind="stable")] for stretch in stretches]


def read_samples(data: SizedDataset[Item | None], objects: np.ndarray, count: int) -> list[Item]:
    """Read the first readable image of each of the stretches of `sample_stretches`.

    Args:
        data: images with their truth; None instead of an image that cannot be read.
        objects: number of objects of each image `[N]`.
        count: number of images.
    """
    stretches = sample_stretches(objects, count)
    firsts = (
        next((item for index in stretch if (item := data[int(index)]) is not None), None) for stretch in stretches
    )
    return [item for item in firsts if item is not None]
