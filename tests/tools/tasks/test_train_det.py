"""The detection script as its users run it: real processes, a real data set, kills and mistakes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Group, size_of
from tolerances import rounding, written
from tool_exports import EXPORTS

from backbones.errors import UserError
from tools import train_det
from tools.cli import ending
from tools.cli.parsing import parse
from tools.evaluation.detections import SCORE_DECIMALS
from tools.runs.detection import EvaluatedDetections
from tools.runs.folder import RunFolder
from tools.tasks.detection import describe_split
from tools.tasks.detection_data import open_train, open_val
from tools.tasks.options import TrainDetectorOptions

QUICK = ("--recipe", "shapes", "--backbone", "timm/test_resnet", "--min-size", 64, "--max-size", 64,
         "--fpn-channels", 32, "--workers", 0)  # fmt: skip


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def trained(script, small_shapes: Path, tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A finished run of two epochs."""
    folder = tmp_path_factory.mktemp("runs") / "a"
    words = ("--data", small_shapes, *QUICK, "--epochs", 2, "--eval-every", 1, "--output", folder)
    done = script("train_det.py", *words, cwd=folder.parent)
    assert done.returncode == 0, done.stderr
    return folder, done


def test_a_run_leaves_everything_behind(trained):
    folder, done = trained
    assert {entry.name for entry in folder.iterdir()} == {
        "checkpoint", "config.yaml", "detections.json", "metrics.jsonl", "model.safetensors",
        "results.json", "samples.png", "tensorboard", ".lock",
    }  # fmt: skip
    assert sorted(entry.name for entry in (folder / "checkpoint").iterdir()) == [
        "best.safetensors", "last-1.safetensors", "last.safetensors"
    ]  # fmt: skip
    assert list((folder / "tensorboard").glob("events.*"))
    assert [line["epoch"] for line in lines(folder) if "epoch" in line] == [1, 2]
    assert size_of(folder / "samples.png")[0] > 600
    for fact in ("run folder", "batch        8 = 1 x 8 x 1", "2 epochs x 3 = 6", "norm layers", "classes      6"):
        assert fact in done.stdout
    results = json.loads((folder / "results.json").read_text())
    assert results["images"] == 6
    assert results["APl"] is None
    assert "no ground-truth object" in results["reasons"]["APl"]


