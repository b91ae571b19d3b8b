"""Benchmarks of detectors, segmentation models, metrics, pipelines, memory and growth: by hand, and tiny runs."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from backbones.common.decoded import GIB, DecodedImages
from backbones.errors import UserError
from backbones.trained import find
from tools import benchmark
from tools.benchmarks.deployed import TrainedRun
from tools.benchmarks.detect import MeasuredDetector, ellipses
from tools.benchmarks.latency import LatencyRow
from tools.benchmarks.latency import report as latency_report
from tools.benchmarks.memory import report as memory_report
from tools.benchmarks.memory import summary as worker_summary
from tools.benchmarks.pipelines import CACHED, FLOATS, PEER, PLAIN, TENSORS, Images, implementations
from tools.benchmarks.scale import growth, train_together
from tools.benchmarks.settings import Setting, Way
from tools.benchmarks.workers import measure_data_set
from tools.exports.evaluation import Change
from tools.synthetic.coco_results import synthetic_results, write_synthetic

RATES = {"matmul_gflops": {"fp32": 50.0, "bf16": 50.0}, "copy_gbytes": 10.0, "cores": 1}
# Rounding of fp32, relative: 60 layers, and sums of up to 512 x 3 x 3 terms, whose error grows as their square root. A
# wrong layer differs by more than a hundredth.
ROUNDING = 60 * (512 * 9) ** 0.5 * float(np.finfo(np.float32).eps)  # 5e-4
FAST = ("--rounds", "1", "--turn", "0", "--threads", "1")


@pytest.fixture(autouse=True)
def quick_machine(monkeypatch: pytest.MonkeyPatch):
    """Spare the seconds that measuring the machine takes."""
    facts: dict[str, Any] = {"date": "d", "cpu": "p", "flags": ["fma"], "gpu": None, "threads": 1}
    monkeypatch.setattr("tools.benchmarks.machine.describe", lambda **_: {**facts, **RATES, "versions": {}})
    monkeypatch.setattr("tools.benchmarks.machine.set_up", lambda *_: None)


def run(folder: Path, *words: str) -> dict[str, Any]:
    """Run a benchmark, and return its results.json."""
    benchmark.main([*words, *FAST, "--output", str(folder / "b")])
    results: dict[str, Any] = json.loads((folder / "b" / "results.json").read_text())
    assert results["complete"]
    assert (folder / "b" / "table.md").is_file() and (folder / "b" / "chart.png").is_file()
    return results


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """Three JPEGs of 64x48 in COCO's layout."""
    truth, _ = synthetic_results(3, 1, seed=0)
    for image in truth["images"]:
        image |= {"width": 64, "height": 48}
    for record in truth["annotations"]:
        record |= {"bbox": [4, 6, 30, 20], "area": 600, "segmentation": [[4, 6, 34, 6, 34, 26, 4, 26]]}
    folder = tmp_path / "coco"
    for name in ("annotations", "train2017"):
        (folder / name).mkdir(parents=True)
    (folder / "annotations" / "instances_train2017.json").write_text(json.dumps(truth))
    for image in truth["images"]:
        pixels = np.random.default_rng(image["id"]).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / "train2017" / image["file_name"]), pixels)
    return folder


def test_the_losses_of_both_libraries_agree(tmp_path: Path):
    """The check that every run of `detect` makes, on a net that its defaults measure alone."""
    difference = MeasuredDetector("resnet18", "c4", 32, 1, classes=3).share_weights(tmp_path / "weights.pth")
    assert difference is not None and difference < ROUNDING


def test_the_losses_of_masks_agree(tmp_path: Path):
    """The ellipses as strips and as bitmaps give both libraries the same mask loss."""
    spec = MeasuredDetector("resnet50", "fpn", 32, 1, classes=3, masks=True)
    difference = spec.share_weights(tmp_path / "weights.pth")
    assert difference is not None and difference < ROUNDING
    # An ellipse of 4x2 pixels whose corners are cut off: the centres of the corner pixels lie at 0.75^2 + 0.5^2 < 1,
    # so none is; one of 8x8 has 52 pixels, as counted by hand in each row: 4, 6, 8, 8, 8, 8, 6, 4.
    masks = ellipses(torch.tensor([[10.0, 10, 14, 12], [20, 20, 28, 28]]))
    assert masks.shape == (2, 480, 640) and masks.sum((1, 2)).tolist() == [8, 52]


