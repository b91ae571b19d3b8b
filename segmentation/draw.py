"""Draws label maps with a legend: image, truth and prediction side by side, or labels over one image."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw

from backbones.common.colours import Colour
from backbones.common.fonts import font_for
from segmentation.data.classes import IGNORE, Classes

CELL, MARGIN, CAPTION = 260, 8, 16  # pixels
IGNORED = (0, 0, 0)  # colour of pixels without a class
ENTRY = 130  # width of a legend's entry in pixels
BLEND = 0.75  # opacity of the colours where the plain image is beside them
OVERLAY = 0.55  # opacity of the colours where the image is alone
# Images are enlarged by a whole factor until the longer side has SMALLEST pixels, but not beyond LARGEST.
SMALLEST, LARGEST = 512, 4096


def viewable(image: np.ndarray) -> np.ndarray:
    """Return an image `[H, W, C]` of any channels and type as RGB uint8 `[H, W, 3]`.

    Of more than three channels, the first three are shown. Values that are not uint8 are stretched to 0..255.
    """
    shown = image[..., :3] if image.shape[2] >= 3 else np.repeat(image[..., :1], 3, axis=2)
    if shown.dtype == np.uint8:
        return np.ascontiguousarray(shown)
    low, high = float(shown.min()), float(shown.max())
    return np.ascontiguousarray(((shown - low) * (255 / max(high - low, 1e-12))).astype(np.uint8))


def draw_samples(
    images: Sequence[np.ndarray], truths: Sequence[np.ndarray], found: Sequence[np.ndarray], classes: Classes
) -> Image.Image:
    """Draw a sheet with one row per image: the image, its true label map and the predicted label map.

    Args:
        images: `[H, W, 3]` RGB uint8.
        truths: `[H, W]` class numbers, 255 (drawn black) for pixels to ignore.
        found: `[H, W]` predicted class numbers.
    """
    rows = [
        [_cell(image), _cell(paint_labels(image, truth, classes)), _cell(paint_labels(image, labels, classes))]
        for image, truth, labels in zip(images, truths, found, strict=True)
    ]
    width = 3 * CELL + 4 * MARGIN
    legend = _legend(classes, [*truths, *found], width)
    height = CAPTION + MARGIN + sum(row[0].height + MARGIN for row in rows) + legend.height
    sheet = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(sheet)
    for column, caption in enumerate(("image", "truth", "prediction")):
        pen.text((MARGIN + column * (CELL + MARGIN), 4), caption, fill="black")
    top = CAPTION + MARGIN
    for row in rows:
        for column, cell in enumerate(row):
            sheet.paste(cell, (MARGIN + column * (CELL + MARGIN), top))
        top += row[0].height + MARGIN
    sheet.paste(legend, (0, top))
    return sheet


def draw_labels(
    image: np.ndarray, labels: np.ndarray, classes: Classes, *, chosen: Sequence[int], legend: Sequence[int]
) -> np.ndarray:
    """Draw a label map over its image, with a legend below. A small image is enlarged.

    Args:
        image: `[H, W, 3]` RGB uint8.
        labels: `[H, W]` class numbers.
        chosen: numbers of the classes to colour.
        legend: numbers of the classes to list in the legend.
    """
    height, width = labels.shape
    scale = max(1, min(LARGEST // max(height, width), -(-SMALLEST // max(height, width))))
    picture = Image.fromarray(paint_labels(image, labels, classes, OVERLAY, chosen=chosen))
    if scale > 1:
        picture = picture.resize((width * scale, height * scale), Image.Resampling.NEAREST)
    entries = [(classes.colours[number], classes.names[number]) for number in legend]
    below = _entries(entries, max(picture.width, ENTRY + MARGIN), times=max(1, picture.width // 1000))
    sheet = Image.new("RGB", (below.width, picture.height + below.height), "white")
    sheet.paste(picture, (0, 0))
    sheet.paste(below, (0, picture.height))
    return np.asarray(sheet)


def paint_labels(
    image: np.ndarray,
    labels: np.ndarray,
    classes: Classes,
    opacity: float = BLEND,
    *,
    chosen: Sequence[int] | None = None,
) -> np.ndarray:
    """Blend the colours of a label map `[H, W]` over its image `[H, W, 3]`.

    Args:
        opacity: opacity of the colours, 0..1.
        chosen: numbers of the classes to colour. By default all classes and the pixels to ignore, but not the
            background, whose colour would hide the image.
    """
    table = np.full((IGNORE + 1, 3), IGNORED, np.uint8)
    table[: len(classes)] = classes.colours
    shown = np.isin(labels, [*classes.coloured, IGNORE] if chosen is None else chosen)
    return np.where(shown[..., None], cv2.addWeighted(image, 1 - opacity, table[labels], opacity, 0), image)


def _cell(image: np.ndarray) -> Image.Image:
    """Resize an image so that its longer side fills a cell of the sheet."""
    height, width = image.shape[:2]
    scale = CELL / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)


def _legend(classes: Classes, maps: Sequence[np.ndarray], width: int) -> Image.Image:
    """Draw a legend of the classes that occur in the label maps."""
    found = {int(n) for labels in maps for n in np.unique(labels)}
    shown = [n for n in classes.coloured if n in found]
    entries = [(classes.colours[n], classes.names[n]) for n in shown] + [(IGNORED, "does not count")]
    return _entries(entries, width)


def _entries(entries: Sequence[tuple[Colour, str]], width: int, times: int = 1) -> Image.Image:
    """Draw the entries of a legend, colours with class names, in columns and enlarged `times` times."""
    columns = max(1, (width - MARGIN) // (ENTRY * times))
    legend = Image.new("RGB", (width, -(-len(entries) // columns) * CAPTION * times + MARGIN), "white")
    pen = ImageDraw.Draw(legend)
    for index, (colour, name) in enumerate(entries):
        x, y = MARGIN + index % columns * ENTRY * times, MARGIN // 2 + index // columns * CAPTION * times
        pen.rectangle((x, y + 2, x + 10 * times, y + 2 + 10 * times), fill=tuple(colour), outline="black")
        pen.text((x + 15 * times, y), name[:18], fill="black", font=font_for(name, 10 * times))
    return legend
