"""Classification runs on a person's own data: CSV files, unequal classes, several classes an image."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import CIFAR

import classification
from backbones.errors import UserError
from backbones.weights.files import read_meta
from tools import predict, train_cls
from tools.exports.evaluation import measure_loss
from tools.runs.file_metrics import measure_file
from tools.runs.folder import RunFolder

QUICK = (*CIFAR, "--augment", "light", "--precision", "fp32", "--threads", 1, "--workers", 0)
SMALL = (*QUICK, "--train-eval", 0, "--base-lr", 0.05, "--crop-size", 16, "--resize-size", 16)


def run(*words: object) -> None:
    train_cls.main([*map(str, words)])


def squares(root: Path, rows: list[tuple[str, tuple[int, int, int]]]) -> None:
    random = np.random.default_rng(0)
    root.mkdir(parents=True, exist_ok=True)
    for name, colour in rows:
        noise = random.integers(0, 40, (16, 16, 3))
        cv2.imwrite(str(root / name), (noise + np.array(colour)).astype(np.uint8))


@pytest.fixture
def unequal(tmp_path: Path) -> Path:
    """A CSV file of 12 images of one class and 4 of another, and 4 images for validation."""
    root, names = tmp_path / "data", [f"{number}.png" for number in range(20)]
    dark = [number % 4 != 0 for number in range(20)]
    squares(root, [(name, (0, 0, 90) if is_dark else (200, 90, 0)) for name, is_dark in zip(names, dark, strict=True)])
    lines = [f"{names[i]},{'dark' if dark[i] else 'light'},{'train' if i < 16 else 'val'}" for i in range(20)]
    (root / "labels.csv").write_text("\n".join(["image,label,split", *lines]))
    return root


def test_a_csv_file_with_unequal_classes_trains_and_chooses_by_balanced_accuracy(
    unequal: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = tmp_path / "run"
    balance = ("--class-weights", "sqrt", "--sampling", "balanced", "--choose-by", "balanced_accuracy")
    words = ("--data", unequal, *SMALL, "--batch-size", 8, "--epochs", 2, *balance)
    run(*words, "--output", folder)
    results = json.loads((folder / "results.json").read_text())
    assert results["images"] == 4 and results["per_class"].keys() == {"dark", "light"}
    assert results["balanced_accuracy"] == np.mean([entry["recall"] for entry in results["per_class"].values()])
    printed = capsys.readouterr().out
    assert "loss" in printed and "cross-entropy, class weights sqrt, sampling balanced" in printed
    assert f"best balanced_accuracy {max(_scores(folder)):.4f}" in printed
    # The run is measured again from its folder, with the same columns.
    run("--resume", "--eval-only", "--output", folder)
    again = json.loads((folder / "results.json").read_text())
    assert again["balanced_accuracy"] == results["balanced_accuracy"]
    for wrong, message in (
        (("--choose-by", "mAP"), "--choose-by mAP: is no metric of images of one class each"),
        (("--multi-label", "false", "--label-column", "size"), "--label-column size: .* has no such column"),
    ):
        with pytest.raises(UserError, match=message):
            run(*words, *wrong, "--output", tmp_path / "other")
    (unequal / "0.png").unlink()
    with pytest.raises(UserError, match=r"1 of 16 images are not in .*, such as 0\.png \(line 2\)"):
        run(*words, "--output", tmp_path / "other")


def _scores(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["balanced_accuracy"] for line in lines if line["split"] == "val"]


def _thresholds(results: dict[str, Any]) -> dict[str, float]:
    return {name: entry["threshold"] for name, entry in results["per_class"].items()}


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV file of images that are red, blue, both or none of them."""
    root = tmp_path_factory.mktemp("several") / "data"
    sets = [(), ("red",), ("blue",), ("blue", "red")] * 6
    squares(root, [(f"{i}.png", (200 * ("blue" in each), 0, 200 * ("red" in each))) for i, each in enumerate(sets)])
    for split, chosen in (("train", range(16)), ("val", range(16, 24))):
        lines = [f"{i},{';'.join(sets[i])}" for i in chosen]
        (root / f"{split}.csv").write_text("\n".join(["id,tags", *lines]))
    return root


def test_several_classes_an_image_are_trained_stored_loaded_and_predicted(
    several: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "run"
    words = ("--data", several, *SMALL, "--batch-size", 16, "--epochs", 2, "--class-weights", "balanced")
    run(*words, "--output", folder, "--eval-every", 2)
    results = json.loads((folder / "results.json").read_text())
    assert 0 < results["mAP"] <= 1 and results["images"] == 8
    meta = read_meta(folder / "model.safetensors")
    assert meta["multi_label"] and meta["thresholds"] == _thresholds(results)
    # The loaded model decides as the evaluation did.
    model = classification.load(folder, device="cpu")
    with open(folder / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        found = model(several / row["image"])
        assert ";".join(sorted(found.names)) == row["predicted"]
        assert found.scores.tolist() == pytest.approx([float(row["blue"]), float(row["red"])], abs=2e-4)
    # A file of the model is measured by mAP, in an export of fewer bits and in a report.
    loss = measure_loss(str(folder), folder / "model.safetensors", most=0.0)
    assert loss.known and re.match(r"mAP (0\.\d+) -> \1 on 8 images: \+0\.0000", loss.text), loss.text
    monkeypatch.setattr("tools.runs.file_metrics.is_exported", lambda path: True)
    metrics = measure_file(RunFolder.read(folder), folder / "model.safetensors", data=None).metrics
    assert metrics["mAP"] == pytest.approx(results["mAP"], abs=1e-3) and metrics["top1"] is None
    # --eval-only uses the stored thresholds, also on images of one class each.
    single = tmp_path / "single"
    single.mkdir()
    (single / "val.csv").write_text(f"image,label\n{several / '17.png'},red\n{several / '18.png'},blue\n")
    weights = ("--weights", folder / "model.safetensors", "--eval-only", "--allow-outside", "true")
    run("--data", single, *SMALL, *weights, "--output", tmp_path / "measured")
    measured = json.loads((tmp_path / "measured" / "results.json").read_text())
    assert measured["images"] == 2 and _thresholds(measured) == pytest.approx(_thresholds(results))
    predict.main(["--run", str(folder), str(several / "19.png"), "--output", str(tmp_path / "out"), "--workers", "0"])
    with open(tmp_path / "out" / "predictions.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert set(row) == {"image", "classes", "blue", "red"}
    assert sorted(row["classes"].split(";")) == sorted(model(several / "19.png").names)


def test_options_for_one_class_an_image_are_refused_for_several(several: Path, tmp_path: Path):
    for wrong, message in (
        (("--mixup", 0.2), r"--mixup 0\.2: is not for images of several classes; use 0"),
        (("--choose-by", "top1"), "--choose-by top1: is no metric of images of several classes; choose among mAP"),
        (("--multi-label", "false"), r"line \d+ has no class; fix the line, or pass --multi-label true"),
    ):
        with pytest.raises(UserError, match=message):
            run("--data", several, *SMALL, "--batch-size", 8, "--epochs", 1, *wrong, "--output", tmp_path / "run")