def test_names_of_detectors():
    assert MeasuredDetector.parse("resnet50-c4:400x1", batch=2) == MeasuredDetector("resnet50", "c4", 400, 1)
    assert MeasuredDetector.parse("timm/res-net-fpn:64", batch=2) == MeasuredDetector("timm/res-net", "fpn", 64, 2)
    masks = MeasuredDetector.parse("resnet50-fpn-masks:400", batch=2)
    assert masks == MeasuredDetector("resnet50", "fpn", 400, 2, masks=True) and str(masks) == "resnet50-fpn-masks"
    assert masks.peers == ["torchvision"] and MeasuredDetector("resnet50", "c4", 400, 2, masks=True).peers == []
    for text in ("resnet50", "resnet50-fpn", "-fpn:400", "resnet50-fpn:0", "resnet50-fpn:400x0"):
        with pytest.raises(UserError, match="expected BACKBONE-NECK:PIXELS"):
            MeasuredDetector.parse(text, batch=2)
    assert MeasuredDetector("resnet18", "dc5", 400, 2).peers == []  # torchvision's basic blocks do not dilate
    assert MeasuredDetector("resnet18", "fpn", 400, 2).peers == ["torchvision"]
    assert MeasuredDetector("resnet18", "fpn", 400, 2, alone=True).peers == []


def test_a_run_of_detectors(tmp_path: Path):
    words = ("--nets", "resnet18-fpn:32x1", "--precision", "fp32", "--compared", "resnet18*", "--mode", "infer")
    (row,) = run(tmp_path, "detect", *words)["nets"]
    assert row["loss_difference"] < ROUNDING
    equal = row["infer"]["settings"]["equal fp32"]
    assert set(equal["ratio"]) == set(equal["peer_floor_share"]) == {"torchvision"} and equal["floor_share"] > 0
    assert row["infer"]["operations"] > 0
    assert set(row["infer"]["waits"]) == {"ours", "torchvision"}


def test_a_run_of_segmentation_models(tmp_path: Path):
    (row,) = run(tmp_path, "segment", "--nets", "resnet50-dilated:32", "--mode", "infer", "--batch", "1")["nets"]
    assert row["score_difference"] < ROUNDING
    assert set(row["infer"]["settings"]["stock"]["ratio"]) == {"torchvision"}


@pytest.mark.parametrize("iou", ["bbox", "segm"])
def test_a_run_of_metrics(tmp_path: Path, iou: str):
    words = ("--images", "20", "--detections", "300", "--libraries", "pycocotools", "--iou", iou)
    ours, theirs = run(tmp_path, "evaluate", *words)["libraries"]
    assert (ours["library"], theirs["library"]) == ("ours", "pycocotools")
    assert ours["time_ratio"] == 1 and theirs["difference"] == 0 and len(theirs["figures"]) == 12
    assert 0 < theirs["figures"][0] < 1


def test_items_of_the_pipelines_are_alike(coco: Path, tmp_path: Path):
    images, cache = Images.read(coco, limit=None), DecodedImages(tmp_path, GIB)
    cache.create()
    for task, side in (("classify", 224), ("detect", None), ("detect-lsj", 1024), ("segment", 480)):
        fetches = {c.name: c.prepare.args[0] for c in implementations(task, images, cache)}  # type: ignore[attr-defined]
        assert list(fetches) == [PLAIN, FLOATS, CACHED, PEER, TENSORS]
        ours, floats, cached, *peers = (fetch(0, 1) for fetch in fetches.values())
        theirs, tensors = (item[0] if isinstance(item, tuple) else item for item in peers)
        assert ours[0].dtype == torch.uint8 and floats.dtype == theirs.dtype == tensors.dtype == torch.float32
        assert ours[0].shape == floats.shape == theirs.shape == tensors.shape == (3, side or 48, side or 64)
        assert torch.equal(cached[0], ours[0]) and torch.equal(fetches[CACHED](0, 1)[0], ours[0])
    assert list(tmp_path.glob("*.npy"))


