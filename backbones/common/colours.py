"""One palette for the classes in all drawings: colours that differ as much as possible, also under an overlay."""

from __future__ import annotations

from functools import cache
from typing import TypeAlias

import numpy as np

Colour: TypeAlias = tuple[int, int, int]  # red, green, blue of 0..255
COLOURS = 256  # number of different colours; the next ones repeat
STEPS = np.arange(0, 256, 15)  # levels of red, green and blue to choose from
LIGHTNESS = (0.4, 0.75)  # of OKLab, 0..1: lines show on dark and on bright images
CHROMA = 0.09  # of OKLab: greys look like the image itself


def colour_of(number: int) -> Colour:
    """Return the colour of a class by its number."""
    return _palette()[number % COLOURS]


def ink_on(colour: Colour) -> Colour:
    """Return black or white, whichever differs more from a colour in contrast (WCAG 2.2, at least 4.5 to 1)."""
    values = np.array(colour) / 255
    linear = np.where(values > 0.04045, ((values + 0.055) / 1.055) ** 2.4, values / 12.92)
    luminance = float(linear @ [0.2126, 0.7152, 0.0722])
    # The contrasts are (luminance + 0.05) / 0.05 to black and 1.05 / (luminance + 0.05) to white.
    return (0, 0, 0) if (luminance + 0.05) ** 2 > 0.05 * 1.05 else (255, 255, 255)


@cache
def _palette() -> list[Colour]:
    """Return the palette: beginning with red, each colour is the one farthest in OKLab from all before it."""
    levels = np.stack(np.meshgrid(STEPS, STEPS, STEPS, indexing="ij"), axis=-1).reshape(-1, 3)
    places = oklab(levels)
    usable = (places[:, 0] > LIGHTNESS[0]) & (places[:, 0] < LIGHTNESS[1]) & (np.hypot(*places[:, 1:].T) > CHROMA)
    levels, places = levels[usable], places[usable]
    chosen = [int(np.abs(levels - (225, 30, 30)).sum(1).argmin())]
    nearest = np.full(len(levels), np.inf)
    for _ in range(COLOURS - 1):
        nearest = np.minimum(nearest, np.linalg.norm(places - places[chosen[-1]], axis=1))
        chosen.append(int(nearest.argmax()))
    return [(int(red), int(green), int(blue)) for red, green, blue in levels[chosen]]


def oklab(colours: np.ndarray) -> np.ndarray:
    """Convert colours `[N, 3]` of 0..255 (sRGB) to OKLab, in which distances are differences that people see.

    Source: B. Ottosson, "A perceptual color space for image processing", 2020.
    """
    values = np.asarray(colours) / 255
    linear = np.where(values > 0.04045, ((values + 0.055) / 1.055) ** 2.4, values / 12.92)
    to_cones = [
        [0.41222147, 0.53633254, 0.05144599],
        [0.2119035, 0.6806995, 0.10739696],
        [0.08830246, 0.28171884, 0.62997870],
    ]
    to_lab = [
        [0.21045426, 0.79361779, -0.00407205],
        [1.97799850, -2.42859220, 0.45059371],
        [0.02590404, 0.78277177, -0.80867577],
    ]
    return np.cbrt(linear @ np.array(to_cones).T) @ np.array(to_lab).T
