"""Shrinks large photographs while they are read for training, so that augmentation does not process needless pixels."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np
import PIL.Image

from backbones.common.images import decode_image, image_size, is_jpeg, read_file, read_image
from backbones.errors import UserError

ShrinkFactor: TypeAlias = Callable[[tuple[int, int]], int]  # from height and width to a power of two
LEAST_SHORT = 32  # pixels; a shorter side would lose too much by being rounded up
MOST_IN_DECODER = 8  # largest divisor of a JPEG decoder


def shrink_factor(ratio: float) -> int:
    """Return the largest power of two, but at least 1, that is not above `ratio`.

    Args:
        ratio: size of an image divided by the largest size that is needed of it.
    """
    return 1 << max(0, int(ratio).bit_length() - 1)


def resize_ratio(size: tuple[int, int], *, short_side: int, long_side: int) -> float:
    """Return how many times larger an image is than after resizing to a short side, with a limit of its long side.

    Images so thin that shrinking would leave less than `LEAST_SHORT` pixels of the short side get a smaller ratio.

    Args:
        size: height and width in pixels.
    """
    return min(max(min(size) / short_side, max(size) / long_side), min(size) / LEAST_SHORT)


def reduction(content: bytes, shrink: ShrinkFactor) -> int:
    """Return by what a JPEG decoder divides both sides of an image: 1, 2, 4 or 8.

    Args:
        content: bytes of a file. For other formats and damaged files, 1 is returned.
        shrink: returns the divisor for a size (height, width).
    """
    if not is_jpeg(content):
        return 1
    try:
        with PIL.Image.open(io.BytesIO(content)) as image:
            return min(shrink((image.height, image.width)), MOST_IN_DECODER)
    except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError):
        return 1


def read_shrunk(path: Path, *, size: tuple[int, int], factor: int, bits: int = 16) -> np.ndarray:
    """Decode an image file to RGB uint8 and divide both sides by `factor`, rounded up.

    A pixel of the result is the mean of `factor` x `factor` pixels. Positions in the image divide by `factor` exactly.

    Args:
        size: height and width according to the annotations; see `read_image`.
        factor: a power of two; 1 leaves the image as it is.
        bits: see `decode_image`.

    Raises:
        UserError: see `read_image`.
    """
    within = min(factor, MOST_IN_DECODER)
    image = _decode_reduced(path, size, within) if factor > 1 else None
    if image is not None:
        return shrunk(image, factor // within)
    return shrunk(read_image(path, size=size, bits=bits), factor)


def shrunk(image: np.ndarray, factor: int) -> np.ndarray:
    """Divide both sides of an image `[H, W, C]` by `factor`, rounded up, and average the pixels that become one."""
    if factor == 1:
        return image
    height, width = image.shape[:2]
    below, right = -height % factor, -width % factor
    if below or right:
        image = cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_REPLICATE)
    size = (image.shape[1] // factor, image.shape[0] // factor)
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _decode_reduced(path: Path, size: tuple[int, int], factor: int) -> np.ndarray | None:
    """Decode a JPEG file at 1/`factor` of its size, which is several times as fast as decoding it whole.

    Returns:
        The pixels, or None if the image must be decoded whole: if it is no JPEG, is damaged, has another size than
        `size` (height and width), or one that `factor` does not divide.
    """
    content = read_file(path)
    if not is_jpeg(content) or any(side % factor for side in size):
        return None
    try:
        exif = next((exif for exif in (True, False) if image_size(path, apply_exif=exif) == size), None)
    except UserError:
        return None
    return None if exif is None else decode_image(content, apply_exif=exif, reduce=factor, name=str(path))
