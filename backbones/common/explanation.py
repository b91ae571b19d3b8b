"""Heat maps that show where in an image a model finds a class."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import PIL.Image
from torch import Tensor

OPACITY = 0.45  # of the heat map over the image
BOX_COLOUR = (255, 255, 255)
BOX_EDGE = (0, 0, 0)


@dataclass(frozen=True)
class Explanation:
    """Heat map of the places where a model finds a class, in an image or in the part of it that the model sees.

    Attributes:
        name: the class.
        score: its logit.
        heat: `[h, w]` float32 in 0..1; 1 is the place that raises the score most, 0 one that does not raise it.
        pixels: the image, or of a classifier the part that it sees, resized and cut, `[h, w, 3]` uint8.
        box: left, top, right, bottom in pixels of the detection that the map is of; None for a classifier.
    """

    name: str
    score: float
    heat: Tensor
    pixels: np.ndarray
    box: tuple[float, float, float, float] | None = None

    def plot(self) -> PIL.Image.Image:
        """Draw the heat map over the image: blue where the class is not found, red where it is. Draw the box, too."""
        colours = cv2.applyColorMap((self.heat.numpy() * 255).round().astype(np.uint8), cv2.COLORMAP_JET)[..., ::-1]
        drawn = cv2.addWeighted(self.pixels, 1 - OPACITY, np.ascontiguousarray(colours), OPACITY, 0)
        if self.box is not None:
            left, top, right, bottom = (round(each) for each in self.box)
            width = max(1, round(max(drawn.shape[:2]) / 300))
            for colour, line in ((BOX_EDGE, 3 * width), (BOX_COLOUR, width)):
                cv2.rectangle(drawn, (left, top), (right - 1, bottom - 1), colour, line)
        return PIL.Image.fromarray(drawn)


def normalised_heat(heat: Tensor) -> Tensor:
    """Return values `[h, w]` of at least 0 divided by the largest value, on the CPU; zeros stay zeros."""
    return (heat / heat.max().clamp(min=1e-12)).float().cpu()
