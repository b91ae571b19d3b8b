"""Runs of train_det.py --masks: training, results, loading, prediction, resuming, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import size_of
from pycocotools import mask as coco_mask

import detection
from backbones.common.outlines import paint
from backbones.errors import UserError
from backbones.trained import find
from detection.cascade import CascadeHeads
from detection.data.annotations import CategoryMap
from detection.results import Detections, Outlines
from detection.tiles import Tiles, detect_in_tiles
from tools import predict, report, train_det
from tools.evaluation import CocoEvaluator
from tools.exports.model_card import model_card
from tools.prediction.detection_files import CocoForm
from tools.prediction.inputs import InputFile
from tools.prediction.naming import NumberedImage
from tools.runs.detection import EvaluatedDetections
from tools.runs.folder import RunFolder
from tools.runs.scores import read_score

TINY = (
    *("--recipe", "shapes"),
    *("--min-size", 64, "--max-size", 64, "--fpn-channels", 16, "--head-channels", 16, "--rois-per-image", 16),
    *("--backbone", "timm/test_resnet", "--proposals", 20, "--batch-size", 4, "--workers", 0),
    *("--epochs", 2, "--eval-every", 2, "--limit", 8),
)


def train(folder: Path, *words: object) -> Path:
    train_det.main([*map(str, (*TINY, *words, "--output", folder))])
    return folder


@pytest.fixture(scope="module")
def mask_run(small_shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished run with masks of 14 x 14 cells, whose detections have any score."""
    folder = tmp_path_factory.mktemp("runs") / "masks"
    words = ("--masks", "--mask-channels", 16, "--mask-size", 14, "--val-loss")
    return train(folder, "--data", small_shapes, *words)


def test_a_run_with_masks_has_their_losses_and_pictures(mask_run: Path):
    lines = [json.loads(line) for line in (mask_run / "metrics.jsonl").read_text().splitlines()]
    assert any("loss_mask" in line for line in lines)
    results = json.loads((mask_run / "results.json").read_text())
    assert results["val_loss_mask"] > 0
    assert {"AP", "segm_AP", "segm_AP50"} <= results.keys()
    rows = json.loads((mask_run / "detections.json").read_text())
    assert rows and all(row["segmentation"]["size"] == [64, 64] for row in rows)
    assert size_of(mask_run / "samples.png")[0] > 600


def test_a_run_with_masks_is_scored_by_boxes_and_masks(mask_run: Path, small_shapes: Path):
    results = json.loads((mask_run / "results.json").read_text())
    assert {"AP", "segm_AP", "segm_AP50", "segm_APs", "segm_AR100"} <= results.keys()
    assert all("segm_AP50" in entry for entry in results["per_class"].values())
    rows = json.loads((mask_run / "detections.json").read_text())
    assert rows and all(row["segmentation"]["size"] == [64, 64] for row in rows)
    score = read_score(RunFolder.read(mask_run), "segm_AP")
    assert score.score(np.ones(score.size)) == pytest.approx(results["segm_AP"], abs=1e-12)  # means of 101 values


def test_the_card_of_a_run_with_masks_says_so(mask_run: Path):
    results = json.loads((mask_run / "results.json").read_text())
    card = model_card(find(mask_run), repository="me/masks", licence="mit", results=results)
    assert 'pipeline_tag: "image-segmentation"' in card and '"instance-segmentation"' in card
    assert f"| segm_AP | {round(results['segm_AP'], 4)} |" in card


def test_a_loaded_detector_returns_masks_of_the_images_size(mask_run: Path, small_shapes: Path):
    detector = detection.load(mask_run)
    detector.model.roi_heads.score_thresh = 0.01
    found = detector(sorted((small_shapes / "val").iterdir())[0])
    assert len(found) and found.masks.dtype == torch.bool
    assert found.masks.shape == (len(found), 64, 64)
    for mask, code, box in zip(found.masks, found.outlines.codes, found.boxes):
        assert np.array_equal(coco_mask.decode(dict(code)), mask.numpy())
        rows, columns = mask.nonzero().unbind(1)
        if len(rows):  # the centres of a mask's pixels lie within its box
            low, high = torch.stack([columns, rows], 1).aminmax(dim=0)
            assert (low + 0.5 >= box[:2]).all() and (high + 0.5 <= box[2:]).all()
    assert torch.equal(found.where(found.scores > 2).masks, torch.zeros(0, 64, 64, dtype=torch.bool))