def test_a_run_of_pipelines(coco: Path, tmp_path: Path):
    rows = run(tmp_path, "load", "--data", str(coco), "--limit", "2")["pipelines"]
    assert [row["task"] for row in rows] == ["classify", "detect", "detect-lsj", "detect-strong", "segment"]
    assert all(row["images"] == 2 and set(row["ratio"]) == {PLAIN, FLOATS, CACHED} for row in rows)
    # 2 images a pass: fraction = images/s x 64 x 48 x 3 bytes / 10 GB/s
    assert rows[0]["floor_share"][PEER] == pytest.approx(rows[0]["images_per_second"][PEER] * 64 * 48 * 3 / 10e9)


def test_workers_and_their_medians(tmp_path: Path):
    truth, _ = write_synthetic(tmp_path, 200, 1, seed=0)
    found = measure_data_set("ours", truth)
    assert found["images"] == 200 and found["read_seconds"] > 0 and found["seconds_an_image"] > 0
    runs: list[Any] = [{**found, "growth_bytes": value} for value in (3, 1, 2)]
    assert worker_summary("ours", [*runs, None], size=7)["growth_bytes"] == 2
    with pytest.raises(UserError, match="ended early"):
        worker_summary("ours", [None], size=7)


def test_a_run_of_memory(tmp_path: Path):
    words = ("--detectors", "resnet18-fpn:32", "--batch", "1", "--classifiers", "", "--images", "0")
    (row,) = run(tmp_path, "memory", *words, "--precision", "fp32")["nets"]
    # Weights, gradients and moments of 28 million parameters, 4 bytes each, of which a fifth is frozen.
    assert all(peak > 200e6 for peaks in row["peak_bytes"].values() for peak in peaks.values())


def test_a_peak_that_is_absent_leaves_a_gap():
    way = Way("fp32", True)
    rows = [{"net": "n", "batch": 2, "peak_bytes": {"equal": {"ours": 2_000_000, "torchvision": peak}}}
            for peak in (5_000_000, None)]  # fmt: skip
    made = memory_report(rows, [Setting("equal", way, way)], [])
    assert made.tables[0].rows == [["n", "2", "2", "5", "2.50"], ["n", "2", "2", None, None]]


def test_growth_by_hand():
    rows = [{"value": 10, "seconds": {"ours": [1.0, 9.0, 2.0]}}, {"value": 1000, "seconds": {"ours": [20.0]}}]
    assert growth(rows, "ours") == pytest.approx(0.5)  # ten times as long for a hundred times as much
    assert growth(rows[:1], "ours") is None


def test_a_run_of_growth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tools.benchmarks.scale.AXES", {"images": (2, 4), "objects": (1, 3)})
    monkeypatch.setattr("tools.benchmarks.scale.HEIGHT", 128)
    found = run(tmp_path, "scale", "--axes", "images,objects", "--memory", "false")["axes"]
    assert [row["value"] for row in found["objects"]] == [1, 3]
    assert set(found["images"][0]["ratio"]) == {"pycocotools"}
    text = (tmp_path / "b" / "table.md").read_text()
    assert text.count("| growth") == 2


def test_processes_train_together():
    assert len(train_together(1, rounds=2)) == 2


