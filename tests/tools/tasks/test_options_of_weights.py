"""Weights of our own runs bring the options of their model, which win over recipes and config files."""

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


def write_run(folder: Path, task: str, *, config: dict[str, Any] | None = None, **model: Any) -> Path:
    folder.mkdir()
    header = {"meta": json.dumps({"task": task, "model": model}), "config": json.dumps(config or {})}
    save_file({"w": torch.ones(1)}, folder / "model.safetensors", header)
    return folder


def options_of(name: str, *words: object) -> Any:
    command = COMMANDS[name]
    argv = list(map(str, words))
    return parse(command.options, description="", argv=argv, recipe=command.recipe, further=command.further)


def model_of(name: str, *words: object) -> Any:
    return options_of(name, *words).model


@pytest.mark.parametrize("suffix", ["", "model.safetensors"])
def test_a_detectors_widths_come_from_the_header(tmp_path: Path, suffix: str):
    run = write_run(tmp_path / "run", "detection", backbone="resnet34", fpn_channels=96, rois_per_image=7, old="gone")
    model = model_of("train_det", "--data", "d", "--weights", run / suffix)
    assert (model.backbone, model.fpn_channels) == ("resnet34", 96)
    assert model.rois_per_image == 512  # of the training, not of the weights
    same = model_of("train_det", "--data", "d", "--weights", run / suffix, "--fpn-channels", 96, "--min-size", 64)
    assert (same.fpn_channels, same.min_size) == (96, 64)


@pytest.mark.parametrize(
    ("command", "task", "model", "views", "other"),
    [
        ("train_cls", "classification", {"label_smoothing": 0.2}, {"test_crops": "ten"}, ("test_crops", "multiscale")),
        ("train_seg", "segmentation", {}, {"test_scales": [0.5, 2.0], "min_size": 64}, ("min_size", 32)),
        (
            "train_det",
            "detection",
            {"proposals": 70, "max_detections": 7, "rois_per_image": 8, "box_loss": "giou"},
            {"test_sizes": [60, 90], "test_flip": True, "refine": True},
            ("proposals", 9),
        ),
    ],
)
def test_an_evaluation_predicts_as_the_run_did_unless_it_is_told_otherwise(
    tmp_path: Path, command: str, task: str, model: dict, views: dict, other: tuple[str, Any]
):
    run = write_run(
        tmp_path / "run", task, config={**views, "window": 0, "val_split": "odd", "ensemble": ["x"]}, **model
    )
    words = ("--data", "d", "--weights", run)
    name, value = other
    file = tmp_path / "own.yaml"
    file.write_text(f"{name}: {value}\n")
    given = (f"--{name.replace('_', '-')}", value)
    for evaluates, more, expected in (
        ((), (), {}),
        (("--eval-only",), (), {**model, **views}),
        (("--eval-only",), ("--val-loss",), model),  # which needs one view of each image
        (("--eval-only",), given, {**model, **views, name: value}),
        (("--eval-only",), ("--config", file), {**model, **views, name: value}),
    ):
        options = options_of(command, *words, *evaluates, *more)
        groups = (options.model, options.data, getattr(options, "evaluation", None))
        found = {each: value for group in groups for each, value in (vars(group) if group else {}).items()}
        assert {each: found[each] for each in expected} == expected
        assert evaluates or all(found[each] != value for each, value in {**model, **views}.items())
        assert (found["val_split"], found.get("ensemble")) == ("val", None)


@pytest.mark.parametrize("evaluates", [(), ("--eval-only",)])
@pytest.mark.parametrize(
    ("command", "task", "recorded", "written"),
    [
        ("train_cls", "classification", {"backbone": "resnet20", "shortcut": "B"}, {"backbone": "resnet32"}),
        ("train_det", "detection", {"backbone": "resnet34", "fpn_channels": 96}, {"fpn_channels": 32, "min_size": 64}),
        ("train_seg", "segmentation", {"backbone": "plain18", "head": "fcn8s"}, {"head": "fcn32s", "loss": "dice"}),
    ],
)
def test_the_header_wins_over_a_config_file_and_a_line_says_so(
    tmp_path: Path, capsys, command: str, task: str, recorded: dict, written: dict, evaluates: tuple[str, ...]
):
    run = write_run(tmp_path / "run", task, **recorded)
    config = tmp_path / "own.yaml"
    config.write_text("".join(f"{name}: {value}\n" for name, value in written.items()))
    model = model_of(command, "--data", "d", "--config", config, "--weights", run, *evaluates)
    assert {name: getattr(model, name) for name in recorded} == recorded
    rest = written.keys() - recorded.keys()  # what the header does not record
    assert {name: getattr(model, name) for name in rest} == {name: written[name] for name in rest}
    name = next(name for name in written if name in recorded)
    option = f"--{name.replace('_', '-')}"
    said = f"note: --weights {run} takes precedence over --config: {option} is {recorded[name]}, not {written[name]}\n"
    assert capsys.readouterr().err == said
    config.write_text(f"weights: {run}\n{name}: {recorded[name]}\n")
    assert getattr(model_of(command, "--data", "d", "--config", config), name) == recorded[name]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("command", "task", "option", "own", "given"),
    [
        ("train_cls", "classification", "--stride-style", "v1", "v1.5"),
        ("train_cls", "classification", "--norm", "group", "batch"),
        ("train_det", "detection", "--head-channels", 64, 1024),
        ("train_det", "detection", "--context", True, "false"),
        ("train_seg", "segmentation", "--head", "fcn8s", "fcn32s"),
    ],
)
def test_a_command_line_that_contradicts_the_weights_gets_one_line(
    tmp_path: Path, command: str, task: str, option: str, own: Any, given: Any
):
    run = write_run(tmp_path / "run", task, **{option[2:].replace("-", "_"): own})
    with pytest.raises(UserError) as error:
        model_of(command, "--data", "d", "--weights", run, option, given)
    said = f"{option} {given}: --weights {run} is a model of {option} {own}; leave {option} out, or name other weights"
    assert str(error.value) == said


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


@pytest.mark.parametrize(
    ("words", "sizes"),
    [
        ([], (32, 32)),  # of the built-in shapes
        (["--crop-size", "160"], (160, 160)),
        (["--crop-size=160", "--resize-size=170"], (160, 170)),
        (["--recipe", "paper", "--crop-size", "112"], (112, 128)),  # 256 / 224
        (["--data", "d", "--crop-size", "160"], (160, None)),  # the recipe leaves both to the weights
    ],
)
def test_a_crop_size_alone_keeps_the_recipes_ratio_to_the_resized_side(words: list[str], sizes: tuple):
    data = options_of("train_cls", *words).data
    assert (data.crop_size, data.resize_size) == sizes


def test_a_crop_size_in_a_config_file_keeps_the_ratio_as_well(tmp_path: Path):
    options = tmp_path / "own.yaml"
    options.write_text("crop_size: 100\n")
    assert options_of("train_cls", "--config", options).data.resize_size == 100
