"""Pictures for people: image, truth and prediction side by side, with a legend."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from segmentation.labels import Classes
from segmentation.losses import IGNORE

TILE, MARGIN, CAPTION = 260, 8, 16  # pixels
VOID = (0, 0, 0)
ENTRY = 130  # pixels of a legend's entry
BLEND = 0.75  # of the colour over the image


def draw_samples(
    images: Sequence[np.ndarray], truths: Sequence[np.ndarray], found: Sequence[np.ndarray], classes: Classes
) -> Image.Image:
    """A sheet with one row an image: the image, its truth and the prediction, in the classes' colours.

    Args:
        images: `[H, W, 3]` RGB uint8.
        truths: `[H, W]` class numbers, 255 (drawn black) where nothing counts.
        found: `[H, W]` class numbers.
    """
    rows = [
        [_tile(image), _tile(painted(image, truth, classes)), _tile(painted(image, labels, classes))]
        for image, truth, labels in zip(images, truths, found, strict=True)
    ]
    width = 3 * TILE + 4 * MARGIN
    legend = _legend(classes, [*truths, *found], width)
    height = CAPTION + MARGIN + sum(row[0].height + MARGIN for row in rows) + legend.height
    sheet = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(sheet)
    for column, caption in enumerate(("image", "truth", "prediction")):
        pen.text((MARGIN + column * (TILE + MARGIN), 4), caption, fill="black")
    top = CAPTION + MARGIN
    for row in rows:
        for column, tile in enumerate(row):
            sheet.paste(tile, (MARGIN + column * (TILE + MARGIN), top))
        top += row[0].height + MARGIN
    sheet.paste(legend, (0, top))
    return sheet


def painted(image: np.ndarray, labels: np.ndarray, classes: Classes) -> np.ndarray:
    """The image `[H, W, 3]` under the colours of its label map `[H, W]`."""
    table = np.full((IGNORE + 1, 3), VOID, np.uint8)
    table[: len(classes)] = classes.colours
    return (image * (1 - BLEND) + table[labels] * BLEND).astype(np.uint8)


def _tile(image: np.ndarray) -> Image.Image:
    height, width = image.shape[:2]
    scale = TILE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)


def _legend(classes: Classes, maps: Sequence[np.ndarray], width: int) -> Image.Image:
    """Colours and names of the classes that the pictures show."""
    shown = [n for n in np.unique(np.concatenate([np.unique(m) for m in maps])) if n < len(classes)] if maps else []
    entries = [(classes.colours[n], classes.names[n]) for n in shown] + [(VOID, "does not count")]
    columns = max(1, (width - MARGIN) // ENTRY)
    legend = Image.new("RGB", (width, -(-len(entries) // columns) * CAPTION + MARGIN), "white")
    pen = ImageDraw.Draw(legend)
    for place, (colour, name) in enumerate(entries):
        x, y = MARGIN + place % columns * ENTRY, place // columns * CAPTION
        pen.rectangle((x, y + 2, x + 10, y + 12), fill=tuple(colour), outline="black")
        pen.text((x + 15, y + 1), name[:18], fill="black")
    return legend
