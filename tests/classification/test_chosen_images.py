"""Classes of images that a classification run merges, renames or leaves out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from backbones.errors import UserError
from classification.data.chosen import choose_classes
from classification.data.layouts import read_split
from tools import check_data, make_shards
from tools.cli import ending
from tools.cli.parsing import parse
from tools.engine.bad_images import BadImages
from tools.engine.checkpoint import write_safetensors
from tools.tasks.classification import ClassificationTask
from tools.tasks.options import COMMANDS, TrainClassifierOptions


@pytest.fixture
def animals(tmp_path: Path) -> Path:
    """Two images of each class in training, one in validation, which has no owl, spells Cat and has a yak more."""
    root = tmp_path / "animals"
    for folder in ("train/ant", "train/cat", "train/dog", "train/owl", "val/ant", "val/Cat", "val/dog", "val/yak"):
        (root / folder).mkdir(parents=True)
        for number in range(2 if folder.startswith("train") else 1):
            Image.fromarray(np.full((4, 6, 3), number, np.uint8)).save(root / folder / f"{number}.png")
    return root


def opened(data: Path, *words: Any):
    argv = ["--data", str(data), *map(str, words)]
    further = COMMANDS["train_cls"].further
    options = parse(TrainClassifierOptions, description="", argv=argv, further=further)
    return ClassificationTask().build_data(options, BadImages(data.parent / "run", skip=False, seed=0))


def test_classes_of_folders_are_merged_renamed_and_left_out(animals: Path):
    words = ("--merge-classes", "pet=dog,cat", "--rename", "ant=bug", "--drop-classes", "owl,yak")
    data = opened(animals, *words)
    assert data.classes == ("bug", "pet")
    # Images stay sorted by class, those of cat before those of dog.
    assert data.train_labels().tolist() == [0, 0, 1, 1, 1, 1]
    assert data.names("train", np.arange(6)) == [f"{name}/{n}.png" for name in ("ant", "cat", "dog") for n in "01"]
    assert "classes left out: 1 (images: 2)" in data.remarks["train"]
    # The validation split has no owl, and Cat is cat; the yak, which training does not know, is left out.
    assert data.names("val", np.arange(3)) == ["ant/0.png", "Cat/0.png", "dog/0.png"]
    assert "classes left out: 1 (images: 1)" in data.remarks["val"]


def test_an_evaluation_uses_the_choice_that_the_weights_record(animals: Path, tmp_path: Path):
    weights = tmp_path / "w.safetensors"
    categories = {"classes": None, "drop_classes": "owl,yak", "merge_classes": "pet=dog,cat", "rename": None}
    header = {"task": "classification", "model": {}, "classes": ["ant", "pet"], "categories": categories}
    write_safetensors(weights, {"x": torch.zeros(1)}, {"meta": json.dumps(header)})
    data = opened(animals, "--eval-only", "--weights", weights)
    assert (data.classes, data.val_size) == (("ant", "pet"), 3)


def test_images_of_several_classes_lose_those_that_are_left_out(tmp_path: Path):
    table = tmp_path / "labels.csv"
    table.write_text("image,label\na.png,cat;dog\nb.png,owl\nc.png,dog;owl\n")
    for name in "abc":
        Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(tmp_path / f"{name}.png")
    options = parse(TrainClassifierOptions, description="", argv=["--merge-classes=pet=cat,dog", "--drop-classes=owl"])
    listing = choose_classes({"train": read_split(table, "train")}, options.categories)["train"]
    assert listing.names == ("pet",) and listing.numbers.tolist() == [[True], [False], [True]]
    assert listing.notes == ("classes left out: 1",)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--classes", "ant,cats"), r"--classes cats: .*train has no class of this name; did you mean cat\?"),
        (("--drop-classes", "ant,cat,dog,yak"), "val: no image has one of the chosen classes; choose others"),
        (("--keep-unused",), "--keep-unused true: is for boxes and label maps; an image classifier learns no class"),
        (("--classes", "yak,ant"), "val/yak: is not one of the 1 classes of"),
        (("--classes", "ant"), "has only one class, ant"),
        (("--classes", "yak"), "train: no image has one of the chosen classes; choose others"),
    ],
)
def test_choices_that_leave_nothing_to_learn_are_refused(animals: Path, words: tuple[str, ...], message: str):
    with pytest.raises(UserError, match=message):
        opened(animals, *words)


def test_shards_are_made_of_chosen_classes_and_do_not_change_afterwards(animals: Path, tmp_path: Path, capsys: Any):
    shards = tmp_path / "shards"
    make_shards.main(["--data", str(animals), "--output", str(shards), "--classes", "ant,dog"])
    assert "train: 4 images in 1 shard; classes left out: 2 (images: 4)" in capsys.readouterr().out
    assert json.loads((shards / "shards.json").read_text())["classes"] == ["ant", "dog"]
    with pytest.raises(UserError, match="--rename: cannot be used with tar shards; make new shards with these options"):
        opened(shards, "--drop-classes", "ant")


def test_a_check_covers_every_class(animals: Path, capsys: Any):
    with pytest.raises(SystemExit):
        ending.run(lambda: check_data.main(["--data", str(animals), "--drop_classes=ant"]))
    assert capsys.readouterr().err.startswith("error: --drop-classes: is for training and convert_data.py; a check")
