"""Draws boxes and masks: true boxes and detections side by side, or detections on their image."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageColor, ImageDraw

from backbones.common.colours import colour_of, ink_on
from backbones.common.fonts import font_for
from detection.label_places import place_labels
from detection.runs import bitmaps

PANEL = 320  # pixels of the long side of an image in a sheet
MARGIN, CAPTION = 8, 14  # pixels
PADDING = 2  # pixels around the text of a label
# Pixels of the long side of a drawn image. A smaller image is enlarged by a whole factor to at least the first
# length, and to at most the second.
ENLARGED, LARGEST = 512, 4096
TINT = 0.45  # weight of a mask's colour in the pixels of the mask


def draw_samples(
    images: Sequence[np.ndarray],
    truths: Sequence[dict[str, np.ndarray]],
    detections: Sequence[dict[str, np.ndarray]],
    names: Sequence[str],
    *,
    min_score: float = 0.5,
) -> Image.Image:
    """Draw a sheet with one row per image: true boxes on the left, detections on the right.

    Args:
        images: `[H, W, 3]` RGB uint8.
        truths: `boxes` `[N, 4]` xyxy in pixels, `labels` `[N]` from 1, `ignore` `[K, 4]` (drawn grey), and optionally
            `strips` `[S, 5]`, masks that are drawn as a tint.
        detections: `boxes`, `labels`, `scores`, and optionally `strips`.
        names: names of the classes, from label 1.
        min_score: detections with a lower score are left out.
    """
    rows = [
        (
            _panel(tinted(image, truth.get("strips"), truth["labels"]), _truth_marks(truth, names)),
            _panel(
                tinted(image, found.get("strips"), found["labels"], found["scores"] >= min_score),
                _detection_marks(found, names, min_score),
            ),
        )
        for image, truth, found in zip(images, truths, detections, strict=True)
    ]
    width = 2 * PANEL + 3 * MARGIN
    height = CAPTION + MARGIN + sum(left.height + MARGIN for left, _ in rows)
    sheet = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, 4), "truth", fill="black")
    pen.text((PANEL + 2 * MARGIN, 4), f"detections, score >= {min_score}", fill="black")
    top = CAPTION + MARGIN
    for left, right in rows:
        sheet.paste(left, (MARGIN, top))
        sheet.paste(right, (PANEL + 2 * MARGIN, top))
        top += left.height + MARGIN
    return sheet


def draw_sheet(
    rows: Sequence[Sequence[tuple[np.ndarray, dict[str, np.ndarray]]]], titles: Sequence[str], names: Sequence[str]
) -> Image.Image:
    """Draw a sheet of images with their true boxes and masks.

    Args:
        rows: images `[H, W, 3]` RGB uint8 with their truth as in `draw_samples`, one per title.
        titles: one per column.
        names: names of the classes, from label 1.
    """
    panels = [
        [
            _panel(tinted(image, truth.get("strips"), truth["labels"]), _truth_marks(truth, names))
            for image, truth in row
        ]
        for row in rows
    ]
    heights = [max(panel.height for panel in row) for row in panels]
    width = MARGIN + (PANEL + MARGIN) * len(titles)
    sheet = Image.new("RGB", (width, CAPTION + MARGIN + sum(heights) + MARGIN * len(heights)), "white")
    pen = ImageDraw.Draw(sheet)
    for column, title in enumerate(titles):
        left, top = MARGIN + (PANEL + MARGIN) * column, CAPTION + MARGIN
        pen.text((left, 4), title, fill="black")
        for row, height in zip(panels, heights, strict=True):
            sheet.paste(row[column], (left, top))
            top += height + MARGIN
    return sheet


def tinted(
    image: np.ndarray, strips: np.ndarray | None, labels: Sequence[int] | np.ndarray, shown: np.ndarray | None = None
) -> np.ndarray:
    """Return an image `[H, W, 3]` RGB uint8 with masks blended in, each in the colour of its class, with an edge.

    Args:
        strips: masks `[S, 5]`; None leaves the image as it is.
        labels: class numbers from 1 `[N]`.
        shown: which masks to draw `[N]`. By default all.
    """
    if strips is None or not len(strips):
        return image
    blended = image.copy()
    # Draw the last mask first, because the best detection comes first.
    for index in reversed(np.unique(strips[:, 0]).tolist()):
        if shown is not None and not shown[index]:
            continue
        own = strips[strips[:, 0] == index]
        low, high = own[:, [3, 1]].min(axis=0), own[:, [4, 2]].max(axis=0)
        inside = bitmaps(own - [index, low[1], low[1], low[0], low[0]], 1, tuple(high - low))[0]
        edge = inside - cv2.erode(inside, np.ones((3, 3), np.uint8), borderValue=0)
        part = blended[low[0] : high[0], low[1] : high[1]]
        weight = TINT * inside[..., None] + (1 - TINT) * edge[..., None]
        part[:] = (part * (1 - weight) + weight * np.array(colour_of(int(labels[index]) - 1))).round()
    return blended


def draw_detections(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: Sequence[int],
    names: Sequence[str],
    scores: Sequence[float],
    strips: np.ndarray | None = None,
) -> np.ndarray:
    """Draw detections on an image `[H, W, 3]` RGB uint8. A small image is enlarged first.

    Args:
        boxes: `[N, 4]` xyxy in pixels of the image.
        labels: class numbers, which choose the colours.
        names: class names, one per box.
        scores: in 0..1. The best boxes are drawn last, on top.
        strips: masks of the boxes `[S, 5]`.
    """
    image = tinted(image, strips, labels)
    height, width = image.shape[:2]
    scale = max(1, min(LARGEST // max(height, width), -(-ENLARGED // max(height, width))))
    picture = Image.fromarray(image)
    if scale > 1:
        picture = picture.resize((width * scale, height * scale), Image.Resampling.BICUBIC)
    side = max(picture.size)
    # Choose a font that is large enough to read, but does not cover the small objects of a large image.
    usual = float(np.median((boxes[:, 2:] - boxes[:, :2]).min(1))) * scale if len(boxes) else side
    size = max(11, min(side // 60, round(usual / 6)))
    order = sorted(range(len(scores)), key=lambda index: scores[index])
    marks = [(boxes[index] * scale, _colour(labels[index]), f"{names[index]} {scores[index]:.2f}") for index in order]
    _draw_marks(picture, marks, size=size, line=max(2, size // 7))
    return np.asarray(picture)


Mark = tuple[Sequence[float] | np.ndarray, str, str]  # box xyxy, colour and text


def _truth_marks(truth: dict[str, np.ndarray], names: Sequence[str]) -> list[Mark]:
    """Return the marks (boxes with captions) for an image's true boxes. Crowds come first."""
    crowds = [(box, "#808080", "crowd") for box in truth.get("ignore", ())]
    return crowds + [
        (box, _colour(label), names[label - 1]) for box, label in zip(truth["boxes"], truth["labels"], strict=True)
    ]


