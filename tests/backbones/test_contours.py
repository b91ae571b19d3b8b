"""Polygons along the edges of pixels, and run lengths of Label Studio's brush, hold exactly the pixels of a mask."""

from __future__ import annotations

import numpy as np
import pytest

from backbones.common.brush import decode_brush, encode_brush
from backbones.common.contours import contours, single_polygon
from backbones.common.outlines import paint


def test_contours_by_hand():
    """An L of three pixels; two pixels that touch at a corner; a ring, whose hole has an outline of its own."""
    bent = np.array([[1, 0], [1, 1]])
    assert contours(bent) == [[(0, 0), (1, 0), (1, 1), (2, 1), (2, 2), (0, 2)]]
    assert len(contours(np.eye(2))) == 2
    ring = np.pad(np.zeros((1, 1)), 1, constant_values=1)
    assert sorted(map(sorted, contours(ring))) == [
        [(0, 0), (0, 3), (3, 0), (3, 3)],
        [(1, 1), (1, 2), (2, 1), (2, 2)],
    ]
    assert contours(np.zeros((2, 3))) == [] and single_polygon(np.zeros((2, 3))) == []


def test_random_masks_come_back_from_one_polygon_and_from_the_brush():
    random = np.random.default_rng(0)
    for size in ((1, 1), (1, 9), (12, 7), (30, 40)):
        for share in (0.1, 0.5, 0.9, 1.0):
            mask = random.random(size) < share
            assert np.array_equal(decode_brush(encode_brush(mask), size), mask)
            if mask.any():
                assert np.array_equal(paint([single_polygon(mask)], size), mask)
    long = np.ones((200, 100), bool)  # 80,000 equal values, more than one run holds
    long[0, 0] = False
    assert np.array_equal(decode_brush(encode_brush(long), long.shape), long)


def test_an_outline_without_a_polygon_is_refused():
    with pytest.raises(ValueError, match="an outline has at least one polygon"):
        paint([], (4, 6))
