"""Mutants of `segmentation` fields: training and evaluation read the same pixels, or refuse a mutant in one line."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from backbones.errors import UserError
from detection.data.annotations import CocoAnnotations
from tools.evaluation.masks import compress

COUNT = 2000
SIZE = (40, 60)  # height and width of the image
FULL = coco_mask.encode(np.asfortranarray(np.tri(*SIZE, dtype=np.uint8)))["counts"].decode()
GOOD = (
    [[10.0, 5, 30, 5, 10, 35]],
    [[32.0, 10, 40, 10, 40, 20, 32, 20], [45.0, 12, 55, 12, 55, 30, 45, 30]],
    {"size": [*SIZE], "counts": [500, 20, 20, 20, 1840]},
    {"size": [*SIZE], "counts": FULL},
)
JUNK = (0, -1, 0.5, 3.0, 59.9, 1e9, 1e308, 2**31, 2**63, 10**30, True, None, "", "x", "0" * 50, [], {}, [[]], [1, 2])


def mutate(value: Any, random: Random) -> Any:
    """Return a value in which one part, of any depth, is changed, left out, repeated or replaced by junk."""
    if isinstance(value, str) and random.random() < 0.8:
        at = random.randrange(len(value) + 1)
        return (
            value[:at] + random.choice(["", "0", "~", "P", chr(random.randrange(32, 127)), "\u20ac"]) + value[at + 1 :]
        )
    if not isinstance(value, (list, dict)) or not value or random.random() < 0.15:
        nudged = isinstance(value, (int, float)) and not isinstance(value, bool) and random.random() < 0.5
        return value + random.choice([-1, 1, 0.25]) if nudged else random.choice(JUNK)
    key = random.choice(list(value) if isinstance(value, dict) else range(len(value)))
    action = random.random()
    if action < 0.1:
        del value[key]
    elif action < 0.2 and isinstance(value, list):
        value.insert(key, copy.deepcopy(value[key]))
    else:
        value[key] = mutate(value[key], random)
    return value


def evaluated(segmentation: Any) -> np.ndarray | None:
    """Return the pixels that evaluation compares, or None if it refuses the mask in one line."""
    try:
        code = compress(segmentation, SIZE, "the record")
    except UserError as error:
        assert str(error).startswith("the record: ") and "\n" not in str(error) and len(str(error)) < 500
        return None
    return coco_mask.decode({"size": list(SIZE), "counts": code["counts"]}).astype(bool)


def test_training_and_evaluation_agree_on_mutants(tmp_path: Path) -> None:
    random = Random(0)
    records = [
        {"id": number + 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 60, 40], "area": 9, "iscrowd": 0,
         "segmentation": mutate(copy.deepcopy(random.choice(GOOD)), random)}
        for number in range(COUNT)
    ]  # fmt: skip
    data = {
        "images": [{"id": 1, "file_name": "1.png", "height": SIZE[0], "width": SIZE[1]}],
        "annotations": records,
        "categories": [{"id": 1, "name": "thing"}],
    }
    path = tmp_path / "instances_train.json"
    path.write_text(json.dumps(data))
    (tmp_path / "1.png").touch()
    read = CocoAnnotations.read(path, tmp_path, without_mask="drop")
    strips = read.strips_of(0)
    owners = {record["id"]: owner for owner, record in enumerate(json.loads(read.source)["annotations"])}
    refused = 0
    for record in records:
        expected, owner = evaluated(record["segmentation"]), owners.get(record["id"])
        refused += expected is None
        assert (owner is None) == (expected is None or not expected.any()), record["segmentation"]
        if owner is not None:
            found = np.zeros(SIZE, bool)
            for _, left, right, top, bottom in strips[strips[:, 0] == owner]:
                found[top:bottom, left:right] = True
            assert np.array_equal(found, expected), record["segmentation"]
    assert COUNT / 5 < refused < COUNT * 4 / 5  # the mutants are neither all broken nor all sound
    assert read.notes["objects without a usable mask are left out"] == COUNT - len(owners)