def _detection_marks(found: dict[str, np.ndarray], names: Sequence[str], min_score: float) -> list[Mark]:
    """Return the marks (boxes with captions) for detections sorted by score. The best one is drawn last, on top."""
    rows = zip(found["boxes"], found["labels"], found["scores"], strict=True)
    shown = [(box, label, score) for box, label, score in rows if score >= min_score]
    return [(box, _colour(label), f"{names[label - 1]} {score:.2f}") for box, label, score in reversed(shown)]


def _panel(image: np.ndarray, marks: Sequence[Mark]) -> Image.Image:
    """Draw marks (boxes with captions) on an image that is resized to a long side of `PANEL` pixels."""
    height, width = image.shape[:2]
    scale = PANEL / max(height, width)
    panel = Image.fromarray(image).resize((round(width * scale), round(height * scale)), Image.Resampling.BILINEAR)
    scaled = [(np.asarray(box, np.float64) * scale, colour, text) for box, colour, text in marks]
    _draw_marks(panel, scaled, size=10, line=2)
    return panel


def _draw_marks(picture: Image.Image, marks: Sequence[Mark], *, size: float, line: int) -> None:
    """Draw boxes and then their labels. The last box is on top, and its label gets the best place.

    Args:
        marks: boxes in pixels of `picture`, colours and texts.
        size: of the letters in pixels.
        line: width of the edges in pixels.
    """
    if not marks:
        return
    pen = ImageDraw.Draw(picture)
    for (left, top, right, bottom), colour, _ in marks:
        pen.rectangle((left, top, max(left, right), max(top, bottom)), outline=colour, width=line)
    texts = [pen.textbbox((0, 0), text, font=font_for(text, size)) for _, _, text in marks]
    sizes = np.array([(right - left + 2 * PADDING, bottom - top + 2 * PADDING) for left, top, right, bottom in texts])
    places = place_labels(np.array([box for box, _, _ in marks])[::-1], sizes[::-1], picture.size, line)[::-1]
    for (_, colour, text), (x, y), (width, height), bounds in zip(marks, places, sizes, texts, strict=True):
        pen.rectangle((x, y, x + width - 1, y + height - 1), fill=colour)
        ink = ink_on(ImageColor.getrgb(colour)[:3])
        pen.text((x + PADDING - bounds[0], y + PADDING - bounds[1]), text, fill=ink, font=font_for(text, size))


def _colour(label: int) -> str:
    """Return the colour of a label, which counts from 1, as `#rrggbb`."""
    return "#{:02x}{:02x}{:02x}".format(*colour_of(label - 1))
