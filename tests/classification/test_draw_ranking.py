"""Drawn rankings: the image beside bars whose lengths are the probabilities, with names and percentages."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from backbones.common.encoding import encode_jpeg
from backbones.errors import UserError
from classification.draw import BAR, BAR_HEIGHT, BAR_TOP, FIRST, MARGIN, PANEL, ROW, SIDE, draw_ranking, fitted


def test_bars_are_as_long_as_probabilities():
    image = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    probabilities = [0.5, 0.25, 0.004, 0.0]
    drawn = draw_ranking(image, ["one", "two", "three", "four"], probabilities)
    assert drawn.shape == (288, SIDE + PANEL, 3) and drawn.dtype == np.uint8
    assert (drawn[:288, :SIDE] == cv2.resize(image, (SIDE, 288), interpolation=cv2.INTER_AREA)).all()
    for row, probability in enumerate(probabilities):
        top = MARGIN + row * ROW + BAR_TOP
        panel = drawn[top : top + BAR_HEIGHT, SIDE:]
        bar = (panel == (BAR if row else FIRST)).all(-1)
        length = max(1, round((PANEL - 2 * MARGIN) * probability))
        assert (bar.sum(1) == length).all() and bar[:, MARGIN : MARGIN + length].all()


def test_names_and_percentages_are_written_above_their_bars():
    image = np.zeros((SIDE, 100, 3), np.uint8)
    first, again, other = (draw_ranking(image, [name], [0.5])[:, 100:] for name in ("cat", "cat", "dog"))
    assert (first == again).all()
    changed = np.argwhere((first != other).any(-1))
    assert changed.min(0)[0] >= MARGIN and changed.max(0)[0] < MARGIN + BAR_TOP  # the line of the text alone
    assert changed.max(0)[1] < PANEL / 2  # the percentage on the right is the same
    number = (first[MARGIN : MARGIN + BAR_TOP, PANEL // 2 :] < 128).any((0, 2))
    assert number.any() and not number[-MARGIN:].any()


def test_wide_names_and_other_scripts_leave_room_for_the_percentage():
    image = np.zeros((SIDE, 100, 3), np.uint8)
    wide, none, accent, plain = (draw_ranking(image, [name], [1.0])[:, 100:] for name in ("W" * 27, "", "café", "cafe"))
    number = PANEL - MARGIN - 45  # where the percentage begins
    assert (wide[:, number:] == none[:, number:]).all() and (wide != none).any()
    assert (accent != plain).any()


@pytest.mark.parametrize("size", [(1, 900, 3), (40, 20, 1), (SIDE, 10, 3)])
def test_any_image_and_any_name_can_be_drawn(size: tuple[int, int, int]):
    image = np.full(size, 7, np.uint8)
    assert max(fitted(image).shape[:2]) == SIDE and fitted(image).shape[2] == size[2]
    names = ["", "of\ntwo lines", "long " * 40, "名前", "\u200b", *"abcdefghijkl"]
    drawn = draw_ranking(image, names, [1 / len(names)] * len(names))
    assert len(drawn) >= len(names) * ROW and drawn.shape[1] == fitted(image).shape[1] + PANEL


def test_a_jpeg_has_the_colours_of_the_image():
    image = np.zeros((16, 16, 3), np.uint8)
    image[..., 0] = 255
    with pytest.raises(UserError, match="a picture of 65501x1 pixels: a JPEG has at most 65,500 pixels a side"):
        encode_jpeg(np.zeros((1, 65501, 3), np.uint8), 95)
    decoded = cv2.imdecode(np.frombuffer(encode_jpeg(image, 95), np.uint8), cv2.IMREAD_COLOR)
    assert (decoded[..., 2] > 250).all() and (decoded[..., :2] < 5).all()
