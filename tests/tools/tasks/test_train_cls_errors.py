"""User errors of the classification script: one line, status 2, and no run folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import CIFAR
from safetensors.torch import save_file

import classification
from classification.data.shard_writer import make_shards
from tools import train_cls
from tools.cli import ending

QUICK = (*CIFAR, "--epochs", 1, "--batch-size", 4, "--threads", 1, "--train-eval", 0)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four pictures of each of two classes in either split."""
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("ant", "bee"):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for number in range(4):
                image = random.integers(0, 256, (34, 34, 3), dtype=np.uint8)
                (tmp_path / "data" / split / name / f"{number}.jpg").write_bytes(
                    cv2.imencode(".jpg", image)[1].tobytes()
                )
    return tmp_path / "data"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights made for the classes ant and cow."""
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    meta = {"classes": ["ant", "cow"], "input": {}}
    save_file(
        classification.build("timm/test_resnet", 2, weights=None).state_dict(),
        path,
        metadata={"meta": json.dumps(meta)},
    )
    return path


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def empty_class(data: Path) -> None:
    for path in (data / "train" / "bee").iterdir():
        path.unlink()


def another_class(data: Path) -> None:
    (data / "val" / "ant").rename(data / "val" / "cow")


def one_class(data: Path) -> None:
    for split in ("train", "val"):
        shutil.rmtree(data / split / "bee")


def no_val(data: Path) -> None:
    shutil.rmtree(data / "val")


def two_bands(data: Path) -> None:
    for path in list(data.rglob("*.jpg")):
        path.unlink()
        np.save(path.with_suffix(".npy"), np.zeros((34, 34, 2), np.float32))


def shards(data: Path) -> None:
    data.rename(data.with_name("folders"))
    make_shards(data.with_name("folders"), data, shard_size=4)


def cut_shard(data: Path) -> None:
    shards(data)
    (data / "shards.json").unlink()  # so that the shards are read before anything is built
    (data / "classes.txt").write_text("ant\nbee\n")
    tar = data / "train-000001.tar"
    tar.write_bytes(tar.read_bytes()[:3000])


def missing_shard(data: Path) -> None:
    shards(data)
    (data / "val-000000.tar").unlink()


MISTAKES: dict[str, tuple[Callable[[Path], None] | None, tuple[Any, ...], str]] = {
    "empty class": (empty_class, (), "train/bee: this class folder contains"),
    "other classes": (another_class, (), "val/cow: is not one of the 2 classes of"),
    "one class": (one_class, (), "train: has only one class, ant, so that there is nothing to learn"),
    "no validation": (
        no_val,
        (),
        "has no validation split; name --val-split, or split the training images with --val-fraction 0.2",
    ),
    "missing data": (None, ("--data", "nowhere"), "--data nowhere: no such folder"),
    "first image cut": (lambda data: cut(data / "train/ant/0.jpg"), (), "train/ant/0.jpg: does not decode"),
    "bands of pictures": (None, ("--in-channels", 2), "the model needs 2 channels, but an image file has 1 or 3"),
    "bands of arrays": (two_bands, ("--in-channels", 3), "has 2 channels, not 3; use --in-channels 2"),
    "mixup of floats": (two_bands, ("--mixup", 0.3), "--mixup 0.3: works only on uint8 images"),
    "cutmix of floats": (two_bands, ("--cutmix", 1), "--cutmix 1.0: works only on uint8 images"),
    "odd batch of mixup": (None, ("--mixup", 0.2, "--batch-size", 3), "use an even number"),
    "odd batch of cutmix": (None, ("--cutmix", 1, "--batch-size", 6, "--accumulate", 2), "use an even number"),
    "nothing to measure": (
        None,
        ("--eval-only",),
        "--eval-only: a model with random weights is not worth evaluating",
    ),
    "weights gone": (None, ("--weights", "gone.pth"), "gone.pth"),
    "unknown backbone": (None, ("--backbone", "resnet21"), "unknown backbone 'resnet21': did you mean"),
    "unknown recipe": (None, ("--recipe", "fast"), "--recipe fast: expected"),
    "unknown preset": (None, ("--augment", "hard"), "unknown augmentation 'hard': did you mean"),
    "resize below crop": (None, ("--resize-size", 24), "24: must not be below --crop-size 32"),
    "no crop": (None, ("--crop-size", 0), "must be above 0"),
    "negative mixup": (None, ("--mixup", -1), "--mixup -1.0: must be 0 or above"),
    "smoothing": (None, ("--label-smoothing", 1), "must be 0 or above, below 1"),
    "frozen random stages": (None, ("--freeze", 1), "random weights must not be frozen"),
    "limit of shards": (shards, ("--limit", 4), "--sample: does not work with tar shards"),
    "statistics of shards": (shards, ("--normalise", "data"), "--normalise data: does not work with tar shards"),
    "shard cut": (cut_shard, (), "train-000001.tar: is damaged or truncated"),
    "shard gone": (missing_shard, (), "lists"),
    "batch": (None, ("--batch-size", 5, "--accumulate", 2), "--batch-size 5: does not divide"),
    "resume": (None, ("--resume",), "to resume"),
}


def refused(capsys: pytest.CaptureFixture[str], *words: Any) -> str:
    """The one line that the script ends with, in this process."""
    with pytest.raises(SystemExit) as ended:
        ending.run(lambda: train_cls.main([*map(str, words)]))
    assert ended.value.code == 2
    errors = capsys.readouterr().err
    assert "Traceback" not in errors
    (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    return line


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_found_before_training_leave_no_folder(capsys, monkeypatch, data: Path, tmp_path: Path, name: str):
    monkeypatch.chdir(tmp_path)
    change, words, text = MISTAKES[name]
    if change:
        change(data)
    line = refused(capsys, *QUICK, "--data", data, "--workers", 0, "--output", "run", *words)
    assert text in line
    assert not (tmp_path / "run").exists()


def test_weights_of_other_classes_measure_nothing(capsys, data: Path, weights: Path, tmp_path: Path):
    words = (*QUICK, "--data", data, "--workers", 0, "--eval-only", "--weights", weights, "--output", tmp_path / "run")
    line = refused(capsys, *words)
    assert "val/bee: is not one of the 2 classes of the weights (ant, cow); 1 of 2 folders match no class" in line
    assert not (tmp_path / "run").exists()


def test_a_part_of_the_classes_can_be_measured(capsys, data: Path, weights: Path, tmp_path: Path):
    (data / "val" / "bee").rename(data / "val" / "cow")
    shutil.rmtree(data / "val" / "ant")
    words = (*QUICK, "--data", data, "--workers", 0, "--eval-only", "--weights", weights, "--output", tmp_path / "run")
    train_cls.main([*map(str, words)])
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    assert found["per_class"] == {
        "ant": {"recall": None, "images": 0},
        "cow": {"recall": found["top1"], "images": found["images"]},
    }
    assert (found["top1_present"], found["classes_present"]) == (1, 1)  # cow is the only class that is left
    printed = capsys.readouterr().out
    assert f"({data / 'val'}); no image of ant\n" in printed
    assert "top1  100.00%   among the 1 class with images" in printed


def test_a_finished_run_is_not_overwritten(capsys, data: Path, tmp_path: Path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("kept")
    line = refused(capsys, *QUICK, "--data", data, "--output", tmp_path / "run")
    assert "holds files already; continue that run with --resume or name a new folder" in line
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["mine.txt"]


def test_damage_met_on_the_way_is_named_and_mended(capsys, script, data: Path, tmp_path: Path):
    """A worker meets it, in a real process; each time a picture is replaced, the run goes on where it stands."""
    paths = [data / "train" / "bee" / "2.jpg", data / "val" / "bee" / "3.jpg"]
    whole = [path.read_bytes() for path in paths]
    for path in paths:
        cut(path)
    words = (*QUICK, "--data", data, "--workers", 1, "--output", tmp_path / "run")
    done = script("train_cls.py", *words, cwd=tmp_path)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert line == f"error: {paths[0]}: does not decode: truncated, damaged or not an image; replace or remove the file"
    assert "Traceback" not in done.stderr
    paths[0].write_bytes(whole[0])
    resume = ("--resume", "--output", tmp_path / "run")
    assert f"{paths[1]}: does not decode" in refused(capsys, *resume)
    paths[1].write_bytes(whole[1])
    train_cls.main([*map(str, resume)])
    assert (tmp_path / "run" / "results.json").is_file()


def test_a_listed_shard_cut_short_is_named_by_a_worker(capsys, data: Path, tmp_path: Path):
    shards(data)
    (data / "train-000001.tar").write_bytes((data / "train-000001.tar").read_bytes()[:3000])
    line = refused(capsys, *QUICK, "--data", data, "--workers", 1, "--output", tmp_path / "run")
    assert "train-000001.tar" in line
