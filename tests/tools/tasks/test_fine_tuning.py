"""Fine-tuning on other data needs no option of the model: `--weights RUN --data OTHER` says it all."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import CocoFolder

from backbones.weights.files import read_meta
from tools import train_cls, train_det, train_seg

TINY = ("--batch-size", 2, "--epochs", 1, "--workers", 0, "--dry-run", "true")


def plan_of(main: Any, capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, str]:
    """Time a few steps, and return the rows of the printed plan."""
    main([*map(str, (*words, *TINY))])
    lines = capsys.readouterr().out.splitlines()
    return {title: value for title, _, value in (line.partition("  ") for line in lines)}


def test_a_detector_keeps_all_but_the_rows_of_new_categories(
    tiny_runs: dict[str, Path], coco: CocoFolder, capsys: pytest.CaptureFixture[str]
):
    names = read_meta(tiny_runs["det"] / "model.safetensors")["category_names"]
    coco.data["categories"] = [
        {"id": 18, "name": names[2]}, {"id": 3, "name": names[0]}, {"id": 90, "name": "brush"}
    ]  # fmt: skip
    plan = plan_of(train_det.main, capsys, "--weights", tiny_runs["det"], "--data", coco.write())
    assert "1 missing (roi_heads.box_predictor.row of brush), 0 unexpected" in plan["loaded"]
    assert "2 matched by name under another number" in plan["loaded"]
    assert plan["model"].strip().startswith("Faster R-CNN, timm/test_resnet")


def test_a_segmentation_model_keeps_all_but_the_last_layers_of_other_classes(
    tiny_runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    for kind, suffix, value in (("images", "jpg", 90), ("labels", "png", 1)):
        for split in ("train", "val"):
            (tmp_path / kind / split).mkdir(parents=True)
            pixels = np.zeros((64, 80) if kind == "labels" else (64, 80, 3), np.uint8)
            pixels[:, 30:] = value
            for number in range(2):
                cv2.imwrite(str(tmp_path / kind / split / f"{number}.{suffix}"), pixels)
    (tmp_path / "classes.txt").write_text("dark\nbright\n")
    words = ("--weights", tiny_runs["seg"], "--data", tmp_path, "--crop-size", 64)
    loaded = plan_of(train_seg.main, capsys, *words)["loaded"]
    assert "0 unexpected" in loaded
    missing = loaded.partition(" missing (")[2].partition(")")[0].removesuffix(", ...").split(", ")
    assert missing and all(name.startswith(("classifier.4.", "aux_classifier.4.", "fusion.")) for name in missing)


def test_a_classifier_keeps_all_but_the_last_layer_of_other_classes(
    tiny_runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    shutil.copytree(tiny_runs["cls"].parent / "pictures", tmp_path / "data")
    for split in ("train", "val"):
        shutil.copytree(tmp_path / "data" / split / "pear", tmp_path / "data" / split / "plum")
    words = ("--weights", tiny_runs["cls"], "--data", tmp_path / "data", "--crop-size", 32)
    assert "2 missing (fc.bias, fc.weight), 0 unexpected" in plan_of(train_cls.main, capsys, *words)["loaded"]
