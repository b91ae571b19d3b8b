"""Photographs inside the report: small JPEGs as data URIs."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from tools.reports.page import Mark, View

SIDE = 480  # pixels of the longer side at most
QUALITY = 78
MARGIN = 0.6  # of a crop: what is shown around an object, in its own sides
LEAST_MARGIN = 12.0  # pixels
CROP = 200  # pixels of a crop's longer side


def read_rgb(path: Path) -> np.ndarray | None:
    """An image `[H, W, 3]` RGB uint8, None where it is absent or does not decode; arrays show their first bands."""
    if path.suffix.lower() == ".npy":
        return _array(path)
    try:
        content = np.fromfile(path, np.uint8)
        return cv2.imdecode(content, cv2.IMREAD_COLOR_RGB) if len(content) else None
    except (OSError, cv2.error):
        return None


def view(image: np.ndarray, marks: Sequence[Mark] = (), *, name: str = "", alt: str = "", side: int = SIDE) -> View:
    """An image `[H, W, 3]` RGB, made smaller; the marks count in its own pixels."""
    height, width = image.shape[:2]
    scale = min(1.0, side / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA) if scale < 1 else image
    return View(jpeg(small), width, height, tuple(marks), name, alt)


def crop(image: np.ndarray, box: Sequence[float], marks: Sequence[Mark], *, alt: str = "") -> View:
    """What is around a box x, y, width, height of an image, with the marks that meet it."""
    x, y, w, h = box
    margin = max(MARGIN * max(w, h), LEAST_MARGIN)
    left, top = max(0, int(x - margin)), max(0, int(y - margin))
    right, bottom = min(image.shape[1], int(x + w + margin) + 1), min(image.shape[0], int(y + h + margin) + 1)
    if right <= left or bottom <= top:
        return view(image, marks, alt=alt, side=CROP)
    part = image[top:bottom, left:right]
    scale = max(1, CROP // max(part.shape[:2]))  # tiny ones are shown larger
    if scale > 1:
        part = cv2.resize(part, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
    moved = [
        Mark(
            ((m.box[0] - left) * scale, (m.box[1] - top) * scale, m.box[2] * scale, m.box[3] * scale),
            m.look,
            m.label,
            m.hint,
        )
        for m in marks
        if m.box[0] < right and m.box[1] < bottom and m.box[0] + m.box[2] > left and m.box[1] + m.box[3] > top
    ]
    return view(part, moved, alt=alt, side=CROP)


def jpeg(image: np.ndarray) -> str:
    """An RGB image as a data URI."""
    done, content = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    if not done:
        raise RuntimeError("OpenCV wrote no JPEG")
    return "data:image/jpeg;base64," + base64.b64encode(content.tobytes()).decode()


def _array(path: Path) -> np.ndarray | None:
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
