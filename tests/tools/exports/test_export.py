"""Exported files give PyTorch's outputs on real images, hold their metadata, and are never half written."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torchvision
from safetensors import safe_open
from safetensors.torch import save_file
from tolerances import assert_rounded
from torch import Tensor, nn

import classification
import segmentation
from backbones.errors import UserError
from segmentation.options import SegmenterOptions
from tools import export
from tools.exports import files, int8, whole_images
from tools.exports.evaluation import MeasuredLoss
from tools.exports.exportable import Exportable
from tools.exports.files import compare, run_program
from tools.exports.images import image_files
from tools.exports.models import load_exportable

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


@pytest.fixture
def cls(tiny_runs: dict[str, Path], tiny_backbone: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model file of a classifier of five layers, as if the run of `tiny_runs` had trained it."""
    with safe_open(tiny_runs["cls"] / "model.safetensors", "pt") as file:
        header = file.metadata()
    meta = json.loads(header["meta"])
    meta["model"]["backbone"] = tiny_backbone
    torch.manual_seed(0)
    net = classification.build(tiny_backbone, 2)
    path = tmp_path_factory.mktemp("tiny") / "model.safetensors"
    save_file(net.state_dict(), path, metadata={**header, "meta": json.dumps(meta)})
    return path


@pytest.fixture
def pictures(tiny_runs: dict[str, Path]) -> Path:
    return tiny_runs["cls"].parent / "pictures"


def exported(run: Path, target: Path, *words: Any) -> Path:
    export.main(["--run", str(run), "--output", str(target), *map(str, words)])
    return target


def test_onnx_classifier_for_any_number_and_size(cls: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = exported(cls, tmp_path / "net.onnx")
    said = capsys.readouterr().out
    assert "checked on   5 images" in said and "images       40x64, 40x56, 40x43" in said, said
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    said = {name: json.loads(value) for name, value in session.get_modelmeta().custom_metadata_map.items()}
    assert (said["task"], said["classes"]) == ("classification", ["apple", "pear"])
    loaded = classification.load(cls, precision="fp32")
    assert said["input"]["crop_size"] == 32 and said["input"]["mean"] == list(loaded.model.backbone.mean)
    for shape in ((1, 3, 32, 32), (3, 3, 41, 56)):
        images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            wanted = loaded.model(images)
        found = session.run(None, {"images": images.numpy()})[0]
        assert_rounded(torch.from_numpy(found), wanted, terms=32 * 9, layers=5)


def test_torch_export_of_a_segmentation_model(tiny_runs: dict[str, Path], tmp_path: Path) -> None:
    """The file accepts any number of images of any sides from 64 pixels, and says so."""
    net = load_exportable(str(tiny_runs["seg"]))
    path = exported(tiny_runs["seg"], tmp_path / "net.pt2", "--format", "torch-export")
    extra = {"metadata.json": ""}
    module = torch.export.load(path, extra_files=extra).module()
    said = json.loads(extra["metadata.json"])
    assert said["classes"] == net.metadata["classes"] and said["sizes"] == "from 64 pixels"
    for shape in ((1, 3, 64, 97), (2, 3, 101, 70)):
        images = torch.randn(shape)
        with torch.no_grad():
            assert_rounded(module(images), net.expected((images,))[0], terms=64 * 9, layers=22)


@pytest.mark.parametrize(
    ("ending", "reason"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
        ("sys.exit('a fault')", "a fault"),
        ("os._exit(7)", "status 7"),
    ],
)
def test_a_crash_of_the_quantiser_is_one_line_and_leaves_no_files(tmp_path: Path, monkeypatch, ending, reason) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    start = "import os, signal, sys, tempfile; assert os.path.isfile(sys.argv[3]); tempfile.mkdtemp()"
    monkeypatch.setattr(int8, "PROGRAM", f"{start}; {ending}")
    exportable: Any = SimpleNamespace(inputs=("image",), metadata={"task": "classification"})
    items = [(torch.zeros(1, 3, 8, 8),)] * 2
    with pytest.raises(UserError, match=rf"cannot quantise this model \({reason}\); leave --int8 out"):
        int8.quantise(tmp_path / "fp32.onnx", tmp_path / "int8.onnx", exportable, items, "static")
    assert not list(temporary.iterdir())


@pytest.mark.parametrize(("min_size", "crops"), [(0, True), (80, False)])
def test_label_maps_are_those_of_the_loaded_run_on_images_of_several_shapes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch, min_size: int, crops: bool
) -> None:
    """A head that crops by slices can be traced for multiples of 32 only; images are cut to them."""
    if crops:
        monkeypatch.setattr(segmentation.heads, "_fitted", lambda x, size: x[..., : size[0], : size[1]])
    options = SegmenterOptions("timm/test_efficientnet", "fcn16s", weights="none")
    torch.manual_seed(0)
    model = segmentation.build(options.backbone, 3, head=options.head).eval()
    meta = {
        **{"task": "segmentation", "classes": ["a", "b", "c"], "colours": [[0, 0, 0], [9, 0, 0], [0, 9, 0]]},
        **{"input": {"in_channels": 3, "min_size": min_size, "mean": [0.5] * 3, "std": [0.25] * 3}},
        "model": asdict(options),
    }
    file, pictures = tmp_path / "model.safetensors", tmp_path / "pictures"
    save_file(model.state_dict(), file, metadata={"meta": json.dumps(meta), "config": json.dumps({"test_flip": True})})
    pictures.mkdir()
    random = np.random.default_rng(0)
    for number, size in enumerate(((100, 70), (64, 130), (90, 90), (128, 96), (120, 75))):
        cv2.imwrite(str(pictures / f"{number}.png"), random.integers(0, 256, (*size, 3), dtype=np.uint8))
    exported(file, tmp_path / "net.pt2", "--format", "torch-export", "--images", pictures)
    said = capsys.readouterr().out
    assert "--test-flip of the run" in said and ("from 64 pixels, multiples of 32\n" in said) == crops
    assert "from 64 pixels" in said
    shapes = next(line for line in said.splitlines() if line.startswith("images"))
    # Images 0 and 3 as they are, 1 and 4 turned, 2 cut to its upper two thirds; then cut to multiples of 32.
    cut = "64x96, 64x128, 96x128, 96x64; 1 left out, whose sizes the file does not accept"
    assert shapes.split(maxsplit=1)[1] == (cut if crops else "70x100, 64x130, 90x60, 96x128, 120x75")
    # 64 (96 + 128 + 96) + 96 x 128, or 70 x 100 + 64 x 130 + 90 x 60 + 96 x 128 + 120 x 75
    assert f"100.0000% of {'32,768' if crops else '42,008'} pixels" in said
    # Wrong steps around the file are noticed, although the file itself has the model's outputs.
    if crops:
        at_size = whole_images._at_size
        monkeypatch.setattr(whole_images, "_at_size", lambda scores, image: at_size(-scores, image))
        with pytest.raises(UserError, match="differs from the loaded run by"):
            exported(file, tmp_path / "other.pt2", "--format", "torch-export", "--images", pictures)


