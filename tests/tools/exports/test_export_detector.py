"""Exported detectors give what `detection.load(run)(image)` gives, on images of any shape and on empty ones."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
import torch
import yaml
from conftest import CocoFolder, register_tiny, require_openvino
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_deployment_scripts import run_script
from torch import Tensor
from torchvision.ops import batched_nms

import detection
from backbones.errors import UserError
from backbones.trained import find
from backbones.weights.exported import ExportedFile
from detection.data.annotations import CategoryMap
from detection.explain import explain
from detection.exported import ExportedDetector
from detection.necks import FPN, NECKS, NeckParts
from detection.options import DetectorOptions
from detection.results import Detections
from tools import export, train_det
from tools.exports import int8, trial
from tools.exports.detections import compare_detections, noisy_copies, set_difference, six_shapes
from tools.exports.detector import exportable_detector
from tools.exports.evaluation import measure_loss
from tools.exports.half import write_half
from tools.exports.images import image_files
from tools.exports.models import load_exportable
from tools.exports.openvino_files import write_openvino
from tools.exports.raw_images import join_raw

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def spread_detector(folder: Path, backbone: str, **settings: object) -> Path:
    """Write the file of a random detector whose scores are far apart, so that rounding decides nothing."""
    options = DetectorOptions(
        backbone,
        "none",
        min_size=64,
        max_size=96,
        head_channels=16,
        proposals=20,
        **{"neck": "two", **settings},
    )
    torch.manual_seed(0)
    model = detection.build(backbone, 2, **options.keywords()).eval()
    predictors = [model.roi_heads.box_predictor, *getattr(model.roi_heads, "later_predictors", [])]
    layers = [model.rpn.head.cls_logits, *(each.cls_score for each in predictors)]
    if model.has_masks:
        layers.append(model.roi_heads.mask_predictor.mask_fcn_logits)
        layers[-1].weight.data.neg_()  # with these weights, masks have cells of both kinds and are not empty
    for layer in layers:
        layer.weight.data *= 2 / layer.weight.std()
    meta = {
        **{"task": "detection", "category_ids": [3, 7], "category_names": ["cat", "dog"], "norm_eps": None},
        **{"input": model.transform.describe(), "model": asdict(options)},
    }
    path = folder / "model.safetensors"
    header = {"meta": json.dumps(meta), "config": json.dumps({"test_flip": True, "test_nms": 0.4})}
    save_file(model.state_dict(), path, metadata=header)
    return path


@pytest.fixture(scope="module")
def tiny_neck() -> Iterator[str]:
    """The name of a backbone for which a pyramid "two" of two of its levels is registered during these tests."""
    with pytest.MonkeyPatch.context() as patch:
        name = register_tiny(patch)
        patch.setattr(NECKS, "_builders", dict(NECKS._builders))
        levels = ("c3", "c4")
        detection.register_neck("two")(lambda build, settings: NeckParts(FPN(build(features=levels), 8)))
        yield name


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five images of noise, wide and tall."""
    folder, random = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for number, size in enumerate(((48, 64), (90, 40), (50, 50), (32, 60), (64, 33))):
        cv2.imwrite(str(folder / f"{number}.png"), cv2.resize(random.integers(0, 255, (6, 6, 3), np.uint8), size))
    return folder


class MadeFile(NamedTuple):
    """An exported detector with masks and context, its run, and what the command printed."""

    run: Path
    path: Path
    printed: str


