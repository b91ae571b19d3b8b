"""The palette of the classes: colours that can be told apart, under an overlay too."""

from __future__ import annotations

import numpy as np
import pytest

from backbones.common.colours import colour_of, ink_on, oklab


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


def test_text_on_every_colour_of_the_palette_has_the_contrast_that_wcag_asks_for():
    """Black on (0, 208, 0) has (0.7152 * 0.631 + 0.05) / 0.05 = 10; white would have 2.1."""
    assert ink_on((0, 208, 0)) == (0, 0, 0) and ink_on((120, 0, 0)) == (255, 255, 255)
    for number in range(256):
        red, green, blue = (
            part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
            for part in np.array(colour_of(number)) / 255
        )
        luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
        contrast = (luminance + 0.05) / 0.05 if ink_on(colour_of(number)) == (0, 0, 0) else 1.05 / (luminance + 0.05)
        assert contrast >= 4.5, colour_of(number)
