"""Finds images that look nearly the same: copies of another size or quality, and neighbouring frames of a film."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from backbones.common.images import FIX, decode_image, read_file
from backbones.common.suffixes import ARRAY_SUFFIX
from backbones.common.unions import Unions
from backbones.errors import UserError

SIDE, FREQUENCIES = 32, 8  # of the small image, and of the part of its cosine transform that the hash has
HASH_BITS = 63
LARGEST_DISTANCE = 8  # bits in which the hashes of nearly equal images differ
BLOCK = 256  # hashes that are compared with others at a time
SCALE = 2**12  # of the integers that stand for cosines


def _cosines() -> np.ndarray:
    """Return the first rows of the cosine transform `[FREQUENCIES, SIDE]` as integers, so that sums are exact."""
    angles = np.pi * np.arange(FREQUENCIES)[:, None] * (2 * np.arange(SIDE) + 1) / (2 * SIDE)
    return np.round(SCALE * np.cos(angles)).astype(np.int64)


COSINES = _cosines()


def image_hash(image: np.ndarray) -> int | None:
    """Return a perceptual hash of 63 bits, as `imagehash.phash` computes it: the signs of low frequencies.

    Bit i says whether frequency i of the image's cosine transform is above the median; the mean of the image does not
    count.

    An image of one colour has no hash, because it has nothing to compare.

    Args:
        image: grey `[H, W]`, or any number of bands `[H, W, C]`, uint8 or floats.
    """
    grey = image if image.ndim == 2 else image.mean(axis=2)
    if grey.dtype != np.uint8:
        grey = _to_bytes(grey)
    small = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.int64)
    values = (COSINES @ small @ COSINES.T).ravel()[1:]
    if values.min() == values.max():
        return None
    bits = values > np.sort(values)[len(values) // 2]
    return int.from_bytes(np.packbits(bits).tobytes(), "big") >> 1


def _to_bytes(grey: np.ndarray) -> np.ndarray:
    """Scale values to 0..255, without those that are not finite."""
    values = np.nan_to_num(grey.astype(np.float64), nan=0, posinf=0, neginf=0)
    low, high = values.min(), values.max()
    return np.round((values - low) * (255 / (high - low) if high > low else 0)).astype(np.uint8)


def near_pairs(hashes: np.ndarray, *, distance: int = LARGEST_DISTANCE) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the pairs of distinct hashes that differ in few bits, as two arrays of indices.

    Of `distance + 1` bands of bits, the hashes of a pair have at least one in common, so that only hashes with a common
    band are compared. A pair may occur several times.

    Args:
        hashes: distinct hashes `[N]` uint64.
        distance: number of bits in which the hashes of a pair differ at most.
    """
    edges = np.linspace(0, HASH_BITS, distance + 2).round().astype(int)
    for low, high in pairwise(edges.tolist()):
        band = (hashes >> np.uint64(low)) & np.uint64(2 ** (high - low) - 1)
        order = np.argsort(band, kind="stable")
        ends = np.flatnonzero(np.diff(band[order])) + 1
        for members in np.split(order, ends):
            values = hashes[members]
            # Compare blocks of rows with all that follow, so that memory stays small.
            for start in range(0, len(members) - 1, BLOCK):
                differing = np.bitwise_count(values[start : start + BLOCK, None] ^ values[None, start:])
                rows, columns = np.nonzero(differing <= distance)
                rows, columns = rows[columns > rows], columns[columns > rows]
                if len(rows):
                    yield members[start + rows], members[start + columns]


def near_groups(hashes: np.ndarray, *, distance: int = LARGEST_DISTANCE) -> np.ndarray:
    """Return the group of each image `[N]`: nearly equal images, and images that others connect, share a group.

    The number of a group is the index of its first image.

    Args:
        hashes: `[N]` uint64, see `image_hash`.
        distance: number of bits in which the hashes of nearly equal images differ at most.
    """
    values, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    unions = Unions(len(hashes))
    for index, value in enumerate(inverse.tolist()):
        unions.connect(index, int(first[value]))
    for ones, others in near_pairs(values, distance=distance):
        for one, other in zip(first[ones].tolist(), first[others].tolist(), strict=True):
            unions.connect(one, other)
    return unions.groups()


def near_across(first: Sequence[int], other: Sequence[int]) -> dict[int, int]:
    """Return for each image of `other` with a nearly equal image in `first` the index of one such image.

    Args:
        first, other: perceptual hashes of the images of two splits, see `image_hash`.
    """
    owner = {value: index for index, value in reversed(list(enumerate(first)))}
    values = np.unique(np.array([*first, *other], np.uint64))
    near = {value: owner[value] for value in owner}
    for ones, others in near_pairs(values):
        for one, two in zip(values[ones].tolist(), values[others].tolist(), strict=True):
            for here, there in ((one, two), (two, one)):
                if there in owner:
                    near.setdefault(here, owner[there])
    return {index: near[value] for index, value in enumerate(other) if value in near}


def hash_files(paths: Sequence[Path], *, keep_bad: bool = False, threads: int | None = None) -> list[int | None]:
    """Return the perceptual hash of each image file, see `image_hash`; None for images of one colour.

    Args:
        keep_bad: whether a file that cannot be decoded gets None, too. Otherwise it is an error.
        threads: number of threads that decode; None for the default of the thread pool.

    Raises:
        UserError: a file cannot be read or decoded.
    """

    def hash_file(path: Path) -> int | None:
        try:
            image = decode_grey(read_file(path), path)
        except UserError:
            if keep_bad:
                return None
            raise
        return image_hash(image)

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(hash_file, paths))


def decode_grey(content: bytes, path: Path) -> np.ndarray:
    """Decode the content of an image file to grey `[H, W]`, or of a `.npy` file to its array.

    Raises:
        UserError: the content is damaged or no image.
    """
    try:
        image = (
            np.load(io.BytesIO(content)) if path.suffix.lower() == ARRAY_SUFFIX else decode_image(content, grey=True)
        )
    except (ValueError, OSError, EOFError):
        image = None
    if image is None or not image.size or image.ndim not in (2, 3):
        raise UserError(f"{path}: does not decode: truncated, damaged or not an image; {FIX}")
    return image
