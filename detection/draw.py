"""Pictures for people: truth beside detections, and detections in their image."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

TILE = 320  # pixels of a picture's longer side
MARGIN, CAPTION = 8, 14
SMALLEST, LARGEST = (
    512,
    4096,
)  # pixels of a drawn picture's longer side: whole enlargements up to the one, not the other


def draw_samples(
    images: Sequence[np.ndarray],
    truths: Sequence[dict[str, np.ndarray]],
    detections: Sequence[dict[str, np.ndarray]],
    names: Sequence[str],
    *,
    min_score: float = 0.5,
) -> Image.Image:
    """A sheet with one row an image: truth on the left, detections on the right.

    Args:
        images: `[H, W, 3]` RGB uint8.
        truths: `boxes` `[N, 4]` xyxy in pixels, `labels` `[N]` from 1, `ignore` `[K, 4]` (drawn grey).
        detections: `boxes`, `labels`, `scores`.
        names: of the labels, from label 1.
        min_score: detections below are left out.
    """
    rows = [
        (_tile(image, _truth_marks(truth, names)), _tile(image, _detection_marks(found, names, min_score)))
        for image, truth, found in zip(images, truths, detections, strict=True)
    ]
    width = 2 * TILE + 3 * MARGIN
    height = CAPTION + MARGIN + sum(left.height + MARGIN for left, _ in rows)
    sheet = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, 4), "truth", fill="black")
    pen.text((TILE + 2 * MARGIN, 4), f"detections, score >= {min_score}", fill="black")
    top = CAPTION + MARGIN
    for left, right in rows:
        sheet.paste(left, (MARGIN, top))
        sheet.paste(right, (TILE + 2 * MARGIN, top))
        top += left.height + MARGIN
    return sheet


def draw_detections(
    image: np.ndarray, boxes: np.ndarray, labels: Sequence[int], names: Sequence[str], scores: Sequence[float]
) -> np.ndarray:
    """An image `[H, W, 3]` RGB uint8 with its detections, enlarged where it is small.

    Args:
        boxes: `[N, 4]` xyxy in pixels of the image.
        labels: numbers that choose the colours.
        names: of the boxes' classes.
        scores: 0..1; the best are drawn last.
    """
    height, width = image.shape[:2]
    scale = max(1, min(LARGEST // max(height, width), -(-SMALLEST // max(height, width))))
    picture = Image.fromarray(image)
    if scale > 1:
        picture = picture.resize((width * scale, height * scale), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(picture)
    side = max(picture.size)
    # Words are to be read, but not to hide the many small objects of a large picture.
    usual = float(np.median((boxes[:, 2:] - boxes[:, :2]).min(1))) * scale if len(boxes) else side
    words = max(11, min(side // 60, round(usual / 6)))
    font, line = ImageFont.load_default(size=words), max(2, words // 7)
    for place in sorted(range(len(scores)), key=lambda place: scores[place]):
        left, top, right, bottom = (float(value) * scale for value in boxes[place])
        colour, text = _colour(labels[place]), f"{names[place]} {scores[place]:.2f}"
        pen.rectangle((left, top, max(left, right), max(top, bottom)), outline=colour, width=line)
        _label(pen, (left, top), text, colour, picture.size, font)
    return np.asarray(picture)


Mark = tuple[Sequence[float], str, str]  # box xyxy, colour, text


def _truth_marks(truth: dict[str, np.ndarray], names: Sequence[str]) -> list[Mark]:
    crowds = [(box, "#808080", "crowd") for box in truth.get("ignore", ())]
    return crowds + [
        (box, _colour(label), names[label - 1]) for box, label in zip(truth["boxes"], truth["labels"], strict=True)
    ]


def _detection_marks(found: dict[str, np.ndarray], names: Sequence[str], min_score: float) -> list[Mark]:
    rows = zip(found["boxes"], found["labels"], found["scores"], strict=True)
    shown = [(box, label, score) for box, label, score in rows if score >= min_score]
    # The best last, so that its text lies on top.
    return [(box, _colour(label), f"{names[label - 1]} {score:.2f}") for box, label, score in reversed(shown)]


def _tile(image: np.ndarray, marks: Sequence[Mark]) -> Image.Image:
    height, width = image.shape[:2]
    scale = TILE / max(height, width)
    tile = Image.fromarray(image).resize((round(width * scale), round(height * scale)), Image.Resampling.BILINEAR)
    pen = ImageDraw.Draw(tile)
    for box, colour, text in marks:
        left, top, right, bottom = (float(value) * scale for value in box)
        pen.rectangle((left, top, right, bottom), outline=colour, width=2)
        _label(pen, (left, top), text, colour, tile.size)
    return tile


def _label(
    pen: ImageDraw.ImageDraw,
    corner: tuple[float, float],
    text: str,
    colour: str,
    size: tuple[int, int],
    font: Any = None,
) -> None:
    """Text above the box's corner, moved inside the picture where it would stick out."""
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    x = min(max(corner[0], 0), max(size[0] - (right - left) - 4, 0))
    y = max(corner[1] - (bottom - top) - 5, 0)
    pen.rectangle((x, y, x + right - left + 4, y + bottom - top + 4), fill=colour)
    pen.text((x + 2 - left, y + 2 - top), text, fill="white", font=font)


def _colour(label: int) -> str:
    """A colour for a label: hues a golden ratio apart are told apart for any number of classes."""
    red, green, blue = colorsys.hsv_to_rgb(label * 0.61803399 % 1, 0.85, 0.75)
    return f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"
