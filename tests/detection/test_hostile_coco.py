"""Mutants of a good COCO file: each is read with a defined result, or refused with an error that names the file.

What a reader refuses, the check of data sets finds as well.

`HOSTILE_SCALE=220 python -m pytest tests/detection/test_hostile_coco.py` tries 220 times as many, about 100,000, at
random.
"""

from __future__ import annotations

import copy
import json
import math
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CocoFolder
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools import mask

from backbones.errors import UserError
from detection.data.annotations import CocoAnnotations
from detection.data.dataset import CocoDetection
from detection.transforms import Augment
from segmentation.data.classes import IGNORE
from segmentation.data.coco import CocoLabels
from tools.checks.boxes import check_coco
from tools.checks.findings import CheckReport
from tools.checks.images import SplitImages
from tools.evaluation.evaluator import CocoEvaluator

SCALE = int(os.environ.get("HOSTILE_SCALE", 1))
PATIENCE = 60  # seconds; reading a mutant for longer is a failure
NEST, DEPTHS = "nested to depth ", (7, 70, 900, 100_000)


@pytest.fixture(autouse=True)
def exact_floats() -> None:
    """Keep numbers below 1e-38, which an earlier run in this process may have set to be flushed to 0."""
    torch.set_flush_denormal(False)


def hostile(mutants: int) -> settings:
    """Return the settings of a property test: the same mutants each time, unless HOSTILE_SCALE asks for more."""
    return settings(
        max_examples=mutants * SCALE,
        derandomize=SCALE == 1,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def outline(left: int, top: int, width: int, height: int) -> list[list[float]]:
    right, bottom = left + width, top + height
    return [[left, top, right, top, right, bottom, left, bottom]]


def good_file(data: dict[str, Any]) -> dict[str, Any]:
    """Return the small data set with an outline for each box: polygons, and run lengths for the crowds."""
    data = copy.deepcopy(data)
    for annotation in data["annotations"]:
        annotation["segmentation"] = outline(*annotation["bbox"])
    data["annotations"][3]["segmentation"] = {"size": [40, 60], "counts": [0, 800, 1600]}
    crowd = np.zeros((40, 60), np.uint8, order="F")
    crowd[5:35, 5:55] = 1
    data["annotations"][4]["segmentation"] = {"size": [40, 60], "counts": mask.encode(crowd)["counts"].decode()}
    return data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> CocoFolder:
    coco = CocoFolder(tmp_path_factory.mktemp("hostile"))
    coco.write()
    coco.data = good_file(coco.data)
    return coco


ODD_NUMBERS = (
    -1, 0, 0.5, 40, 60, 61, 2**20, 2**31, 2**53, 2**63, 2**64, 10**30, 10**400, 1e300, 1e308, 5e-324, -0.0,
    math.nan, math.inf, -math.inf,
)  # fmt: skip
ODD_TEXTS = (
    "", "0", "1", "005.jpg", "../train2017/005.jpg", "../../../../etc/passwd", "/etc/passwd", ".", "a\0b", "\ud800",
    "é", "x" * 300, "x" * 5000, "PPP", "~~~~~~~~", *(f"{NEST}{depth}" for depth in DEPTHS),
)  # fmt: skip
ODD = st.sampled_from([None, True, False, *ODD_NUMBERS, *ODD_TEXTS])
JUNK = st.recursive(
    ODD | st.floats() | st.text(max_size=5),
    lambda part: st.lists(part, max_size=4) | st.dictionaries(st.text(max_size=3), part, max_size=3),
    max_leaves=6,
)
CHANGES = ["odd", "odd", "odd", "junk", "delete", "duplicate", "wrap", "retype", "transplant"]


def a_place(draw: Any, node: Any) -> tuple[Any, Any]:
    """Choose a list or object of a tree and a key in it; all branches are equally likely, whatever their size."""
    while True:
        key = draw(st.sampled_from(list(node) if isinstance(node, dict) else range(len(node))))
        below = node[key]
        if not isinstance(below, (dict, list)) or not below or draw(st.sampled_from([False] * 4 + [True])):
            return node, key
        node = below


def mutate(draw: Any, data: dict[str, Any]) -> None:
    """Change one value."""
    parent, key = a_place(draw, data)
    value, change = parent[key], draw(st.sampled_from(CHANGES))
    if change == "delete":
        del parent[key]
    elif change == "duplicate" and isinstance(parent, list):
        parent.insert(draw(st.integers(0, len(parent))), copy.deepcopy(value))
    elif change == "wrap":
        parent[key] = [value]
    elif change == "retype":
        parent[key] = draw(st.sampled_from([str(value), bool(value), len(str(value)) + 0.0, {str(key): value}]))
    elif change == "transplant":
        other, place = a_place(draw, data)
        parent[key] = copy.deepcopy(other[place])
    else:
        parent[key] = draw(JUNK if change == "junk" else odd_like(value))


def odd_like(value: Any) -> st.SearchStrategy[Any]:
    """Return odd values of the same type as a value, if there are any."""
    if isinstance(value, str):
        return st.sampled_from(ODD_TEXTS)
    return st.sampled_from(ODD_NUMBERS) if isinstance(value, (int, float)) else ODD


def mutant(draw: Any, good: dict[str, Any]) -> bytes:
    """Return a good file with broken values, broken text, or both."""
    data = copy.deepcopy(good)
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        if data:
            mutate(draw, data)
    text = json.dumps(data)
    for depth in DEPTHS:
        text = text.replace(f'"{NEST}{depth}"', "[" * depth + "]" * depth)
    content = bytearray(text.encode())
    harm = draw(st.sampled_from(["none"] * 8 + ["cut", "flip"]))
    if harm == "cut":
        del content[draw(st.integers(0, len(content))) :]
    for _ in range(draw(st.integers(1, 3)) if harm == "flip" else 0):
        content[draw(st.integers(0, len(content) - 1))] ^= 1 << draw(st.integers(0, 7))
    return bytes(content)


@contextmanager
def refusal_of(path: Path, report: CheckReport, images: SplitImages) -> Iterator[None]:
    """Allow only an error that names the file in one line and that the check finds too."""
    try:
        with endless_fails():
            yield
    except UserError as error:
        assert str(path) in str(error) or str(path.parents[1]) in str(error)
        assert len(str(error)) < 2000
        if not report.wrong:
            images.examine(report, workers=1)
        assert report.wrong or "expected polygons or run lengths" in str(error)  # detection needs no outlines


@contextmanager
def endless_fails() -> Iterator[None]:
    """Raise an error if the block runs for longer than PATIENCE."""

    def endless(*_: Any) -> None:
        raise AssertionError("reading does not end")

    before = signal.signal(signal.SIGALRM, endless)
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def check_boxes(data: CocoAnnotations) -> None:
    assert data.offsets[0] == 0 and data.offsets[-1] == len(data.boxes) == len(data.labels) == len(data.crowd)
    assert (np.diff(data.offsets) >= 0).all()
    assert (np.diff(data.image_ids) > 0).all() and len(data) == len(data.sizes) == len(data.file_names)
    assert np.isfinite(data.boxes).all()
    limits = np.repeat(data.sizes[:, ::-1], np.diff(data.offsets), axis=0)
    assert (data.boxes >= 0).all() and (data.boxes[:, 2:] <= limits).all()
    assert (data.boxes[:, :2] < data.boxes[:, 2:]).all()
    assert ((data.labels >= 1) & (data.labels <= len(data.categories))).all()


def check_masks(data: CocoAnnotations) -> None:
    """Every object has a mask inside its image, unless masks were not read."""
    for row in range(len(data) if data.masks else 0):
        strips, crowd = data.strips_of(row), data.of_image(row)[2]
        assert np.unique(strips[:, 0]).tolist() == np.flatnonzero(~crowd).tolist()
        height, width = data.sizes[row].tolist()
        assert (strips[:, 1:] >= 0).all() and (strips[:, [1, 3]] < strips[:, [2, 4]]).all()
        assert (strips[:, 2] <= width).all() and (strips[:, 4] <= height).all()


def check_evaluation(data: CocoAnnotations) -> None:
    """Evaluate the annotations as their own detections."""
    evaluator = CocoEvaluator(data.path, category_ids=data.categories.ids, image_ids=data.image_ids.tolist())
    for row, image in enumerate(data.image_ids):
        boxes, labels, _ = data.of_image(row)
        evaluator.update([{"boxes": boxes, "labels": labels, "scores": np.ones(len(boxes))}], [{"image_id": image}])
    ap = evaluator.compute()["AP"]
    assert ap is None or 0 <= ap <= 1


def test_the_file_before_mutation_is_accepted(folder: CocoFolder) -> None:
    path = folder.annotations()
    path.write_text(json.dumps(folder.data))
    assert len(CocoAnnotations.read(path, folder.images()).boxes) == 5
    source = CocoLabels(path, folder.images())
    counts = [np.unique(source.labels(row, (40, 60)), return_counts=True)[1].tolist() for row in range(4)]
    assert counts[1] == [2400] and counts[3] == [900, 1500]  # no object; a crowd of 50 by 30 pixels


def checked(folder: CocoFolder) -> tuple[CheckReport, SplitImages]:
    """Return what the check finds in the annotations, and the images, whose presence is checked."""
    report = CheckReport()
    with endless_fails():
        images = check_coco(folder.annotations(), folder.images(), "train", report)
        images.list_missing(report)
    assert json.dumps(report.as_json()) and report.table()
    return report, images


@hostile(300)
@given(st.data())
def test_annotations_of_boxes(folder: CocoFolder, data: Any) -> None:
    path = folder.annotations()
    path.write_bytes(mutant(data.draw, folder.data))
    with refusal_of(path, *checked(folder)):
        read = CocoAnnotations.read(
            path,
            folder.images(),
            bad_boxes=data.draw(st.sampled_from(["error", "drop"])),
            without_mask=data.draw(st.sampled_from([None, "box", "drop"])),
        )
        check_boxes(read)
        check_masks(read)
        check_evaluation(read)
        items = CocoDetection(read, Augment("eval"))
        assert all(len(items[place][1]["boxes"]) <= len(read.boxes) for place in range(len(items)))


@hostile(150)
@given(st.data())
def test_annotations_of_outlines(folder: CocoFolder, data: Any) -> None:
    path = folder.annotations()
    path.write_bytes(mutant(data.draw, folder.data))
    with refusal_of(path, *checked(folder)):
        source = CocoLabels(path, folder.images())
        assert len(source) == len(source.image_ids) > 0
        for row in range(len(source)):
            size = source.image(row).shape[:2]
            labels = source.labels(row, size)
            assert labels.shape == size == source.size(row)
            assert ((labels < len(source.classes)) | (labels == IGNORE)).all()
