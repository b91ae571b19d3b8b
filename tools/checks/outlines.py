"""Checks the outlines of COCO instances, and compares them with the instances' boxes and areas."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from types import NoneType

import numpy as np

from backbones.common.outlines import checked_polygon, checked_runs
from backbones.common.values import is_number

# Outlines are drawn by hand, and tools measure areas in several ways: only a large factor is reported.
AREA_FACTOR = 2.0
LEAST_IOU = 0.5  # of a box and the box around the outline
FAR = 1e9  # pixels; coordinates are clipped to this value
SLACK = 2.0  # pixels on each side; matters for small objects only
Add = Callable[[int, str, str], None]  # index of the annotation, kind and text of a problem


class Outlines:
    """Outlines (field `segmentation`) of all annotations of a COCO file, which are checked together.

    Args:
        annotations: the records `[N]`.
        rows: index of the image of each annotation `[N]`, -1 if unknown.
        sizes: heights and widths of the images `[I, 2]`, 0 if unknown.
        boxes: xyxy `[N, 4]`, NaN for malformed boxes.
    """

    def __init__(
        self, annotations: Sequence[Mapping[str, object]], rows: np.ndarray, sizes: np.ndarray, boxes: np.ndarray
    ) -> None:
        self.given = [record.get("segmentation") for record in annotations]
        self.stated = [record.get("area") for record in annotations]
        self.rows, self.sizes, self.boxes = rows, sizes, boxes.clip(-FAR, FAR)
        self.areas = np.zeros(len(annotations))  # of the outlines, in square pixels; NaN for malformed outlines
        self.frames = np.tile([np.inf, np.inf, -np.inf, -np.inf], (len(annotations), 1))  # xyxy around the polygons

    def check(self, add: Add) -> None:
        """Report malformed outlines, and boxes and areas that differ much from the outlines."""
        self._measure_runs(add)
        self._measure_polygons(add)
        self._check_presence(add)
        self._check_areas(add)
        self._check_frames(add)

    def _measure_runs(self, add: Add) -> None:
        for index, outline in enumerate(self.given):
            if not outline or not isinstance(outline, dict) or self.rows[index] < 0:
                continue
            height, width = self.sizes[self.rows[index]].tolist()
            try:
                self.areas[index] = checked_runs(outline, (height, width))[1::2].sum() if height and width else 0
            except ValueError as error:
                self._reject(add, index, "malformed run lengths", str(error))

    def _measure_polygons(self, add: Add) -> None:
        """Compute the areas (shoelace formula) and the surrounding boxes of all polygons at once."""
        owners, polygons = self._polygons(add)
        if not polygons:
            return
        lengths = np.array([len(polygon) for polygon in polygons]) // 2
        numbers = np.fromiter(chain.from_iterable(polygons), np.float64, 2 * lengths.sum())
        points = numbers.reshape(-1, 2).clip(-FAR, FAR)
        first = np.cumsum(lengths) - lengths
        # Index of the next point of each point; the last point of a polygon is followed by its first.
        following = np.arange(1, len(points) + 1)
        following[first + lengths - 1] = first
        x, y = points.T
        areas = np.abs(np.add.reduceat(x * y[following] - x[following] * y, first)) / 2
        np.add.at(self.areas, owners, areas)
        np.minimum.at(self.frames[:, :2], owners, np.minimum.reduceat(points, first))
        np.maximum.at(self.frames[:, 2:], owners, np.maximum.reduceat(points, first))

    def _polygons(self, add: Add) -> tuple[np.ndarray, list[list[float]]]:
        """Return the well-formed polygons, with the index of each polygon's annotation; report the malformed ones."""
        owners, polygons = [], []
        for index, outline in enumerate(self.given):
            if not isinstance(outline, list):
                continue
            if outline and all(map(is_number, outline)):
                text = f"`segmentation` is a flat list of {len(outline)} numbers, not a list of polygons [[x, y, ...]]"
                self._reject(add, index, "flat polygon", text)
                continue
            errors = []
            for polygon in outline:
                if error := None if _is_plain(polygon) else _polygon_error(polygon):
                    errors.append(error)
                else:
                    owners.append(index)
                    polygons.append(polygon)
            if errors:
                # Report one problem of an annotation, so that the count is that of the annotations.
                kind, text = errors[0]
                more = f"; so are {len(errors) - 1} more of its polygons" if len(errors) > 1 else ""
                self._reject(add, index, kind, text + more)
        return np.array(owners, np.int64), polygons

    def _reject(self, add: Add, index: int, kind: str, text: str) -> None:
        self.areas[index] = np.nan
        add(index, kind, text)

    def _check_presence(self, add: Add) -> None:
        """Report annotations without an outline, if other annotations have one, as label maps need an outline."""
        for index, outline in enumerate(self.given):
            if not isinstance(outline, (list, dict, NoneType)):
                add(index, "malformed field", "`segmentation` is neither a list of polygons nor run lengths")
        absent = [index for index, outline in enumerate(self.given) if outline in (None, [], {})]
        for index in absent if len(absent) < len(self.given) else ():
            add(index, "no outline", "`segmentation` is empty or missing, but other annotations have an outline")

    def _check_areas(self, add: Add) -> None:
        sides = self.boxes[:, 2:] - self.boxes[:, :2]
        box_areas, slack = sides.prod(axis=1), SLACK * sides.sum(axis=1)
        for index in np.flatnonzero(self.areas > AREA_FACTOR * box_areas + slack):
            text = f"the outline has {self.areas[index]:.0f} pixels, but its box only {box_areas[index]:.0f}"
            add(int(index), "wrong area", text)
        stated = np.array([_stated(add, index, value) for index, value in enumerate(self.stated)])
        expected = np.where(self.areas > 0, self.areas, np.nan)
        over = stated > AREA_FACTOR * np.where(np.isnan(expected), box_areas, expected) + slack
        under = AREA_FACTOR * stated + slack < expected
        for index in np.flatnonzero(over | under | (stated < 0)):
            what = "outline" if expected[index] > 0 else "box"
            size = expected[index] if expected[index] > 0 else box_areas[index]
            add(int(index), "wrong area", f"`area` is {stated[index]:.0f}, but the {what} has {size:.0f} pixels")

    def _check_frames(self, add: Add) -> None:
        """Report boxes that differ much from the bounding box of their polygons.

        A common cause: the last two numbers of a box are a corner where width and height are needed.
        """
        low, high = (np.stack([self.boxes, self.frames]).reshape(2, -1, 2, 2)[:, :, side] for side in (0, 1))
        shared = (high.min(axis=0) - low.max(axis=0) + SLACK).clip(0).prod(axis=1)
        whole = (high.max(axis=0) - low.min(axis=0)).prod(axis=1)
        framed = np.isfinite(self.frames).all(axis=1) & (self.areas > 0)
        for index in np.flatnonzero(framed & (shared < LEAST_IOU * whole)):
            x, y, right, bottom = self.frames[index]
            text = f"the box around the outline is [{x:.0f}, {y:.0f}, {right - x:.0f}, {bottom - y:.0f}], not `bbox`"
            add(int(index), "box beside its outline", text)


def _polygon_error(polygon: object) -> tuple[str, str] | None:
    """Return the problem of a polygon, as its kind and a text; None if the polygon is well-formed."""
    try:
        checked_polygon(polygon)
    except ValueError as error:
        few = isinstance(polygon, list) and len(polygon) in (2, 4)
        return "polygon of few points" if few else "malformed polygon", str(error)
    return None


def _is_plain(polygon: object) -> bool:
    """Return whether a polygon passes a quick check. Polygons that fail it get a slower, complete check."""
    if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
        return False
    return set(map(type, polygon)) <= {int, float} and all(-FAR < value < FAR for value in polygon)


def _stated(add: Add, index: int, area: object) -> float:
    """Return the `area` of an annotation, or NaN if it is missing or malformed."""
    if isinstance(area, (int, float)) and is_number(area):
        return float(area)
    if area is not None:
        add(index, "malformed field", f"`area` is {reprlib.repr(area)}, not a finite number")
    return np.nan
