"""The classification script as its users run it: real processes and files, kills, two processes, arrays, shards."""

from __future__ import annotations

import csv
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from conftest import ROOT, Group
from safetensors.torch import load_file
from tolerances import rounding

from backbones.weights.files import read_meta
from classification.data.shard_writer import make_shards
from tools import train_cls

CLASSES = ("ant", "bee", "cat", "dog ü", "eel", "fox")
# Augmentation, mixing and a moving average: whatever a resumed run could get wrong.
QUICK = ("--recipe", "cifar", "--batch-size", 8, "--precision", "fp32", "--threads", 1, "--train-eval", 6)
HARD = (*QUICK, "--mixup", 0.4, "--cutmix", 1, "--ema", 0.8, "--epochs", 2)


def run(*words: Any) -> None:
    """The script in this process, which saves its start."""
    train_cls.main([*map(str, words)])


def results(folder: Path) -> dict[str, Any]:
    """The figures of a run, but for what differs from process to process, and which model was delivered."""
    found = json.loads((folder / "results.json").read_text())
    return {name: value for name, value in found.items() if name not in ("peak_memory", "environment", "delivered")}


def lines(folder: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "time"} for line in found]


def predictions(folder: Path) -> list[dict[str, str]]:
    with open(folder / "predictions.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JPEGs of six colours in noise: eight of each for training, 13 in all for validation."""
    root, random = tmp_path_factory.mktemp("cls") / "data", np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 2)):
        for place, name in enumerate(CLASSES):
            (root / split / name).mkdir(parents=True)
            for number in range(count + (split == "val" and place == 0)):
                image = random.integers(0, 100, (36, 44, 3), dtype=np.uint8)
                image[..., place % 3] += 50 + 25 * (place // 3)
                content = cv2.imencode(".jpg", image)[1].tobytes()
                (root / split / name / f"{number} é.jpg").write_bytes(content)
    return root


@pytest.fixture(scope="module")
def trained(script: Callable[..., subprocess.CompletedProcess[str]], data: Path) -> tuple[Path, str]:
    """A finished run of two epochs, and what it printed."""
    folder = data.parent / "straight"
    done = script("train_cls.py", "--data", data, *HARD, "--workers", 1, "--output", folder, cwd=data.parent)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_a_run_leaves_everything_behind(trained):
    folder, printed = trained
    assert {entry.name for entry in folder.iterdir()} == {
        "checkpoint", "config.yaml", "metrics.jsonl", "model.safetensors", "predictions.csv", "results.json",
        "tensorboard",
        ".lock",
    }  # fmt: skip
    assert sorted(entry.name for entry in (folder / "checkpoint").iterdir()) == [
        "best.safetensors", "last-1.safetensors", "last.safetensors"
    ]  # fmt: skip
    assert list((folder / "tensorboard").glob("events.*"))
    for fact in ("train        48 images, 3 channels, augment cifar, crop 32", "val          13 images",
                 "batch        8 = 1 x 8 x 1", "2 epochs x 6 = 12", "classes      6", "13 images\ntop1 "):  # fmt: skip
        assert fact in printed
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert (config["backbone"], config["mixup"], config["eval_only"]) == ("resnet20", 0.4, False)
    meta = read_meta(folder / "model.safetensors")
    assert meta["classes"] == list(CLASSES)
    assert (meta["input"]["crop_size"], meta["input"]["resize_size"], meta["input"]["in_channels"]) == (32, 32, 3)


def test_the_written_figures_agree_with_one_another(trained):
    folder, _ = trained
    figures, logged, rows = results(folder), lines(folder), predictions(folder)
    evaluations = [line for line in logged if "epoch" in line]
    assert [(line["step"], line["epoch"]) for line in evaluations] == [(6, 1), (12, 2)]
    step = json.loads((folder / "results.json").read_text())["delivered"]["step"]
    (delivered,) = [line for line in evaluations if line["step"] == step]
    assert delivered["top1"] == max(line["top1"] for line in evaluations)
    assert {name: figures[name] for name in delivered if name in figures} == {
        name: value for name, value in delivered.items() if name not in ("step", "epoch", "split")
    }
    (losses,) = [line for line in logged if "loss" in line]  # at the end; else each 20 steps
    assert losses.keys() == {"split", "step", "loss", "loss_cls", "lr"}
    assert (losses["step"], losses["loss"]) == (12, losses["loss_cls"])
    assert (figures["images"], figures["train_images"]) == (13, 6)
    assert figures["top1"] == sum(row["class"] == row["predicted"] for row in rows) / 13
    assert 0 <= figures["top1"] <= figures["top5"] <= 1
    assert [row["image"] for row in rows] == [
        f"{name}/{number} é.jpg" for name in CLASSES for number in range(3 if name == "ant" else 2)
    ]
    # ResNet-20 with ten classes has 269,722 (0.27 million, table 6); a class takes 64 weights and a bias.
    assert figures["parameters"] == 269_722 - 4 * 65


def test_evaluation_alone_gives_the_runs_result(trained, data: Path, tmp_path: Path):
    folder, _ = trained
    words = ("--data", data, *QUICK, "--eval-only", "--workers", 0, "--weights", folder / "model.safetensors")
    run(*words, "--output", tmp_path / "e")
    expected = {name: value for name, value in results(folder).items() if not name.startswith("train_")}
    assert results(tmp_path / "e") == expected
    assert (tmp_path / "e" / "predictions.csv").read_bytes() == (folder / "predictions.csv").read_bytes()
    assert not (tmp_path / "e" / "model.safetensors").exists()
    (data / "train").rename(tmp_path / "train")  # the training images are not needed
    try:
        run(*words, "--test-crops", "ten", "--output", tmp_path / "ten")
    finally:
        (tmp_path / "train").rename(data / "train")
    assert results(tmp_path / "ten")["images"] == 13


def test_two_processes_measure_what_one_measures(data: Path, group: Group, tmp_path: Path):
    words = ("--data", data, *QUICK, "--epochs", 1, "--workers", 0, "--output", tmp_path / "two")
    ended = group("train_cls.py", *words, cwds=[tmp_path] * 2)
    assert [status for status, _, _ in ended] == [0, 0], "\n".join(errors for _, _, errors in ended)
    printed = "".join(out for _, out, _ in ended)
    assert "batch        8 = 2 x 4 x 1" in printed
    assert printed.count("run folder") == 1
    assert [line["step"] for line in lines(tmp_path / "two") if "epoch" in line] == [6]  # 48 images by 8, as alone
    alone = ("--eval-only", "--weights", tmp_path / "two" / "model.safetensors", "--output", tmp_path / "one")
    run("--data", data, *QUICK, "--workers", 0, *alone)
    two, one = results(tmp_path / "two"), results(tmp_path / "one")
    assert (two["top1"], two["top5"], two["images"]) == (one["top1"], one["top5"], one["images"])
    assert two["nll"] == pytest.approx(one["nll"], rel=rounding(64 * 9, layers=20))  # other batches
    for ours, theirs in zip(predictions(tmp_path / "two"), predictions(tmp_path / "one")):
        assert {**ours, "confidence": ""} == {**theirs, "confidence": ""}


def write_arrays(root: Path, bands: int | None, kind: type) -> Path:
    """Four arrays of each of two classes for either split, with values around 1000."""
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("a", "b"):
            (root / split / name).mkdir(parents=True)
            for number in range(4):
                shape = (36, 40) if bands is None else (36, 40, bands)
                np.save(root / split / name / f"{number}.npy", random.normal(1000, 20, shape).astype(kind))
    return root


def test_spectrograms_of_one_channel_are_normalised_by_their_own_statistics(tmp_path: Path):
    data = write_arrays(tmp_path / "data", None, np.float32)
    common = ("--data", data, *QUICK, "--workers", 0, "--in-channels", 1, "--normalise", "data")
    run(*common, "--augment", "standard", "--epochs", 1, "--output", tmp_path / "a")
    seen = read_meta(tmp_path / "a" / "model.safetensors")["input"]
    files = [np.load(path) for path in sorted((data / "train").rglob("*.npy"))]
    assert seen["mean"] == pytest.approx([np.mean(files, dtype=float)])  # summed in double precision
    assert seen["std"] == pytest.approx([np.std(files, dtype=float)])
    assert results(tmp_path / "a")["top5"] is None  # two classes
    # Measured anew, the pixels are normalised by what the weights were made with.
    again = ("--eval-only", "--weights", tmp_path / "a" / "model.safetensors", "--output", tmp_path / "b")
    run(*common, *again)
    assert (tmp_path / "b" / "predictions.csv").read_bytes() == (tmp_path / "a" / "predictions.csv").read_bytes()


def test_arrays_of_five_bands_and_their_costs(tmp_path: Path):
    data = write_arrays(tmp_path / "data", 5, np.uint16)
    words = ("--data", data, *QUICK, "--workers", 0, "--normalise", "data", "--augment", "modern", "--epochs", 1)
    run(*words, "--output", tmp_path / "a")
    # The first convolution alone knows of the bands: 2 more of 3 x 3 x 16 on 32 x 32 pixels.
    means = np.mean([np.load(path) for path in (data / "train").rglob("*.npy")], axis=(0, 1, 2)) / 65535
    seen = read_meta(tmp_path / "a" / "model.safetensors")["input"]["mean"]
    assert seen == pytest.approx(means.tolist())
    assert load_file(tmp_path / "a" / "model.safetensors")["backbone.conv1.weight"].shape == (16, 5, 3, 3)
    # ResNet-20 of 32 x 32 RGB pixels takes 40,551,040 with ten classes, 64 for each.
    assert results(tmp_path / "a")["macs"] == 40_551_040 - 64 * 8 + 2 * 9 * 16 * 1024


def test_grey_pictures_and_class_weights_feed_a_detector(script, data: Path, small_shapes: Path, tmp_path: Path):
    few = ("--data", data, *QUICK, "--limit", 8, "--epochs", 1, "--workers", 0)
    run(*few, "--in-channels", 1, "--output", tmp_path / "g")
    assert load_file(tmp_path / "g" / "model.safetensors")["backbone.conv1.weight"].shape == (16, 1, 3, 3)
    run(*few, "--backbone", "resnet18", "--output", tmp_path / "c")
    weights, recipe = tmp_path / "c" / "model.safetensors", ROOT / "detection" / "recipes" / "shapes.yaml"
    small = ("--min-size", 64, "--max-size", 64, "--fpn-channels", 32, "--epochs", 1, "--limit", 8, "--workers", 0)
    words = ("--config", recipe, "--data", small_shapes, *small, "--backbone", "resnet18", "--weights", weights)
    done = script("train_det.py", *words, "--output", tmp_path / "d", cwd=tmp_path, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    (loaded,) = [line for line in done.stdout.splitlines() if line.startswith("loaded")]
    # 20 convolutions and 20 norms of four entries; the last layer is the classifier's own.
    assert "matched 100 of 100 entries, 0 missing, 0 unexpected" in loaded
    assert "(fc.bias, fc.weight)" in loaded


def test_shards_train_as_folders_do(data: Path, tmp_path: Path):
    make_shards(data, tmp_path / "shards", shard_size=20)
    run("--data", tmp_path / "shards", *HARD, "--workers", 0, "--output", tmp_path / "run")
    assert predictions(tmp_path / "run")[12]["image"] == "val sample 12"
    assert results(tmp_path / "run")["images"] == 13
