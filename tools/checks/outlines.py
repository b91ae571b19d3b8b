"""Checks of instances' outlines against themselves, their boxes and their areas."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Sequence
from itertools import chain
from types import NoneType
from typing import Any

import numpy as np

from detection.data.coco import is_number
from segmentation.data.outlines import checked_polygon, checked_runs

# Outlines are drawn by hand, boxes may be older than them, and areas count pixels or the plane: only factors count.
AREA_FACTOR = 2.0
LEAST_IOU = 0.5  # of a box and the box around the outline
FAR = 1e9  # pixels; what lies beyond is as far away as this
SLACK = 2.0  # pixels on each side, which are much of a small object
Add = Callable[[int, str, str], None]


class Outlines:
    """The outlines of a file's annotations, measured together.

    Args:
        annotations: the records.
        rows: the image of each `[N]`, -1 where it is not known.
        sizes: heights and widths of the images `[I, 2]`, 0 where they are not known.
        boxes: xyxy `[N, 4]`, NaN where they are malformed.
    """

    def __init__(
        self, annotations: Sequence[dict[str, Any]], rows: np.ndarray, sizes: np.ndarray, boxes: np.ndarray
    ) -> None:
        self.given = [record.get("segmentation") for record in annotations]
        self.stated = [record.get("area") for record in annotations]
        self.rows, self.sizes, self.boxes = rows, sizes, boxes.clip(-FAR, FAR)
        self.areas = np.zeros(len(annotations))  # of the outline, in pixels; NaN where a part of it is malformed
        self.frames = np.tile([np.inf, np.inf, -np.inf, -np.inf], (len(annotations), 1))  # xyxy around the polygons

    def check(self, add: Add) -> None:
        """Note what is malformed, and areas and boxes that are far from the outlines'."""
        self._measure_runs(add)
        self._measure_polygons(add)
        self._check_presence(add)
        self._check_areas(add)
        self._check_frames(add)

    def _measure_runs(self, add: Add) -> None:
        for place, outline in enumerate(self.given):
            if not outline or not isinstance(outline, dict) or self.rows[place] < 0:
                continue
            height, width = self.sizes[self.rows[place]].tolist()
            try:
                self.areas[place] = checked_runs(outline, (height, width))[1::2].sum() if height and width else 0
            except ValueError as error:
                self._refuse(add, place, "malformed run lengths", str(error))

    def _measure_polygons(self, add: Add) -> None:
        """Shoelace areas and frames of all polygons at once."""
        owners, polygons = self._polygons(add)
        if not polygons:
            return
        lengths = np.array([len(polygon) for polygon in polygons]) // 2
        numbers = np.fromiter(chain.from_iterable(polygons), np.float64, 2 * lengths.sum())
        points = numbers.reshape(-1, 2).clip(-FAR, FAR)
        first = np.cumsum(lengths) - lengths
        following = np.arange(1, len(points) + 1)
        following[first + lengths - 1] = first
        x, y = points.T
        areas = np.abs(np.add.reduceat(x * y[following] - x[following] * y, first)) / 2
        np.add.at(self.areas, owners, areas)
        np.minimum.at(self.frames[:, :2], owners, np.minimum.reduceat(points, first))
        np.maximum.at(self.frames[:, 2:], owners, np.maximum.reduceat(points, first))

    def _polygons(self, add: Add) -> tuple[np.ndarray, list[list[float]]]:
        """The well-formed polygons and the annotation of each; others are noted."""
        owners, polygons = [], []
        for place, outline in enumerate(self.given):
            for polygon in outline if isinstance(outline, list) else ():
                if _looks_well(polygon) or self._is_well(add, place, polygon):
                    owners.append(place)
                    polygons.append(polygon)
        return np.array(owners, np.int64), polygons

    def _is_well(self, add: Add, place: int, polygon: Any) -> bool:
        try:
            checked_polygon(polygon)
        except ValueError as error:
            few = isinstance(polygon, list) and len(polygon) in (2, 4)
            self._refuse(add, place, "polygon of few points" if few else "malformed polygon", str(error))
            return False
        return True

    def _refuse(self, add: Add, place: int, kind: str, text: str) -> None:
        self.areas[place] = np.nan
        add(place, kind, text)

    def _check_presence(self, add: Add) -> None:
        """Remark on annotations without an outline where others have one: label maps cannot be painted of them."""
        for place in [
            place for place, outline in enumerate(self.given) if not isinstance(outline, (list, dict, NoneType))
        ]:
            add(place, "malformed field", "`segmentation` is no list of polygons nor run lengths")
        absent = [place for place, outline in enumerate(self.given) if outline in (None, [], {})]
        for place in absent if len(absent) < len(self.given) else ():
            add(place, "no outline", "`segmentation` is empty or missing, while others have one")

    def _check_areas(self, add: Add) -> None:
        sides = self.boxes[:, 2:] - self.boxes[:, :2]
        box_areas, slack = sides.prod(axis=1), SLACK * sides.sum(axis=1)
        for place in np.flatnonzero(self.areas > AREA_FACTOR * box_areas + slack):
            add(int(place), "wrong area", f"outline of {self.areas[place]:.0f}, box of {box_areas[place]:.0f} pixels")
        stated = np.array([_stated(add, place, value) for place, value in enumerate(self.stated)])
        expected = np.where(self.areas > 0, self.areas, np.nan)
        over = stated > AREA_FACTOR * np.where(np.isnan(expected), box_areas, expected) + slack
        under = AREA_FACTOR * stated + slack < expected
        for place in np.flatnonzero(over | under | (stated < 0)):
            what = "outline" if expected[place] > 0 else "box"
            size = expected[place] if expected[place] > 0 else box_areas[place]
            add(int(place), "wrong area", f"`area` is {stated[place]:.0f}, its {what} has {size:.0f} pixels")

    def _check_frames(self, add: Add) -> None:
        """Boxes that lie elsewhere than their polygons, as corners written for width and height do."""
        low, high = (np.stack([self.boxes, self.frames]).reshape(2, -1, 2, 2)[:, :, side] for side in (0, 1))
        shared = (high.min(axis=0) - low.max(axis=0) + SLACK).clip(0).prod(axis=1)
        whole = (high.max(axis=0) - low.min(axis=0)).prod(axis=1)
        framed = np.isfinite(self.frames).all(axis=1) & (self.areas > 0)
        for place in np.flatnonzero(framed & (shared < LEAST_IOU * whole)):
            x, y, right, bottom = self.frames[place]
            text = f"the outline lies in [{x:.0f}, {y:.0f}, {right - x:.0f}, {bottom - y:.0f}]"
            add(int(place), "box beside its outline", text)


def _looks_well(polygon: Any) -> bool:
    """Whether a polygon is one at a glance; others get the full check."""
    whole = isinstance(polygon, list) and len(polygon) >= 6 and not len(polygon) % 2
    return whole and set(map(type, polygon)) <= {int, float} and all(-FAR < value < FAR for value in polygon)


def _stated(add: Add, place: int, area: Any) -> float:
    """The `area` of a record; NaN where there is none."""
    if area is not None and not is_number(area):
        add(place, "malformed field", f"`area` is {reprlib.repr(area)}, not a finite number")
    return float(area) if is_number(area) else np.nan
