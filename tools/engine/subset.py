"""A share of the training images, for asking how much data a net needs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from backbones.errors import UserError
from tools.engine.options import RunOptions, TrainOptions

SALT = 0x5EED  # other numbers than those that order the images of an epoch


def share_of(
    images: np.ndarray, classes: np.ndarray, *, size: int, names: Sequence[str], train: TrainOptions, run: RunOptions
) -> np.ndarray:
    """What the options leave of `size` images; see `nested`."""
    return nested(images, classes, size=size, fraction=train.fraction, seed=run.seed, names=names)


def nested(
    images: np.ndarray, classes: np.ndarray, *, size: int, fraction: float, seed: int, names: Sequence[str]
) -> np.ndarray:
    """Places `[n]`, rising, of a share of `size` images.

    Images count to their rarest class, or to those without objects; the same share is drawn of each such group,
    rounded up, so that rare classes and empty images stay. For one seed a smaller share lies within every larger one.

    Args:
        images, classes: an object each `[M]`: the place of its image, and its class 0..K-1.
        fraction: above 0, at most 1.
        names: of the classes.

    Raises:
        UserError: naming a class of the whole that the share has no image of.
    """
    if fraction == 1:
        return np.arange(size)
    groups = _rarest(images, classes, size=size, count=len(names))
    random = np.random.default_rng((SALT, seed))
    chosen = [_first(random.permutation(np.flatnonzero(groups == group)), fraction) for group in range(len(names) + 1)]
    places = np.sort(np.concatenate(chosen))
    lost = np.setdiff1d(classes, classes[np.isin(images, places)])
    if len(lost):
        raise UserError(
            f"--fraction {fraction}: leaves no image of {', '.join(names[number] for number in lost[:3])}; take a "
            "larger share or another --seed"
        )
    return places


def _rarest(images: np.ndarray, classes: np.ndarray, *, size: int, count: int) -> np.ndarray:
    """For each image `[size]` its class that the fewest images show; `count` where it has none."""
    pairs = np.unique(np.stack([images, classes], 1), axis=0)
    shown = np.bincount(pairs[:, 1], minlength=count)
    rank = np.empty(count, np.int64)
    rank[np.argsort(shown, kind="stable")] = np.arange(count)
    best = np.full(size, count)
    np.minimum.at(best, pairs[:, 0], rank[pairs[:, 1]])
    return np.append(np.argsort(shown, kind="stable"), count)[best]


def _first(order: np.ndarray, fraction: float) -> np.ndarray:
    return order[: int(np.ceil(round(fraction * len(order), 6)))]
