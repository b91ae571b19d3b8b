"""The segmentation script as its users run it: real processes, real files, kills and mistakes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import Group, size_of

from backbones.errors import UserError
from tools import train_seg
from tools.cli import ending
from tools.cli.parsing import parse
from tools.engine.bad_images import BadImages
from tools.tasks.options import TrainSegmenterOptions
from tools.tasks.segmentation_data import open_data

QUICK = ("--recipe", "shapes", "--backbone", "resnet20", "--crop-size", 64, "--workers", 0)


def measured(folder: Path) -> list[tuple[float, float]]:
    """Epoch and mIoU of the evaluations so far."""
    path = folder / "metrics.jsonl"
    found = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    return [(line["epoch"], line["mIoU"]) for line in found if "epoch" in line]


@pytest.fixture(scope="module")
def label_set(tmp_path_factory) -> Path:
    """A data set in folders: dark left halves are class 0, bright right halves class 1, a line between is 7 (void)."""
    root = tmp_path_factory.mktemp("data") / "halves"
    random = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 4), ("test", 3)):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for number in range(count):
            cut = int(random.integers(20, 60))
            labels = np.zeros((64, 80), np.uint8)
            labels[:, cut:], labels[:, cut] = 1, 7
            pixels = (np.where(labels == 1, 190, 60)[..., None] + random.integers(-20, 20, (64, 80, 3))).astype(
                np.uint8
            )
            cv2.imwrite(str(root / "images" / split / f"{number}.jpg"), pixels)
            cv2.imwrite(str(root / "labels" / split / f"{number}.png"), labels)
    (root / "classes.txt").write_text("dark\nbright\n")
    return root


@pytest.fixture(scope="module")
def trained(script, label_set: Path, tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A finished run of six epochs on the halves."""
    folder = tmp_path_factory.mktemp("runs") / "a"
    words = ("--data", label_set, *QUICK, "--ignore-index", 7, "--epochs", 6, "--batch-size", 4, "--lr", 2e-3)
    done = script("train_seg.py", *words, "--output", folder, cwd=folder.parent)
    assert done.returncode == 0, done.stderr
    return folder, done


def test_a_run_leaves_everything_behind_and_learns(trained):
    folder, done = trained
    assert {entry.name for entry in folder.iterdir()} == {
        "checkpoint", "config.yaml", "confusion.json", "metrics.jsonl", "model.safetensors", "predictions.zip",
        "results.json", "samples.png", "tensorboard", ".lock",
    }  # fmt: skip
    assert [epoch for epoch, _ in measured(folder)] == [1, 2, 3, 4, 5, 6]
    for fact in (
        "run folder",
        "c2 at stride 4",
        "4 = 1 x 4 x 1 accumulated",
        "6 epochs x 3 = 18",
        "left out of the mean",
    ):
        assert fact in done.stdout
    results = json.loads((folder / "results.json").read_text())
    assert results["mIoU"] > 0.8
    assert set(results["per_class"]) == {"dark", "bright"}
    assert results["pixels"] == 4 * 64 * 79  # the void line does not count
    assert results["parameters"] > 250_000 and results["macs"] > 0
    assert size_of(folder / "samples.png")[0] > 700


def test_eval_only_measures_another_split_with_the_models_file(trained, script, label_set: Path, tmp_path: Path):
    folder, _ = trained
    weights = ("--eval-only", "--weights", folder / "model.safetensors")
    words = ("--data", label_set, *QUICK, "--ignore-index", 7, *weights)
    same = script("train_seg.py", *words, "--batch-size", 4, "--output", tmp_path / "same", cwd=tmp_path)
    assert same.returncode == 0, same.stderr
    before, after = (json.loads((f / "confusion.json").read_text()) for f in (folder, tmp_path / "same"))
    assert before == after and before["classes"] == ["dark", "bright"]
    assert sum(map(sum, before["matrix"])) == 4 * 64 * 79
    assert not any("confusion" in line for line in (folder / "metrics.jsonl").read_text().splitlines())
    test = script(
        "train_seg.py", *words, "--val-split", "test", "--test-flip", "--output", tmp_path / "t", cwd=tmp_path
    )
    assert test.returncode == 0, test.stderr
    assert json.loads((tmp_path / "t" / "results.json").read_text())["images"] == 3


