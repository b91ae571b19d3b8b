"""Draws an image and, next to it, the probabilities of its most likely classes as bars."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIDE = 384  # longer side of the drawn image in pixels
PANEL, ROW, MARGIN = 260, 34, 10  # pixels
BAR, FIRST = "#9db7d5", "#2f6db3"


def draw_ranking(image: np.ndarray, names: Sequence[str], probabilities: Sequence[float]) -> np.ndarray:
    """Draw an image and, next to it, class probabilities as bars.

    Args:
        image: `[H, W, C]` uint8, grey or RGB.
        names: class names, the most likely one first.
        probabilities: 0..1, in the same order.

    Returns:
        The drawing `[h, w, 3]` uint8.
    """
    picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).convert("RGB")
    scale = SIDE / max(picture.size)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    picture = picture.resize(size, Image.Resampling.BICUBIC)
    height = max(picture.height, len(names) * ROW + MARGIN)
    sheet = Image.new("RGB", (picture.width + PANEL, height), "white")
    sheet.paste(picture, (0, 0))
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    left, most = picture.width + MARGIN, PANEL - 2 * MARGIN
    for row, (name, probability) in enumerate(zip(names, probabilities, strict=True)):
        top = MARGIN + row * ROW
        pen.text((left, top), _short(name, 27), fill="black", font=font)
        pen.text((left + most, top), f"{probability:.1%}", fill="black", font=font, anchor="ra")
        bar = left, top + 17, left + max(1, round(most * probability)), top + 25
        pen.rectangle(bar, fill=BAR if row else FIRST)
    return np.asarray(sheet)


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."
