"""Classes that a detection run merges, renames or leaves out; the evaluation of its weights uses the same classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CocoFolder

from backbones.errors import UserError
from detection.data.convert import convert
from detection.data.folders import open_split
from tools.cli.parsing import parse
from tools.engine.bad_images import BadImages
from tools.engine.checkpoint import write_safetensors
from tools.runs.detection import read_truth
from tools.runs.folder import RunFolder
from tools.tasks.detection import describe_split
from tools.tasks.detection_data import open_data
from tools.tasks.options import COMMANDS, TrainDetectorOptions


@pytest.fixture
def animals(coco: CocoFolder) -> CocoFolder:
    """The classes car (3), dog (18) and brush (90), and a boat (50) that no image shows."""
    coco.data["categories"].append({"id": 50, "name": "boat"})
    coco.write()
    # In the validation images there is no brush.
    data = json.loads(coco.annotations("val").read_text())
    data["annotations"] = [each for each in data["annotations"] if each["category_id"] != 90]
    coco.annotations("val").write_text(json.dumps(data))
    return coco


def opened(data: CocoFolder, tmp_path: Path, *words: Any):
    argv = ["--data", str(data.root), *map(str, words)]
    further = COMMANDS["train_det"].further
    options = parse(TrainDetectorOptions, description="", argv=argv, further=further)
    return open_data(options, BadImages(tmp_path / "run", skip=False, seed=0)), options


def test_unused_classes_are_dropped_with_a_note_unless_they_are_to_stay(animals: CocoFolder, tmp_path: Path):
    data, _ = opened(animals, tmp_path)
    for split in (data.train, data.val):
        assert split is not None
        assert split.annotations.categories.ids == (3, 18, 90)  # the brush occurs in training
        assert "unused classes dropped (boat): 1" in describe_split(split)
    assert data.train is not None
    assert data.train.annotations.labels.tolist() == [2, 3, 1, 1, 2]
    kept, _ = opened(animals, tmp_path, "--keep-unused")
    assert kept.val.annotations.categories.names == ("car", "dog", "boat", "brush")


def test_merged_classes_are_trained_evaluated_and_reported(animals: CocoFolder, tmp_path: Path):
    words = ("--merge-classes", "pet=dog,brush", "--drop-classes", "car")
    data, options = opened(animals, tmp_path, *words)
    assert data.train is not None
    categories = data.train.annotations.categories
    assert (categories.ids, categories.names) == ((18,), ("pet",))
    assert data.train.annotations.labels.tolist() == [1, 1, 1]
    assert data.train.annotations.notes["boxes of other classes left out"] == 2
    # The evaluator gets the merged records, with the images of the dropped classes as negatives.
    source = json.loads(data.val.annotations.source)
    assert {each["category_id"] for each in source["annotations"]} == {18} and len(source["images"]) == 4
    # So does a report, which finds the options in the run's config.
    run = RunFolder(tmp_path, "run", "detection", {"data": str(animals.root), "merge_classes": words[1]}, {}, [])
    assert read_truth(run, None).categories.names == ("car", "pet", "boat")
    # The header of the weights records the choice for their evaluation.
    header = {"task": "detection", "model": {}, "category_names": ["pet"], "categories": vars(options.categories)}
    weights = tmp_path / "w.safetensors"
    write_safetensors(weights, {"x": torch.zeros(1)}, {"meta": json.dumps(header)})
    again, _ = opened(animals, tmp_path, "--eval-only", "--weights", weights)
    assert again.train is None and again.val.annotations.categories.names == ("pet",)


def test_an_evaluation_leaves_out_unused_classes_that_the_model_does_not_know(animals: CocoFolder, tmp_path: Path):
    header = {"task": "detection", "model": {}, "category_names": ["dog", "brush"]}
    weights = tmp_path / "w.safetensors"
    write_safetensors(weights, {"x": torch.zeros(1)}, {"meta": json.dumps(header)})
    data, _ = opened(animals, tmp_path, "--eval-only", "--weights", weights)
    # The boat is unused; the car is unknown to the model, but it is in the images, and building the model refuses it.
    assert data.val.annotations.categories.names == ("car", "dog", "brush")


def test_unknown_classes_are_refused_with_near_names(animals: CocoFolder, tmp_path: Path):
    with pytest.raises(
        UserError, match=r"--classes dogs: .*instances_val2017\.json has no class of this name; did you"
    ):
        opened(animals, tmp_path, "--classes", "dogs")


def test_a_conversion_chooses_classes_too(animals: CocoFolder, tmp_path: Path):
    _, options = opened(animals, tmp_path, "--rename", "dog=wolf")
    splits = {"train": "train", "val": "val"}
    lines = convert(animals.root, tmp_path / "yolo", to="yolo", splits=splits, categories=options.categories)
    assert lines[-1] == "left out: classes without objects (boat)"
    names = {each["name"] for each in open_split(tmp_path / "yolo", "train").data["categories"]}
    assert names == {"car", "wolf", "brush"}
