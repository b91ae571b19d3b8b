"""Outlines of masks as polygons along the edges of pixels, which have exactly the pixels of the mask."""

from __future__ import annotations

import numpy as np

Point = tuple[int, int]


def contours(mask: np.ndarray) -> list[list[Point]]:
    """Return the closed outlines of a mask `[H, W]` bool, as corners (x, y): outer ones and those of holes.

    Outer outlines have the mask on their right, outlines of holes too. Where two pixels touch at a corner only, the
    outlines stay apart. An outline does not repeat its first corner, and has no corner on a straight line.
    """
    following: dict[Point, list[Point]] = {}
    for start, end in _edges(mask):
        following.setdefault(start, []).append(end)
    found: list[list[Point]] = []
    while following:
        start = next(iter(following))
        path, at = [start], _take(following, start, None)
        while at != start:
            path.append(at)
            at = _take(following, at, path[-2])
        neighbours = zip(path, [path[-1], *path[:-1]], [*path[1:], path[0]], strict=True)
        found.append([corner for corner, before, after in neighbours if _cross(before, corner, after)])
    return found


def single_polygon(mask: np.ndarray) -> list[float]:
    """Return one polygon x, y, x, y, ... of a mask `[H, W]` bool, [] if it is empty.

    Several parts and holes are joined by lines there and back, which have no area.
    """
    first, *others = contours(mask) or [[]]
    if not first:
        return []
    points = [*first, first[0]]
    for path in others:
        points += [*path, path[0], first[0]]
    if not others:
        points.pop()
    return [float(value) for point in points for value in point]


def _edges(mask: np.ndarray) -> list[tuple[Point, Point]]:
    """Return the edges between pixels inside and outside a mask, directed so that the mask lies on the right."""
    whole = np.pad(mask.astype(bool), 1)
    edges: list[tuple[Point, Point]] = []
    inside, above, left = whole[1:, 1:], whole[:-1, 1:], whole[1:, :-1]
    for flags, (dx, dy), (ex, ey) in (
        (inside & ~above, (0, 0), (1, 0)),  # the top of a pixel, to the right
        (above & ~inside, (1, 0), (0, 0)),  # the bottom of the pixel above, to the left
        (left & ~inside, (0, 0), (0, 1)),  # the right side of the pixel on the left, downwards
        (inside & ~left, (0, 1), (0, 0)),  # the left side of a pixel, upwards
    ):
        ys, xs = np.nonzero(flags)
        places = zip(xs.tolist(), ys.tolist(), strict=True)
        edges += [((x + dx, y + dy), (x + ex, y + ey)) for x, y in places]
    return edges


def _take(following: dict[Point, list[Point]], at: Point, before: Point | None) -> Point:
    """Remove and return the next corner; where two edges begin, the one that turns right."""
    ends = following[at]
    chosen = 0
    if before is not None and len(ends) > 1:
        chosen = int(_cross(before, at, ends[0]) < _cross(before, at, ends[1]))
    end = ends.pop(chosen)
    if not ends:
        del following[at]
    return end


def _cross(a: Point, b: Point, c: Point) -> int:
    """Return a positive number if the way from a over b to c turns right, in coordinates in which y grows downwards."""
    return (b[0] - a[0]) * (c[1] - b[1]) - (b[1] - a[1]) * (c[0] - b[0])
