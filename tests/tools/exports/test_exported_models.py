"""Exported files predict and are evaluated like the runs that they come from, with onnxruntime and OpenVINO."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import register_tiny
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

import backbones
import classification
import detection
import segmentation
from backbones.errors import UserError
from backbones.trained import TrainedFile
from backbones.weights.exported import ExportedFile
from tools import export, hub, predict, train_cls, train_seg
from tools.exports import evaluation
from tools.exports.evaluation import measure_loss
from tools.exports.fastest import choose_fastest
from tools.exports.models import load_exportable
from tools.prediction.opening import open_model
from tools.runs.scores import ImageScore

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
NEAR = 1e-3  # tools.exports.exportable.TOLERANCE: what an exported file may differ by


def exported(run: Path, target: Path, *words: Any) -> Path:
    export.main(["--run", str(run), "--output", str(target), *map(str, words)])
    return target


@pytest.fixture(scope="module")
def tiny_models(tiny_runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """The weights of a small classifier and a small segmentation model, as if the runs of `tiny_runs` had made them."""
    with pytest.MonkeyPatch.context() as patch:
        name, folder = register_tiny(patch), tmp_path_factory.mktemp("tiny")
        torch.manual_seed(0)
        seg = {"backbone": name, "head": "fcn32s", "aux": False}
        models = {
            "cls": (classification.build(name, 2), {"backbone": name}),
            "seg": (segmentation.build(name, 7, head="fcn32s", aux=False), seg),
        }
        paths = {}
        for task, (model, options) in models.items():
            with safe_open(tiny_runs[task] / "model.safetensors", "pt") as file:
                header = file.metadata()
            meta = json.loads(header["meta"])
            meta["model"] |= options
            paths[task] = folder / f"{task}.safetensors"
            save_file(model.state_dict(), paths[task], metadata={**header, "meta": json.dumps(meta)})
        yield paths


@pytest.fixture(scope="module")
def pictures(tiny_runs: dict[str, Path]) -> Path:
    return tiny_runs["cls"].parent / "pictures"


@pytest.fixture(scope="module")
def cls_file(tiny_models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tiny_models["cls"], tmp_path_factory.mktemp("cls") / "model.onnx")


def test_a_classifier_file_predicts_and_is_evaluated_as_its_run(
    tiny_models: dict[str, Path], pictures: Path, cls_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = sorted((pictures / "val").rglob("*.jpg"))
    run, file = classification.load(tiny_models["cls"], precision="fp32"), open_model(cls_file)
    assert isinstance(file, classification.TrainedClassifier) and file.classes == run.classes
    for one, other in zip(run(paths), file(paths), strict=True):
        assert one.names == other.names
        torch.testing.assert_close(one.probabilities, other.probabilities, atol=NEAR, rtol=0)
    # The command predicts with the file.
    out = tmp_path / "out"
    predict.main(["--model", str(cls_file), str(pictures / "val"), "--output", str(out), "--draw", "false"])
    rows = csv.DictReader((out / "predictions.csv").read_text().splitlines())
    by_name = {row["image"]: row["class_1"] for row in rows}
    assert by_name == {str(path): found.names[0] for path, found in zip(paths, run(paths), strict=True)}
    # The training command evaluates it, with the ten crops of the run.
    words = ["--data", str(pictures), "--test-crops", "ten", "--workers", "0", "--precision", "fp32"]
    top1 = []
    for name, weights in (("run", tiny_models["cls"]), ("file", cls_file)):
        train_cls.main([*words, "--weights", str(weights), "--eval-only", "--output", str(tmp_path / name)])
        top1.append(json.loads((tmp_path / name / "results.json").read_text())["top1"])
    assert "run by onnxruntime on the CPU" in capsys.readouterr().out
    assert top1[0] == top1[1]
    with pytest.raises(UserError, match="cannot be trained; add --eval-only"):
        train_cls.main([*words, "--weights", str(cls_file), "--output", str(tmp_path / "train")])


def test_a_changed_file_is_evaluated_and_refused_above_the_stated_loss(
    tiny_models: dict[str, Path], cls_file: Path, tmp_path: Path
) -> None:
    """The file itself loses nothing; a file that answers with the other class loses as much as it gains."""
    same = measure_loss(str(tiny_models["cls"]), cls_file, most=0.0).text
    assert "on 6 images: +0.0000 [+0.0000, +0.0000]" in same
    before = float(same.split()[1])
    import onnx

    model = onnx.load(cls_file)
    last = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["turned" if name == last else name for name in node.output]
    model.graph.node.append(onnx.helper.make_node("Neg", ["turned"], [last]))
    turned = tmp_path / "turned.onnx"
    onnx.save(model, turned)
    # Of two classes, the answers change from right to wrong, and the accuracy to 1 minus the accuracy.
    if before > 0.5:
        with pytest.raises(UserError, match=r"more than --most-loss 0\.02, so no file was kept"):
            measure_loss(str(tiny_models["cls"]), turned, most=0.02)
    else:
        assert f"{before:.4f} -> {1 - before:.4f}" in measure_loss(str(tiny_models["cls"]), turned, most=0.02).text


def test_a_file_that_loses_masks_alone_or_all_answers_is_refused(tmp_path: Path, monkeypatch) -> None:
    run = TrainedFile(tmp_path / "model.safetensors", {"task": "detection", "model": {"masks": True}}, {"epochs": 1})
    values = {("before", "AP"): 0.5, ("after", "AP"): 0.5, ("before", "segm_AP"): 0.4, ("after", "segm_AP"): 0.1}
    monkeypatch.setattr(evaluation, "find", lambda _: run)
    monkeypatch.setattr(evaluation, "evaluated", lambda run, weights, folder: folder.name)
    monkeypatch.setattr(evaluation, "read_score", lambda name, key: ImageScore(0, 3, lambda weights: values[name, key]))
    with pytest.raises(UserError, match=r"loses 0\.3000 of 0\.4000 segm_AP on 3 images"):
        measure_loss("run", tmp_path / "file.onnx", most=0.02)
    values["after", "segm_AP"] = 0.39
    said = measure_loss("run", tmp_path / "file.onnx", most=0.02).text
    assert said.startswith("AP 0.5000 -> 0.5000 on 3 images") and "; segm_AP 0.4000 -> 0.3900" in said
    values["after", "AP"] = math.nan
    with pytest.raises(UserError, match=r"loses nan of 0\.5000 AP"):
        measure_loss("run", tmp_path / "file.onnx", most=1)
    values["before", "AP"] = values["before", "segm_AP"] = math.nan
    assert not measure_loss("run", tmp_path / "file.onnx", most=0.02).known


def test_a_segmentation_file_predicts_and_is_evaluated_as_its_run(
    tiny_models: dict[str, Path], small_shapes: Path, tmp_path: Path
) -> None:
    path = exported(tiny_models["seg"], tmp_path / "model.onnx")
    run = segmentation.load(tiny_models["seg"], precision="fp32", tile=0, scales=(1.0,), flip=False)
    file = open_model(path)
    assert isinstance(file, segmentation.TrainedSegmenter)
    images = [np.asarray(Image.open(each)) for each in sorted((small_shapes / "val").iterdir())[:2]]
    for image in (*images, images[0][:50, :41]):  # the last size is resized for the file, unless it accepts any
        one, other = run(image), file(image)
        assert one.labels.shape == other.labels.shape and one.names == other.names
        if file.model.file.accepts(*image.shape[:2]):
            assert (one.labels != other.labels).float().mean() < NEAR
    words = ["--data", str(small_shapes), "--recipe", "shapes", "--eval-only", "--workers", "0", "--precision", "fp32"]
    found = []
    for name, weights in (("run", tiny_models["seg"]), ("file", path)):
        train_seg.main([*words, "--weights", str(weights), "--output", str(tmp_path / name)])
        found.append(json.loads((tmp_path / name / "results.json").read_text())["mIoU"])
    assert found[0] == pytest.approx(found[1], abs=NEAR)


def test_openvino_answers_as_pytorch(tiny_models: dict[str, Path], pictures: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    path = exported(tiny_models["cls"], tmp_path / "model.xml", "--format", "openvino")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["model.bin", "model.xml"]
    picture = next((pictures / "val").rglob("*.jpg"))
    one, other = classification.load(tiny_models["cls"], precision="fp32")(picture), open_model(path)(picture)
    torch.testing.assert_close(one.probabilities, other.probabilities, atol=NEAR, rtol=0)
    assert ExportedFile(path).metadata["producer"] == "resnet-transfer"


def test_the_fastest_file_for_a_cpu_is_as_good_as_the_run(
    tiny_models: dict[str, Path], pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whichever is chosen on this machine: it exists, opens, and its answers or its accuracy were checked."""
    exported(tiny_models["cls"], tmp_path / "model.onnx", "--for", "cpu", "--most-loss", 0)
    said = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if " " in line)
    assert "chosen" in said and ("difference" in said or "-> " in said["evaluated"])
    (path,) = [each for each in tmp_path.iterdir() if each.suffix in (".onnx", ".xml")]
    assert (path.suffix == ".xml") == said["chosen"].startswith("OpenVINO")
    picture = next((pictures / "val").rglob("*.jpg"))
    assert set(open_model(path)(picture).names) == {"apple", "pear"}


