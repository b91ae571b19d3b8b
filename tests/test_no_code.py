"""No file that is read can run code: each bomb is refused in one line, and does not go off."""

from __future__ import annotations

import json
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from conftest import CIFAR

from tools import compare, eval_coco, replay, train_cls, train_det, train_seg
from tools.cli import ending
from tools.engine import checkpoint
from tools.engine.run_folder import LAST

QUICK = (*CIFAR, "--epochs", 1, "--batch-size", 4, "--threads", 1, "--workers", 0, "--train-eval", 0)
SHAPES = Path(__file__).resolve().parents[1] / "detection" / "recipes" / "shapes.yaml"


class Bomb:
    """A pickle that makes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.fixture
def gone_off(tmp_path: Path) -> Path:
    """The file that a bomb makes."""
    return tmp_path / "gone off"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two pictures of each of two classes in either split."""
    random = np.random.default_rng(0)
    for split, name, number in ((s, n, i) for s in ("train", "val") for n in "ab" for i in range(2)):
        (tmp_path / "data" / split / name).mkdir(parents=True, exist_ok=True)
        content = cv2.imencode(".png", random.integers(0, 256, (34, 34, 3), dtype=np.uint8))[1].tobytes()
        (tmp_path / "data" / split / name / f"{number}.png").write_bytes(content)
    return tmp_path / "data"


def refused(capsys: pytest.CaptureFixture[str], gone_off: Path, main: Callable[..., None], *words: Any) -> str:
    """The one line that a script ends with; nothing may have gone off."""
    with pytest.raises(SystemExit) as ended:
        ending.run(lambda: main([*map(str, words)]))
    errors = capsys.readouterr().err
    assert not gone_off.exists()
    assert ended.value.code == 2
    assert "Traceback" not in errors
    (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    return line


def pickles(gone_off: Path, folder: Path) -> dict[str, Path]:
    """The bomb as a bare pickle, as what torch writes, and with weights beside it."""
    bare, zipped, hidden = (folder / name for name in ("bare.pth", "zipped.pth", "hidden.pth"))
    bare.write_bytes(pickle.dumps(Bomb(gone_off), protocol=2))  # that of torch
    torch.save(Bomb(gone_off), zipped)
    torch.save({"state_dict": {"fc.weight": torch.zeros(2, 2)}, "optimizer": Bomb(gone_off)}, hidden)
    return {path.stem: path for path in (bare, zipped, hidden)}


def test_the_bombs_would_go_off(gone_off: Path, tmp_path: Path):
    import yaml

    for path in pickles(gone_off, tmp_path).values():
        with path.open("rb") as file:
            torch.load(file, weights_only=False) if path.stem != "bare" else pickle.load(file)
        assert gone_off.exists()
        gone_off.unlink()
    yaml.unsafe_load(yaml_bomb(gone_off))
    assert gone_off.exists()


def yaml_bomb(gone_off: Path) -> str:
    return f"epochs: !!python/object/apply:os.system ['touch \"{gone_off}\"']\n"


@pytest.mark.parametrize("kind", ["bare", "zipped", "hidden"])
def test_weights(capsys, gone_off: Path, data: Path, tmp_path: Path, kind: str):
    bomb = pickles(gone_off, tmp_path)[kind]
    for name in (
        bomb,
        bomb.rename(tmp_path / "weights.safetensors"),
        shutil.copy(tmp_path / "weights.safetensors", tmp_path / "w.bin"),
    ):
        line = refused(capsys, gone_off, train_cls.main, *QUICK, "--data", data, "--weights", name)
        assert str(name) in line
    for script, more in ((train_det, ("--config", SHAPES)), (train_seg, ("--recipe", "shapes"))):
        line = refused(
            capsys, gone_off, script.main, *more, "--data", tiny_coco(tmp_path), "--weights", tmp_path / "w.bin"
        )
        assert "w.bin" in line


def tiny_coco(root: Path) -> Path:
    """One image with an object in either split."""
    for split in ("train", "val"):
        (root / split).mkdir(exist_ok=True)
        cv2.imwrite(str(root / split / "1.png"), np.zeros((40, 40, 3), np.uint8))
        (root / "annotations").mkdir(exist_ok=True)
        truth = {
            "images": [{"id": 1, "file_name": "1.png", "width": 40, "height": 40}],
            "categories": [{"id": 1, "name": "dot"}],
            "annotations": [
                {"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 5, 9, 9], "area": 81, "iscrowd": 0,
                 "segmentation": [[5, 5, 14, 5, 14, 14, 5, 14]]}
            ],
        }  # fmt: skip
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(truth))
    return root


