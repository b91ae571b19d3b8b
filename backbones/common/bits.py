"""Images of 16 bits per channel: which bits hold values, and their conversion to 8 bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from backbones.common.datasets import spread
from backbones.errors import UserError

WHOLE_BITS = 16
MOST_SMALL_BITS = 12  # of cameras; 16-bit images that use no more would be nearly black
DEEP_SUFFIXES = (".png", ".tif", ".tiff", ".jp2", ".pgm", ".ppm", ".pnm")  # formats of 16-bit images
LOOKED_AT = 16  # images that are read to find the range of their values


def upper_bits(image: np.ndarray, bits: int, *, name: str) -> np.ndarray:
    """Return the upper eight of the `bits` bits that the values of a 16-bit image use, as uint8.

    Raises:
        UserError: a value needs more bits.
    """
    highest = int(image.max())
    if highest >> bits:
        raise UserError(f"{name}: holds the 16-bit value {highest}, which needs more than --bits {bits}; raise --bits")
    return (image >> (bits - 8)).astype(np.uint8)


def require_bits(paths: Sequence[Path], bits: int | None) -> None:
    """Refuse 16-bit images of small values without a range: they would become nearly black.

    Args:
        paths: all images; see `small_values`.
        bits: the range that the user named; None for none.

    Raises:
        UserError: no range is named, and no value of the 16-bit images that were read reaches 4096.
    """
    if bits is None and (found := small_values(paths)):
        raise UserError(
            f"{found.folder}: holds 16-bit images, and no value of the {found.count} that were read is above "
            f"{found.highest}; name the bits that the values use, such as --bits {found.bits}, or --bits 16 for all"
        )


@dataclass(frozen=True)
class SmallValues:
    """16-bit images whose values fit `MOST_SMALL_BITS` bits: folder, number of images that were read, highest value."""

    folder: Path
    count: int
    highest: int

    @property
    def bits(self) -> int:
        """Number of bits that the highest value needs, but at least 8."""
        return max(8, self.highest.bit_length())


def small_values(paths: Sequence[Path]) -> SmallValues | None:
    """Return what is known of 16-bit images if their values are small; None for other images.

    Args:
        paths: all images; `LOOKED_AT` that are evenly spread are read.
    """
    deep = [path for path in paths if path.suffix.lower() in DEEP_SUFFIXES]
    chosen = spread(len(deep), LOOKED_AT)
    highest = max((_highest(deep[index]) for index in chosen), default=0)
    if not 0 < highest.bit_length() <= MOST_SMALL_BITS:
        return None
    return SmallValues(deep[0].parent, len(chosen), highest)


def _highest(path: Path) -> int:
    """Return the highest value of a 16-bit image; 0 for other images and files that do not decode."""
    try:
        image = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_ANYDEPTH)
    except (OSError, cv2.error):
        return 0
    return int(image.max()) if image is not None and image.dtype == np.uint16 else 0
