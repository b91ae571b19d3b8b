"""Draws an image and, next to it, the probabilities of its most likely classes as bars."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import ceil, inf

import cv2
import numpy as np
from PIL import Image, ImageDraw

from backbones.common.fonts import font_for
from backbones.errors import shortened

SIDE = 384  # longer side of the drawn image in pixels
PANEL, ROW, MARGIN = 260, 34, 10  # pixels
BAR_TOP, BAR_HEIGHT = 17, 8  # pixels, from the top of a row
BAR, FIRST = (157, 183, 213), (47, 109, 179)
LONGEST, LEAST = 27, 4  # characters of a class name
LETTERS, LINE = 12, 16  # pixels: size of the font, height of a line of text


def draw_ranking(image: np.ndarray, names: Sequence[str], probabilities: Sequence[float]) -> np.ndarray:
    """Draw an image and, next to it, class probabilities as bars.

    Args:
        image: `[H, W, C]` uint8, grey or RGB.
        names: class names, the most likely one first.
        probabilities: 0..1, in the same order.

    Returns:
        The drawing `[h, w, 3]` uint8.
    """
    picture = fitted(image)
    height, width = picture.shape[:2]
    sheet = np.full((max(height, len(names) * ROW + MARGIN), width + PANEL, 3), 255, np.uint8)
    sheet[:height, :width] = picture
    left, most = width + MARGIN, PANEL - 2 * MARGIN
    for row, (name, probability) in enumerate(zip(names, probabilities, strict=True)):
        top = MARGIN + row * ROW
        number = _text(f"{probability:.1%}")
        _write(sheet, _text(name, most - number.shape[1] - MARGIN), left, top)
        _write(sheet, number, left + most - number.shape[1], top)
        bar = sheet[top + BAR_TOP : top + BAR_TOP + BAR_HEIGHT, left : left + max(1, round(most * probability))]
        bar[:] = BAR if row else FIRST
    return sheet


def fitted(image: np.ndarray) -> np.ndarray:
    """Resize an image `[H, W, C]`, so that its longer side has `SIDE` pixels."""
    height, width = image.shape[:2]
    scale = SIDE / max(height, width)
    if scale == 1:
        return image
    size = max(1, round(width * scale)), max(1, round(height * scale))
    resized = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    return resized.reshape(size[1], size[0], -1)  # OpenCV removes the axis of a single channel


def _write(sheet: np.ndarray, text: np.ndarray, left: int, top: int) -> None:
    """Write a text, of `_text`, on a sheet `[H, W, 3]`. Parts beyond the sheet are left out."""
    place = sheet[top : top + LINE, left : left + text.shape[1]]
    np.minimum(place, text[: place.shape[0], : place.shape[1]], out=place)


@lru_cache(maxsize=1 << 14)  # names and percentages recur; to draw their letters takes most of the time
def _text(text: str, room: float = inf) -> np.ndarray:
    """Return a text in black on white `[LINE, width, 1]` uint8, shortened to `room` pixels."""
    font, most = font_for(text, LETTERS), LONGEST
    while most > LEAST and font.getlength(shortened(text, most)) > room:
        most -= 1
    text = shortened(text, most)
    line = Image.new("L", (max(1, ceil(font.getlength(text))), LINE), 255)
    ImageDraw.Draw(line).text((0, 0), text, fill=0, font=font)
    return np.asarray(line)[..., None]
