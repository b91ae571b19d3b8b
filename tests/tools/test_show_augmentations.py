"""show_augmentations.py: a sheet of augmented images."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import size_of

from backbones.errors import UserError
from tools.show_augmentations import main


def test_a_sheet_has_a_row_an_image_and_a_column_an_epoch(small_shapes: Path, tmp_path: Path, capsys):
    sheet = tmp_path / "sheets" / "strong.png"
    words = ["--data", str(small_shapes), "--augment", "strong", "--masks", "--min-size", "64", "--max-size", "64"]
    words += ["--view-images", "2", "--views", "3", "--output", str(sheet)]
    main(words)
    assert "2 images in 3 epochs of --augment strong" in capsys.readouterr().out
    # The image itself and three epochs, each 320 pixels wide, with a margin of 8 around; two rows of squares.
    width, height = size_of(sheet)
    assert width == 4 * 320 + 5 * 8 and height >= 2 * 320 + 3 * 8
    with pytest.raises(UserError, match="exists; choose another file, or pass --overwrite"):
        main(words)


def test_a_sheet_that_cannot_be_written_is_one_line(small_shapes: Path, tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--output .*file: cannot be created \(.*\); name another folder"):
        main(["--data", str(small_shapes), "--output", str(tmp_path / "file" / "sheet.png")])
