"""The evaluation command, run as a process from another folder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

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
