"""TrainedFile nets from their run folders: the same results as the runs' own evaluations, from any form of image."""

from __future__ import annotations

import copy
import csv
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from tolerances import assert_same_detections, rounding, written

import classification
import detection
import segmentation
from backbones.errors import UserError
from backbones.trained import find
from tools.evaluation.detections import BOX_DECIMALS, SCORE_DECIMALS
from tools.prediction.running import set_up_cpu
from tools.prediction.settings import PredictionSettings
from tools.processes.threads import default_threads


def images_of(root: Path) -> dict[int, Path]:
    data = json.loads((root / "annotations/instances_val.json").read_text())
    return {image["id"]: root / "val" / image["file_name"] for image in data["images"]}


def test_detections_are_those_of_the_evaluation(tiny_runs, small_shapes: Path):
    """Original category ids, original pixels, the run's sizes, precision and norm."""
    torch.set_num_threads(default_threads())  # as the run had: others sum in another order, and ties fall otherwise
    detector = detection.load(tiny_runs["det"])
    files = images_of(small_shapes)
    rows = json.loads((tiny_runs["det"] / "detections.json").read_text())
    near = rounding(512 * 9, layers=25)  # ResNet-18, FPN and heads
    for image_id, found in zip(files, detector(list(files.values()))):
        before = [row for row in rows if row["image_id"] == image_id]
        boxes = torch.cat([found.boxes[:, :2], found.boxes[:, 2:] - found.boxes[:, :2]], 1)
        assert_same_detections(
            {"boxes": boxes, "scores": found.scores, "labels": found.labels},
            {
                "boxes": torch.tensor([row["bbox"] for row in before]),
                "scores": torch.tensor([row["score"] for row in before]),
                "labels": torch.tensor([row["category_id"] for row in before]),
            },
            boxes=written(BOX_DECIMALS) + 64 * near,  # images of 64 pixels
            scores=written(SCORE_DECIMALS) + near,
        )
    assert len(rows) > 10
    assert set(found.names) <= {"circle", "square", "triangle", "star", "ring", "cross"}


def test_label_maps_are_those_of_the_evaluation(tiny_runs, small_shapes: Path):
    """With its tiles and mirror images: the same confusion matrix."""
    from backbones.common.datasets import find_split
    from segmentation.data.coco import CocoLabels
    from segmentation.metrics import LabelMetrics

    segmenter = segmentation.load(tiny_runs["seg"])
    assert (segmenter.predictor.tile, segmenter.predictor.flip) == (48, True)
    truth = CocoLabels(*find_split(small_shapes, "val"))
    metrics = LabelMetrics(truth.classes.names)
    found = segmenter([truth.file(row) for row in range(len(truth))])
    masks = [torch.from_numpy(truth.labels(row, found[row].labels.shape)) for row in range(len(truth))]
    metrics.update([each.labels for each in found], {"mask": masks})
    assert metrics.confusion().tolist() == json.loads((tiny_runs["seg"] / "confusion.json").read_text())["matrix"]
    assert found[0].names == truth.classes.names


def test_rankings_are_those_of_the_evaluation(tiny_runs):
    """With its ten crops, bicubic resizing and the data's own mean: the same class and probability."""
    classifier = classification.load(tiny_runs["cls"])
    with open(tiny_runs["cls"] / "predictions.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    folder = tiny_runs["cls"].parent / "pictures" / "val"
    found = classifier([folder / row["image"].removeprefix("val/") for row in rows])
    assert [each.names[0] for each in found] == [row["predicted"] for row in rows]
    best = [each.probabilities[0].item() for each in found]
    within = written(4) + rounding(64 * 9, layers=20)  # the file has four decimals
    np.testing.assert_allclose(best, [float(row["confidence"]) for row in rows], rtol=0, atol=within)
    assert sum(found[0].probabilities.tolist()) == pytest.approx(1, abs=rounding(2))


def picture(path: Path, *, orientation: int | None = None, mode: str = "RGB") -> Path:
    """A JPEG or PNG 60 pixels wide and 40 high."""
    pixels = np.random.default_rng(1).integers(0, 255, (5, 6, 3), np.uint8).repeat(8, 0).repeat(10, 1)
    image = Image.fromarray(pixels).convert(mode)
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    image.save(path, exif=exif)
    return path


def test_all_forms_of_an_image_give_the_same(tiny_runs, tmp_path: Path):
    path = picture(tmp_path / "a.png")
    array = np.asarray(Image.open(path))
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    for task, package in (("det", detection), ("seg", segmentation)):
        net = package.load(tiny_runs[task], precision="fp32")
        one = net(path)
        for form in (str(path), Image.open(path), array, tensor):
            (found,) = net([form])
            assert np.array_equal(found.pixels(), array)
            for name, value in vars(found).items():
                assert name == "source" or np.array_equal(value, vars(one)[name]), (task, type(form), name)
        floats = net(tensor / 255)
        assert type(floats) is type(one)
    classifier = classification.load(tiny_runs["cls"], precision="fp32")
    for form in (Image.open(path), array, tensor):
        assert torch.equal(classifier(form).probabilities, classifier(path).probabilities)
    close = classifier(tensor / 255).probabilities - classifier(path).probabilities
    assert close.abs().max() < 0.02  # bytes are rounded after resizing, floats are not


def test_exif_turns_as_in_evaluation(tiny_runs, tmp_path: Path):
    """Detectors and classifiers see turned images, segmentation the pixels as they lie under their label maps."""
    path = picture(tmp_path / "a.jpg", orientation=6)
    for form in (path, Image.open(path)):
        assert detection.load(tiny_runs["det"]).read(form).shape == (3, 60, 40)
        assert segmentation.load(tiny_runs["seg"])(form).labels.shape == (40, 60)
    upright = np.asarray(Image.open(path).transpose(Image.Transpose.ROTATE_270))
    classifier = classification.load(tiny_runs["cls"])
    seen, wanted = classifier.read(Image.open(path)), classifier.read(upright)
    assert all(torch.equal(a, b) for a, b in zip(seen, wanted))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "1", "I;16"])
