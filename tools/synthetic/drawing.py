"""Draws the scenes of the shapes data set: coloured shapes on textured backgrounds, with their visible masks.

All pixels are a function of the random generator that the caller passes. Masks have `FINE` times the resolution of
the image, so edges are antialiased and boxes are exact to a quarter of a pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Mask = NDArray[np.uint8]

FINE = 4  # mask cells along a pixel's side
EMPTY_FRACTION = 0.05  # of the images have no object
CROWD_FRACTION = 0.03  # of the images have a crowd region
MOST_OBJECTS = 6
# Range of the circumscribed diameter divided by the image's side; the boxes are a little smaller.
SIZES = (24 / 128, 76 / 128)
VISIBLE_FRACTION = 0.4  # at least this part of each object stays visible
APART_FRACTION = 0.8  # of the objects touch no object below them
CONTRAST = 120.0  # least distance in RGB between an object and what it covers
ATTEMPTS = 12  # positions tried for one object
SUBCELL_BITS = 4  # fillPoly takes fixed-point coordinates


@dataclass
class SceneObject:
    """One annotated object, or one crowd, in a scene.

    Attributes:
        kind: index into the order of `OUTLINES`.
        visible: mask of 0 and 1, [FINE * size, FINE * size], without the cells that later objects cover.
        whole: number of cells of the whole shape, including covered cells and cells beyond the image.
        crowd: whether this is a crowd region.
    """

    kind: int
    visible: Mask
    whole: float
    crowd: bool = False


@dataclass
class Scene:
    """A drawn image, RGB uint8 [size, size, 3], and its objects from back to front."""

    image: NDArray[np.uint8]
    objects: list[SceneObject]


def draw_scene(rng: np.random.Generator, size: int) -> Scene:
    """Draw one image of `size` x `size` pixels with 0 to 6 objects and, rarely, a crowd."""
    canvas = _background(rng, size)
    objects: list[SceneObject] = []
    if rng.random() >= EMPTY_FRACTION:
        if rng.random() < CROWD_FRACTION:
            canvas = _add_crowd(rng, canvas, objects)
        for _ in range(rng.integers(1, MOST_OBJECTS + 1)):
            canvas = _add_object(rng, canvas, objects)
    grain = rng.uniform(1, 5) * rng.standard_normal(canvas.shape, np.float32)
    return Scene(np.clip(canvas + grain, 0, 255).round().astype(np.uint8), objects)


# Outlines: contours [n, 2] in the unit circle; a second contour is a hole.


def _around(points: int, radius: float = 1.0) -> Array:
    angles = np.arange(points, dtype=np.float32) * (2 * np.pi / points)
    return (radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)).astype(np.float32)


def _circle(rng: np.random.Generator) -> list[Array]:
    return [_around(64)]


def _square(rng: np.random.Generator) -> list[Array]:
    return [_around(4)]


def _triangle(rng: np.random.Generator) -> list[Array]:
    return [_around(3)]


def _star(rng: np.random.Generator) -> list[Array]:
    spikes = _around(10)
    spikes[1::2] *= rng.uniform(0.38, 0.46)
    return [spikes]


def _ring(rng: np.random.Generator) -> list[Array]:
    return [_around(64), _around(64, rng.uniform(0.5, 0.65))]


def _cross(rng: np.random.Generator) -> list[Array]:
    width = rng.uniform(0.24, 0.34)
    tip = (1 - width**2) ** 0.5  # the corners of the arms touch the unit circle
    arm = np.array([[tip, -width], [tip, width], [width, width]], np.float32)
    quarter = np.array([[0, 1], [-1, 0]], np.float32)
    return [np.concatenate([arm @ np.linalg.matrix_power(quarter, turn) for turn in range(4)])]


OUTLINES: dict[str, Callable[[np.random.Generator], list[Array]]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "ring": _ring,
    "cross": _cross,
}
_MAKERS = tuple(OUTLINES.values())


# Positions


def _add_object(rng: np.random.Generator, canvas: Array, objects: list[SceneObject]) -> Array:
    """Draw one object on top of the scene. If every tried position hides too much of another object, draw nothing."""
    size = len(canvas)
    kind = int(rng.integers(len(_MAKERS)))
    apart = rng.random() < APART_FRACTION
    for _ in range(ATTEMPTS):
        diameter = size * SIZES[0] * (SIZES[1] / SIZES[0]) ** rng.random()
        mask, whole = _stamp(rng, kind, size, rng.uniform(0, size, 2), diameter)
        if _fits(mask, whole, objects, apart):
            _cover(objects, mask)
            objects.append(SceneObject(kind, mask, whole))
            return _paint(rng, canvas, mask)
    return canvas


def _add_crowd(rng: np.random.Generator, canvas: Array, objects: list[SceneObject]) -> Array:
    """Scatter many tiny shapes of one kind, which together are one annotation."""
    size = len(canvas)
    kind = int(rng.integers(len(_MAKERS)))
    centre, spread = rng.uniform(0.25, 0.75, 2) * size, rng.uniform(0.08, 0.12) * size
    together = np.zeros((FINE * size, FINE * size), np.uint8)
    for _ in range(rng.integers(12, 25)):
        position = centre + np.clip(rng.standard_normal(2), -2, 2) * spread
        mask, _ = _stamp(rng, kind, size, position, size * rng.uniform(0.045, 0.075))
        canvas = _paint(rng, canvas, mask)
        together |= mask
    objects.append(SceneObject(kind, together, float(together.sum()), crowd=True))
    return canvas


def _stamp(
    rng: np.random.Generator, kind: int, size: int, centre: NDArray[np.float64], diameter: float
) -> tuple[Mask, float]:
    """Return the mask of one rotated shape, and the number of its cells, which includes cells outside the image."""
    turn = rng.uniform(0, 2 * np.pi)
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    contours = [(outline @ rotation * diameter / 2 + centre) * FINE for outline in _MAKERS[kind](rng)]
    # Cell (0, 0) covers 0..1, but OpenCV's pixel (0, 0) has its centre at 0.
    fixed = [((contour - 0.5) * 2**SUBCELL_BITS).round().astype(np.int32) for contour in contours]
    mask = np.zeros((FINE * size, FINE * size), np.uint8)
    cv2.fillPoly(mask, fixed, 1, lineType=cv2.LINE_8, shift=SUBCELL_BITS)
    outer, *holes = (abs(cv2.contourArea(contour.astype(np.float32))) for contour in contours)
    return mask, outer - sum(holes)


def _fits(mask: Mask, whole: float, objects: Sequence[SceneObject], apart: bool) -> bool:
    """Return whether a new shape lies far enough inside the image and leaves enough of each older object visible."""
    if mask.sum() < 0.7 * whole:
        return False
    for each in objects:
        hidden = np.count_nonzero(each.visible & mask)
        if hidden and (apart or np.count_nonzero(each.visible) - hidden < VISIBLE_FRACTION * each.whole):
            return False
    return True


def _cover(objects: Sequence[SceneObject], mask: Mask) -> None:
    for each in objects:
        each.visible &= 1 - mask


def _paint(rng: np.random.Generator, canvas: Array, mask: Mask) -> Array:
    """Blend a texture into the canvas where the mask is set. Its colour contrasts with the pixels that it covers."""
    size = len(canvas)
    alpha = cv2.resize(mask * np.uint8(255), (size, size), interpolation=cv2.INTER_AREA)[..., None] / np.float32(255)
    below = (canvas * alpha).sum((0, 1)) / max(float(alpha.sum()), 1.0)
    colour = _colour_unlike(rng, below)
    other = np.clip(colour + rng.uniform(-35, 35, 3), 0, 255)
    return canvas + alpha * (_texture(rng, size, colour, other, OBJECT_PATTERNS) - canvas)


def _colour_unlike(rng: np.random.Generator, colour: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return a random RGB colour whose distance from `colour` is at least `CONTRAST`."""
    # At least half of the colour cube is that far away, so the loop ends quickly.
    while True:
        candidate = rng.uniform(0, 255, 3)
        if np.linalg.norm(candidate - colour) >= CONTRAST:
            return candidate


