"""The palette of the classes: colours that can be told apart, under an overlay too."""

from __future__ import annotations

import numpy as np
import pytest

from backbones.common.colours import colour_of, oklab


def test_oklab_of_known_colours():
    """White has lightness 1 and no chroma; pure red is (0.628, 0.225, 0.126) in Ottosson's tables."""
    white, red = oklab(np.array([[255, 255, 255], [255, 0, 0]]))
    assert white == pytest.approx([1, 0, 0], abs=1e-3)
    assert red == pytest.approx([0.628, 0.225, 0.126], abs=1e-3)


@pytest.mark.parametrize("classes, least", [(8, 0.15), (20, 0.09)])
def test_classes_differ_under_a_grey_overlay(classes: int, least: float):
    """0.02 is what people just see; a colour over grey at an opacity of 0.55 keeps about half of its difference."""
    colours = np.array([colour_of(number) for number in range(classes)])
    for image, part in ((colours, 1.0), (0.55 * colours + 0.45 * 128, 0.4)):
        places = oklab(image)
        distances = np.linalg.norm(places[:, None] - places, axis=-1)[~np.eye(classes, dtype=bool)]
        assert distances.min() > part * least
    assert colour_of(300) == colour_of(44)
