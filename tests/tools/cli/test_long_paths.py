"""Every option that names a file or folder refuses a name of 5,000 characters in one short line."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from tool_exports import EXPORTS

from tools.cli import ending
from tools.cli.console import command

LONG = "a" * 5000
ANNOTATIONS, IMAGES, DATA, NEW = "SET/labels.json", "SET/data", "SET", "NEW"  # replaced by paths of the test
TRAINING = ("--data LONG", "--weights LONG", "--output LONG", "--config LONG", "--recipe LONG", "--plugin LONG.py")
CASES = {
    "train cls": (*TRAINING, "--train-list LONG", "--augment LONG.yaml"),
    "train det": (
        *TRAINING,
        f"--annotations LONG --images {IMAGES} --val-fraction 0.5",
        f"--annotations {ANNOTATIONS} --images LONG --val-fraction 0.5",
        f"--annotations {ANNOTATIONS} --images {IMAGES} --val-fraction 0.5 --train-list LONG",
        f"--val-annotations {ANNOTATIONS} --val-images LONG",
        "--augment LONG.yaml",
    ),
    "train seg": (*TRAINING, "--train-list LONG", "--augment LONG.yaml"),
    "eval": (
        f"--annotations LONG --detections {ANNOTATIONS}",
        f"--annotations {ANNOTATIONS} --detections LONG",
        f"--annotations {ANNOTATIONS} --detections {ANNOTATIONS} --output LONG",
    ),
    "predict": (
        f"--run LONG {IMAGES}",
        f"--weights LONG {IMAGES}",
        f"--model LONG {IMAGES}",
        "--model coco LONG",
        f"--model coco {IMAGES} --output LONG",
    ),
    "export": ("--run LONG", "--run SET --output LONG.onnx", "--run LONG.safetensors"),
    "demo": ("--run LONG",),
    "report": ("LONG", "--runs LONG --output NEW"),
    "compare": ("--experiment LONG --output NEW", "--script train_det --backbones resnet18 --output LONG"),
    "rank": ("--data LONG --backbones resnet18,resnet34", "--data SET --backbones resnet18,resnet34 --output LONG"),
    "check": (
        *(f"--data LONG --truth {truth}" for truth in ("auto", "boxes", "labels")),
        f"--data {DATA} --json LONG",
        f"--data {DATA} --fix LONG",
        f"--annotations LONG --images {IMAGES}",
        f"--annotations {ANNOTATIONS} --images LONG",
    ),
    "convert": (
        f"--data LONG --to coco --output {NEW}",
        f"--data LONG --truth labels --to folders --output {NEW}",
        f"--data {DATA} --to coco --output LONG",
        f"--annotations {ANNOTATIONS} --images LONG --to coco --output {NEW}",
    ),
    "hub": ("push --run LONG --repo a/b", "pull --repo a/b --output LONG"),
    "benchmark": ("load --data LONG --output NEW", f"load --data {DATA} --output LONG", "evaluate --output LONG"),
    "analyse": (
        "--runs LONG --output NEW",
        "--backbones resnet18 --output LONG",
        "--backbones resnet18 --data LONG --output NEW",
    ),
    "replay": ("LONG",),
    "data shapes": ("--output LONG",),
    "data chirps": ("--output LONG",),
    "data augmentations": ("--data LONG", f"--data {DATA} --output LONG.png", "--augment LONG.yaml"),
    "data shards": ("--data LONG --output NEW",),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("long")
    EXPORTS["fiftyone-coco"][1](root / "SET")
    return root


@pytest.mark.parametrize(("words", "options"), [(words, each) for words, lists in CASES.items() for each in lists])
def test_a_name_of_5000_characters_is_refused_in_one_line(
    words: str, options: str, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit) as ended:
        ending.run(lambda: command(words)(options.replace("LONG", LONG).split()))
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert ended.value.code == 2 and "aaa" in line and len(line) < 1000


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOTDIR])
def test_a_path_that_cannot_be_opened_ends_in_one_line(number: int, capsys: pytest.CaptureFixture[str]):
    def refuse() -> None:
        raise OSError(number, "not possible", "/secret/file")

    with pytest.raises(SystemExit) as ended:
        ending.run(refuse)
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "error: /secret/file: cannot be opened (not possible); check the path and its permissions\n"
    )


@pytest.mark.parametrize("arguments", [(errno.EBADF, "bug", "/file"), (errno.EACCES, "bug of a socket")])
def test_other_errors_of_the_operating_system_keep_their_traceback(arguments: tuple[int, str]):
    def fail() -> None:
        raise OSError(*arguments)

    with pytest.raises(OSError, match="bug"):
        ending.run(fail)