def test_prediction_writes_run_lengths_and_tints_masks(mask_run: Path, small_shapes: Path, tmp_path: Path):
    file = sorted((small_shapes / "val").iterdir())[0]
    predict.main(
        [*map(str, ("--run", mask_run, file, "--workers", 0, "--score", 0.01, "--output", tmp_path / "whole"))]
    )
    rows = json.loads((tmp_path / "whole/predictions.json").read_text())
    assert rows and all(row["segmentation"]["size"] == [64, 64] for row in rows)
    assert coco_mask.decode(rows[0]["segmentation"]).shape == (64, 64)
    words = ("--run", mask_run, file, "--workers", 0, "--score", 0.01, "--tile", 40, "--output", tmp_path / "tiles")
    predict.main([*map(str, words)])
    tiled = json.loads((tmp_path / "tiles/predictions.json").read_text())
    assert tiled and all(row["segmentation"]["size"] == [64, 64] for row in tiled)
    for row in tiled:
        x, y, width, height = coco_mask.toBbox(row["segmentation"])
        left, top, w, h = row["bbox"]
        slack = 2 + max(w, h) / 14
        assert not width or (x >= left - slack and y + height <= top + h + slack)


def test_masks_are_written_as_polygons_and_as_pngs(mask_run: Path, small_shapes: Path, tmp_path: Path):
    """All three forms hold the same pixels."""
    file = sorted((small_shapes / "val").iterdir())[0]
    found = {}
    for form in ("rle", "polygons", "png"):
        words = ("--run", mask_run, file, "--workers", 0, "--score", 0.01, "--save", "coco,yolo", "--masks-as", form)
        predict.main([*map(str, (*words, "--output", tmp_path / form))])
        found[form] = json.loads((tmp_path / form / "predictions.json").read_text())
    masks = [coco_mask.decode(row["segmentation"]).astype(bool) for row in found["rle"]]
    numbers = cv2.imread(str(next((tmp_path / "png" / "masks").rglob("*.png"))), cv2.IMREAD_UNCHANGED)
    assert numbers.shape == (64, 64) and "segmentation" not in found["png"][0]
    lines = next((tmp_path / "polygons" / "yolo" / "labels").rglob("*.txt")).read_text().splitlines()
    assert len(lines) == len(masks) > 1
    shown = np.zeros((64, 64), bool)
    for mask, row, numbered, line in zip(masks, found["polygons"], found["png"], lines, strict=True):
        assert np.array_equal(paint(row["segmentation"], (64, 64)), mask)
        assert np.array_equal(numbers == numbered["mask"], mask & ~shown)  # the highest score first
        shown |= mask
        if mask.any():
            values = [float(value) * 64 for value in line.split()[1:-1]]
            assert values == pytest.approx(row["segmentation"][0], abs=1e-6 * 64)
    assert (numbers > 0).sum() == shown.sum() > 0


