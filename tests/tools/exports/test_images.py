"""The images that check an exported file: those of the run's own data, of any layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from backbones.errors import UserError
from tools.exports.evaluation import absent_data
from tools.exports.images import image_files, image_folder
from tools.exports.options import ExportOptions


def checked(folder: Path, task: str, **config: Any) -> list[str]:
    """Return the names of the images for a run of a task with these options, below the folder."""
    meta = {"task": task, "model": {}}
    header = {"meta": json.dumps(meta), "config": json.dumps(config)}
    save_file({"x": torch.zeros(1)}, folder / "model.safetensors", metadata=header)
    options = ExportOptions(run=str(folder / "model.safetensors"))
    return [path.relative_to(folder).as_posix() for path in image_files(image_folder(options), 100)]


def filled(folder: Path) -> None:
    folder.mkdir(parents=True)
    for number in range(5):
        cv2.imwrite(str(folder / f"{number}.png"), np.zeros((8, 8, 3), np.uint8))


def test_the_images_of_a_csv_file(tmp_path: Path):
    filled(tmp_path / "table" / "photos")
    table = tmp_path / "table" / "labels.csv"
    table.write_text("image,label\n" + "".join(f"photos/{number}.png,a\n" for number in range(5)))
    found = checked(tmp_path, "classification", data=str(table))
    assert found == [f"table/photos/{number}.png" for number in range(5)]


@pytest.mark.parametrize("divided", [False, True])
def test_the_images_of_a_yaml_file(tmp_path: Path, divided: bool):
    """Without a validation split, some of the training images are the run's validation images."""
    split = "train" if divided else "val"
    filled(tmp_path / "boxes" / "images" / split)
    labels = tmp_path / "boxes" / "labels" / split
    labels.mkdir(parents=True)
    for number in range(5):
        (labels / f"{number}.txt").write_text("0 0.5 0.5 0.5 0.5")
    (tmp_path / "data.yaml").write_text(f"path: boxes\n{split}: images/{split}\nnames: [a]\n")
    more = {"val_fraction": 0.4} if divided else {}
    found = checked(tmp_path, "detection", data=str(tmp_path / "data.yaml"), **more)
    assert found == [f"boxes/images/{split}/{number}.png" for number in range(5)]


@pytest.mark.parametrize("option", ["images", "val_images"])
def test_the_images_of_an_annotation_file(tmp_path: Path, option: str):
    filled(tmp_path / "photos")
    found = checked(tmp_path, "detection", **{option: str(tmp_path / "photos")})
    assert found == [f"photos/{number}.png" for number in range(5)]


@pytest.mark.parametrize("above", ["labels", "testbed"])
def test_folders_above_the_data_may_have_any_name(tmp_path: Path, above: str):
    root = tmp_path / above / "data"
    filled(root / "train")
    filled(root / "val")
    filled(root / "val" / "masks")
    assert {path.parent for path in image_files(root, 100)} == {root / "val"}


def test_data_that_are_not_here(tmp_path: Path):
    with pytest.raises(UserError, match="its data, nowhere, is not here; name a folder of real images with --images"):
        checked(tmp_path, "segmentation", data="nowhere")
    for name in ("data", "annotations", "images", "val_annotations", "val_images"):
        assert absent_data({"data": str(tmp_path), name: "nowhere"}) == "nowhere"
    assert absent_data({"data": None, "val_images": str(tmp_path)}) is None
