"""The metrics of an exported file in a report, and the heat maps there, which need the model."""

from __future__ import annotations

import json
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import classification
from backbones.errors import UserError
from classification.explain import explain
from tools import export, report
from tools.runs.file_metrics import measure_file
from tools.runs.folder import RunFolder

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
MAIN = {"det": "AP", "seg": "mIoU", "cls": "top1"}


@pytest.fixture
def weights_for_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the weights of a run stand for an exported file, which saves the minute of an export."""
    monkeypatch.setattr("tools.runs.file_metrics.is_exported", lambda path: True)


@pytest.fixture(scope="module")
def cls_folder(tiny_runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the classifier's run with model.onnx in it."""
    folder = tmp_path_factory.mktemp("exported") / "cls"
    shutil.copytree(tiny_runs["cls"], folder)
    export.main(["--run", str(folder)])
    return folder


@pytest.mark.usefixtures("weights_for_files")
@pytest.mark.parametrize("task", MAIN)
def test_the_metrics_of_a_file_are_in_the_report(task: str, tiny_runs: dict[str, Path], tmp_path: Path):
    folder = tmp_path / task
    shutil.copytree(tiny_runs[task], folder)
    file = folder / "model.safetensors"
    found = measure_file(RunFolder.read(folder), file, data=None)
    results = json.loads((folder / "results.json").read_text())
    assert found.images == results["images"]
    # The same model in the same views: only batches differ, which changes scores by rounding of 1e-6.
    assert found.metrics[MAIN[task]] == pytest.approx(results[MAIN[task]], abs=1e-3)
    report.main([str(folder), "--model", str(file), "--bootstrap", "0", "--score", "0.05"])
    page = (folder / "report.html").read_text()
    assert "Exported file" in page and f"{100 * (found.metrics[MAIN[task]] or 0):.1f}" in page
    assert ("Where the model looks" in page) == (task != "seg")
    assert page.count('alt="where the model finds ') >= (3 if task != "seg" else 0)


def test_heat_maps_are_left_out_on_request_and_without_weights(tiny_runs: dict[str, Path], tmp_path: Path):
    folder = tmp_path / "det"
    shutil.copytree(tiny_runs["det"], folder)
    report.main([str(folder), "--bootstrap", "0", "--explain", "0"])
    assert "Where the model looks" not in (folder / "report.html").read_text()
    (folder / "model.safetensors").unlink()
    shutil.rmtree(folder / "checkpoint")
    report.main([str(folder), "--bootstrap", "0", "--score", "0.05"])
    assert "its model cannot be loaded: " in (folder / "report.html").read_text()


def test_a_file_of_openvino_is_measured(cls_folder: Path, tmp_path: Path):
    pytest.importorskip("openvino")
    export.main(["--run", str(cls_folder), "--output", str(tmp_path / "model.xml"), "--format", "openvino"])
    run = RunFolder.read(cls_folder)
    found = measure_file(run, tmp_path / "model.xml", data=None)
    assert found.images == run.results["images"]
    # Logits of an exported file may differ by 1e-3 (tools.exports.exportable.TOLERANCE), and so may their loss.
    assert found.metrics["nll"] == pytest.approx(run.results["nll"], abs=1e-3)
    # Capitals in the suffix change nothing, and the library's reason is named.
    for name, copy in (("model.bin", "CAPITALS.bin"), ("model.xml", "CAPITALS.XML")):
        shutil.copy(tmp_path / name, tmp_path / copy)
    assert measure_file(run, tmp_path / "CAPITALS.XML", data=None).metrics == found.metrics
    shutil.copy(tmp_path / "model.xml", tmp_path / "other.xml")
    with pytest.raises(UserError, match=r"other.xml: its weights, .*other.bin, are not here; put them beside it, or"):
        measure_file(run, tmp_path / "other.xml", data=None)
    (tmp_path / "other.bin").write_bytes(b"half")
    with pytest.raises(UserError, match=r"cannot be opened by openvino \(Incorrect weights in bin file!\); export it"):
        measure_file(run, tmp_path / "other.xml", data=None)
    # Threads may share the file, as they may share a run.
    images = [np.random.default_rng(number).integers(0, 256, (40, 48, 3), dtype=np.uint8) for number in range(4)]
    model = classification.load(tmp_path / "model.xml")
    expected = [model(image).probabilities.tolist() for image in images]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda number: model(images[number % 4]).probabilities.tolist(), range(64)))
    assert answers == 16 * expected


def test_files_that_do_not_fit_take_one_line(tiny_runs: dict[str, Path], cls_folder: Path, tmp_path: Path):
    file, run = cls_folder / "model.onnx", RunFolder.read(cls_folder)
    assert measure_file(run, file, data=None).metrics["nll"] == pytest.approx(run.results["nll"], abs=1e-5)
    with pytest.raises(UserError, match="is a library's whole model or an exported file, whose features are not known"):
        explain(classification.load(file), np.zeros((48, 64, 3), np.uint8))

    def refused(path: Path, of: RunFolder = run) -> str:
        with pytest.raises(UserError) as error:
            measure_file(of, path, data=None)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert refused(tmp_path / "none.onnx").endswith("; check the path")
    assert "model.pth: is no exported file (.onnx, or .xml of OpenVINO)" in refused(tmp_path / "model.pth")
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    assert "cannot be opened by onnxruntime" in refused(tmp_path / "broken.onnx")
    other = onnx.load(file)
    for entry in other.metadata_props:
        entry.value = '"of another program"' if entry.key == "meta" else entry.value
    onnx.save(other, tmp_path / "other.onnx")
    assert "has no description of its model; write the file with export.py" in refused(tmp_path / "other.onnx")
    seg = RunFolder.read(tiny_runs["seg"])
    assert f"is a file for classification, but {seg.folder} is a segmentation run" in refused(file, seg)
    run.results["per_class"]["kiwi"] = run.results["per_class"].pop("apple")
    assert "has other classes (apple, pear) than" in refused(file)
    with pytest.raises(UserError, match="belongs to one run; name one run folder"):
        report.main(
            [*map(str, (cls_folder, tiny_runs["cls"])), "--model", str(file), "--output", str(tmp_path / "r.html")]
        )


def test_without_onnxruntime_the_extra_is_named(cls_folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"needs onnxruntime; pip install 'resnet-transfer\[export\]'"):
        measure_file(RunFolder.read(cls_folder), cls_folder / "model.onnx", data=None)
