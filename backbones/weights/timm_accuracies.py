"""Accuracies on ImageNet that timm publishes in its repository but not in its package. This module needs no timm."""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path

MEASURED = "timm's results-imagenet.csv of 2024-11-28"
_FILE = Path(__file__).with_name("timm_imagenet.csv")


def timm_accuracy(model: str, size: int) -> tuple[float, float] | None:
    """Return the published top-1 and top-5 accuracy of timm's weights in percent; None if the file has none.

    Args:
        model: name with tag, such as "resnet50.a1_in1k".
        size: side of the images in pixels. Some weights were measured at two sizes.
    """
    return _accuracies().get((model, size))


@cache
def _accuracies() -> dict[tuple[str, int], tuple[float, float]]:
    """Read the file: (model, size) -> (top-1, top-5)."""
    with _FILE.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(line for line in file if not line.startswith("#"))
        return {(row["model"], int(row["size"])): (float(row["top1"]), float(row["top5"])) for row in rows}
