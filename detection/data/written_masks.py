"""Converts the masks of objects for the writers of layouts, and measures how far pixels and polygons agree."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from backbones.common.contours import single_polygon
from backbones.common.datasets import Record
from backbones.common.outlines import box_of_mask, paint
from detection.data.truth import Truth

NEAR = 0.01  # pixels; COCO's files round boxes and outlines to as many digits
BOXED = "masks of objects (they have none or a malformed one, so that their box is written)"


@dataclass
class WrittenMasks:
    """Masks of a split on their way into another layout.

    Attributes:
        wanted: write a mask wherever the layout can hold it, even if the layout's box is then the one around the mask.
            Otherwise only outlines whose box is that of the object.
        lost: number of things that the layout cannot hold; counts are added.
        ious: IoU of each mask with the polygon that was written for it.
    """

    wanted: bool
    lost: Counter[str]
    ious: list[float] = field(default_factory=list)
    boxes: int = 0

    def polygon(self, record: Record) -> list[float]:
        """Return the polygon of an annotation if it is a single one that may be written as it is; otherwise []."""
        parts = record.get("segmentation") or []
        values = parts[0] if isinstance(parts, list) and len(parts) == 1 else None
        if not isinstance(values, list) or len(values) < 6 or len(values) % 2:
            return []
        xs, ys = values[0::2], values[1::2]
        around = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
        return [float(value) for value in values] if self._fits(around, record) else []

    def mask(self, record: Record, image: Record) -> np.ndarray | None:
        """Return the mask `[H, W]` bool of an annotation, with at least one pixel; None if it is not to be written."""
        try:
            found = paint(record["segmentation"], (image["height"], image["width"]))
        except (KeyError, TypeError, ValueError):
            found = np.zeros((1, 1), bool)
        if not found.any():
            self.lost[BOXED] += self.wanted or bool(record.get("segmentation"))
            return None
        if self._fits([float(side) for side in box_of_mask(found)], record):
            return found
        self.lost["outlines"] += 1
        return None

    def traced(self, record: Record, image: Record) -> list[float]:
        """Return one polygon around the mask of an annotation, with all its parts and holes; [] as `mask`."""
        found = self.mask(record, image)
        if found is None:
            return []
        polygon = single_polygon(found)
        again = paint([polygon], found.shape)
        self.ious.append(float((found & again).sum() / (found | again).sum()))
        return polygon

    def note(self, truth: Truth) -> None:
        """Add to the notes of a split how far polygons agree with masks, and how many boxes differ."""
        if self.ious:
            mean, least = np.mean(self.ious), min(self.ious)
            text = f"masks written as one polygon each (IoU {mean:.4f} on average, {least:.4f} at least)"
            truth.notes[text] += len(self.ious)
        if self.boxes:
            truth.notes["boxes that the new layout replaces by those around their masks"] += self.boxes

    def _fits(self, around: list[float], record: Record) -> bool:
        """Return whether an outline with a box around it may be written; count boxes that change."""
        same = all(abs(a - b) <= NEAR for a, b in zip(around, record["bbox"], strict=True))
        self.boxes += self.wanted and not same
        return same or self.wanted
