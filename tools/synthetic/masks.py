"""Converts fine masks of objects to COCO's fields (polygons or run lengths, box, area), in pixels of the image."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from tools.synthetic.records import MaskFields

Mask = NDArray[np.uint8]
Contour = NDArray[np.float64]

SLIVER = 1.0  # square pixels; smaller islands and holes are left out, as a human annotator does
TOLERANCE = 0.75  # cells by which a polygon may leave the mask's edge


def object_fields(mask: Mask, fine: int) -> MaskFields:
    """Return COCO's fields of an object's visible part. `segmentation` has polygons.

    Args:
        mask: 0/1, [fine * height, fine * width].
        fine: cells along a pixel's side; box and area are exact to one cell.
    """
    contours, parents = _contours(mask, fine)
    corners = np.concatenate([contour for contour, parent in zip(contours, parents, strict=True) if parent < 0])
    (left, top), (right, bottom) = corners.min(0) / fine, corners.max(0) / fine
    return {
        "segmentation": _polygons(contours, parents, fine),
        "bbox": [float(left), float(top), float(right - left), float(bottom - top)],
        "area": float(mask.sum(dtype=np.int64) / fine**2),
        "iscrowd": 0,
    }


def crowd_fields(mask: Mask, fine: int) -> MaskFields:
    """Return COCO's fields of a crowd. `segmentation` is a run-length code over whole pixels."""
    height, width = mask.shape[0] // fine, mask.shape[1] // fine
    covered = mask.reshape(height, fine, width, fine).mean((1, 3))  # fraction of each pixel
    pixels = covered >= 0.5
    rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
    box = [columns[0], rows[0], columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0]]
    return {
        "segmentation": {"counts": _run_lengths(pixels), "size": [height, width]},
        "bbox": [float(value) for value in box],
        "area": float(pixels.sum()),
        "iscrowd": 1,
    }


def _run_lengths(pixels: NDArray[np.bool_]) -> list[int]:
    """Return the lengths of alternating runs of 0 and 1, column by column. The first run counts zeros; it may be 0."""
    flat = pixels.ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(np.concatenate([[0], changes, [flat.size]])).tolist()
    return [0, *runs] if flat[0] else runs


def _contours(mask: Mask, fine: int) -> tuple[list[Contour], list[int]]:
    """Return contours [n, 2] along the edges of cells, and for each contour its parent.

    A hole's parent is the index of the island around it; an island's parent is -1. OpenCV traces the centres of cells,
    which shrinks a shape by half a cell on each side. So this function traces the corners of the cells, which have one
    more row and column and follow the true edges.
    """
    corners = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), np.uint8)
    for down in (0, 1):
        for right in (0, 1):
            corners[down : down + mask.shape[0], right : right + mask.shape[1]] |= mask
    found, tree = cv2.findContours(corners, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    areas = [cv2.contourArea(contour) for contour in found]
    largest = int(np.argmax(areas))
    large = {index for index, area in enumerate(areas) if index == largest or area >= SLIVER * fine**2}
    # The tree is [1, n, (next, previous, child, parent)]. Drop the holes of dropped islands too.
    kept = [index for index in sorted(large) if tree[0][index][3] < 0 or tree[0][index][3] in large]
    new_index = {index: number for number, index in enumerate(kept)}
    contours = [found[index].reshape(-1, 2).astype(np.float64) for index in kept]
    return contours, [new_index.get(int(tree[0][index][3]), -1) for index in kept]


def _polygons(contours: list[Contour], parents: list[int], fine: int) -> list[list[float]]:
    """Return one polygon per island. A double line joins each hole to its island, as COCO's polygons have no holes."""
    simple = [_simplified(contour) for contour in contours]
    polygons = []
    for island, parent in enumerate(parents):
        if parent < 0:
            outline = simple[island]
            for hole in (index for index, around in enumerate(parents) if around == island):
                outline = _joined(outline, simple[hole])
            polygons.append((outline / fine).ravel().tolist())
    return polygons


def _simplified(contour: Contour) -> Contour:
    return cv2.approxPolyDP(contour.astype(np.int32), TOLERANCE, closed=True).reshape(-1, 2).astype(np.float64)


def _joined(outline: Contour, hole: Contour) -> Contour:
    """Join a hole to an outline at their closest corners. The result runs along the outline to the hole and back.

    OpenCV traces holes in the opposite direction to islands, so both filling rules subtract the area of the hole.
    """
    distances = ((outline[:, None] - hole[None]) ** 2).sum(-1)
    here, there = np.unravel_index(int(distances.argmin()), distances.shape)
    detour = np.concatenate([hole[there:], hole[: there + 1]])
    return np.concatenate([outline[: here + 1], detour, outline[here:]])