def test_two_processes_measure_what_one_does(trained, label_set: Path, group: Group, tmp_path: Path):
    folder, _ = trained
    words = ("--data", label_set, *QUICK, "--ignore-index", 7, "--eval-only", "--weights", folder / "model.safetensors")
    more = ("--batch-size", 2, "--precision", "fp32", "--val-split", "test", "--output", tmp_path / "two")
    ended = group("train_seg.py", *words, *more, cwds=[tmp_path] * 2)
    assert [status for status, _, _ in ended] == [0, 0], "\n".join(errors for _, _, errors in ended)
    assert "".join(out for _, out, _ in ended).count("run folder") == 1
    results = json.loads((tmp_path / "two" / "results.json").read_text())
    assert results["images"] == 3 and results["pixels"] == 3 * 64 * 79


def test_coco_runs_through_with_all_classes_and_with_those_of_voc(coco_mini: Path, script, tmp_path: Path):
    for chosen, classes in (("all", 81), ("voc", 21)):
        words = (
            "--data",
            coco_mini,
            "--recipe",
            "shapes",
            "--backbone",
            "resnet20",
            "--classes",
            chosen,
            "--keep-unused",
            "--limit",
            6,
            "--epochs",
            1,
        )
        more = ("--crop-size", 96, "--min-size", 96, "--batch-size", 3, "--workers", 0, "--class-weights", "median")
        done = script("train_seg.py", *words, *more, "--output", tmp_path / chosen, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        results = json.loads((tmp_path / chosen / "results.json").read_text())
        assert len(results["per_class"]) == classes
        assert results["images"] == 6


MISTAKES = {
    "no such folder": (("--data", "absent"), "--data absent: no such folder"),
    "no layout": (("--data", "."), "--data .: unknown layout (the folder holds nothing); use"),
    "window": (("--window", 64, "--min-size", 64), "--tile 64: needs --min-size 0, because tiles are cut"),
    "no such split": (("--val-split", "extra"), "has no validation split extra; name --val-split, or split the"),
    "void is no class": (("--ignore-index", 9), "value 7, which is neither a class (0 to 1) nor --ignore-index 9"),
    "eval of nothing": (("--eval-only",), "--eval-only: a model with random weights is not worth evaluating"),
    "wrong scales": (("--scales", "[2, 1]"), "must be two rising factors"),
    "wrong head": (("--head", "fcn4s"), "unknown segmentation head 'fcn4s': did you mean fcn8s"),
    "frozen random": (("--freeze", 2), "random weights must not be frozen"),
    "overlap of nothing": (("--overlap", 0.5), "--overlap 0.5: has no effect without tiles; give --tile as well"),
    "COCO's choice": (("--classes", "voc"), "--classes voc: works only for data in COCO's layout"),
    "one value a channel": (
        ("--backbone", "resnet18", "--max-stride", 32, "--crop-size", 32, "--batch-size", 1),
        "--batch-size: batch norm gets only one value per channel, so it cannot compute statistics; raise --batch-size",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_get_one_line(mistake: str, label_set: Path, tmp_path: Path, monkeypatch, capsys):
    words, said = MISTAKES[mistake]
    monkeypatch.chdir(tmp_path)
    given = ("--data", label_set, "--ignore-index", 7, *QUICK, *words, "--output", tmp_path / "x")
    with pytest.raises(SystemExit) as end:
        ending.run(lambda: train_seg.main([*map(str, given)]))
    errors = capsys.readouterr().err
    assert end.value.code == 2 and "Traceback" not in errors
    assert [said in line for line in errors.splitlines() if line.startswith("error: ")] == [True]


def test_file_names_outside_the_folder_are_taken_where_allowed(coco) -> None:
    for annotation in coco.data["annotations"]:
        annotation["segmentation"] = [[1, 1, 9, 1, 9, 9]]
    coco.write()
    coco.data["images"][0]["file_name"] = "../train2017/005.jpg"
    coco.annotations("val").write_text(json.dumps(coco.data))
    words = ["--data", str(coco.root)]
    bad = BadImages(coco.root / "run", skip=False, seed=0)
    with pytest.raises(UserError, match="leads out of the image folder"):
        open_data(parse(TrainSegmenterOptions, description="", argv=words), bad)
    options = parse(TrainSegmenterOptions, description="", argv=[*words, "--allow-outside", "true"])
    assert open_data(options, bad).val[0][0].shape == (3, 40, 60)


def test_other_classes_in_the_weights_are_refused(trained, script, label_set: Path, tmp_path: Path):
    import shutil

    folder, _ = trained
    shutil.copytree(label_set, tmp_path / "renamed")
    (tmp_path / "renamed" / "classes.txt").write_text("dim\nbright\n")
    words = ("--data", tmp_path / "renamed", *QUICK, "--ignore-index", 7, "--eval-only", "--weights")
    done = script("train_seg.py", *words, folder / "model.safetensors", "--output", tmp_path / "x", cwd=tmp_path)
    assert done.returncode == 2
    assert "was trained on other classes than the data's (dark, not dim)" in done.stderr
