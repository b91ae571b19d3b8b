"""Images whose 16-bit values use 12 bits: a run, its evaluation, report and predictions all read them alike."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from conftest import CocoFolder

import detection
from backbones.errors import UserError
from classification.trained import read_pixels
from tools import check_data, train_det
from tools.prediction.classification import _read_views
from tools.reports import detection_images
from tools.runs.folder import RunFolder
from tools.runs.outcomes import BoxPredictions

WORDS = ("--recipe", "shapes", "--min-size", 40, "--max-size", 60)
EVALUATION = ("--proposals", 20, "--batch-size", 4, "--workers", 0)
TINY = (*EVALUATION, "--fpn-channels", 16, "--head-channels", 16, "--epochs", 1)


def train(*words: object) -> None:
    train_det.main([*map(str, (*WORDS, *words))])


def deep(pixels: np.ndarray) -> np.ndarray:
    """Values of 12 bits whose upper eight are `pixels`; the lower four do not matter."""
    return pixels.astype(np.uint16) * 16 + 7


@pytest.fixture
def deep_coco(coco: CocoFolder) -> tuple[Path, np.ndarray]:
    """The data set `coco` with one 12-bit image in all its PNG files, and the upper eight bits of that image."""
    for image in coco.data["images"]:
        image["file_name"] = image["file_name"].replace("jpg", "png")
    root = coco.write()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    pixels[0, 0] = 255
    for path in root.rglob("*.png"):
        cv2.imwrite(str(path), deep(pixels)[..., ::-1])
    return root, pixels


def test_a_detector_reads_12_bits_in_training_evaluation_report_and_prediction(
    deep_coco: tuple[Path, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
):
    root, pixels = deep_coco
    run, again = tmp_path / "run", tmp_path / "again"
    with pytest.raises(UserError, match=r"no value of the 4 that were read is above 4087; name .* --bits 12, or"):
        train("--data", root, *TINY, "--output", run)
    train("--data", root, *TINY, "--bits", 12, "--output", run)
    assert "values of 12 bits: 0 to 4095 become 0 to 255" in capsys.readouterr().out
    # An evaluation takes the bits from the weights. Its folder records them for the report.
    words = ("--data", root, "--eval-only", "--weights", run, *EVALUATION, "--output", again)
    train_det.main([*map(str, words)])
    before, after = (json.loads((folder / "results.json").read_text()) for folder in (run, again))
    assert before["AP"] == after["AP"]
    assert yaml.safe_load((again / "config.yaml").read_text())["bits"] == 12
    image = BoxPredictions.read(RunFolder.read(again), data=None, score=0.5).images[0]
    assert np.array_equal(detection_images._read_pixels(image), pixels)
    # So do predictions.
    read = detection.load(run).read(root / "val2017" / "005.png")
    assert torch.equal(read, torch.from_numpy(pixels).permute(2, 0, 1))


def test_the_check_names_the_bits_of_small_values_and_finds_no_fault(
    deep_coco: tuple[Path, np.ndarray], capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    path = tmp_path / "found.json"
    with pytest.raises(SystemExit):  # the splits share their images
        check_data.main(["--data", str(deep_coco[0]), "--json", str(path)])
    problems = json.loads(path.read_text())["problems"]
    found = [each for each in problems if each["kind"] == "small 16-bit values"]
    assert [each["file"] for each in found] == [str(deep_coco[0] / f"{split}2017") for split in ("train", "val")]
    assert "--bits 12" in found[0]["text"]
    printed = capsys.readouterr().out
    assert printed.index("image in both splits") < printed.index("small 16-bit values")  # remarks come last


def test_a_classifier_predicts_on_the_pixels_that_it_draws(tmp_path: Path):
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), deep(np.full((6, 8, 3), 200, np.uint8)))

    views, picture = _read_views(list, partial(read_pixels, in_channels=3, bits=12), True, path)
    assert picture is not None and (picture == 200).all()
    assert (np.array(views) == 200).all()