@pytest.mark.parametrize(
    ("words", "text"),
    (
        (("detect", "--nets", "resnet50"), "expected BACKBONE-NECK:PIXELS"),
        (("detect", "--nets", ","), "--nets ,: names no model"),
        (("segment", "--nets", "resnet50-dilated"), "expected BACKBONE-HEAD:PIXELS"),
        (("evaluate", "--libraries", "cocoapi"), "--libraries cocoapi: unknown; choose from pycocotools"),
        (("load", "--data", "nowhere"), "--data nowhere: no such folder"),
        (("load", "--data", "x", "--tasks", "track"), "--tasks track: must be one or more of classify"),
        (("scale", "--axes", "time"), "--axes time: must be one or more of images"),
        (("memory", "--detectors", "", "--classifiers", "", "--images", "0"), "nothing to measure"),
    ),
)
def test_user_errors_are_named(words: tuple[str, ...], text: str, tmp_path: Path):
    with pytest.raises(UserError, match=text) as caught:
        benchmark.main([*words, "--output", str(tmp_path / "new")])
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_latency_of_each_runtime_and_why_one_is_missing(tmp_path: Path):
    pytest.importorskip("onnx")
    runtimes = ["pytorch", "onnxruntime", "onnxruntime-int8"]
    runtimes += ["openvino", "openvino-int8"] if find_spec("openvino") else []
    words = ("--nets", "resnet20:32", "--runtimes", ",".join([*runtimes, "pytorch-bf16"]))
    found = run(tmp_path, "latency", *words)
    assert [row["runtime"] for row in found["rows"]] == runtimes
    assert found["absent"] == {"resnet20:32, pytorch-bf16": "this CPU computes bf16 no faster than fp32"}
    # Each process holds the weights of ResNet-20 at least once: 270,000 numbers of 4 bytes, or of 1 byte.
    assert all(row["peak_bytes"] > 270_000 and row["change"] is None for row in found["rows"])
    lines = (tmp_path / "b" / "table.md").read_text().splitlines()
    assert sum(line.startswith("| resnet20:32") for line in lines) == len(runtimes)
    wrong = (("--runtimes", "tensorrt"), "expected names among"), (("--nets", "resnet20"), "BACKBONE:PIXELS")
    for odd, said in wrong:
        with pytest.raises(UserError, match=said):
            run(tmp_path / "other", "latency", *odd)


def test_a_run_is_measured_with_its_accuracy(tiny_runs: dict[str, Path], tmp_path: Path):
    pytest.importorskip("onnx")
    folder = str(tiny_runs["seg"])
    found = run(tmp_path, "latency", "--nets", folder, "--runtimes", "pytorch,onnxruntime-int8", "--memory", "false")
    first, second = found["rows"]
    own = TrainedRun(folder).score(tiny_runs["seg"] / "model.safetensors", "fp32")
    assert first["net"] == folder and first["peak_bytes"] is None
    assert first["change"] == {**dict.fromkeys(("before", "after"), own.score(np.ones(own.size))), "low": 0, "high": 0}
    change = second["change"]
    assert change["before"] == first["change"]["after"]
    # 8 bits change at least one pixel of a model that is trained for one epoch.
    assert change["after"] != change["before"] and change["low"] <= change["high"]


def test_a_run_without_its_data_is_refused_before_anything_is_measured(tiny_runs: dict[str, Path], tmp_path: Path):
    config = {**find(str(tiny_runs["cls"])).config, "data": str(tmp_path / "gone")}
    with safe_open(tiny_runs["cls"] / "model.safetensors", framework="pt") as file:
        header = {**file.metadata(), "config": json.dumps(config)}
    save_file(load_file(tiny_runs["cls"] / "model.safetensors"), tmp_path / "moved.safetensors", metadata=header)
    with pytest.raises(UserError, match=r"moved.safetensors: the data of the run, .*gone, is not here"):
        run(tmp_path, "latency", "--nets", str(tmp_path / "moved.safetensors"))


def test_ratios_of_latency_by_hand():
    """Medians of 0.2 and 0.1 s; ratios of 2, 2 and 4 in the three rounds."""
    times = {"pytorch": [0.2, 0.2, 0.4], "onnxruntime": [0.1, 0.1, 0.1]}
    lost = Change(before=0.5, after=0.48, low=-0.03, high=0.005)
    rows = [
        LatencyRow(net="n", runtime=name, seconds=seconds, peak_bytes=peak, change=found)
        for (name, seconds), peak, found in zip(times.items(), (None, 12_600_000), (None, lost), strict=True)
    ]
    made = latency_report(rows, {"n, compiled": "none"})
    first = ["n", "pytorch", "200.0", "5.0", "1.00", None, None, None]
    second = ["n", "onnxruntime", "100.0", "10.0", "2.00", "13", "48.00", "-2.00 [-3.00, +0.50]"]
    assert made.tables[0].rows == [first, second]
    assert made.notes[-1] == "Not measured: n, compiled (none)."
