"""The examples of docs/EXTENDING.md: each is written to a file and trains one step from the command line."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import yaml
from conftest import ROOT, write_classes

PAGE = (ROOT / "docs" / "EXTENDING.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"`(my_\w+\.py)`:\n\n```python\n(.*?)```", PAGE, flags=re.DOTALL))
COMMANDS = re.findall(r"^    python tools/(train_\w+\.py) (--plugin my_.*)$", PAGE, flags=re.MULTILINE)
# One step of each task on few small images.
COMMON = "--limit 4 --batch-size 4 --epochs 1 --workers 0 --threads 1 --output run"
SMALL = {
    "train_cls.py": "--data classes --recipe cifar --crop-size 32 --resize-size 32",
    "train_det.py": "--data shapes --min-size 64 --max-size 64 --fpn-channels 8 --head-channels 16 --rois-per-image 8 "
    "--proposals 20 --weights none",
    "train_seg.py": "--data shapes --recipe shapes --crop-size 48 --weights none",
}
BACKBONE = {"train_cls.py": "resnet20", "train_det.py": "timm/test_resnet", "train_seg.py": "resnet18"}


def test_the_page_has_an_example_of_each_kind():
    assert set(FILES) == {f"my_{kind}.py" for kind in ("backbone", "neck", "head", "layout", "classes", "augmentation")}
    assert {name for _, words in COMMANDS for name in re.findall(r"my_\w+\.py", words)} == set(FILES)
    assert {name: len(code.splitlines()) for name, code in FILES.items() if len(code.splitlines()) > 40} == {}


@pytest.fixture
def folder(tmp_path: Path, small_shapes: Path) -> Path:
    """The examples, and small data under relative names."""
    for name, code in FILES.items():
        (tmp_path / name).write_text(code)
    (tmp_path / "shapes").symlink_to(small_shapes)
    write_classes(tmp_path / "classes", count=4)
    (tmp_path / "my_data").mkdir()
    (tmp_path / "my_data" / "images").symlink_to(tmp_path / "classes" / "train" / "a")
    for split in ("train", "val"):
        (tmp_path / "my_data" / f"{split}.txt").write_text("0.png cat\n1.png dog\n")
        (tmp_path / "my_data" / f"{split}.csv").write_text("0.png,2,3,20,24,cat\n1.png,0,0,9,9,dog\n")
    return tmp_path


@pytest.mark.parametrize(("command", "words"), COMMANDS, ids=lambda value: value.split(".")[0].split(" ")[-1])
def test_an_example_trains_a_step(folder: Path, script: Callable[..., CompletedProcess[str]], command: str, words: str):
    given = shlex.split(f"{SMALL[command]} {COMMON} {words}")
    if "--backbone" not in words:
        given += ["--backbone", BACKBONE[command]]
    done = script(command, *given, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load((folder / "run" / "config.yaml").read_text())["plugin"] == [words.split()[1]]


def test_a_run_asks_for_its_plugin_and_never_imports_it(folder: Path, script: Callable[..., CompletedProcess[str]]):
    words = shlex.split(f"{SMALL['train_det.py']} {COMMON} --backbone timm/test_resnet --plugin my_neck.py --neck sum")
    assert script("train_det.py", *words, cwd=folder).returncode == 0
    for command, given in {
        "train_det.py": "--resume --eval-only --output run",
        "predict.py": "--run run shapes/val --output found",
    }.items():
        refused = script(command, *given.split(), cwd=folder)
        assert refused.returncode == 2 and "--plugin my_neck.py" in refused.stderr, refused.stderr
        done = script(command, *given.split(), "--plugin", "my_neck.py", cwd=folder)
        assert done.returncode == 0, done.stderr


def test_data_in_a_registered_layout_is_checked_and_converted(
    folder: Path, script: Callable[..., CompletedProcess[str]]
):
    given = ("--plugin", "my_layout.py", "--data", "my_data")
    checked = script("check_data.py", *given, "--decode", "false", cwd=folder)
    assert checked.returncode == 1, checked.stderr  # train and val share their images
    assert "train: 2 images, 2 annotations" in checked.stdout
    done = script("convert_data.py", *given, "--to", "coco", "--output", "converted", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("train: 2 images, 2 boxes\nval: 2 images, 2 boxes\n")
