"""The model that a detection or segmentation run delivers, in all its files: the best one, or the last one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import cv2
import numpy as np
import pytest
import torch
from conftest import size_of
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from backbones.common.run_files import MODEL_FILE
from tools import predict, train_det, train_seg
from tools.engine import loop
from tools.engine.run_folder import BEST
from tools.engine.state import Training

TASKS = ("det", "seg")
# The layer that decides: background (0) or the one class (1) of every box or pixel.
LAST_LAYERS = {"det": "roi_heads.box_predictor.cls_score", "seg": "classifier.4"}
METRICS = {"det": "AP", "seg": "mIoU"}
SIDE = 64


@pytest.fixture
def data(tmp_path: Path) -> dict[str, Path]:
    """Two training images and one validation image, each an object as large as the image."""
    det, seg, random = tmp_path / "boxes", tmp_path / "labels", np.random.default_rng(0)
    (det / "annotations").mkdir(parents=True)
    for split, count in (("train", 2), ("val", 1)):
        for folder in (det / split, seg / "images" / split, seg / "labels" / split):
            folder.mkdir(parents=True)
        images, boxes = [], []
        for number in range(1, count + 1):
            pixels = random.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
            labels = np.ones((SIDE, SIDE), np.uint8)
            labels[0] = 0
            cv2.imwrite(str(det / split / f"{number}.png"), pixels)
            cv2.imwrite(str(seg / "images" / split / f"{number}.png"), pixels)
            cv2.imwrite(str(seg / "labels" / split / f"{number}.png"), labels)
            images.append({"id": number, "file_name": f"{number}.png", "width": SIDE, "height": SIDE})
            box = {"bbox": [0, 0, SIDE, SIDE], "area": SIDE**2, "iscrowd": 0, "category_id": 1}
            boxes.append({"id": number, "image_id": number, **box})
        categories = [{"id": 1, "name": "thing"}]
        content = {"images": images, "annotations": boxes, "categories": categories}
        (det / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    (seg / "classes.txt").write_text("nothing\nthing\n")
    return {"det": det, "seg": seg}


@pytest.fixture
def worse_after_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the model answer "thing" after the first step (one epoch), and "background" after later steps."""
    update = loop.update_weights

    def update_and_answer(training: Training, **options: Any) -> None:
        update(training, **options)
        model = training.model
        task = "det" if hasattr(model, "rpn") else "seg"
        layer = model.get_submodule(LAST_LAYERS[task])
        layer.weight.data.zero_()
        layer.bias.data.copy_(torch.tensor([0.0, 9.0] if training.step == 1 else [9.0, 0.0]))
        if task == "det":  # boxes are the anchors, of 256 pixels or more (scale 64 x stride 4), clipped to the image
            for deltas in (model.rpn.head.bbox_pred, model.roi_heads.box_predictor.bbox_pred):
                deltas.weight.data.zero_()
                deltas.bias.data.zero_()

    monkeypatch.setattr(loop, "update_weights", update_and_answer)


def words(task: str, data: Path, folder: Path, *more: object) -> list[str]:
    backbone = ("--backbone", "timm/test_efficientnet", "--weights", "none", "--batch-size", 2, "--workers", 0)
    det = ("--recipe", "shapes", "--min-size", SIDE, "--max-size", SIDE, "--fpn-channels",
           8, "--fpn-norm", "batch", "--head-channels", 8, "--anchor-scale", 64, "--freeze", 0,
           "--proposals", 20)  # fmt: skip
    seg = ("--recipe", "shapes", "--crop-size", SIDE, "--head", "fcn32s", "--max-stride", 32)
    own = {"det": det, "seg": seg}[task]
    given = (*own, *backbone, "--data", data, "--threads", 1, "--output", folder, "--epochs", 3, "--eval-every", 1,
             *more)  # fmt: skip
    return [*map(str, given)]


MAINS: dict[str, Callable[[list[str]], object]] = {"det": train_det.main, "seg": train_seg.main}