def test_int8_says_size_latency_and_accuracy(cls: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    """The accuracy of the 8-bit file decides where it is known, and else the fraction of unchanged answers."""
    monkeypatch.setattr("tools.exports.int8.LEAST_AGREEMENT", 1.1)
    path = exported(cls, tmp_path / "net.onnx", "--int8", "static", "--measured", 6, "--most-loss", 1)
    out = capsys.readouterr().out
    assert all(word in out for word in ("MB", "ms an image", "agreement", "top-1", "evaluated    top1"))
    graph = onnx.load(path).graph
    assert {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in graph.node}
    # Two products with activations up to 255 fit in 16 bits, which CPUs without VNNI need.
    arrays = map(onnx.numpy_helper.to_array, graph.initializer)
    assert max(np.abs(each.astype(int)).max() for each in arrays if each.dtype == np.int8 and each.ndim > 1) == 64
    unknown = MeasuredLoss(False, "the run's data are not here")
    monkeypatch.setattr("tools.exports.writing.measure_loss", lambda *_, **__: unknown)
    for words in (["--int8", "static", "--measured", 6], ["--precision", "fp16"]):
        with pytest.raises(UserError, match=rf"{words[0]}.*fewer than the required 110%, so no file was kept"):
            exported(cls, tmp_path / "other.onnx", *words)
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]


def test_torchvisions_layout(tmp_path: Path, pictures: Path, tiny_runs: dict[str, Path]) -> None:
    """A run of resnet18, made by hand from a model that was never trained."""
    net = classification.build("resnet18", 2).eval()
    meta = {
        "task": "classification",
        "classes": ["apple", "pear"],
        "input": {"in_channels": 3, "crop_size": 64, "resize_size": 72, "mean": [0.5] * 3, "std": [0.25] * 3},
        "model": {"backbone": "resnet18"},
    }
    file = tmp_path / "model.safetensors"
    save_file(net.state_dict(), file, metadata={"meta": json.dumps(meta), "config": "{}"})
    path = exported(file, tmp_path / "net.pth", "--format", "torchvision", "--images", pictures)
    theirs = torchvision.models.resnet18(num_classes=2).eval()
    theirs.load_state_dict(torch.load(path, weights_only=True), strict=True)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(theirs(images), net(images))
    for run, said in ((tiny_runs["cls"], "four stages"), (tiny_runs["seg"], "is for classifiers")):
        with pytest.raises(UserError, match=said):
            exported(run, tmp_path / "other.pth", "--format", "torchvision")


