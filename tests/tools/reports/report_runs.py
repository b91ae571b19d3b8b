"""Run folders for the tests of the report: as the training scripts leave them, with predictions that a test chooses."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from html.parser import HTMLParser
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
    """A run folder without predictions."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"backbone": "resnet20", **config, "output": str(folder)}))
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return folder


def detection_run(folder: Path, root: Path, detections: Sequence[dict[str, Any]]) -> Path:
    """A run with these detections on the validation split of a data set in COCO's layout."""
    evaluator = CocoEvaluator(next((root / "annotations").glob("instances_val*.json")))
    evaluator.load(list(detections))
    write_run(folder, {"data": str(root), "neck": "fpn"}, evaluator.compute())
    (folder / "detections.json").write_text(json.dumps(list(detections)))
    return folder


def detection(image: int, category: int, box: Sequence[float], score: float) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": list(box), "score": score}


def class_folders(root: Path, classes: Sequence[str], images: int) -> Path:
    """`val/CLASS/N.png` of one colour each."""
    for place, name in enumerate(classes):
        (root / "val" / name).mkdir(parents=True)
        for number in range(images):
            cv2.imwrite(str(root / "val" / name / f"{number}.png"), np.full((20, 30, 3), 40 * place + number, np.uint8))
    return root


def classification_run(folder: Path, root: Path, rows: Sequence[tuple[str, str, str, float, int, float]]) -> Path:
    """A run with these lines of predictions.csv: image, class, predicted, confidence, rank, loss."""
    classes = sorted({row[1] for row in rows})
    recall = {name: sum(r[1] == r[2] == name for r in rows) / sum(r[1] == name for r in rows) for name in classes}
    right = sum(row[1] == row[2] for row in rows)
    results = {"top1": right / len(rows), "top5": None, "nll": 1.0, "images": len(rows), "per_class": recall}
    write_run(folder, {"data": str(root), "test_crops": "center"}, results)
    lines = ["image,class,predicted,confidence,rank,loss", *(",".join(map(str, row)) for row in rows)]
    (folder / "predictions.csv").write_text("\n".join(lines) + "\n")
    return folder


class Page(HTMLParser):
    """What a browser would see of a page: its tags with attributes, and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(self.source)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)

    def table(self, caption: str) -> list[list[str]]:
        """The rows of a table, as texts."""
        found = re.search(
            f"<caption>{re.escape(html.escape(caption))}</caption>.*?<tbody>(.*?)</tbody>", self.source, re.DOTALL
        )
        assert found, f"no table {caption}"
        rows = re.findall(r"<tr>(.*?)</tr>", found[1], re.DOTALL)
        cells = [re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row, re.DOTALL) for row in rows]
        return [[html.unescape(re.sub(r"<.*?>", "", cell)).strip() for cell in row] for row in cells]
