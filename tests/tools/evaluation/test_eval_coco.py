"""The evaluation command, run as a process from another folder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from backbones.errors import UserError
from tools.eval_coco import main
from tools.evaluation.naming import IdNames
from tools.evaluation.reading import read_json
from tools.synthetic.coco_results import write_synthetic

SCRIPT = ROOT / "tools" / "eval_coco.py"


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *words], cwd=folder, capture_output=True, text=True)


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    gt, dt = write_synthetic(tmp_path, 20, 1000, seed=0)
    return ["--annotations", gt.name, "--detections", dt.name]


def test_table_and_json(tmp_path: Path, files: list[str]) -> None:
    done = run(tmp_path, *files, "--output", "hotcoco.json")
    assert (done.returncode, done.stderr) == (0, "")
    assert "AP50" in done.stdout and "class 80" in done.stdout
    assert run(tmp_path, *files, "--output", "reference.json", "--evaluator", "pycocotools").stdout == done.stdout
    assert (tmp_path / "hotcoco.json").read_bytes() == (tmp_path / "reference.json").read_bytes()
    assert 0 < json.loads((tmp_path / "hotcoco.json").read_text())["AP"] < 1


def test_existing_output_is_kept(tmp_path: Path, files: list[str]) -> None:
    (tmp_path / "out.json").write_text("precious")
    done = run(tmp_path, *files, "--output", "out.json")
    assert done.returncode == 2 and "--overwrite" in done.stderr and done.stderr.count("\n") == 1
    assert (tmp_path / "out.json").read_text() == "precious"
    assert run(tmp_path, *files, "--output", "out.json", "--overwrite", "true").returncode == 0
    assert "AP" in json.loads((tmp_path / "out.json").read_text())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--annotations", "absent.json", "--detections", "detections.json"], "absent.json: no such file"),
        (["--annotations", "detections.json", "--detections", "truth.json"], "swapped"),
        (["--annotations", "truth.json", "--detections", "truth.json"], "swapped"),
        (["--annotations", "truth.json"], "detections"),
        (["--annotations", "truth.json", "--detections", "detections.json", "--evaluator", "magic"], "evaluator"),
        (["--annotations", "truth.json", "--detections", "detections.json", "--output", "truth.json/x"], "truth.json"),
    ],
)
def test_user_errors_are_one_line(tmp_path: Path, files: list[str], words: list[str], message: str) -> None:
    done = run(tmp_path, *words)
    assert done.returncode == 2 and message in done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_an_unreadable_file_is_named_once(tmp_path: Path) -> None:
    for read in (read_json, IdNames.read):
        with pytest.raises(UserError, match=r"^\S+: cannot be read \(Is a directory\); check"):
            read(tmp_path)


def write_predicted(folder: Path, names: dict[int, str], categories: dict[int, str]) -> list[str]:
    """Write ground truth of the images 7: a/1.jpg and 9: a/2.jpg, and predictions numbered otherwise.

    Each image has one object of its own category, and one detection exactly there.
    """
    boxes = {"1.jpg": [10.0, 10.0, 40.0, 40.0], "2.jpg": [50.0, 20.0, 30.0, 60.0]}
    kinds = {"1.jpg": "cat", "2.jpg": "dog"}
    ids = {"cat": 3, "dog": 4}
    keys = {"1.jpg": 7, "2.jpg": 9}
    truth = {
        "images": [{"id": keys[n], "file_name": f"a/{n}", "width": 100, "height": 100} for n in boxes],
        "categories": [{"id": key, "name": name} for name, key in ids.items()],
        "annotations": [
            {"id": keys[n], "image_id": keys[n], "category_id": ids[kinds[n]], "bbox": boxes[n]} for n in boxes
        ],
    }
    of_name = {name: key for key, name in categories.items()}
    rows = [
        {"image_id": key, "category_id": of_name[kinds[n[-5:]]], "bbox": boxes[n[-5:]], "score": 1 / (1 + key)}
        for key, n in names.items()
        if n[-5:] in boxes
    ]
    listed = {
        "images": [{"id": key, "file_name": name} for key, name in names.items()],
        "categories": [{"id": key, "name": name} for key, name in categories.items()],
    }
    for file, content in (("truth.json", truth), ("predictions.json", rows), ("images.json", listed)):
        (folder / file).write_text(json.dumps(content))
    return ["--annotations", str(folder / "truth.json"), "--detections", str(folder / "predictions.json")]


def test_predictions_are_matched_by_file_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = {1: "/data/a/2.jpg", 2: "/data/a/1.jpg", 3: "/data/a/other.jpg"}
    words = write_predicted(tmp_path, names, {1: "cat", 2: "dog"})
    main([*words, "--output", str(tmp_path / "out.json")])
    assert json.loads((tmp_path / "out.json").read_text())["AP"] == pytest.approx(1)
    shown = capsys.readouterr().out
    assert "2 images were matched by file name, because their ids differ (images.json)" in shown
    assert "1 of 3 images have no file name of the ground truth; their 0 detections are left out" in shown
    assert "2 categories were matched by name" in shown


def test_equal_ids_and_names_need_no_remark(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(write_predicted(tmp_path, {7: "1.jpg", 9: "2.jpg"}, {3: "cat", 4: "dog"}))
    shown = capsys.readouterr().out
    assert " 100.0" in shown and "warning" not in shown


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({1: "/x/9.jpg", 2: "/x/8.jpg"}, "no file name in it occurs in the ground truth"),
        ({1: "/x/a/1.jpg", 2: "/y/a/1.jpg"}, "both fit image 7"),
    ],
)
def test_unclear_file_names_are_refused(tmp_path: Path, names: dict[int, str], message: str) -> None:
    words = write_predicted(tmp_path, names, {3: "cat", 4: "dog"})
    row = {"image_id": 1, "category_id": 3, "bbox": [1, 1, 5, 5], "score": 0.5}
    (tmp_path / "predictions.json").write_text(json.dumps([row]))
    with pytest.raises(UserError, match=message):
        main(words)