def test_a_file_that_differs_is_not_kept(cls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One logit differs by a hundredth, as if an operator were wrong."""

    def off(path: Path) -> files.Runner:
        run = run_program(path)
        return lambda inputs: [out + 0.01 * (torch.arange(out.shape[-1]) == 1) for out in run(inputs)]

    monkeypatch.setattr(files, "run_program", off)
    target = tmp_path / "net.pt2"
    target.write_text("precious")
    with pytest.raises(UserError, match=r"differs from PyTorch by 1\.0e-02"):
        exported(cls, target, "--format", "torch-export", "--overwrite")
    assert target.read_text() == "precious" and [p.name for p in tmp_path.iterdir()] == ["net.pt2"]


def test_nan_differs_too(cls: Path, pictures: Path) -> None:
    net = load_exportable(str(cls))
    items = [net.read(path) for path in image_files(pictures, 5)]
    with pytest.raises(UserError, match="differs from PyTorch by nan"):
        compare(net, lambda inputs: [out * float("nan") for out in net.expected(inputs)], items, where="the file")


@pytest.mark.parametrize(
    "words, said",
    [
        (["--images", "nowhere"], "no such folder"),
        (["--int8", "static", "--format", "torch-export"], "needs --format onnx or openvino"),
        (["--checked", "3"], "must be 5 or more"),
        (["--format", "coreml"], "format"),
        (["--raw"], "--raw: is for detectors and segmentation models, but .* is a classification model"),
        (["--nms", "false"], "--nms: is for detectors"),
        (["--raw", "--nms", "false"], "needs --nms true"),
        (["--precision", "fp16", "--int8", "static"], "cannot be combined with --int8"),
        (["--precision", "fp16", "--format", "torch-export"], "needs --format onnx or openvino"),
        (["--for", "cpu", "--int8", "static"], "chooses format and bits itself"),
        (["--format", "openvino"], "must end with .xml for --format openvino"),
        (["--format", "torchvision"], "must end with .pth for --format torchvision"),
    ],
)
def test_user_errors_are_one_line(cls: Path, tmp_path: Path, words: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        exported(cls, tmp_path / "net.onnx", *words)
    assert not list(tmp_path.iterdir())


def test_what_is_there_is_kept(cls: Path, tmp_path: Path) -> None:
    target = tmp_path / "net.onnx"
    target.write_text("precious")
    with pytest.raises(UserError, match="--overwrite"):
        exported(cls, target)
    with pytest.raises(UserError, match="does not exist"):
        exported(cls, tmp_path / "absent" / "net.onnx")
    # The weights of an OpenVINO file lie beside it, and the fastest file may be one.
    (tmp_path / "other.bin").write_text("precious")
    for name, words in (("other.xml", ["--format", "openvino"]), ("other.onnx", ["--for", "cpu"])):
        with pytest.raises(UserError, match=r"--output .*other\.bin: exists already; name another file or"):
            exported(cls, tmp_path / name, *words)
    assert target.read_text() == (tmp_path / "other.bin").read_text() == "precious"


def test_few_or_absent_images_are_refused(cls: Path, pictures: Path, tmp_path: Path) -> None:
    few = tmp_path / "few"
    few.mkdir()
    shutil.copy(next(pictures.rglob("*.jpg")), few / "one.jpg")
    with pytest.raises(UserError, match="holds 1 image,"):
        exported(cls, tmp_path / "net.onnx", "--images", few)
    with pytest.raises(UserError, match="no such run folder"):
        exported(tmp_path / "nothing", tmp_path / "net.onnx")


class Pyramid(nn.Module):
    """Stands for a detector: takes padded images and the sizes of their contents."""

    def forward(self, images: Tensor, sizes: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(images, 32).flatten(1).sum(1) + sizes.sum(1)


def test_a_detector_is_traced_with_an_image_that_is_not_tiny() -> None:
    """A map of a single cell in the example would make torch trace the graph for single cells only."""
    exportable = Exportable(
        Pyramid(),
        ("images", "sizes"),
        ("sums",),
        {},
        stride=32,
        multiple=32,
        batches=False,
        many=True,
        read=lambda path: (),
        check=lambda *comparison: files.FileCheck(0.0, {}),
    )
    traced = files.trace(exportable, (torch.rand(1, 3, 64, 160), torch.tensor([[60.0, 160.0]])))
    assert traced.freedom == (64, 32) and traced.example == (128, 160)
