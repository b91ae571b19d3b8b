"""Data sets in every layout train one step and are evaluated from `--data` alone."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import CIFAR
from label_exports import DIVIDED, LABEL_EXPORTS
from tool_exports import EXPORTS

from classification.data.layouts import BUILT_IN as CLASS_LAYOUTS
from detection.data.folders import offers_split
from detection.data.layouts.known import BUILT_IN
from tools import make_shards, train_cls, train_det, train_seg

QUICK = ("--epochs", 1, "--batch-size", 2, "--workers", 0, "--threads", 1, "--precision", "fp32")
SEG = ("--recipe", "shapes", "--backbone", "timm/test_resnet")
DET = ("--backbone", "timm/test_resnet", "--weights", "none", "--fpn-channels", 8, "--head-channels", 8)
SMALL = ("--min-size", 40, "--max-size", 60, "--proposals", 4)
SPLIT = ("--val-fraction", 0.5)


def arguments(*words: object) -> list[str]:
    return list(map(str, words))


def results(run: Path) -> dict[str, object]:
    """Return the results of a run, whose log says that it made one step."""
    steps = [json.loads(line).get("step") for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert max(step for step in steps if step is not None) == 1
    found: dict[str, object] = json.loads((run / "results.json").read_text())
    return found


def instance_maps(root: Path) -> None:
    """Penn-Fudan's layout, which no annotation tool writes."""
    for folder in ("PNGImages", "PedMasks"):
        (root / folder).mkdir(parents=True)
    for name in ("a", "b"):
        cv2.imwrite(str(root / f"PNGImages/{name}.png"), np.zeros((40, 60, 3), np.uint8))
        cv2.imwrite(str(root / f"PedMasks/{name}_mask.png"), np.pad(np.ones((20, 30), np.uint8), ((9, 11), (9, 21))))


BOXES = {layout: write for layout, write in EXPORTS.values()} | {"instance-maps": instance_maps}


@pytest.mark.parametrize("layout", BUILT_IN)
def test_boxes_in_every_layout_train_a_detector(layout: str, tmp_path: Path):
    BOXES[layout](tmp_path / "set")
    words = arguments("--data", tmp_path / "set", *DET, *SMALL, *QUICK, "--output", tmp_path / "run")
    divided = offers_split(tmp_path / "set", "val")
    train_det.main([*words, *(() if divided else arguments(*SPLIT))])
    assert results(tmp_path / "run")["images"] == (2 if divided else 1)


@pytest.mark.parametrize("name", [*LABEL_EXPORTS, *DIVIDED])
def test_label_maps_in_every_layout_train_a_segmenter(name: str, tmp_path: Path):
    (LABEL_EXPORTS | DIVIDED)[name](tmp_path / "set")
    words = ("--data", tmp_path / "set", *SEG, "--crop-size", 16, *QUICK)
    train_seg.main(arguments(*words, *(() if name in DIVIDED else SPLIT), "--output", tmp_path / "run"))
    assert results(tmp_path / "run")["images"] == 1


@pytest.mark.parametrize("layout", CLASS_LAYOUTS)
def test_classes_in_every_layout_train_a_classifier(layout: str, tmp_path: Path):
    root, names = tmp_path / "set", [(f"{kind}_{n}.png", kind, n) for kind in ("ant", "bee") for n in (0, 1)]
    for name, kind, number in names:
        folder = root if layout in ("csv", "pattern") else root / ("val" if number else "train") / kind
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name), np.full((16, 16, 3), 90 * (kind == "ant") + number, np.uint8))
    if layout == "csv":
        (root / "labels.csv").write_text("image,label\n" + "".join(f"{name},{kind}\n" for name, kind, _ in names))
    if layout == "shards":
        make_shards.main(arguments("--data", root, "--output", tmp_path / "shards"))
    undivided = {"csv": SPLIT, "pattern": (*SPLIT, "--label-from", "^([a-z]+)_")}.get(layout, ())
    words = ("--data", tmp_path / ("shards" if layout == "shards" else "set"), *CIFAR, "--crop-size", 16)
    small = ("--resize-size", 16, "--augment", "light", "--base-lr", 0.01)
    train_cls.main(arguments(*words, *small, *QUICK, *undivided, "--output", tmp_path / "run"))
    assert results(tmp_path / "run")["images"] == 2
