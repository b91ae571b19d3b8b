"""Selects a fraction of the training images, to find out how much data a model needs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from backbones.errors import UserError

SALT = 0x5EED  # makes the draws differ from those of the order of images, which have the same seed


def nested_subset(
    images: np.ndarray, classes: np.ndarray, *, size: int, fraction: float, seed: int, names: Sequence[str]
) -> np.ndarray:
    """Select a fraction of `size` images; return their sorted indices `[n]`.

    Each image belongs to one group: its rarest class, or the images without objects. The same fraction of each group is
    drawn, rounded up, so that rare classes and empty images remain. With the same seed a smaller fraction is a subset
    of every larger one.

    Args:
        images: index of the image of each object `[M]`.
        classes: class 0..K-1 of each object `[M]`.
        size: number of all images.
        fraction: fraction of the images to select, above 0 and at most 1.
        seed: seed of the selection; another seed selects other images.
        names: the K class names.

    Raises:
        UserError: the fraction contains no image of some class; the text names it.
    """
    if fraction == 1:
        return np.arange(size)
    groups = _rarest_classes(images, classes, size=size, count=len(names))
    random = np.random.default_rng((SALT, seed))
    # Shuffle each group, and take its beginning: a longer beginning contains a shorter one.
    shuffled = [random.permutation(np.flatnonzero(groups == group)) for group in range(len(names) + 1)]
    chosen = np.sort(np.concatenate([_beginning(members, fraction) for members in shuffled]))
    missing = np.setdiff1d(classes, classes[np.isin(images, chosen)])
    if len(missing):
        raise UserError(
            f"--fraction {fraction}: leaves no image of the class "
            f"{', '.join(names[number] for number in missing[:3])}; use a larger fraction or another --seed"
        )
    return chosen


def _rarest_classes(images: np.ndarray, classes: np.ndarray, *, size: int, count: int) -> np.ndarray:
    """Return for each image `[size]` the rarest of its classes, by number of images; `count` if it has no objects."""
    # Count the images that show each class, each image once.
    pairs = np.unique(np.stack([images, classes], 1), axis=0)
    shown = np.bincount(pairs[:, 1], minlength=count)
    # Rank the classes from rare to frequent, and find the lowest rank in each image.
    by_rank = np.argsort(shown, kind="stable")
    rank = np.empty(count, np.int64)
    rank[by_rank] = np.arange(count)
    best = np.full(size, count)
    np.minimum.at(best, pairs[:, 0], rank[pairs[:, 1]])
    return np.append(by_rank, count)[best]


def _beginning(members: np.ndarray, fraction: float) -> np.ndarray:
    # Round first: 0.3 * 10 is slightly above 3 in binary, and would be rounded up to 4.
    return members[: int(np.ceil(round(fraction * len(members), 6)))]