# Textures: a pattern [size, size] of values in 0..1 mixes two colours.


def _background(rng: np.random.Generator, size: int) -> Array:
    colour = rng.uniform(20, 235, 3)
    other = np.clip(colour + rng.uniform(-55, 55, 3), 0, 255)
    return _texture(rng, size, colour, other, BACKGROUND_PATTERNS)


def _texture(
    rng: np.random.Generator,
    size: int,
    colour: NDArray[np.float64],
    other: NDArray[np.float64],
    patterns: Sequence[Callable[[np.random.Generator, int], Array]],
) -> Array:
    """Return a texture, float32 RGB [size, size, 3], in which a random pattern mixes two colours."""
    mix = patterns[int(rng.integers(len(patterns)))](rng, size)[..., None]
    return colour.astype(np.float32) + mix * (other - colour).astype(np.float32)


def _ramp(rng: np.random.Generator, size: int) -> Array:
    """Return values [size, size] that rise linearly in a random direction, from about -0.7 to 0.7."""
    turn = rng.uniform(0, 2 * np.pi)
    steps = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    return (np.float32(np.cos(turn)) * steps[None, :] + np.float32(np.sin(turn)) * steps[:, None]).astype(np.float32)


def _flat(rng: np.random.Generator, size: int) -> Array:
    return np.zeros((size, size), np.float32)


def _gradient(rng: np.random.Generator, size: int) -> Array:
    return _ramp(rng, size) / np.float32(1.42) + np.float32(0.5)


def _stripes(rng: np.random.Generator, size: int) -> Array:
    waves = np.sin(_ramp(rng, size) * np.float32(rng.uniform(20, 90)) + np.float32(rng.uniform(0, 6)))
    return np.clip(0.5 + np.float32(rng.uniform(0.5, 2)) * waves, 0, 1).astype(np.float32)


def _clouds(rng: np.random.Generator, size: int) -> Array:
    """Return smooth noise [size, size], made by enlarging a coarse grid of random values."""
    cells = int(rng.integers(4, 17))
    grid = rng.random((cells, cells), np.float32)
    return np.clip(cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC), 0, 1)


def _speckle(rng: np.random.Generator, size: int) -> Array:
    return rng.random((size, size), np.float32)


def _blobs(rng: np.random.Generator, size: int) -> Array:
    """Return a texture of soft-edged ellipses in similar colours. They resemble objects but are background."""
    field = np.full((size, size), 0.5, np.float32)
    for _ in range(rng.integers(6, 16)):
        centre, axes = rng.integers(0, size, 2), (rng.uniform(0.03, 0.14, 2) * size).astype(int) + 1
        turn, shade = rng.uniform(0, 180), float(rng.random())
        ellipse = (tuple(map(float, centre)), tuple(map(float, 2 * axes)), float(turn))
        cv2.ellipse(field, ellipse, shade, thickness=-1)
    return cv2.GaussianBlur(field, (0, 0), size / 64).astype(np.float32, copy=False)


BACKGROUND_PATTERNS = (_gradient, _stripes, _clouds, _speckle, _blobs)
OBJECT_PATTERNS = (_flat, _gradient, _stripes, _clouds, _speckle)
