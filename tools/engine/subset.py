"""Selects a part of the training images, to find out how much data a model needs."""

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
            f"{', '.join(names[number] for number in missing[:3])}; use a larger fraction or another --draw"
        )
    return chosen


def draw_objects(classes: np.ndarray, *, shots: int, seed: int, count: int) -> np.ndarray:
    """Select `shots` objects of each class, or all if there are fewer; return their sorted indices `[n]`.

    With the same seed, the objects of fewer shots are a subset of those of more. The draw of a class does not depend on
    the other classes.

    Args:
        classes: class 0..count-1 of each object `[M]`.
        shots: objects of each class to select.
        seed: seed of the selection; another seed selects other objects.
        count: number of classes.
    """
    shuffled = (_shuffled(np.flatnonzero(classes == label), seed, label) for label in range(count))
    return np.sort(np.concatenate([members[:shots] for members in shuffled]))


def draw_images(images: np.ndarray, classes: np.ndarray, *, shots: int, seed: int, count: int) -> np.ndarray:
    """Select images until each class is in `shots` of them, or in all that show it; return their sorted indices `[n]`.

    Images may show several classes. The selection runs in rounds: round k adds, from the rarest to the most frequent
    class, an image of each class that is in fewer than k of the selected images. With the same seed, the images of
    fewer shots are therefore a subset of those of more.

    Args:
        images: index of an image, for each pair of an image and a class that it shows, `[M]`.
        classes: class 0..count-1 of each pair `[M]`.
        shots: images of each class to select.
        seed: seed of the selection; another seed selects other images.
        count: number of classes.
    """
    pairs = np.unique(np.stack([images, classes], 1), axis=0)
    of_class = [pairs[pairs[:, 1] == label, 0] for label in range(count)]
    shown = np.split(pairs[:, 1], np.flatnonzero(np.diff(pairs[:, 0])) + 1) if len(pairs) else []
    classes_of_image = dict(zip(np.unique(pairs[:, 0]).tolist(), shown, strict=True))
    queues = [_shuffled(members, seed, label)[::-1].tolist() for label, members in enumerate(of_class)]
    order = sorted(range(count), key=lambda label: len(queues[label]))
    chosen: set[int] = set()
    found = np.zeros(count, np.int64)
    for round_number in range(1, shots + 1):
        for label in order:
            # Take the next image of this class that is not selected yet.
            while found[label] < round_number and queues[label]:
                image = queues[label].pop()
                if image not in chosen:
                    chosen.add(image)
                    found[classes_of_image[image]] += 1
    return np.array(sorted(chosen), np.int64)


def scarce(classes: np.ndarray, *, shots: int, names: Sequence[str]) -> dict[str, int]:
    """Return the classes with at least one and fewer than `shots` examples, and the number of their examples.

    Args:
        classes: class of each example `[M]`.
        names: the class names.
    """
    counts = np.bincount(classes, minlength=len(names)).tolist()
    return {name: number for name, number in zip(names, counts, strict=True) if 0 < number < shots}


def _shuffled(members: np.ndarray, seed: int, label: int) -> np.ndarray:
    return np.random.default_rng((SALT, seed, label)).permutation(members)


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
