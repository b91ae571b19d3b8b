"""Weights of our own runs bring the options of their model; the command line wins over them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from backbones.errors import UserError
from tools.cli.parsing import parse
from tools.tasks.options import COMMANDS


def write_run(folder: Path, task: str, **model: Any) -> Path:
    folder.mkdir()
    meta = json.dumps({"task": task, "model": model})
    save_file({"w": torch.ones(1)}, folder / "model.safetensors", {"meta": meta})
    return folder


def model_of(name: str, *words: object) -> Any:
    command = COMMANDS[name]
    argv = list(map(str, words))
    return parse(command.options, description="", argv=argv, recipe=command.recipe, further=command.of_weights).model


@pytest.mark.parametrize("suffix", ["", "model.safetensors"])
def test_a_detectors_widths_come_from_the_header(tmp_path: Path, suffix: str):
    run = write_run(tmp_path / "run", "detection", backbone="resnet34", fpn_channels=96, rois_per_image=7, old="gone")
    model = model_of("train_det", "--data", "d", "--weights", run / suffix)
    assert (model.backbone, model.fpn_channels) == ("resnet34", 96)
    assert model.rois_per_image == 512  # of the training, not of the weights
    given = model_of("train_det", "--data", "d", "--weights", run / suffix, "--fpn-channels", 64)
    assert (given.backbone, given.fpn_channels) == ("resnet34", 64)
    (tmp_path / "own.yaml").write_text(f"weights: {run}\nbackbone: resnet18\n")
    assert model_of("train_det", "--data", "d", "--config", tmp_path / "own.yaml").backbone == "resnet18"


def test_the_header_wins_over_a_recipe_also_where_it_says_none(tmp_path: Path):
    run = write_run(tmp_path / "run", "segmentation", backbone="plain18", head="fcn8s", max_stride=None, loss="dice")
    model = model_of("train_seg", "--weights", run)  # the recipe of the shapes
    assert (model.backbone, model.head, model.max_stride, model.loss) == ("plain18", "fcn8s", None, "ce")


def test_a_classifier_and_a_run_of_another_task(tmp_path: Path):
    run = write_run(tmp_path / "run", "classification", backbone="resnet20", shortcut="B", norm="group", freeze=3)
    model = model_of("train_cls", "--data", "d", "--weights", run)
    assert (model.backbone, model.shortcut, model.norm, model.freeze) == ("resnet20", "B", "group", 0)
    detector = model_of("train_det", "--data", "d", "--weights", run)
    assert (detector.backbone, detector.norm) == ("resnet20", "group")


def test_other_weights_change_nothing_and_a_folder_without_a_model_is_refused(tmp_path: Path, monkeypatch: Any):
    monkeypatch.chdir(tmp_path)
    Path("imagenet").mkdir()  # of images
    assert model_of("train_cls", "--data", "imagenet", "--weights", "imagenet").backbone == "resnet50"
    with pytest.raises(UserError, match="is not a run folder"):
        model_of("train_cls", "--data", "d", "--weights", tmp_path / "imagenet")