def test_the_written_detections_score_the_same(trained, script, small_shapes: Path, tmp_path: Path):
    folder, _ = trained
    truth = small_shapes / "annotations" / "instances_val.json"
    scored = tmp_path / "scored.json"
    words = ("--annotations", truth, "--detections", folder / "detections.json", "--output", scored)
    done = script("eval_coco.py", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    again, results = json.loads(scored.read_text()), json.loads((folder / "results.json").read_text())
    assert {name: again[name] for name in again if name.startswith("A")} == {
        name: results[name] for name in results if name.startswith("A")
    }


def test_eval_only_with_the_models_file(trained, script, small_shapes: Path, tmp_path: Path):
    folder, _ = trained
    weights = folder / "model.safetensors"
    words = ("--data", small_shapes, *QUICK, "--eval-only", "--weights", weights)
    done = script("train_det.py", *words, "--output", tmp_path / "b", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    before, after = (json.loads((run / "results.json").read_text()) for run in (folder, tmp_path / "b"))
    assert before.pop("delivered")["model"] == "best" and "delivered" not in after
    assert before.pop("peak_memory") > 0 and after.pop("peak_memory") > 0
    assert before == after
    assert before["parameters"] > 4e5  # the backbone has 455,688 of them


def test_eval_only_with_more_time_and_more_nets(trained, script, small_shapes: Path, tmp_path: Path):
    weights = trained[0] / "model.safetensors"
    words = ("--data", small_shapes, *QUICK, "--eval-only", "--weights", weights, "--output", "c")
    more = ("--refine", "--test-flip", "--test-sizes", "[48,64]", "--ensemble", f"[{weights}]", "--limit", 2)
    done = script("train_det.py", *words, *more, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "c" / "samples.png").is_file()
    before, after = (json.loads((run / "detections.json").read_text()) for run in (trained[0], tmp_path / "c"))
    images = {row["image_id"] for row in after}
    assert len(images) == 2 and after != [row for row in before if row["image_id"] in images]


def test_two_processes_measure_what_they_save(group: Group, script, small_shapes: Path, tmp_path: Path):
    words = ("--data", small_shapes, *QUICK, "--epochs", 1, "--output", tmp_path / "t")
    ended = group("train_det.py", *words, cwds=[tmp_path] * 2)
    assert [status for status, _, _ in ended] == [0, 0], ended
    printed = "".join(out for _, out, _ in ended)
    assert "2 x 4 x 1" in printed
    assert printed.count("run folder") == 1
    assert json.loads((tmp_path / "t" / "results.json").read_text())["images"] == 6
    # What was measured is what was saved, although each process gathered batch statistics of its own.
    words = ("--data", small_shapes, *QUICK, "--eval-only", "--weights", tmp_path / "t" / "model.safetensors")
    evaluated = script("train_det.py", *words, "--output", tmp_path / "u", cwd=tmp_path)
    assert evaluated.returncode == 0, evaluated.stderr
    together, alone = (json.loads((tmp_path / run / "detections.json").read_text()) for run in "tu")
    # Batches of other sizes may take other kernels of a CPU: the same up to rounding.
    assert len(together) == len(alone)
    scores = [sorted(found["score"] for found in run) for run in (together, alone)]
    np.testing.assert_allclose(*scores, rtol=0, atol=rounding(512 * 9, layers=25) + written(SCORE_DECIMALS))


def few_shapes() -> None:
    """Have this process generate 40 built-in shapes in place of 3,200."""
    from tools.synthetic import shapes

    shapes.prepare.__kwdefaults__.update(train=30, val=10)


def test_no_arguments_but_a_backbone_and_limits(launch, tmp_path: Path):
    """The built-in shapes, no network, random weights."""
    words = ("--backbone", "timm/test_resnet", "--limit", 8, "--epochs", 1, "--workers", 0)
    run = launch("train_det.py", *words, cwd=tmp_path, first=few_shapes, RESNET_TRANSFER_CACHE=str(tmp_path / "cache"))
    status, printed, errors = run.end()
    assert status == 0, errors
    assert "Faster R-CNN, timm/test_resnet, fpn, weights none" in printed
    (folder,) = (tmp_path / "runs").iterdir()
    assert (folder / "samples.png").is_file()


def test_print_config_is_a_config(script, tmp_path: Path):
    done = script("train_det.py", "--data", "somewhere", "--epochs", 7, "--print_config", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "epochs: 7\n" in done.stdout
    assert "weights: imagenet\n" in done.stdout  # the recipe of a named data set


def test_a_mistake_leaves_no_folder_behind(coco, script, tmp_path: Path):
    words = (*QUICK, "--epochs", 1, "--batch-size", 2, "--output", "run")
    assert script("train_det.py", *words, "--data", "nowhere", cwd=tmp_path).returncode == 2
    assert not (tmp_path / "run").exists()


def test_evaluation_alone_needs_no_training_split_and_takes_negatives_alone(trained, script, coco, tmp_path: Path):
    """No truth to find: every figure is null with its reason, and the pictures are drawn all the same."""
    coco.data["categories"] = [
        {"id": key, "name": name}
        for key, name in zip((1, 3, 4, 7, 9, 12), ("circle", "square", "triangle", "star", "ring", "cross"))
    ]
    coco.data["annotations"] = []
    coco.write()
    coco.annotations("train").unlink()
    words = ("--val-annotations", coco.annotations("val"), "--val-images", coco.images("val"), *QUICK, "--eval-only")
    weights = trained[0] / "model.safetensors"
    done = script("train_det.py", *words, "--weights", weights, "--output", "e", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "e" / "results.json").read_text())
    assert results["AP"] is None
    assert results["reasons"]["AP"]
    assert (tmp_path / "e" / "samples.png").is_file()
    other = script("train_det.py", *words, "--weights", weights, "--anchor-scale", 8, cwd=tmp_path)
    assert "WARNING: trained with anchor_scale 3.0, now 8.0" in other.stdout


@pytest.mark.parametrize(("given", "absent"), [("train", "val"), ("val", "train")])
def test_files_of_one_split_need_those_of_the_other(coco, given: str, absent: str):
    coco.write()
    files = [f"--{given}-annotations", str(coco.annotations(given)), f"--{given}-images", str(coco.images(given))]
    options = parse(TrainDetectorOptions, description="", argv=files)
    message = f"--{given}-annotations: needs the {absent} split as well; pass --{absent}-annotations and --{absent}-im"
    with pytest.raises(UserError, match=message):
        open_train(options, open_val(options))


def test_file_names_outside_the_folder_are_taken_where_allowed(coco):
    coco.write()
    coco.data["images"][0]["file_name"] = "../train2017/005.jpg"
    coco.annotations("val").write_text(json.dumps(coco.data))
    words = ["--data", str(coco.root)]
    with pytest.raises(UserError, match="leads out of the image folder"):
        open_val(parse(TrainDetectorOptions, description="", argv=words))
    data = open_val(parse(TrainDetectorOptions, description="", argv=[*words, "--allow-outside", "true"]))
    assert data[0][0].shape == (3, 40, 60)


def test_a_training_split_without_a_box_is_refused_and_classes_without_boxes_are_named(coco):
    coco.write()
    options = parse(TrainDetectorOptions, description="", argv=["--data", str(coco.root), "--negatives", "keep"])
    kept = [annotation for annotation in coco.data["annotations"] if annotation["category_id"] == 18]
    coco.annotations().write_text(json.dumps({**coco.data, "annotations": kept}))
    val = open_val(options)
    assert "; no box of car, brush" in describe_split(open_train(options, val).first)
    assert "no box" not in describe_split(val)
    coco.annotations().write_text(json.dumps({**coco.data, "annotations": []}))
    with pytest.raises(UserError, match="no image of the training split has a box, so that there is nothing to learn"):
        open_train(options, val)


def break_json(**change: Any):
    def apply(coco):
        coco.write()
        data = {**coco.data, **change}
        coco.annotations().write_text(json.dumps({key: value for key, value in data.items() if value is not None}))

    return apply


def absent_image(coco):
    coco.data["annotations"][0]["image_id"] = 999


def zero_width(coco):
    coco.data["annotations"][0]["bbox"] = [1, 1, 0, 5]


def truncated(coco):
    coco.write()
    for path in coco.images().iterdir():
        path.write_bytes(path.read_bytes()[:400])


def other_categories(coco):
    coco.write()
    data = {**coco.data, "categories": [{"id": 3, "name": "cat"}], "annotations": []}
    coco.annotations("val").write_text(json.dumps(data))


MISTAKES = {
    "no images": (break_json(images=None), (), "has no list `images`"),
    "no categories": (break_json(categories=[]), (), "`categories` is empty"),
    "absent image": (absent_image, (), "annotation 1 names image 999"),
    "zero width": (zero_width, (), "annotation 1 of image 5"),
    "truncated": (truncated, ("--workers", "1"), ".jpg: does not decode"),
    "other categories": (other_categories, (), "differ in"),
    "unknown backbone": (None, ("--backbone", "resnet51"), "resnet50"),
    "negative lr": (None, ("--lr", "-0.1"), "--lr -0.1: must be above 0"),
    "missing folder": (None, ("--data", "nowhere"), "--data nowhere: no such folder"),
    "no weights": (None, ("--weights", "gone.pth"), "gone.pth"),
    "frozen": (None, ("--norm", "frozen"), "norm 'frozen': cannot be combined with random weights"),
    "batch": (None, ("--batch-size", "5", "--accumulate", "2"), "--batch-size 5"),
    "output": (None, ("--output", "/proc/run"), "--output /proc/run"),
    "resume": (None, ("--resume", "--output", "fresh"), "to resume"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_get_one_line_and_status_2(coco, tmp_path: Path, monkeypatch, capsys, name: str):
    monkeypatch.chdir(tmp_path)
    change, words, text = MISTAKES[name]
    if change:
        change(coco)
    if not coco.annotations().exists():
        coco.write()
    data = () if "--data" in words else ("--data", coco.root)
    given = (*QUICK, *data, "--weights", "none", "--batch-size", 2, *words)
    with pytest.raises(SystemExit) as end:
        ending.run(lambda: train_det.main([*map(str, given)]))
    errors = capsys.readouterr().err
    assert end.value.code == 2 and "Traceback" not in errors
    assert [text in line for line in errors.splitlines() if line.startswith("error: ")] == [True]


@pytest.mark.parametrize("name", ["roboflow-coco", "cvat-project"])
def test_an_export_of_an_annotation_tool_is_trained_on_and_reported_from_data_alone(name: str, script, tmp_path: Path):
    EXPORTS[name][1](tmp_path / "set")
    words = (*QUICK, "--weights", "none", "--epochs", 1, "--batch-size", 2, "--output", "run")
    done = script("train_det.py", "--data", "set", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["images"] == 2 and set(results["per_class"]) == {"cat", "dog"}
    assert ("unused super-category animals left out" in done.stdout) == (name == "roboflow-coco")
    found = EvaluatedDetections.read(RunFolder.read(tmp_path / "run"), data=str(tmp_path / "set"))
    assert len(found.images) == 2
