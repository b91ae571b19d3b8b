"""Data without a validation split: each task splits its training images, records the split and uses it again."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from conftest import CIFAR, CocoFolder, Group

from backbones.common.data_split import SPLITS_FILE
from backbones.common.split_options import SplitOptions
from backbones.errors import UserError
from tools import train_cls, train_det, train_seg
from tools.cli.parsing import parse
from tools.engine.bad_images import BadImages
from tools.engine.checkpoint import write_safetensors
from tools.processes import distributed
from tools.runs.detection import EvaluatedDetections
from tools.runs.folder import RunFolder
from tools.runs.segmentation import MaskPredictions
from tools.tasks.detection_data import open_data
from tools.tasks.options import COMMANDS, TrainDetectorOptions, TrainSegmenterOptions
from tools.tasks.segmentation_data import open_data as open_labels

SMALL = ("--epochs", 1, "--batch-size", 4, "--workers", 0, "--threads", 1, "--precision", "fp32")
DET = (
    "--backbone",
    "timm/test_resnet",
    "--weights",
    "none",
    "--fpn-channels",
    8,
    "--head-channels",
    16,
    "--min-size",
    40,
)


def words(*given: Any) -> list[str]:
    return [str(word) for word in given]


def sides(folder: Path) -> tuple[list[str], list[str]]:
    """Return the file names that a run recorded as training and as validation images."""
    found = json.loads((folder / SPLITS_FILE).read_text())
    return found["train"], found["val"]


@pytest.fixture
def boxes(tmp_path: Path) -> CocoFolder:
    """Twelve images in one file without splits: each of two films has five with a dog and a car; two are empty."""
    coco = CocoFolder(tmp_path / "coco")
    images = [f"{film}_{number}.jpg" for film in "ab" for number in range(5)] + ["c_0.jpg", "c_1.jpg"]
    coco.data["images"] = [
        {"id": place, "file_name": name, "width": 60, "height": 40} for place, name in enumerate(images, 1)
    ]
    coco.data["annotations"] = [
        {"id": 2 * image + place, "image_id": image, "category_id": category, "bbox": [5 * place, 5, 30, 25]}
        | {"area": 750, "iscrowd": 0}
        for image in range(1, 11)
        for place, category in enumerate((18, 3))
    ]
    coco.data["categories"] = [{"id": 3, "name": "car"}, {"id": 18, "name": "dog"}]
    coco.write()
    coco.annotations("val").unlink()
    return coco


def train_boxes(data: CocoFolder, output: Path, *more: Any) -> None:
    train_det.main(words("--data", data.root, *DET, *SMALL, "--max-size", 60, "--output", output, *more))


def test_a_detector_is_trained_evaluated_resumed_and_reported_on_its_own_split(
    boxes: CocoFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run = tmp_path / "run"
    train_boxes(boxes, run, "--folds", 3, "--fold", 1, "--split-seed", 5)
    assert re.search(r"^split +fold 1 of 3, seed 5: 4 of 12 images validate \(33\.3%\)$", capsys.readouterr().out, re.M)
    train, val = sides(run)
    assert len(train) == 8 and len(val) == 4 and not {*train} & {*val}
    results = json.loads((run / "results.json").read_text())
    assert results["images"] == 4
    # The report matches the detections with the validation images of the split.
    found = EvaluatedDetections.read(RunFolder.read(run), data=None)
    assert sorted(found.annotations.file_names[found.indices].tolist()) == val
    # An evaluation of the weights measures the same images, although the data have grown.
    _add_image(boxes)
    again = tmp_path / "again"
    train_boxes(boxes, again, "--eval-only", "--weights", run / "model.safetensors")
    assert "new images left out: 1" in capsys.readouterr().out
    assert sides(again) == (train, val)
    assert json.loads((again / "results.json").read_text())["AP"] == results["AP"]
    # Training goes on without the new images, but not with other images in place of its own.
    train_det.main(words("--resume", "--output", run))
    assert "new images left out: 1" in capsys.readouterr().out
    boxes.annotations().write_text(boxes.annotations().read_text().replace(val[0], "new.jpg"))
    with pytest.raises(UserError, match=rf"splits\.json: lists {val[0]} as val images, which the data do not have"):
        train_det.main(words("--resume", "--output", run))


def test_weights_without_the_file_split_the_data_as_their_header_says(boxes: CocoFolder, tmp_path: Path):
    options = parse(TrainDetectorOptions, description="", argv=words("--data", boxes.root, "--eval-only"))
    weights = tmp_path / "model.safetensors"
    header = {"meta": json.dumps({"split": {"folds": 3, "fold": 1}})}
    write_safetensors(weights, {"x": torch.zeros(1)}, header)
    options = replace(options, model=replace(options.model, weights=str(weights)))
    found = open_data(options, BadImages(tmp_path / "run", skip=False, seed=0))
    assert found.train is None and found.split is not None and len(found.val) == 4
    assert found.split.options == SplitOptions(folds=3, fold=1)


def _add_image(boxes: CocoFolder) -> None:
    data = json.loads(boxes.annotations().read_text())
    data["images"].append({"id": 99, "file_name": "new.jpg", "width": 60, "height": 40})
    new = {"id": 99, "image_id": 99, "category_id": 3, "bbox": [5, 5, 30, 25], "area": 750, "iscrowd": 0}
    data["annotations"].append(new)
    boxes.annotations().write_text(json.dumps(data))
    cv2.imwrite(str(boxes.images() / "new.jpg"), np.zeros((40, 60, 3), np.uint8))


def test_groups_stay_together_and_files_given_by_name_are_split_too(boxes: CocoFolder, tmp_path: Path):
    files = ("--train-annotations", boxes.annotations(), "--train-images", boxes.images(), "--limit", 3)
    grouped = ("--val-fraction", 0.4, "--group-by", "^([a-z])_")
    options = parse(TrainDetectorOptions, description="", argv=words(*files, *grouped))
    found = open_data(options, BadImages(tmp_path / "run", skip=False, seed=0))
    assert found.split is not None and found.train is not None and len(found.val) == len(found.train) == 3
    assert {name[0] for name in found.split.train}.isdisjoint({name[0] for name in found.split.val})


@pytest.mark.parametrize("layout", ["split folder", "class folders"])
def test_a_classifier_is_trained_on_its_own_split(layout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    root, run = tmp_path / "data", tmp_path / "run"
    below = root / "train" if layout == "split folder" else root
    for place, name in enumerate(("ant", "bee")):
        (below / name).mkdir(parents=True)
        for number in range(10):
            pixels = np.full((20, 20, 3), 100 * place + 5 * number, np.uint8)
            cv2.imwrite(str(below / name / f"{number}.png"), pixels)
    quick = ("--data", root, *CIFAR, *SMALL)
    with pytest.raises(UserError, match="has no validation split; name --val-split, or split the training images with"):
        train_cls.main(words(*quick, "--output", run))
    train_cls.main(words(*quick, "--val-fraction", 0.2, "--output", run))
    train, val = sides(run)
    assert [sorted(name.split("/")[0] for name in side) for side in (train, val)] == [
        ["ant"] * 8 + ["bee"] * 8,
        ["ant"] * 2 + ["bee"] * 2,
    ]
    assert sorted(_predicted(run)) == val
    train_cls.main(words(*quick, "--eval-only", "--weights", run / "model.safetensors", "--output", tmp_path / "e"))
    assert sides(tmp_path / "e") == (train, val) and sorted(_predicted(tmp_path / "e")) == val
    (root / "val").mkdir()
    with pytest.raises(UserError, match=r"--val-fraction 0\.2: --data .* has a validation split of its own"):
        train_cls.main(words(*quick, "--val-fraction", 0.2, "--output", tmp_path / "f"))


def _predicted(run: Path) -> list[str]:
    return [line.split(",")[0] for line in (run / "predictions.csv").read_text().splitlines()[1:]]


@pytest.fixture
def label_maps(tmp_path: Path) -> Path:
    """Ten images that show class 1 or class 2 beside class 0."""
    root = tmp_path / "data"
    for kind in ("images", "labels"):
        (root / kind / "train").mkdir(parents=True)
    for number in range(10):
        labels = np.zeros((32, 32), np.uint8)
        labels[:, 16:] = 1 + number % 2
        random = np.random.default_rng(number).integers(0, 50, (32, 32, 3))
        cv2.imwrite(
            str(root / "images" / "train" / f"{number}.png"), (random + 60 * labels[..., None]).astype(np.uint8)
        )
        cv2.imwrite(str(root / "labels" / "train" / f"{number}.png"), labels)
    (root / "classes.txt").write_text("a\nb\nc\n")
    return root


def split_labels(root: str) -> list[list[str]]:
    """Split a data set of label maps, and print both sides; this file is also the script that each process runs."""
    distributed.start()
    argv = words("--data", root, "--recipe", "shapes", "--val-fraction", 0.3, "--group-by", "near-equal")
    options = parse(TrainSegmenterOptions, description="", argv=argv, recipe=COMMANDS["train_seg"].recipe)
    split = open_labels(options, BadImages(Path("run"), skip=False, seed=0)).split
    assert split is not None
    print(json.dumps([split.train, split.val]))
    distributed.stop()
    return [list(split.train), list(split.val)]


def test_all_processes_get_the_split_of_one(group: Group, label_maps: Path, tmp_path: Path):
    alone = split_labels(str(label_maps))
    ended = group(__file__, label_maps, cwds=[tmp_path] * 2)
    assert [status for status, _, _ in ended] == [0, 0], ended
    assert [json.loads(out) for _, out, _ in ended] == [alone, alone]


def test_a_segmenter_is_trained_on_its_own_split(label_maps: Path, tmp_path: Path):
    root, run = label_maps, tmp_path / "run"
    quick = ("--data", root, "--recipe", "shapes", "--backbone", "timm/test_resnet", "--crop-size", 32, *SMALL)
    train_seg.main(words(*quick, "--val-fraction", 0.2, "--group-by", "near-equal", "--output", run))
    _, val = sides(run)
    assert len(val) == 2 and {int(Path(name).stem) % 2 for name in val} == {0, 1}
    found = MaskPredictions.read(RunFolder.read(run), data=None)
    assert sorted(f"{name}.png" for name in found.names) == val
    assert yaml.safe_load((run / "config.yaml").read_text())["group_by"] == "near-equal"


if __name__ == "__main__":
    split_labels(sys.argv[1])


@pytest.mark.parametrize("command", [train_det, train_seg])
def test_a_folder_that_does_not_exist_has_no_validation_split(tmp_path: Path, command: ModuleType):
    with pytest.raises(UserError, match=r"absent.*no such") as caught:
        command.main(words("--data", tmp_path / "absent", "--val-fraction", 0.2, "--output", tmp_path / "run"))
    assert "validation split of its own" not in str(caught.value)