def test_a_checkpoint_and_a_kept_batch(capsys, gone_off: Path, data: Path, tmp_path: Path):
    bombs = pickles(gone_off, tmp_path)
    run = tmp_path / "run"
    (run / LAST).parent.mkdir(parents=True)
    for bomb in bombs.values():
        shutil.copy(bomb, run / LAST)
        line = refused(capsys, gone_off, train_cls.main, *QUICK, "--data", data, "--resume", "--output", run)
        assert "no undamaged checkpoint" in line
        assert "is not a complete safetensors file" in refused(capsys, gone_off, replay.main, bomb)
    checkpoint.write_safetensors(run / LAST, {}, {"format": checkpoint.FORMAT, "tree": yaml_bomb(gone_off)})
    assert "damaged" in refused(capsys, gone_off, train_cls.main, *QUICK, "--data", data, "--resume", "--output", run)


def test_options(capsys, gone_off: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As `--config`, on the command line, as a recipe, as the options of a run to resume, and as an experiment."""
    bomb = tmp_path / "bomb.yaml"
    bomb.write_text(yaml_bomb(gone_off))
    for script in (train_cls, train_det, train_seg):
        assert f"--config {bomb}: is not YAML" in refused(capsys, gone_off, script.main, "--config", bomb)
    word = yaml_bomb(gone_off).removeprefix("epochs: ").strip()
    refused(capsys, gone_off, train_cls.main, "--data", data, "--epochs", word)
    refused(capsys, gone_off, train_cls.main, "--data", data, f"--milestones={word}")
    assert "bomb.yaml" in refused(capsys, gone_off, compare.main, bomb, "--output", tmp_path / "compared")
    run = tmp_path / "run"
    (run / LAST).parent.mkdir(parents=True)
    shutil.copy(bomb, run / "config.yaml")
    (run / LAST).write_bytes(b"")
    assert "config.yaml" in refused(capsys, gone_off, train_cls.main, "--resume", "--output", run)
    recipes = tmp_path / "classification" / "recipes"
    recipes.mkdir(parents=True)
    shutil.copy(bomb, recipes / "cifar.yaml")
    monkeypatch.setattr("tools.tasks.options.ROOT", tmp_path)
    assert "cifar.yaml" in refused(capsys, gone_off, train_cls.main, "--recipe", "cifar", "--data", data)


def test_an_experiments_finished_cell(capsys, gone_off: Path, data: Path, tmp_path: Path):
    cell = tmp_path / "out" / "resnet20-seed0"
    cell.mkdir(parents=True)
    (cell / "config.yaml").write_text(yaml_bomb(gone_off))
    words = ("--script", "train_cls", "--backbones", "resnet20", "--seeds", 0, "--output", tmp_path / "out", "--")
    line = refused(capsys, gone_off, compare.main, *words, *map(str, QUICK), "--data", data)
    assert "config.yaml: is not YAML" in line


def test_an_array_among_the_images(capsys, gone_off: Path, data: Path):
    """A .npy of objects is a pickle; so is one inside an archive that bears the name."""
    objects = np.empty((34, 34), object)
    objects[0, 0] = Bomb(gone_off)
    path = data / "train" / "a" / "0.npy"
    for split in ("train", "val"):
        for name in "ab":
            (data / split / name / "0.png").unlink()
    np.save(path, objects, allow_pickle=True)
    for split, name in (("train", "b"), ("val", "a"), ("val", "b")):
        np.save(data / split / name / "0.npy", np.zeros((34, 34, 3), np.uint8))
    assert "train/a/0.npy: does not decode" in refused(capsys, gone_off, train_cls.main, *QUICK, "--data", data)
    with zipfile.ZipFile(path, "w") as archive, archive.open("a.npy", "w") as file:
        np.lib.format.write_array(file, objects, allow_pickle=True)
    assert "train/a/0.npy: does not decode" in refused(capsys, gone_off, train_cls.main, *QUICK, "--data", data)
    path.write_bytes(pickle.dumps(Bomb(gone_off)))
    assert "train/a/0.npy: does not decode" in refused(capsys, gone_off, train_cls.main, *QUICK, "--data", data)


def test_annotations_and_detections(capsys, gone_off: Path, tmp_path: Path):
    truth = tiny_coco(tmp_path) / "annotations" / "instances_val.json"
    bomb = pickles(gone_off, tmp_path)["bare"]
    words = ("--annotations", truth, "--detections", bomb)
    assert "bare.pth" in refused(capsys, gone_off, eval_coco.main, *words)
    shutil.copy(bomb, truth)
    refused(capsys, gone_off, eval_coco.main, *words)
    for script in (train_det, train_seg):
        line = refused(capsys, gone_off, script.main, "--data", tmp_path, "--weights", "none")
        assert "instances_val.json" in line


def test_a_list_of_shards_that_names_a_command(capsys, gone_off: Path, data: Path):
    """webdataset runs an address `pipe:COMMAND` in a shell."""
    listed = {"classes": ["a", "b"], "train": {f"pipe:touch '{gone_off}'": 4}, "val": {"val-0.tar": 4}}
    (data / "shards.json").write_text(json.dumps(listed))
    assert "shards.json: `train` lists" in refused(capsys, gone_off, train_cls.main, *QUICK, "--data", data)
    address = f"pipe:touch '{gone_off}'"
    assert "no such folder" in refused(capsys, gone_off, train_cls.main, *QUICK, "--data", address)
