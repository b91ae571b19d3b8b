"""Numbers with nouns in messages, and folders that are none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from backbones.common.datasets import find_split
from backbones.errors import UserError, counted
from tools.runs.folder import RunFolder


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


@pytest.mark.parametrize("command", [RunFolder.read, lambda path: find_split(path, "train")])
def test_a_file_is_not_called_an_absent_folder(command: Callable[[Path], object], tmp_path: Path):
    (tmp_path / "table.md").touch()
    with pytest.raises(UserError, match=r"table\.md: is a file, not a folder; "):
        command(tmp_path / "table.md")
    with pytest.raises(UserError, match="gone: no such folder; "):
        command(tmp_path / "gone")
