"""Turns the results of the three tasks into JSON for the page: boxes with masks, label maps, or rankings."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from threading import Lock

import cv2
import numpy as np
import PIL.Image
from numpy.typing import ArrayLike

from backbones.common.colours import Colour, colour_of
from backbones.common.explanation import Explanation
from backbones.common.files import JsonObject
from backbones.errors import UserError
from classification.explain import explain
from classification.trained import TrainedClassifier
from detection.explain import explain as explain_detection
from detection.results import Detection, Detections
from detection.trained import TrainedDetector
from segmentation.results import LabelMap
from tools.prediction.opening import open_model

TINT = 115  # opacity of a mask, 0..255
FIRST_SCORE = 0.5  # where the slider stands at first without a best score
TOP = 10  # classes in a ranking
HEAT_SIDE = 1200  # longer side in pixels that the picture of a heat map has at most


class ShownRun:
    """A trained run that the page shows. Requests use the model one after another.

    Args:
        run: run folder or weights file.
        name: name on the page, without folders.
        device: see `--device`.

    Raises:
        UserError: there is no trained model.
    """

    def __init__(self, run: str, name: str, *, device: str) -> None:
        self.name, self._lock = name, Lock()
        self.model = open_model(run, device=device, top=TOP)
        self.trained = self.model.trained

    def describe(self) -> JsonObject:
        """Return name, task, and the score at which the slider stands at first."""
        best = [float(score) for score in (self.trained.meta.get("best_scores") or {}).values()]
        start = float(np.median(best)) if best else FIRST_SCORE
        return {"name": self.name, "task": self.trained.task, "score": round(start, 2)}

    def answer(self, pixels: np.ndarray) -> JsonObject:
        """Return the result for an image `[H, W, 3]` uint8 as JSON.

        Raises:
            UserError: the image cannot be used, for example because it is too thin.
        """
        with self._lock:
            found = self.model(pixels)
            explained = self._explained(pixels)
        size = {"width": pixels.shape[1], "height": pixels.shape[0], "task": self.trained.task}
        if isinstance(found, Detections):
            return {**size, "boxes": boxes(found)}
        if isinstance(found, LabelMap):
            return {**size, **label_map(found)}
        return {**size, "classes": [{"name": name, "score": score} for name, score in found], **explained}

    def _explained(self, pixels: np.ndarray) -> JsonObject:
        """Return where a classifier finds its most probable class, as a PNG; {} for other models."""
        if not isinstance(self.model, TrainedClassifier) or not self.model.model.backbone.feature_info:
            return {}
        return _heat_map(explain(self.model, pixels))

    def explain(self, pixels: np.ndarray, box: Sequence[float], name: str) -> JsonObject:
        """Return where a detector finds one detection, as a PNG.

        Args:
            pixels: the image `[H, W, 3]` uint8.
            box: left, top, right and bottom of the detection in pixels.
            name: category of the detection.

        Raises:
            UserError: the model is no detector, or has no such category, or the box is not in the image.
        """
        if not isinstance(self.model, TrainedDetector):
            raise UserError("only the detections of a detector can be explained")
        left, top, right, bottom = box
        label = 0  # the map does not depend on the category's id
        with self._lock:
            return _heat_map(
                explain_detection(self.model, pixels, Detection((left, top, right, bottom), 0, label, name))
            )


def boxes(found: Detections) -> list[JsonObject]:
    """Return name, score, corners and colour of each box, and its mask as a PNG of the box's pixels."""
    rows: list[JsonObject] = []
    for each in found:
        colour = colour_of(each.label - 1)
        row = {"name": each.name, "score": each.score, "box": list(each.box), "colour": _hex(colour)}
        mask = each.mask
        if mask is not None and bool(mask.any()):
            bitmap = mask.numpy()
            (top, bottom), (left, right) = (_ends(np.any(bitmap, axis=axis)) for axis in (1, 0))
            part = bitmap[top : bottom + 1, left : right + 1]
            row |= {"mask": _png(_tinted(part, colour)), "corner": [left, top]}
        rows.append(row)
    return rows


def label_map(found: LabelMap) -> JsonObject:
    """Return the colours of the label map as a PNG, and the shown classes with their fractions."""
    table = np.zeros((256, 4), np.uint8)
    shown = found.rows()
    colours = found.colours or tuple(colour_of(number) for number in range(len(found.names)))
    for row in shown:
        table[row["label"]] = (*colours[row["label"]], 255)
    classes = [{"name": row["name"], "score": row["fraction"], "colour": _hex(colours[row["label"]])} for row in shown]
    return {"labels": _png(table[found.labels.numpy()]), "classes": classes}


def _ends(is_inside: ArrayLike) -> list[int]:
    """Return the first and last index of the true values, as a list of two."""
    indices = np.flatnonzero(is_inside)
    return [int(indices[0]), int(indices[-1])]


def _tinted(mask: np.ndarray, colour: Colour) -> np.ndarray:
    """Return a mask as a tint with an opaque edge, which keeps masks of one class apart where they overlap."""
    inside = mask.astype(np.uint8)
    edge = inside - cv2.erode(inside, np.ones((3, 3), np.uint8), borderValue=0)
    pixels = np.zeros((*mask.shape, 4), np.uint8)
    pixels[mask] = (*colour, TINT)
    pixels[edge > 0, 3] = 255
    return pixels


def _heat_map(found: Explanation) -> JsonObject:
    """Return a heat map as a PNG, with the name that it explains."""
    drawn = found.plot()
    drawn.thumbnail((HEAT_SIDE, HEAT_SIDE))
    return {"heat": _png(np.asarray(drawn)), "explained": found.name}


def _png(pixels: np.ndarray) -> str:
    content = io.BytesIO()
    PIL.Image.fromarray(pixels).save(content, "PNG", compress_level=3)
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"


def _hex(colour: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