def test_other_modes_of_pictures(tiny_runs, tmp_path: Path, mode: str):
    """Alpha is dropped, grey repeated, 16 bits become 8, from a file as from PIL."""
    path = picture(tmp_path / "a.png", mode="L" if mode == "I;16" else mode)
    if mode == "I;16":
        Image.fromarray(np.asarray(Image.open(path)).astype(np.uint16) * 257).save(path)
    detector = detection.load(tiny_runs["det"])
    difference = detector.read(path).int() - detector.read(Image.open(path)).int()
    assert detector.read(path).shape == (3, 40, 60)
    assert difference.abs().max() <= 1


def test_weights_alone_and_unfinished_runs(tiny_runs, tmp_path: Path):
    run = tiny_runs["det"]
    assert find(run).path == run / "model.safetensors"
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run/model.safetensors").unlink()
    assert detection.load(tmp_path / "run").trained.path.name == "best.safetensors"
    moved = shutil.copy(run / "model.safetensors", tmp_path / "moved.safetensors")
    assert len(detection.load(moved).categories) == 6


BAD_IMAGES: dict[str, tuple[Any, str]] = {
    "float bytes": (torch.ones(3, 8, 8) * 255, "floats from 255 to 255"),
    "channels last": (torch.zeros(8, 8, 3, dtype=torch.uint8), "has 8 channels"),
    "integers": (np.zeros((8, 8, 3), np.int64), "array of int64"),
    "batch": (torch.zeros(2, 3, 8, 8), "has the shape"),
    "empty": (np.zeros((0, 8, 3), np.uint8), "has the shape"),
    "thin": (np.zeros((4000, 1, 3), np.uint8), "short side"),
    "nothing": (None, "expected a path"),
    "missing": ("gone.jpg", "gone.jpg: cannot be read"),
    "not finite": (torch.full((3, 8, 8), float("nan")), "floats from nan"),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_bad_images_are_refused(tiny_runs, name: str):
    image, text = BAD_IMAGES[name]
    with pytest.raises(UserError, match=text):
        detection.load(tiny_runs["det"])(image)


@pytest.mark.parametrize("task", ["det", "seg", "cls"])
def test_a_loaded_model_can_be_copied_and_pickled(task: str):
    run = Path(__file__).resolve().parents[2] / "data" / "earlier_runs" / task
    loaded = {"det": detection, "seg": segmentation, "cls": classification}[task].load(run)
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    expected = loaded(image)  # fills the cache of folded weights, which a copy must not share
    for twin in (copy.deepcopy(loaded), pickle.loads(pickle.dumps(loaded))):
        for name, value in vars(twin(image)).items():
            if name == "source":
                continue
            same = torch.equal(value, vars(expected)[name]) if torch.is_tensor(value) else value == vars(expected)[name]
            assert same


def test_bad_runs_are_refused(tiny_runs, tmp_path: Path):
    run = tiny_runs["det"]
    (tmp_path / "started").mkdir()
    (tmp_path / "started/config.yaml").write_text("epochs: 1\n")
    (tmp_path / "bare.pth").write_bytes(b"x")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with safe_open(run / "model.safetensors", "pt") as file:
        meta = json.loads(file.metadata()["meta"])
    for name, change in {
        "half": {"input": {}},
        "net": {"model": {"backbone": "resnet51"}},
        "list": {"model": []},
    }.items():
        save_file({"a": torch.zeros(1)}, tmp_path / f"{name}.safetensors", {"meta": json.dumps({**meta, **change})})
    (tmp_path / "torn.safetensors").write_bytes((run / "model.safetensors").read_bytes()[:5000])
    for path, text in {
        tmp_path / "gone": "no such run folder",
        tmp_path: "is not a run folder",
        tmp_path / "started": "continue its training with --resume",
        tmp_path / "bare.pth": "is not a .safetensors file",
        tmp_path / "other.safetensors": "has no header that describes its model",
        tmp_path / "torn.safetensors": "is not a complete safetensors file",
        tmp_path / "half.safetensors": "half.safetensors: ",
        tmp_path / "net.safetensors": "resnet51",
        tmp_path / "list.safetensors": "does not describe a model that this version can build",
        run / "checkpoint/last.safetensors": "is a checkpoint for resuming a run",
        tiny_runs["seg"]: "is a model for segmentation; load it with segmentation.load",
    }.items():
        with pytest.raises(UserError) as caught:
            detection.load(path)
        assert text in str(caught.value)
        assert str(path) in str(caught.value)


def test_models_stream_filter_and_draw(tiny_runs: dict[str, Path], small_shapes: Path):
    """Generators are read batch by batch; results know their image; `score` and `classes` limit what is returned."""
    files = list(images_of(small_shapes).values())
    detector = detection.load(tiny_runs["det"], device="cpu")
    taken: list[Path] = []

    def paths():
        for file in files:
            taken.append(file)
            yield file

    stream = detector.stream(paths(), batch_size=2)
    first = next(stream)
    assert taken == files[:2] and first.path == str(files[0])
    assert [each.path for each in (first, *stream)] == [str(file) for file in files]
    with pytest.raises(UserError, match=r"^stream: .* is one path; pass an iterable of images, or call the model"):
        next(detector.stream(str(files[0])))
    assert first.plot().size == (512, 512)  # shapes of 64 pixels, enlarged
    whole = detector(files)
    limit = float(np.median(np.concatenate([each.scores for each in whole])))
    sure = detection.load(tiny_runs["det"], device="auto", score=limit, classes=["star"])(files)
    kept = [each[(each.scores > limit) & each.named("star")] for each in whole]
    assert [each.names for each in sure] == [each.names for each in kept] and sum(map(len, sure)) > 0
    with pytest.raises(UserError, match=r"^named\('strar'\): the model has no such class; choose among star"):
        whole[0].named("strar")
    with pytest.raises(UserError, match="classes='strar': the model has no such class; choose among star"):
        detection.load(tiny_runs["det"], classes=["strar"])
    assert detection.load(tiny_runs["det"], sizes=np.array([48, 64]))(files[:1])
    assert segmentation.load(tiny_runs["seg"], scales=np.array([0.5, 1.0]))(files[:1])
    with pytest.raises(UserError, match="classes=3: the model has no such class"):
        detection.load(tiny_runs["det"], classes=[3])
    with pytest.raises(UserError, match="classes=3: expected a list of the names of classes"):
        detection.load(tiny_runs["det"], classes=3)
    with pytest.raises(UserError, match="score=2: must be between 0 and 1"):
        detection.load(tiny_runs["det"], score=2)
    # "best" are the limits of the run's own evaluation, by class.
    best = json.loads((tiny_runs["det"] / "results.json").read_text())["best_scores"]
    assert 0 < best["low"] <= best["score"] <= best["high"] < 1 and best["temperature"] > 0
    chosen = detection.load(tiny_runs["det"], score="best")
    assert set(chosen.limits) == set(chosen.categories.ids) and best["score"] in chosen.limits.values()
    wanted = [sum(each.score >= chosen.limits[each.label] for each in found) for found in whole]
    assert [len(each) for each in chosen(files)] == wanted and sum(wanted) > 0

    labels = segmentation.load(tiny_runs["seg"])(np.array(Image.open(files[0])))
    assert abs(sum(row["fraction"] for row in labels.rows()) - 1) < 1e-9 or "background" in labels.names
    name = next(iter(labels))
    assert int(labels[name].sum()) == labels.rows()[0]["pixels"] and labels.plot().width == 512
    assert json.loads(json.dumps(labels.to_dict()))["results"][0]["name"] == name == next(iter(labels.fractions()))
    assert labels.to_coco(3)[0]["segmentation"]["size"] == [64, 64]

    ranking = classification.load(tiny_runs["cls"], classes=["pear"])(files[0])
    assert [name for name, _ in ranking] == ["pear"] and 0 < ranking[0][1] < 1
    both = classification.load(tiny_runs["cls"])(files[0])
    assert len(both) == 2 and both[:1].names == both.names[:1] and len(both[both.probabilities > 2]) == 0
    assert json.loads(json.dumps(both.to_dict()))["image"] == str(files[0])
    assert b"PNG" in both._repr_png_()[:8]


def test_a_prediction_takes_the_threads_of_the_environment(monkeypatch: pytest.MonkeyPatch):
    for name, value, threads in (("3", None, 3), ("3", 1, 1)):
        monkeypatch.setenv("OMP_NUM_THREADS", name)
        set_up_cpu(PredictionSettings(threads=value))
        assert torch.get_num_threads() == threads


def test_a_ranking_has_at_least_one_class(tiny_runs: dict[str, Path]):
    with pytest.raises(UserError, match="top=0: must be above 0"):
        classification.load(tiny_runs["cls"], top=0)
