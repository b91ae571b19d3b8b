"""Numbers with nouns in messages."""

from __future__ import annotations

import pytest

from backbones.errors import counted


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [
        (1, "image", "1 image"),
        (0, "image", "0 images"),
        (2, "class", "2 classes"),
        (1200, "box", "1,200 boxes"),
        (3, "category", "3 categories"),
        (2, "key", "2 keys"),
        (2, "batch", "2 batches"),
        (2, "epoch", "2 epochs"),
    ],
)
def test_a_noun_is_in_the_plural_unless_there_is_one(number: int, noun: str, text: str):
    assert counted(number, noun) == text
