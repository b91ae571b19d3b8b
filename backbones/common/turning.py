"""Points of turned boxes and of ellipses."""

from __future__ import annotations

import math
from collections.abc import Sequence

CORNERS = 72  # of the polygon that stands for an ellipse


def turned(box: Sequence[float], degrees: float, centre: tuple[float, float]) -> list[float]:
    """Return the corners `x, y, ...` of a box that is turned clockwise around a point."""
    left, top, width, height = box
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    corners = [(left, top), (left + width, top), (left + width, top + height), (left, top + height)]
    offsets = [(x - centre[0], y - centre[1]) for x, y in corners]
    return [part for x, y in offsets for part in (centre[0] + x * cos - y * sin, centre[1] + x * sin + y * cos)]


def ellipse(box: Sequence[float], degrees: float = 0.0) -> list[float]:
    """Return the points `x, y, ...` of an ellipse in a box (left, top, width, height), turned around its centre."""
    left, top, width, height = box
    x, y = left + width / 2, top + height / 2
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    angles = (2 * math.pi * corner / CORNERS for corner in range(CORNERS))
    offsets = [(width / 2 * math.cos(angle), height / 2 * math.sin(angle)) for angle in angles]
    return [part for a, b in offsets for part in (x + a * cos - b * sin, y + a * sin + b * cos)]


def box_of_ellipse(box: Sequence[float], degrees: float = 0.0) -> list[float]:
    """Return left, top, width and height of the box around an ellipse that fills a box and is turned in it."""
    left, top, width, height = box
    if not degrees:
        return [left, top, width, height]
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    across, down = math.hypot(width * cos, height * sin), math.hypot(width * sin, height * cos)
    return [left + (width - across) / 2, top + (height - down) / 2, across, down]
