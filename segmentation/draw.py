"""Pictures for people: image, truth and prediction side by side, or an image under its labels, with a legend."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from segmentation.data.labels import IGNORE, Classes, Colour

TILE, MARGIN, CAPTION = 260, 8, 16  # pixels
VOID = (0, 0, 0)
ENTRY = 130  # pixels of a legend's entry
BLEND, OVERLAY = 0.75, 0.55  # of the colour over the image, beside it and alone
# Pixels of a drawn picture's longer side: whole enlargements up to the one, not beyond the other.
SMALLEST, LARGEST = 512, 4096


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


def draw_labels(
    image: np.ndarray, labels: np.ndarray, classes: Classes, *, chosen: Sequence[int], legend: Sequence[int]
) -> np.ndarray:
    """An image `[H, W, 3]` RGB uint8 under the colours of its label map `[H, W]`, enlarged where small, over a legend.

    Args:
        chosen: numbers of the classes that are coloured.
        legend: numbers of the classes that the legend names.
    """
    height, width = labels.shape
    scale = max(1, min(LARGEST // max(height, width), -(-SMALLEST // max(height, width))))
    picture = Image.fromarray(painted(image, labels, classes, OVERLAY, chosen=chosen))
    if scale > 1:
        picture = picture.resize((width * scale, height * scale), Image.Resampling.NEAREST)
    entries = [(classes.colours[number], classes.names[number]) for number in legend]
    below = _entries(entries, max(picture.width, ENTRY + MARGIN), times=max(1, picture.width // 1000))
    sheet = Image.new("RGB", (below.width, picture.height + below.height), "white")
    sheet.paste(picture, (0, 0))
    sheet.paste(below, (0, picture.height))
    return np.asarray(sheet)


def painted(
    image: np.ndarray,
    labels: np.ndarray,
    classes: Classes,
    share: float = BLEND,
    *,
    chosen: Sequence[int] | None = None,
) -> np.ndarray:
    """The image `[H, W, 3]` under the colours of its label map `[H, W]`, a share of them.

    Args:
        chosen: numbers of the classes that are coloured; absent: all, and what does not count, but the background,
            whose colour would hide the picture.
    """
    table = np.full((IGNORE + 1, 3), VOID, np.uint8)
    table[: len(classes)] = classes.colours
    shown = np.isin(labels, [*classes.coloured, IGNORE] if chosen is None else chosen)
    return np.where(shown[..., None], cv2.addWeighted(image, 1 - share, table[labels], share, 0), image)


def _tile(image: np.ndarray) -> Image.Image:
    height, width = image.shape[:2]
    scale = TILE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)


def _legend(classes: Classes, maps: Sequence[np.ndarray], width: int) -> Image.Image:
    """Colours and names of the classes that the pictures show."""
    found = {int(n) for labels in maps for n in np.unique(labels)}
    shown = [n for n in classes.coloured if n in found]
    entries = [(classes.colours[n], classes.names[n]) for n in shown] + [(VOID, "does not count")]
    return _entries(entries, width)


def _entries(entries: Sequence[tuple[Colour, str]], width: int, times: int = 1) -> Image.Image:
    """Colours with their names in columns, `times` as large as usual."""
    columns = max(1, (width - MARGIN) // (ENTRY * times))
    legend = Image.new("RGB", (width, -(-len(entries) // columns) * CAPTION * times + MARGIN), "white")
    pen, font = ImageDraw.Draw(legend), ImageFont.load_default(size=10 * times)
    for place, (colour, name) in enumerate(entries):
        x, y = MARGIN + place % columns * ENTRY * times, MARGIN // 2 + place // columns * CAPTION * times
        pen.rectangle((x, y + 2, x + 10 * times, y + 2 + 10 * times), fill=tuple(colour), outline="black")
        pen.text((x + 15 * times, y), name[:18], fill="black", font=font)
    return legend