def test_of_fast_files_only_good_ones_are_chosen(cls_file: Path) -> None:
    """A file that does not pass its proof is named, and the next one is taken."""
    inputs = (torch.zeros(1, 3, 32, 32),)

    def prove(path: Path) -> dict[str, str]:
        tried.append(path)
        if len(tried) == 1:
            raise UserError("it loses too much")
        return {"evaluated": "yes"}

    tried: list[Path] = []
    name, found = choose_fastest({"a": cls_file, "b": cls_file}, inputs, prove)
    (other,) = {"a", "b"} - {name}
    assert found[f"not {other}"] == "it loses too much" and found["chosen"] == name and found["evaluated"] == "yes"
    tried.clear()
    with pytest.raises(UserError, match=r"no file is as good as the run \(it loses too much\)"):
        choose_fastest({"a": cls_file}, inputs, prove)


def test_files_of_others_and_damaged_files_are_refused(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "other", values[:1], values[1:])
    onnx.save(helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 17)]), tmp_path / "a.onnx")
    (tmp_path / "b.onnx").write_bytes(b"no model")
    with pytest.raises(UserError, match="has no description of its model"):
        open_model(tmp_path / "a.onnx")
    with pytest.raises(UserError, match="cannot be opened by onnxruntime"):
        detection.load(tmp_path / "b.onnx")
    with pytest.raises(UserError, match="no such run folder or weights file"):
        open_model(tmp_path / "c.onnx")
    with pytest.raises(UserError, match=r"a\.onnx: an exported file gives no weights; name the weights file of"):
        backbones.build("resnet18", weights=str(tmp_path / "a.onnx"))


def test_commands_that_need_weights_refuse_an_exported_file(cls_file: Path) -> None:
    words = ["push", "--run", str(cls_file), "--repo", "a/b", "--license", "mit"]
    for call in (lambda: hub.main(words), lambda: load_exportable(str(cls_file))):
        with pytest.raises(UserError, match=r"is an exported file; name the run or its model.safetensors"):
            call()