def found(task: str, folder: Path) -> int:
    """Return the number of detections, or of pixels of "thing", in the file of predictions."""
    if task == "det":
        return len(json.loads((folder / "detections.json").read_text()))
    with ZipFile(folder / "predictions.zip") as file:
        content = file.read(file.namelist()[0])
    return int(cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_GRAYSCALE).sum())


def predicted(task: str, run: Path, image: Path, output: Path) -> int:
    """Return what `predict --run` finds, counted as `found` does."""
    predict.main(["--run", str(run), str(image), "--output", str(output)])
    if task == "det":
        return len(json.loads((output / "predictions.json").read_text()))
    with Image.open(output / "labels" / f"{image.stem}.png") as labels:
        return int(np.asarray(labels).sum())


@pytest.mark.usefixtures("worse_after_one")
@pytest.mark.parametrize("task", TASKS)
def test_the_best_model_is_in_all_files_after_early_stopping_and_at_the_normal_end(
    task: str, data: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    main, folder, metric = MAINS[task], tmp_path / "run", METRICS[task]
    bias = f"{LAST_LAYERS[task]}.bias"
    # One epoch has one step. The second evaluation is worse than the first, and ends the run; the resumed run ends
    # normally after its third epoch.
    for more in (
        words(task, data[task], folder, "--patience", 1),
        ["--resume", "--output", str(folder), "--patience", "0"],
    ):
        main(more)
        results = json.loads((folder / "results.json").read_text())
        best = results[metric]
        said = f"best {metric} {best:.4f}, after epoch 1: {folder / MODEL_FILE}"
        assert capsys.readouterr().out.splitlines()[-1] == said
        assert results["delivered"] == {"model": "best", "step": 1, "epoch": 1.0}
        assert load_file(folder / MODEL_FILE)[bias].tolist() == load_file(folder / BEST)[bias].tolist() == [0, 9]
        assert found(task, folder) > 0
    scores = [
        json.loads(line)[metric] for line in (folder / "metrics.jsonl").read_text().splitlines() if '"val"' in line
    ]
    assert len(scores) == 3 and scores[0] == best > scores[1] == scores[2]
    image = next((data[task]).rglob("val/1.png"))
    assert predicted(task, folder, image, tmp_path / "best") > 0
    # TensorBoard has the options with the metrics of the best model, and its pictures.
    # Read the files one by one: within a second, their names do not sort by time.
    logs = [EventAccumulator(str(file)).Reload() for file in (folder / "tensorboard").iterdir()]
    final = [
        event.value
        for log in logs
        if f"final/{metric}" in log.scalars.Keys()
        for event in log.Scalars(f"final/{metric}")
    ]
    assert final == pytest.approx([best, best])
    samples = (folder / "samples.png").read_bytes()
    shown = [image for log in logs if "samples" in log.images.Keys() for image in log.Images("samples")]
    assert len(shown) == 2 and samples in [image.encoded_image_string for image in shown]
    assert {(image.width, image.height) for image in shown} == {size_of(folder / "samples.png")}
    options = [
        log.SummaryMetadata(name).plugin_data.content
        for log in logs
        for name in ("_hparams_/session_start_info",)
        if name in log.summary_metadata
    ]
    assert options and (task == "seg" or all(b"fpn_channels" in content for content in options))
    # The last model is delivered on request, in all files as well.
    main(["--resume", "--output", str(folder), "--deliver", "last"])
    assert capsys.readouterr().out.splitlines()[-2:] == [
        f"best {metric} {best:.4f}, after epoch 1: {folder / BEST}",
        f"last model, after epoch 3: {folder / MODEL_FILE}",
    ]
    assert json.loads((folder / "results.json").read_text())[metric] == scores[2]
    assert load_file(folder / MODEL_FILE)[bias].tolist() == [9, 0]
    assert found(task, folder) == predicted(task, folder, image, tmp_path / "last") == 0
    assert (folder / "samples.png").read_bytes() != samples