def test_an_empty_mask_among_polygons_stays_a_run_length_code_and_can_be_scored(tmp_path: Path):
    masks = np.zeros((2, 40, 50), np.uint8)
    masks[0, 10:30, 5:45] = 1
    codes = tuple(coco_mask.encode(np.asfortranarray(mask)) for mask in masks)
    boxes = torch.tensor([[5.0, 10, 45, 30], [0, 0, 9, 9]])
    scores, labels = torch.tensor([0.9, 0.8]), torch.tensor([1, 1])
    found = Detections(boxes, scores, labels, ("cat", "cat"), Outlines(codes, (40, 50)))
    form = CocoForm(tmp_path, CategoryMap((1,), ("cat",)), "polygons")
    form.add(NumberedImage(InputFile(tmp_path / "a.jpg", "a.jpg"), 1, "a", torch.zeros(3, 40, 50), None), found)
    form.finish()
    polygon, empty = (row["segmentation"] for row in json.loads((tmp_path / "predictions.json").read_text()))
    assert len(polygon) == 1 and empty["size"] == [40, 50] and not paint(empty, (40, 50)).any()
    truth = {
        "images": [{"id": 1, "width": 50, "height": 40}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": [5, 10, 40, 20], "segmentation": polygon}],
    }
    evaluator = CocoEvaluator(truth, iou_types=("segm",))
    evaluator.load(tmp_path / "predictions.json")
    assert evaluator.compute()["segm_AP"] == pytest.approx(1)  # the empty mask ranks second


def test_a_report_of_a_run_with_masks_has_boundary_ap(
    mask_run: Path, small_shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The true masks as detections have a Boundary AP of 1, and are too many for a limit of none."""
    evaluated = EvaluatedDetections.read(RunFolder.read(mask_run), data=None)
    truth = json.loads((small_shapes / "annotations" / "instances_val.json").read_text())["annotations"]
    own = [each for each in truth if each["image_id"] in evaluated.images and not each["iscrowd"]]
    names = ("image_id", "category_id", "bbox")
    codes = [
        coco_mask.encode(np.asfortranarray(paint(each["segmentation"], (64, 64)).astype(np.uint8))) for each in own
    ]
    rows = [
        {**{name: each[name] for name in names}, "score": 0.9,
         "segmentation": {"size": [64, 64], "counts": code["counts"].decode()}}
        for each, code in zip(own, codes, strict=True)
    ]  # fmt: skip
    (tmp_path / "detections.json").write_text(json.dumps(rows))
    metrics = replace(evaluated, run=replace(evaluated.run, folder=tmp_path)).boundary_metrics()
    assert metrics is not None and metrics["AP"] == pytest.approx(1)
    report.main([str(mask_run), "--output", str(tmp_path / "report.html")])
    page = (tmp_path / "report.html").read_text()
    assert "Boundaries of masks in percent" in page and "Mean IoU by class in percent" in page
    monkeypatch.setattr("tools.runs.detection.MOST_BOUNDARIES", -1)
    assert evaluated.boundary_metrics() is None


def test_weights_without_masks_are_not_evaluated_with_masks(small_shapes: Path, mask_run: Path, tmp_path: Path):
    boxes = train(tmp_path / "boxes", "--data", small_shapes, "--weights", mask_run, "--masks", "false")
    state = detection.load(boxes).model.state_dict()
    assert not any("mask" in name for name in state)  # a file with masks starts a detector of boxes
    words = ("--data", small_shapes, "--masks", "--eval-only", "--weights", boxes / "model.safetensors")
    with pytest.raises(UserError, match="was trained without masks; leave out --masks, or --eval-only"):
        train(tmp_path / "evaluated", *words)


def test_data_without_masks_is_refused_with_a_count(coco):
    coco.write()
    words = ("--masks", "--eval-only", "--weights", "none", "--freeze", 0)
    with pytest.raises(UserError, match=r"has no usable mask: `segmentation` is missing or empty \(\d such objects\)"):
        train(coco.root / "run", "--data", coco.root, *words)


@pytest.mark.usefixtures("narrow")
def test_a_cascade_of_the_second_version_is_resumed_measured_again_loaded_and_tiled(small_shapes: Path, tmp_path: Path):
    steps = tmp_path / "steps.yaml"
    steps.write_text("- copy_paste: {p: 1}\n- mixup: {p: 0.5}\n")
    words = (
        "--backbone",
        "resnet18",
        "--cascade",
        "--version",
        "v2",
        "--recompute",
        "--masks",
        "--mask-channels",
        8,
        "--mask-size",
        14,
    )
    run = train(tmp_path / "run", "--data", small_shapes, *words, "--augment", steps, "--epochs", 1, "--eval-every", 1)
    train_det.main(["--resume", "--output", str(run), "--epochs", "2"])
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {"loss_box_reg", "loss_box_reg_2", "loss_box_reg_3", "loss_mask"} <= lines[-2].keys() | lines[0].keys()
    # The steps of the file belong to the run.
    steps.write_text("- mixup: {p: 0.5}\n")
    with pytest.raises(UserError, match="the file of --augment has other steps than in the run"):
        train_det.main(["--resume", "--output", str(run), "--epochs", "3"])
    train_det.main(["--resume", "--eval-only", "--soft-nms", "--output", str(run)])
    detector = detection.load(run, soft_nms=True)
    assert isinstance(detector.model.roi_heads, CascadeHeads)
    detector.model.roi_heads.score_thresh = 0.01
    image = sorted((small_shapes / "val").iterdir())[0]
    found = detector(image)
    assert len(found) and found.masks.shape == (len(found), 64, 64)
    tiled = detect_in_tiles(detector, torch.randint(0, 256, (3, 90, 120), dtype=torch.uint8), Tiles(64, 0.25))
    assert len(tiled) and tiled.masks.shape[1:] == (90, 120)


def test_boxes_alone_paste_objects_by_their_masks(small_shapes: Path, tmp_path: Path):
    steps = tmp_path / "steps.yaml"
    steps.write_text("- copy_paste: {p: 1}\n")
    run = train(tmp_path / "run", "--data", small_shapes, "--augment", steps, "--epochs", 1, "--eval-every", 1)
    assert "segm_AP" not in json.loads((run / "results.json").read_text())
    data = json.loads((small_shapes / "annotations" / "instances_train.json").read_text())
    for entry in data["annotations"]:
        entry.pop("segmentation", None)
    (tmp_path / "boxes.json").write_text(json.dumps(data))
    files = ("--train-annotations", tmp_path / "boxes.json", "--train-images", small_shapes / "train")
    with pytest.raises(UserError, match=r"copy_paste needs masks, but no object of .*boxes\.json has one"):
        train(tmp_path / "other", "--data", small_shapes, *files, "--augment", steps)