@pytest.fixture(scope="module")
def made(tiny_neck: str, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> MadeFile:
    folder = tmp_path_factory.mktemp("made")
    run = spread_detector(folder, tiny_neck, context=True, masks=True, mask_channels=8, mask_size=14)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        export.main(["--run", str(run), "--output", str(folder / "net.onnx"), "--images", str(photos)])
    return MadeFile(run, folder / "net.onnx", printed.getvalue())


def noise(height: int, width: int) -> Tensor:
    return torch.randint(256, (3, height, width), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def test_the_file_is_checked_and_says_what_it_needs(made: MadeFile) -> None:
    said = made.printed
    assert "--test-flip of the run" in said and "from 64 pixels, multiples of 32" in said
    assert "compared, of the boxes that the file finds" in said and "compared in batches of three" in said
    shapes = next(line for line in said.splitlines() if line.startswith("shapes")).split(maxsplit=1)[1]
    assert len(shapes.split(", ")) >= 6
    metadata = {p.key: json.loads(p.value) for p in onnx.load(made.path).metadata_props}
    assert metadata["category_ids"] == [3, 7] and metadata["mask_threshold"] == 0.5
    assert "detection.masks.paste" in metadata["masks"] and metadata["opset"] >= 18
    assert metadata["limits"] == {"score": 0.05, "nms": 0.4, "detections": 100, "suppressed": True}
    assert metadata["preparation"]["colour_order"] == "RGB" and metadata["side_multiple"] == 32


def test_a_loaded_file_detects_as_the_loaded_run(made: MadeFile) -> None:
    """Alone and in batches of three sizes, with masks. A mask may differ at pixels whose probability rounds at 0.5."""
    run, file = detection.load(made.run, precision="fp32", flip=False), detection.load(made.path)
    images, compared = [noise(60, 100), noise(100, 60), noise(50, 20)], 0
    for one, other, image in zip(
        run(images) + [run(image) for image in images],
        file(images) + [file(image) for image in images],
        images * 2,
        strict=True,
    ):
        assert len(one) == len(other) and set_difference(one, other, image) < 1e-3
        for mask, score in zip(one.masks, one.scores, strict=True):
            assert (other.masks[(other.scores - score).abs().argmin()] != mask).sum() <= 2
        compared += len(one)
    assert compared > 10
    # A larger limit leaves detections out; the file has left out what is below its own.
    assert len(detection.load(made.path, score=0.5)(images[0])) < len(file(images[0]))
    with pytest.raises(UserError, match=r"score=0\.01: the file leaves out scores below 0\.05"):
        detection.load(made.path, score=0.01)
    with pytest.raises(UserError, match="views each image once"):
        detection.load(made.path, flip=True)
    with pytest.raises(UserError, match="is an exported file, which has no gradients; name the run that it is of"):
        explain(file, images[0], file(images[0])[0])


def test_a_raw_file_takes_images_of_any_size(made: MadeFile, photos: Path, tmp_path: Path) -> None:
    """Bytes in, boxes in their pixels out; the program that runs the file needs NumPy alone."""
    trained = find(made.run)
    exportable = exportable_detector(trained, raw=True)
    path = tmp_path / "raw.onnx"
    shutil.copyfile(made.path, path)
    assert exportable.raw is not None
    join_raw(path, exportable.raw)
    trial.try_file(path, exportable)
    opened = ExportedFile(path)
    check = exportable.check(lambda x: opened(*x), image_files(photos, 5), "the file", lambda inputs: True)
    assert check.difference < 1e-3 and len(check.found["shapes"].split(", ")) >= 6
    image = noise(70, 50)
    one, other = detection.load(made.run, precision="fp32", flip=False)(image), detection.load(path)(image)
    assert len(one) > 3 and set_difference(one, other, image) < 1e-3
    boxes, _, _, owners, _ = opened(torch.stack([image, image]).movedim(1, -1))
    assert set(owners.tolist()) == {0, 1} and len(boxes) == 2 * len(other)


def test_openvino_detects_as_the_loaded_run(made: MadeFile, photos: Path, tmp_path: Path) -> None:
    """On images of six shapes, in batches of three, without objects and without content, with masks."""
    require_openvino()
    write_openvino(made.path, tmp_path / "net.xml")
    opened, exportable = ExportedFile(tmp_path / "net.xml"), load_exportable(str(made.run))
    assert opened.metadata["category_names"] == ["cat", "dog"]
    check = exportable.check(lambda x: opened(*x), image_files(photos, 5), "the file", lambda inputs: True)
    assert check.difference < 1e-3 and int(check.found["detections"].split()[0]) > 10
    assert len(opened(*exportable.blanks[1])[0]) == 0


def test_the_file_is_evaluated_as_its_run(made: MadeFile, coco: CocoFolder, tmp_path: Path) -> None:
    """With the run's suppression: the same detections on images with and without objects, boxes and masks."""
    coco.data["categories"] = [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]
    for annotation, category in zip(coco.data["annotations"], (3, 7, 3, 7, 3), strict=True):
        left, top, width, height = annotation["bbox"]
        right, bottom = left + width, top + height
        outline = [[left, top, right, top, right, bottom, left, bottom]]
        annotation |= {"category_id": category, "segmentation": outline, "iscrowd": 0}
    root, found = coco.write(), []
    words = ["--eval-only", "--data", str(root), "--workers", "0", "--precision", "fp32"]
    for name, weights, more in (
        ("run", made.run, ["--test-nms", "0.4", "--proposals", "20", "--test-flip", "false"]),
        ("file", made.path, []),
    ):
        train_det.main([*words, *more, "--weights", str(weights), "--output", str(tmp_path / name)])
        results = json.loads((tmp_path / name / "results.json").read_text())
        found.append((results["AP"], results["segm_AP"], json.loads((tmp_path / name / "detections.json").read_text())))
    (first, first_masks, rows), (second, second_masks, others) = found
    assert len(rows) == len(others) > 5
    assert first == pytest.approx(second, abs=1e-3) and first_masks == pytest.approx(second_masks, abs=1e-2)
    # What the export says about files of 8 and 16 bits: AP before and after, on the data of the run's options.
    with safe_open(made.run, "pt") as opened:
        header = opened.metadata()
    header["config"] = json.dumps(yaml.safe_load((tmp_path / "run" / "config.yaml").read_text()))
    save_file(load_file(made.run), tmp_path / "with_data.safetensors", metadata=header)
    said = measure_loss(str(tmp_path / "with_data.safetensors"), made.path, most=1.0).text
    assert said.startswith("AP ") and "on 4 images: " in said
    with pytest.raises(UserError, match=r"was trained on other categories \(ids 7, 9\)"):
        ExportedDetector(made.path, CategoryMap((3, 9), ("cat", "owl")))


def test_the_detecting_script_of_the_page_answers_as_load(
    made: MadeFile, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, compared = detection.load(made.run, precision="fp32", flip=False), 0
    for path in image_files(photos, 5):
        capsys.readouterr()
        run_script("Detect", made.path, path, monkeypatch=monkeypatch)
        rows = [[float(word) for word in line.split()] for line in capsys.readouterr().out.splitlines()]
        found = torch.tensor(rows).reshape(-1, 6)
        own = Detections(found[:, 2:], found[:, 0], found[:, 1].long(), ())
        image = loaded.read(path)
        assert set_difference(loaded(path), own, image) < 1e-3
        compared += len(own)
    assert compared > 10
    cv2.imwrite(str(tmp_path / "thin.png"), np.zeros((1, 4000, 3), np.uint8))
    with pytest.raises(SystemExit, match=r"thin\.png: is too thin; crop the image"):
        run_script("Detect", made.path, tmp_path / "thin.png", monkeypatch=monkeypatch)


def test_files_of_8_and_16_bits_keep_all_but_the_layers_in_floats(made: MadeFile, photos: Path, tmp_path: Path) -> None:
    exportable, items = load_exportable(str(made.run)), []
    items = [exportable.read(path) for path in image_files(photos, 5)]
    int8.quantise(made.path, tmp_path / "int8.onnx", exportable, items[:2], "static")
    write_half(made.path, tmp_path / "fp16.onnx")
    for name in ("int8", "fp16"):
        path = tmp_path / f"{name}.onnx"
        trial.try_file(path, exportable)
        found = ExportedFile(path)(*exportable.blanks[1])
        assert found[0].shape == (0, 4) and found[4].shape == (0, 14, 14)
        assert detection.load(path)(noise(60, 100)).boxes.shape[1] == 4
    nodes = onnx.load(tmp_path / "int8.onnx").graph.node
    assert {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in nodes}
    # Weights of 8 bits come from a DequantizeLinear; those of the layers that give scores and deltas come as they are.
    layers = [node.input[1] for node in nodes if node.op_type in int8.LAYERS]
    assert {name.split(".")[-2] for name in layers if name.endswith(".weight")} == set(int8.PREDICTORS)
    assert sum(name.endswith("_DequantizeLinear_Output") for name in layers) > 10
    arrays = map(onnx.numpy_helper.to_array, onnx.load(tmp_path / "int8.onnx").graph.initializer)
    weights = [each.astype(int) for each in arrays if each.dtype == np.int8 and each.ndim > 1]
    assert len(weights) > 10 and all(np.abs(each).max() <= 64 for each in weights)  # products fit in 16 bits
    graph = onnx.load(tmp_path / "fp16.onnx").graph
    halves = {each.name for each in graph.initializer if each.data_type == onnx.TensorProto.FLOAT16}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert convolutions and all(node.input[1] in halves for node in convolutions)
    assert not halves & {name for node in graph.node if node.op_type in ("Mul", "Exp", "Sub") for name in node.input}
    # 16 bits round to 11 binary digits: boxes of the same scores to a percent.
    run, half = detection.load(made.run, flip=False), detection.load(tmp_path / "fp16.onnx")
    one, other = run(noise(60, 100)), half(noise(60, 100))
    near = (other.scores[:, None] - one.scores).abs().min(1).values
    assert len(other) > 3 and float((near < 0.01).float().mean()) > 0.5


def test_16_bits_keep_large_weights(tmp_path: Path) -> None:
    weights = np.array([3e4, -6e4, 2.0, 0.5], dtype=np.float32).reshape(1, 4, 1, 1)
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in "xy"]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Conv", ["x", "w"], ["y"])], "net", ends[:1], ends[1:],
        [onnx.numpy_helper.from_array(weights, "w")],
    )  # fmt: skip
    onnx.save(onnx.helper.make_model(graph), tmp_path / "whole.onnx")
    write_half(tmp_path / "whole.onnx", tmp_path / "half.onnx")
    graph = onnx.load(tmp_path / "half.onnx").graph
    (kept,) = graph.initializer
    assert np.array_equal(onnx.numpy_helper.to_array(kept), weights.astype(np.float16))
    assert [node.op_type for node in graph.node] == ["Cast", "Conv", "Cast"]  # in the order of computing


@pytest.mark.parametrize(
    "settings",
    [
        {"cascade": True},
        {"cascade": True, "context": True, "masks": True, "mask_channels": 8, "mask_size": 14},
        {"class_agnostic_boxes": True},
        {"neck": "c4", "masks": True, "mask_channels": 8},
    ],
    ids=["cascade", "cascade with all", "class-agnostic boxes", "c4 with masks"],
)
def test_the_graph_detects_as_the_model_with_all_heads(
    tiny_neck: str, photos: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    backbone = "resnet18" if settings.get("neck") == "c4" else tiny_neck
    exportable = load_exportable(str(spread_detector(tmp_path, backbone, **settings)))
    exportable.model.heads.score_thresh = 0.0  # of the model too, whose heads these are
    check = exportable.check(exportable.expected, image_files(photos, 5), "the file", lambda inputs: True)
    assert check.difference < 1e-3 and int(check.found["detections"].split()[0]) > 5


def test_without_suppression_the_graph_returns_all_proposals(tiny_neck: str, photos: Path, tmp_path: Path) -> None:
    run = spread_detector(tmp_path, tiny_neck)
    exportable = load_exportable(str(run), suppress=False)
    boxes, scores, owners = exportable.expected(exportable.read(image_files(photos, 1 + 4)[0]))
    assert boxes.shape == (len(owners), 2, 4) and scores.shape == (len(owners), 2) and len(owners) > 2
    assert exportable.outputs == ("boxes", "scores", "batch_indices")
    # Suppressing them gives the detections of the model.
    loaded = detection.load(run, precision="fp32", flip=False)
    labels = torch.arange(1, 3).expand_as(scores).flatten()
    good = scores.flatten() > 0.05
    flat, all_scores = boxes.flatten(0, 1)[good], scores.flatten()[good]
    kept = batched_nms(flat, all_scores, labels[good], 0.4)
    expected = loaded(image_files(photos, 5)[0])
    torch.testing.assert_close(all_scores[kept], expected.scores, atol=1e-5, rtol=0)
    # Rounding may swap proposals; the file is compared by the detections that they give.
    paths = image_files(photos, 5)

    def swapped(inputs: tuple[Tensor, ...]) -> list[Tensor]:
        return [each.flip(0) for each in exportable.expected(inputs)]

    def wrong(inputs: tuple[Tensor, ...]) -> list[Tensor]:
        boxes, scores, owners = exportable.expected(inputs)
        return [boxes, scores + 0.01, owners]

    check = exportable.check(swapped, paths, "the file", lambda inputs: True)
    assert check.difference < 1e-3 and int(check.found["detections"].split()[0]) > 5
    with pytest.raises(UserError, match="the file: its detections differ from PyTorch"):
        exportable.check(wrong, paths, "the file", lambda inputs: True)
    masked = spread_detector(tmp_path, tiny_neck, masks=True, mask_channels=8)
    with pytest.raises(UserError, match="--nms false: the masks are those of suppressed boxes"):
        load_exportable(str(masked), suppress=False)


def test_masks_that_differ_are_refused(tiny_neck: str, photos: Path, tmp_path: Path) -> None:
    exportable = load_exportable(str(spread_detector(tmp_path, tiny_neck, masks=True, mask_channels=8, mask_size=14)))

    def wrong(inputs: tuple[Tensor, ...]) -> list[Tensor]:
        *others, masks = exportable.expected(inputs)
        return [*others, masks.flip(-1)]

    with pytest.raises(UserError, match=r"the file: its masks differ from PyTorch by .* \(probabilities\)"):
        exportable.check(wrong, image_files(photos, 5), "the file", lambda inputs: True)


def test_8_bit_masks_count_as_answers() -> None:
    """A box that is found again with another mask is not unchanged: of two answers, one is."""
    boxes, scores, labels = (
        torch.tensor([[0.0, 0, 9, 9], [20, 0, 29, 9]]),
        torch.tensor([0.9, 0.8]),
        torch.tensor([1, 2]),
    )
    masks = torch.zeros(2, 4, 4)
    masks[:, :2] = 1.0
    other = torch.stack([masks[0], 1 - masks[1]])
    first, second = ([boxes, scores, labels, labels, each] for each in (masks, other))
    assert int8._agreement("detection", first, second) == [0.5]
    assert int8._agreement("classification", [torch.eye(2)], [torch.eye(2) / 0]) == [0]  # 1 / 0 and 0 / 0 in 16 bits
    # Several classes an image: both files find class 0, and one of them finds class 2 as well.
    sets = (torch.tensor([[1.0, -1, 0.1, -9]]), torch.tensor([[9.0, -1, -0.1, -9]]))
    assert int8._agreement("classification", [sets[0]], [sets[1]], torch.full((4,), 0.5)) == [0.5]
    assert int8._agreement("classification", [sets[0]], [sets[1]], torch.ones(4)) == [1]


def test_torch_export_is_refused(tiny_runs: dict[str, Path], tmp_path: Path) -> None:
    words = ["--run", str(tiny_runs["det"]), "--output", str(tmp_path / "net.pt2"), "--format", "torch-export"]
    with pytest.raises(UserError, match="changing numbers of boxes"):
        export.main(words)
    assert not list(tmp_path.iterdir())


class TieDetector:
    """Always finds one box, and a second one where the image is brighter than `level`."""

    def __init__(self, level: float) -> None:
        self.level = level

    def __call__(self, image: Tensor, shift: float = 0.0) -> Detections:
        bright = (image / 255 if image.dtype == torch.uint8 else image).double().mean() > self.level
        boxes = torch.tensor([[0.0, 0, 10, 10], [5, 5, 20, 20]])[: 1 + int(bright)]
        return Detections(
            boxes + shift,
            torch.tensor([0.9, 0.5])[: len(boxes)],
            torch.tensor([1, 1])[: len(boxes)],
            ("cat",) * len(boxes),
        )


def test_what_rounding_decides_is_left_out_and_all_else_compared() -> None:
    """The image's mean lies on the level: noise of std 1e-4 in 300 values moves it by 6e-6 either way."""
    image = torch.full((3, 10, 10), 102, dtype=torch.uint8)
    tie, dark = TieDetector(102 / 255), TieDetector(1.0)
    bright = TieDetector(0.0)
    checks = [compare_detections(tie, found, [image], where="the file") for found in (bright, dark)]
    assert [check.difference for check in checks] == [0, 0]
    # The tie falls one way in PyTorch, and the file that lets it fall the other way has one box to compare.
    assert any(check.found["detections"].startswith("1 compared") for check in checks)
    assert compare_detections(tie, bright, [image] * 2, where="").found["shapes"] == "10x10"
    forms = {tuple(each.shape) for each in six_shapes([torch.zeros(3, 20, 30)])}
    assert forms == {(3, 20, 30), (3, 30, 20), (3, 14, 30), (3, 20, 20), (3, 23, 20), (3, 10, 15)}
    # Black and white pixels with noise are still images that `load` accepts.
    extremes = torch.tensor([0, 255], dtype=torch.uint8).repeat(3, 4, 4)
    assert all(copy.min() == 0 and copy.max() == 1 and len(copy.unique()) > 2 for copy in noisy_copies(extremes))
    # The second box is no tie; a box that is moved by a pixel of ten is none either.
    with pytest.raises(UserError, match="differ from PyTorch by"):
        compare_detections(bright, dark, [image], where="the file")
    with pytest.raises(UserError, match=r"differ from PyTorch by 1\.0e-01"):
        compare_detections(dark, lambda image: dark(image, 1.0), [image], where="the file")


def test_a_file_that_ends_its_process_is_refused(
    tiny_runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exportable = load_exportable(str(tiny_runs["det"]))
    with pytest.raises(UserError, match="fails on an image without objects"):
        trial.try_file(tmp_path / "absent.onnx", exportable)
    monkeypatch.setattr(trial, "PROGRAM", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    with pytest.raises(UserError, match="SIGSEGV"):
        trial.try_file(tmp_path / "absent.onnx", exportable)
