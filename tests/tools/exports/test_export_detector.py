"""Exported detectors give what `detection.load(run)(image)` gives, on images of any shape and on empty ones."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import detection
from backbones.errors import UserError
from detection.masks import paste
from detection.necks import FPN, NECKS, NeckParts
from detection.options import DetectorOptions
from detection.results import Detections
from tools import export
from tools.exports import int8, trial
from tools.exports.detections import compare_detections, set_difference
from tools.exports.files import run_onnx
from tools.exports.images import image_files
from tools.exports.models import load_exportable

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
    layers = [model.rpn.head.cls_logits, model.roi_heads.box_predictor.cls_score]
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


@pytest.fixture
def tiny_neck(tiny_backbone: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a backbone for which a pyramid "two" of two of its levels is registered during one test."""
    monkeypatch.setattr(NECKS, "_builders", dict(NECKS._builders))
    levels = ("c3", "c4")
    detection.register_neck("two")(lambda build, settings: NeckParts(FPN(build(features=levels), 8)))
    return tiny_backbone


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five images of noise, wide and tall."""
    folder, random = tmp_path / "photos", np.random.default_rng(0)
    folder.mkdir()
    for number, size in enumerate(((48, 64), (90, 40), (50, 50), (32, 60), (64, 33))):
        cv2.imwrite(str(folder / f"{number}.png"), cv2.resize(random.integers(0, 255, (6, 6, 3), np.uint8), size))
    return folder


def test_any_shape_context_and_8_bits(
    tiny_neck: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file takes the padded sides that PyTorch takes."""
    run, target = spread_detector(tmp_path, tiny_neck, context=True), tmp_path / "net.onnx"
    export.main(["--run", str(run), "--output", str(target), "--images", str(photos)])
    said = capsys.readouterr().out
    assert "--test-flip of the run" in said and "from 64 pixels, multiples of 32" in said
    assert json.loads(next(p.value for p in onnx.load(target).metadata_props if p.key == "category_ids")) == [3, 7]
    # Compare the file with the loaded run, outside of the check that the command makes.
    loaded = detection.load(run, precision="fp32", flip=False)
    session, compared = run_onnx(target), 0
    for shape in ((60, 100), (100, 60), (50, 20)):
        image = torch.randint(256, (3, *shape), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
        batch, _ = loaded.model.transform([image])
        boxes, scores, labels = session((batch.tensors.contiguous(), torch.tensor(batch.image_sizes[0]).float()))
        expected = loaded(image)
        scale = torch.tensor([image.shape[-1] / batch.image_sizes[0][1], image.shape[-2] / batch.image_sizes[0][0]] * 2)
        own = Detections(boxes * scale, scores, torch.tensor([0, 3, 7])[labels], ())
        assert set_difference(expected, own, image) < 1e-3
        compared += len(expected)
    assert compared > 10
    # Quantise it: images without objects do not end the process that runs the file.
    exportable, small = load_exportable(str(run)), tmp_path / "int8.onnx"
    items = [exportable.read(path) for path in image_files(photos, 5)]
    int8.quantise(target, small, exportable, items[:2], "static")
    trial.try_file(small, exportable)
    assert {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in onnx.load(small).graph.node}


def test_masks_are_those_of_the_loaded_run(
    tiny_neck: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = spread_detector(tmp_path, tiny_neck, masks=True, mask_channels=8, mask_size=14)
    target = tmp_path / "net.onnx"
    export.main(["--run", str(run), "--output", str(target), "--images", str(photos)])
    assert "compared, of the boxes that the file finds" in capsys.readouterr().out
    metadata = {p.key: json.loads(p.value) for p in onnx.load(target).metadata_props}
    assert metadata["mask_threshold"] == 0.5 and "detection.masks.paste" in metadata["masks"]
    # Paste the masks of the file as its metadata says. A pixel may differ whose probability rounds across 0.5.
    loaded, session, compared = detection.load(run, precision="fp32", flip=False), run_onnx(target), 0
    for shape in ((60, 100), (100, 60)):
        image = torch.randint(256, (3, *shape), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
        batch, _ = loaded.model.transform([image])
        height, width = batch.image_sizes[0]
        boxes, scores, _, masks = session((batch.tensors.contiguous(), torch.tensor([height, width]).float()))
        pasted = paste(masks, boxes * torch.tensor([shape[1] / width, shape[0] / height] * 2), shape)
        expected = loaded(image)
        for mask, score in zip(expected.masks, expected.scores):
            own = pasted[(scores - score).abs().argmin()]
            assert (own != mask).sum() <= 2
            compared += int(mask.sum())
    assert compared > 100
    # Without any object there are no masks, in 8 bits too.
    exportable, small = load_exportable(str(run)), tmp_path / "int8.onnx"
    int8.quantise(target, small, exportable, [exportable.read(path) for path in image_files(photos, 2)], "static")
    for file in (target, small):
        assert run_onnx(file)(exportable.blanks[1])[3].shape == (0, masks.shape[1], masks.shape[1])


@pytest.mark.parametrize("neck", ["two", "c4"])
def test_masks_that_differ_are_refused(tiny_neck: str, photos: Path, tmp_path: Path, neck: str) -> None:
    """The graph in PyTorch passes the check with every kind of mask branch; with flipped masks it does not."""
    backbone = "resnet18" if neck == "c4" else tiny_neck
    run = spread_detector(tmp_path, backbone, neck=neck, masks=True, mask_channels=8, mask_size=14)
    exportable, paths = load_exportable(str(run)), image_files(photos, 3)
    exportable.model.heads.score_thresh = 0.0
    assert exportable.check(exportable.expected, paths, "the file", lambda inputs: True).difference < 1e-3

    def wrong(inputs: tuple[Tensor, ...]) -> list[Tensor]:
        *others, masks = exportable.expected(inputs)
        return [*others, masks.flip(-1)]

    with pytest.raises(UserError, match=r"the file: its masks differ from PyTorch by .* \(probabilities\)"):
        exportable.check(wrong, paths, "the file", lambda inputs: True)


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
    assert int8._agreement("detection", [boxes, scores, labels, masks], [boxes, scores, labels, other]) == [0.5]


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
