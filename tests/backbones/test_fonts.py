"""Fonts of drawings: one with all letters of a class name, in whatever script."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import ImageFont

from backbones.common.fonts import font_for


def file_for(text: str) -> str:
    font = font_for(text)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return Path(font.path).name if isinstance(font.path, str) else ""


def test_plain_letters_have_pillows_own_font():
    assert file_for("dog 0.90") == ""


@pytest.mark.parametrize("text", ["café", "Зелёный", "قطة", "γάτα"])
def test_names_in_other_scripts_have_a_font_with_their_letters(text: str):
    assert file_for(text) == "DejaVuSans.ttf"


def test_letters_that_dejavu_lacks_come_from_another_font():
    assert file_for("\u20e5") != "DejaVuSans.ttf"


def test_letters_of_no_font_are_no_error():
    assert font_for("\U0010fffd\n").getlength("\U0010fffd dog") > 0
