"""Recipes of detection: which one is chosen, and what each file states."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import yaml
from conftest import ROOT
from safetensors.torch import save_file

from tools.cli.parsing import parse
from tools.tasks.options import COMMANDS, TrainDetectorOptions, describe_detector_recipe, detector_recipe

FOLDER = ROOT / "detection" / "recipes"
CHOICES = {
    "": ("shapes", "no data is given"),
    "--data few": ("small", "the data has fewer than 3 images"),
    "--data few/data.yaml": ("small", "the data has fewer than 3 images"),
    "--data elsewhere.yaml": ("small", "the data has fewer than 3 images"),
    "--data unreadable.yaml": ("coco", "the data has at least 3 images, or none was found"),
    "--data many": ("coco", "the data has at least 3 images"),
    "--data absent": ("coco", "the data has at least 3 images, or none was found"),
    "--annotations few/a.json --images few/images": ("small", "the data has fewer than 3 images"),
    "--train-annotations a.json --train-images few --val-annotations a.json --val-images many": (
        "coco",
        "the data has at least 3 images",
    ),
    "--eval-only --data few --weights coco": ("coco", "an evaluation has COCO's image size"),
    "--data many --recipe small": ("small", "--recipe names it"),
    "--recipe coco-lsj": ("coco-lsj", "--recipe names it"),
}


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two images and three, in subfolders, where three are too many for the recipe `small`."""
    for folder, count in (("few", 2), ("many", 3)):
        (tmp_path / folder / "images" / "train").mkdir(parents=True)
        for number in range(count):
            (tmp_path / folder / "images" / "train" / f"{number}.JPG").touch()
        (tmp_path / folder / "images" / "notes.txt").touch()
    (tmp_path / "few" / "data.yaml").write_text("path: /a/folder/of/another/machine\n")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere.yaml").write_text("path: few\n")
    (tmp_path / "unreadable.yaml").write_text("{")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tools.tasks.options.SMALL", 3)


@pytest.mark.parametrize("words", CHOICES)
def test_the_plan_names_the_recipe_and_says_why(words: str):
    name, why = CHOICES[words]
    options = parse(TrainDetectorOptions, description="", argv=words.split(), recipe=detector_recipe)
    recipe = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    assert options.train.batch_size == recipe["batch_size"] and options.model.min_size == recipe["min_size"]
    assert describe_detector_recipe(options).startswith(f"{name}: {why}")


@pytest.mark.parametrize(
    ("words", "cascade"),
    [
        ("", True),
        ("--weights imagenet --neck dc5", True),
        ("--neck c4", False),
        ("--masks", False),
        ("--masks --cascade", True),
        ("--weights coco", False),
        ("--weights detector.safetensors", False),
        ("--weights backbone.safetensors", True),
        ("--weights cascade.safetensors", True),  # a cascade, which one box head would not fit
        ("--weights other.pth --weights-from detectron2", True),  # of other programs, only the backbone is loaded
        ("--weights parts.pth::teacher", False),
        ("--weights unreadable.yaml", True),  # a model is not built from it, which the builder says
        ("--recipe coco", False),
    ],
)
def test_the_cascade_of_small_data_is_off_where_it_does_not_fit(words: str, cascade: bool):
    save_file({"roi_heads.box_head.fc6.weight": torch.ones(1)}, "detector.safetensors")
    save_file({"conv1.weight": torch.ones(1)}, "backbone.safetensors")
    heads = ["roi_heads.box_head.fc6.weight", "roi_heads.later_heads.0.fc6.weight"]
    save_file({name: torch.ones(1) for name in heads}, "cascade.safetensors")
    other = ["backbone.bottom_up.stem.conv1.weight", "roi_heads.box_head.fc1.weight"]
    torch.save({name: torch.ones(1) for name in other}, "other.pth")
    torch.save({"teacher": {heads[0]: torch.ones(1)}, "student": {heads[0]: torch.ones(1)}}, "parts.pth")
    command = COMMANDS["train_det"]
    argv = f"--data few {words}".split()
    options = parse(command.options, description="", argv=argv, recipe=command.recipe, further=command.further)
    assert isinstance(options, TrainDetectorOptions) and options.model.cascade is cascade
    text = "small:" if cascade else "small, here with one box head: the data has"
    assert options.data.recipe != "auto" or describe_detector_recipe(options).startswith(text)


@pytest.mark.parametrize("name", ["coco", "coco-lsj", "small"])
def test_a_recipe_states_batch_memory_hours_and_ap(name: str):
    text = (FOLDER / f"{name}.yaml").read_text()
    stated = {fact: re.search(rf"{fact}: (.+)", text) for fact in ("Batch", "Memory", "Hours", "AP")}
    assert all(stated.values()), stated
    assert f"{yaml.safe_load(text)['batch_size']}" in stated["Batch"][1]
    assert re.search(r"\d GB", stated["Memory"][1]) and re.search(r"\d on (one|\d+) V100", stated["Hours"][1])
