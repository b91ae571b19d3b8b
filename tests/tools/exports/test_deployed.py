"""The metrics of an exported file in a report, and the heat maps there, which need the model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import detection
from backbones.errors import UserError
from detection.explain import explain
from detection.results import Detection
from tools import export, report
from tools.runs.file_metrics import measure_file
from tools.runs.folder import RunFolder

pytest.importorskip("onnxruntime")
MAIN = {"det": "AP", "seg": "mIoU", "cls": "top1"}


@pytest.fixture(scope="module")
def exported(tiny_runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Copies of the runs with model.onnx in them."""
    root = tmp_path_factory.mktemp("exported")
    for task in MAIN:
        shutil.copytree(tiny_runs[task], root / task)
        export.main(["--run", str(root / task)])
    return {task: root / task for task in MAIN}


@pytest.mark.parametrize("task", MAIN)
def test_the_metrics_of_a_file_are_in_the_report(task: str, exported: dict[str, Path]):
    folder = exported[task]
    found = measure_file(RunFolder.read(folder), folder / "model.onnx", data=None)
    results = json.loads((folder / "results.json").read_text())
    assert found.images == results["images"]
    if task == "cls":  # ten crops, as the run; probabilities differ by rounding of 1e-6
        assert {name: found.metrics[name] for name in ("top1", "nll")} == pytest.approx(
            {name: results[name] for name in ("top1", "nll")}, abs=1e-5
        )
    report.main([str(folder), "--model", str(folder / "model.onnx"), "--bootstrap", "0", "--score", "0.05"])
    page = (folder / "report.html").read_text()
    assert "Exported file" in page and f"{100 * (found.metrics[MAIN[task]] or 0):.1f}" in page
    assert ("Where the model looks" in page) == (task != "seg")
    assert page.count('alt="where the model finds ') >= (3 if task != "seg" else 0)


def test_heat_maps_are_left_out_on_request_and_without_weights(exported: dict[str, Path], tmp_path: Path):
    folder = tmp_path / "det"
    shutil.copytree(exported["det"], folder)
    report.main([str(folder), "--bootstrap", "0", "--explain", "0", "--overwrite"])
    assert "Where the model looks" not in (folder / "report.html").read_text()
    file = detection.load(folder / "model.onnx")
    box = Detection((1.0, 1.0, 9.0, 9.0), 0.5, 1, file.categories.names[0])
    with pytest.raises(UserError, match=r"model\.onnx: is an exported file, which has no gradients; name"):
        explain(file, np.zeros((48, 64, 3), np.uint8), box)
    (folder / "model.safetensors").unlink()
    shutil.rmtree(folder / "checkpoint")
    report.main([str(folder), "--bootstrap", "0", "--score", "0.05"])
    assert "its model cannot be loaded: " in (folder / "report.html").read_text()


def test_files_that_do_not_fit_take_one_line(exported: dict[str, Path], tmp_path: Path, monkeypatch):
    folder, file = exported["cls"], exported["cls"] / "model.onnx"
    run = RunFolder.read(folder)

    def refused(path: Path, of: RunFolder = run) -> str:
        with pytest.raises(UserError) as error:
            measure_file(of, path, data=None)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert refused(tmp_path / "none.onnx").endswith("none.onnx: no such file; check the path")
    assert "model.pth: is no exported file (.onnx, or .xml of OpenVINO)" in refused(tmp_path / "model.pth")
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    assert "cannot be opened by onnxruntime" in refused(tmp_path / "broken.onnx")
    seg = RunFolder.read(exported["seg"])
    assert f"is a file for classification, but {seg.folder} is a segmentation run" in refused(file, seg)
    run.results["per_class"]["kiwi"] = run.results["per_class"].pop("apple")
    assert "has other classes (apple, pear, ...) than" in refused(file)
    with pytest.raises(UserError, match="belongs to one run; name one run folder"):
        report.main([str(folder), str(exported["seg"]), "--model", str(file), "--output", str(tmp_path / "r.html")])


def test_without_onnxruntime_the_extra_is_named(exported: dict[str, Path], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"needs onnxruntime; pip install 'resnet-transfer\[export\]'"):
        measure_file(RunFolder.read(exported["cls"]), exported["cls"] / "model.onnx", data=None)
