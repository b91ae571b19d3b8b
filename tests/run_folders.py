"""Writes run folders as the training commands do, with predictions that a test chooses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

from tools.evaluation.evaluator import CocoEvaluator

LINES = [
    {"step": 10, "time": 1.0, "loss": 2.0, "loss_a": 1.5, "loss_b": 0.5, "lr": 0.1},
    {"step": 20, "time": 2.0, "loss": 1.0, "loss_a": 0.6, "loss_b": 0.4, "lr": 0.05},
    {"step": 20, "time": 3.0, "epoch": 1.0, "AP": 0.2, "top1": 0.4, "mIoU": 0.3},
    {"step": 40, "time": 6.0, "epoch": 2.0, "AP": 0.4, "top1": 0.5, "mIoU": 0.4},
]


def write_run(folder: Path, config: dict[str, Any], results: dict[str, Any]) -> Path:
    """Write a run folder without predictions."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"backbone": "resnet20", **config, "output": str(folder)}))
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return folder


def detection_run(folder: Path, root: Path, detections: Sequence[dict[str, Any]]) -> Path:
    """Write a run with these detections on the validation split of a data set in COCO's layout."""
    evaluator = CocoEvaluator(next((root / "annotations").glob("instances_val*.json")))
    evaluator.load(list(detections))
    write_run(folder, {"data": str(root), "neck": "fpn"}, evaluator.compute())
    (folder / "detections.json").write_text(json.dumps(list(detections)))
    return folder


def detection(image: int, category: int, box: Sequence[float], score: float) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": list(box), "score": score}


def class_folders(root: Path, classes: Sequence[str], images: int) -> Path:
    """Write `val/CLASS/N.png`, each of one colour."""
    for place, name in enumerate(classes):
        (root / "val" / name).mkdir(parents=True)
        for number in range(images):
            cv2.imwrite(str(root / "val" / name / f"{number}.png"), np.full((20, 30, 3), 40 * place + number, np.uint8))
    return root


def classification_run(folder: Path, root: Path, rows: Sequence[tuple[str, str, str, float, int, float]]) -> Path:
    """Write a run with these lines of predictions.csv: image, class, predicted, confidence, rank, loss."""
    classes = sorted({row[1] for row in rows})
    recall = {
        name: {"recall": sum(r[1] == r[2] == name for r in rows) / sum(r[1] == name for r in rows)} for name in classes
    }
    right = sum(row[1] == row[2] for row in rows)
    results = {"top1": right / len(rows), "top5": None, "nll": 1.0, "images": len(rows), "per_class": recall}
    write_run(folder, {"data": str(root), "test_crops": "center"}, results)
    lines = ["image,class,predicted,confidence,rank,loss", *(",".join(map(str, row)) for row in rows)]
    (folder / "predictions.csv").write_text("\n".join(lines) + "\n")
    return folder


# On conftest's four images: both objects of 5 (one by a wrong name), the negative 7, beside 9's car, and on a crowd.
KNOWN = [
    detection(5, 18, [10, 5, 20, 30], 0.9),  # the dog
    detection(5, 3, [0, 0, 8, 8], 0.8),  # the brush, taken for a car
    detection(7, 18, [5, 5, 10, 10], 0.7),  # background
    detection(9, 3, [35, 12, 25, 25], 0.6),  # the car, IoU (20 x 18) / (500 + 625 - 360) = 0.47
    detection(9, 3, [2, 2, 10, 10], 0.95),  # within a crowd: does not count
    detection(9, 3, [30, 10, 25, 20], 0.3),  # the car, below the score
]
