"""An experiment as its users run it: real trainings, an interrupt, a cell that fails, mistakes."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, Launched, fork_trainings, size_of, write_noise

from backbones.errors import UserError
from tools import compare


def write(path: Path, **experiment) -> Path:
    path.write_text(yaml.safe_dump(experiment, sort_keys=False))
    return path


def test_interrupted_and_called_again_it_goes_on_and_a_failing_cell_stops_no_other(
    small_shapes: Path, launch: Callable[..., Launched], forked_jobs: None, capsys, tmp_path: Path
):
    options = yaml.safe_load((ROOT / "detection" / "recipes" / "shapes.yaml").read_text())
    del options["backbone"]
    options |= {"data": str(small_shapes), "min_size": 64, "max_size": 64, "fpn_channels": 32, "workers": 0}
    options |= {"epochs": 2, "eval_every": 2, "checkpoint_every": 1, "norm": "batch", "threads": 1}
    matrix = {"seed": [0], "accumulate": [3, 1], "backbone": ["timm/test_resnet"]}
    file = write(tmp_path / "e.yaml", script="train_det", options=options, matrix=matrix)
    # Axes stand in the order of the file, the seed last.
    good, bad = (f"accumulate{count}-timm_test_resnet-seed0" for count in (1, 3))
    out = tmp_path / "out"

    # What a rehearsal would have said before anything is trained is found by the training itself.
    words = [str(file), "--output", str(out), "--rehearse", "false"]
    experiment = launch("compare.py", *words, cwd=tmp_path, first=fork_trainings)
    deadline = time.monotonic() + 120
    while not (out / good / "checkpoint" / "last.safetensors").exists():
        assert time.monotonic() < deadline
        assert experiment.process.is_alive()
        time.sleep(0.05)
    os.kill(experiment.process.pid, signal.SIGINT)
    status, told, _ = experiment.end()
    assert status == 130
    assert f"[1/2] {bad}: error: --batch-size 8: does not divide" in told  # the others went on
    with open(out / f"{good}.log", "ab") as log:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)  # its training is gone
    assert not (out / good / "results.json").exists()

    write(file, script="train_det", options=options, matrix={**matrix, "accumulate": [1]})
    compare.main(words)
    assert f"{good}: resumes" in capsys.readouterr().out
    assert "| 1 | timm/test_resnet | 1 | " in (out / "table.md").read_text()
    assert size_of(out / "curves.png")[0] > 600

    table = (out / "table.csv").read_bytes()
    (out / "table.csv").unlink()
    compare.main([*words, "--table-only"])
    assert f"{good}  done" in capsys.readouterr().out
    assert (out / "table.csv").read_bytes() == table

    write(file, script="train_det", options={**options, "epochs": 3}, matrix=matrix)
    with pytest.raises(UserError, match="was made with --epochs 2, but the experiment says 3; move the folder away"):
        compare.main(words)


def test_heads_of_segmentation_are_compared(small_shapes: Path, forked_jobs: None, tmp_path: Path):
    options = {
        "data": str(small_shapes),
        "recipe": "shapes",
        "backbone": "timm/test_resnet",
        "crop_size": 32,
        "limit": 4,
    }
    options |= {"epochs": 1, "batch_size": 2, "workers": 0, "threads": 1}
    matrix = {"head": ["fcn32s", "fcn8s"], "seed": [0]}
    file = write(tmp_path / "e.yaml", script="train_seg", options=options, matrix=matrix)
    compare.main([str(file), "--output", str(tmp_path / "out"), "--rehearse", "false"])
    table = (tmp_path / "out" / "table.md").read_text()
    assert "| head | n | mIoU % | pixel accuracy % | parameters (M) |" in table
    assert [line.split(" | ")[0] for line in table.splitlines()[2:4]] == ["| fcn32s", "| fcn8s"]
    assert size_of(tmp_path / "out" / "curves.png")[0] > 300


def test_classifiers_of_several_classes_an_image_are_compared_by_map(forked_jobs: None, capsys, tmp_path: Path):
    sets = ("sea", "sun", "sea;sun", "")
    lines = [f"{number}.png,{sets[number % 4]},{'val' if number % 3 else 'train'}\n" for number in range(24)]
    table = write_noise(tmp_path, {("data", "images"): 24}, 16) / "data" / "labels.csv"
    table.write_text("".join(["image,classes,split\n", *lines]))
    options = {"data": str(table), "recipe": "shapes", "backbone": "resnet20", "crop_size": 16}
    options |= {"epochs": 1, "batch_size": 4, "workers": 0, "threads": 1, "keep_checkpoints": 0}
    file = write(tmp_path / "e.yaml", script="train_cls", options=options, matrix={"lr": [0.1, 0.01], "seed": [0, 1]})
    compare.main([str(file), "--output", str(tmp_path / "out"), "--rehearse", "false"])
    assert "[4/4] lr0.01-seed1: mAP %" in capsys.readouterr().out
    text = (tmp_path / "out" / "table.md").read_text()
    assert "| lr | n | mAP % | macro F1 % | micro F1 % | exact match % | training mAP % |" in text
    assert re.search(r"^- lr 0.01 over 0.1: .* mAP, 95% interval .*, 2 seeds", text, re.MULTILINE)
    assert (tmp_path / "out" / "differences.png").is_file()


def test_a_cell_in_training_elsewhere_is_left_alone(tmp_path: Path, capsys):
    (tmp_path / "out").mkdir()
    with open(tmp_path / "out" / "resnet18.log", "ab") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        words = ["--script", "train_det", "--backbones", "resnet18", "--output", str(tmp_path / "out")]
        words += ["--rehearse", "false"]
        with pytest.raises(SystemExit) as status:
            compare.main(words)
    assert status.value.code == 1
    assert "is being trained by another process" in capsys.readouterr().err
    assert not os.path.exists(tmp_path / "out" / "resnet18")


MATRIX = {"backbone": ["resnet18"]}
MISTAKES = {
    "key": ({"script": "train_det", "matrx": MATRIX}, "unknown key matrx"),
    "script": ({"script": "train", "matrix": MATRIX}, "`script` is train; use train_cls or train_det"),
    "axis": (
        {"script": "train_det", "matrix": {"bacbone": ["resnet18"]}},
        "matrix: bacbone is not an option of train_det; did you mean backbone?",
    ),
    "no such axis": (
        {"script": "train_seg", "matrix": {"neck": ["fpn"]}},
        "matrix: neck is not an option of train_seg; see python tools/train_seg.py --help",
    ),
    "placeholder": (
        {"script": "train_det", "matrix": {"weights": ["runs/{bakbone}/x.pth"]}},
        "{bakbone} is not an option of the cell",
    ),
    "tasks": ({"tasks": {"a": {"script": "train_det", "data": "x"}}, "matrix": MATRIX}, "tasks: a: unknown key data"),
    "no task": ({"tasks": {}, "matrix": MATRIX}, "`tasks` is empty"),
    "equal": ({"script": "train_det", "equal_steps": 2, "matrix": MATRIX}, "`equal_steps` is 2; write true or false"),
    "tasks of one folder": (
        {
            "tasks": {
                "a": {"script": "train_det", "matrix": {"epochs": [3], "seed": [0]}},
                "a-epochs3": {"script": "train_det", "matrix": {"seed": [0]}},
            }
        },
        "two cells of different tasks would use the same folder a-epochs3-seed0",
    ),
    "task's name": (
        {"tasks": {"a/b": {"script": "train_det"}}, "matrix": MATRIX},
        "tasks: a/b: a task's name is part of folder names",
    ),
    "value": ({"script": "train_det", "matrix": {"lr": [0.1, -1]}}, "cell lr1: --lr -1.0: must be above 0"),
    "option": ({"script": "train_det", "options": {"epochz": 2}, "matrix": MATRIX}, "epochz"),
    "own": ({"script": "train_det", "options": {"output": "x"}, "matrix": MATRIX}, "sets it for each cell"),
    "empty": ({"script": "train_det", "matrix": {"seed": []}}, "seed has no values"),
    "no cells": ({"script": "train_det", "options": {"epochs": 2}}, "has neither `matrix` nor `runs`"),
    "runs": ({"script": "train_det", "runs": MATRIX}, "`runs` is not a list"),
    "same folder": (
        {"script": "train_det", "matrix": {"weights": ["a/x.pth", "b/x.pth"]}},
        "two cells would use the same folder weights_x, because --weights a/x.pth and b/x.pth shorten",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_found_before_anything_starts(name: str, tmp_path: Path):
    experiment, text = MISTAKES[name]
    file = write(tmp_path / "e.yaml", **experiment)
    with pytest.raises(UserError) as error:
        compare.main([str(file), "--output", str(tmp_path / "out")])
    assert text in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


WORDS = {
    "nothing": ([], "name a training command, or give an experiment file"),
    "no file": (["gone.yaml"], "gone.yaml: is neither a file nor a packaged experiment"),
    "both": (
        ["e.yaml", "--backbones", "resnet18"],
        "this file already describes the whole experiment; leave --backbones out",
    ),
    "jobs": (["--script", "train_det", "--seeds", "0", "--jobs", "0"], "--jobs 0: must be above 0"),
    "no names": (["--script", "train_det", "--backbones", ","], "name at least one"),
    "no axis": (["--script", "train_det"], "name the backbones to compare"),
    "table": (
        ["--script", "train_det", "--seeds", "0", "--table-only"],
        "no such folder, so --table-only has no runs to read",
    ),
}


@pytest.mark.parametrize("name", WORDS)
def test_mistakes_of_the_command_line(name: str, tmp_path: Path):
    words, text = WORDS[name]
    with pytest.raises(UserError) as error:
        compare.main([*words, "--output", str(tmp_path / "out")])
    assert text in str(error.value)


def test_options_of_a_file_are_written_into_it(tmp_path: Path):
    file = write(tmp_path / "e.yaml", script="train_det", matrix=MATRIX)
    with pytest.raises(UserError, match="write this option into"):
        compare.main([str(file), "--output", str(tmp_path / "out"), "--", "--epochs", "2"])
