"""Embeds images in a report: small JPEGs as data URIs, with boxes to draw over them."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from backbones.common.encoding import encode_jpeg
from backbones.common.images import read_image
from backbones.errors import UserError
from tools.reports.page import BoxMark, PageImage

SIDE = 480  # largest longer side of an image, in pixels
QUALITY = 78  # of JPEGs
MARGIN = 0.6  # around the box of a crop, as a fraction of the longer side of the box
LEAST_MARGIN = 12.0  # pixels
CROP = 200  # longer side of a crop, in pixels


def read_rgb(path: Path, *, bits: int) -> np.ndarray | None:
    """Read an image `[H, W, 3]` RGB uint8, or the first bands of a .npy array; None if the file cannot be read.

    Args:
        bits: bits that the values of 16-bit images use.
    """
    if path.suffix.lower() == ".npy":
        return _read_array(path)
    try:
        return read_image(path, bits=bits)
    except UserError:
        return None


def embed(
    image: np.ndarray, marks: Sequence[BoxMark] = (), *, name: str = "", alt: str = "", side: int = SIDE
) -> PageImage:
    """Shrink an image `[H, W, 3]` RGB uint8 and convert it to a data URI.

    Args:
        marks: boxes in pixels of the given image, before it is shrunk.
        name: caption above the image.
        side: upper limit of the embedded image's longer side, in pixels.
    """
    height, width = image.shape[:2]
    scale = min(1.0, side / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA) if scale < 1 else image
    return PageImage(jpeg_uri(small), width, height, tuple(marks), name, alt)


def embed_crop(
    image: np.ndarray,
    box: Sequence[float],
    marks: Sequence[BoxMark],
    *,
    alt: str = "",
    margin: float = MARGIN,
    side: int = CROP,
) -> PageImage:
    """Cut a box (x, y, width, height in pixels) with a margin out of an image; return the crop with the boxes in it.

    Args:
        margin: around the box, as a fraction of the box's longer side.
        side: upper limit of the crop's longer side, in pixels. Tiny crops are enlarged.
    """
    x, y, w, h = box
    pad = max(margin * max(w, h), LEAST_MARGIN)
    left, top = max(0, int(x - pad)), max(0, int(y - pad))
    right, bottom = min(image.shape[1], int(x + w + pad) + 1), min(image.shape[0], int(y + h + pad) + 1)
    if right <= left or bottom <= top:  # the box is outside the image
        return embed(image, marks, alt=alt, side=side)
    part = image[top:bottom, left:right]
    scale = max(1, side // max(part.shape[:2]))
    if scale > 1:
        part = cv2.resize(part, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
    inside = [mark for mark in marks if _overlaps(mark, left, top, right, bottom)]
    return embed(part, [_moved(mark, left, top, scale) for mark in inside], alt=alt, side=side)


def jpeg_uri(image: np.ndarray) -> str:
    """Return an RGB image as the data URI of a JPEG."""
    return "data:image/jpeg;base64," + base64.b64encode(encode_jpeg(image, QUALITY)).decode()


def _overlaps(mark: BoxMark, left: int, top: int, right: int, bottom: int) -> bool:
    x, y, w, h = mark.box
    return x < right and y < bottom and x + w > left and y + h > top


def _moved(mark: BoxMark, left: int, top: int, scale: int) -> BoxMark:
    """Convert a box to pixels of a crop that begins at (left, top) of the image and is enlarged by `scale`."""
    x, y, w, h = mark.box
    return replace(mark, box=((x - left) * scale, (y - top) * scale, w * scale, h * scale))


def _read_array(path: Path) -> np.ndarray | None:
    """Read the first three bands of an array as an image; values other than uint8 are stretched to 0..255."""
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError):
        return None
    values = values[..., None] if values.ndim == 2 else values
    if values.ndim != 3 or not values.size:
        return None
    bands = values[..., [min(band, values.shape[2] - 1) for band in range(3)]].astype(np.float64)
    if values.dtype != np.uint8:
        low, high = np.nanmin(bands), np.nanmax(bands)
        bands = np.nan_to_num((bands - low) / max(high - low, 1e-12)) * 255
    return np.ascontiguousarray(bands.clip(0, 255).astype(np.uint8))
