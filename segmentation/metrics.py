"""Computes mIoU and related metrics from one confusion matrix of integers over all images and processes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import cv2
import numpy as np
from hotcoco.semantic import SemanticEval
from torch import Tensor

from backbones.errors import counted
from segmentation.data.classes import IGNORE
from segmentation.data.dataset import WholeTargets

CONFUSION = "confusion.json"  # file of the confusion matrix in a run folder
POLICY = "classes without a pixel in truth and prediction are n/a and left out of the mean"

# The counts of one process, and its predicted maps as PNGs by image index.
LabelMetricsState: TypeAlias = tuple[SemanticEval, dict[int, bytes]]


class LabelMetrics:
    """Accumulates label maps and computes metrics with hotcoco's evaluator (the formulas of mmsegmentation).

    Args:
        classes: names by class number.
        ignore_index: class number that marks pixels to ignore in the truth.
        keep: also keep the predicted label maps, compressed.

    Attributes:
        maps: the predicted label maps as PNGs, by the target's `index`; empty unless `keep`.
    """

    def __init__(self, classes: Sequence[str], *, ignore_index: int = IGNORE, keep: bool = False) -> None:
        self.classes, self.ignore_index = tuple(classes), ignore_index
        self._counts = self._new_counts()
        self.keep = keep
        self.maps: dict[int, bytes] = {}

    def update(self, predictions: Sequence[Tensor], targets: WholeTargets) -> None:
        """Add a batch.

        Args:
            predictions: a label map `[H, W]` for each image.
            targets: `mask`, the true label map `[H, W]` of each image; `index` `[N]` if maps are kept.
        """
        if self.keep:
            labels = zip(targets["index"].tolist(), predictions, strict=True)
            self.maps |= {index: _png(predicted.cpu().numpy()) for index, predicted in labels}
        for predicted, truth in zip(predictions, targets["mask"], strict=True):
            self._counts.update(truth.cpu().numpy(), predicted.cpu().numpy())

    def state(self) -> LabelMetricsState:
        """Return the counts and maps of this process, which can be pickled and passed to `merge`."""
        return self._counts, self.maps

    def merge(self, states: Iterable[LabelMetricsState]) -> None:
        """Replace the counts and maps by those of all processes together."""
        merged = self._new_counts()
        maps: dict[int, bytes] = {}
        # Counts are whole numbers, so that the sum does not depend on the order of the processes.
        for counts, kept in states:
            merged.merge(counts)
            maps |= kept
        self._counts, self.maps = merged, maps

    def confusion(self) -> np.ndarray:
        """Return the confusion matrix `[K, K]` int64: pixels by true class (row) and predicted class (column)."""
        return self._counts.confusion().astype(np.int64)

    def compute(self) -> dict[str, object]:
        """Compute the metrics over all batches so far. Values are 0..1, or None if they cannot be computed.

        Returns:
            `mIoU`, `pixel_accuracy`, `mean_accuracy`, `frequency_weighted_IoU`, `per_class` (`IoU`, `accuracy` and
            true `pixels` by class name), `absent` (names of classes that occur neither in truth nor in prediction),
            `images` and `pixels` (labelled ones). The confusion matrix is `confusion()`.
        """
        found = self._counts.results()
        per_class = {
            row["name"]: {"IoU": _known(row["IoU"]), "accuracy": _known(row["Acc"]), "pixels": int(row["gt_area"])}
            for row in found["per_class"]
        }
        return {
            "mIoU": _known(found["mIoU"]),
            "pixel_accuracy": _known(found["aAcc"]),
            "mean_accuracy": _known(found["mAcc"]),
            "frequency_weighted_IoU": _known(found["fwIoU"]),
            "per_class": per_class,
            "absent": [name for name, entry in per_class.items() if entry["IoU"] is None],
            "images": self._counts.n_images,
            "pixels": found["n_pixels"],
        }

    def _new_counts(self) -> SemanticEval:
        return SemanticEval(list(self.classes), ignore_index=self.ignore_index)


def format_table(results: Mapping[str, Any]) -> str:
    """Format metrics as text: the means, then the IoU of each class."""
    lines = [counted(results["images"], "image")]
    for name in ("mIoU", "pixel_accuracy", "mean_accuracy", "frequency_weighted_IoU"):
        lines.append(f"{name:<24}{_percent(results[name])}")
    lines += [f"  {name:<22}{_percent(entry['IoU'])}" for name, entry in results["per_class"].items()]
    if results["absent"]:
        lines.append(f"{len(results['absent'])} of {len(results['per_class'])} {POLICY}")
    return "\n".join(lines)


def _png(labels: np.ndarray) -> bytes:
    """Encode class numbers `[H, W]` 0..255 as PNG with fast compression, which suffices for label maps."""
    done, content = cv2.imencode(".png", labels.astype(np.uint8), [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not done:
        raise RuntimeError("OpenCV wrote no PNG")
    return content.tobytes()


def _known(value: float) -> float | None:
    """Return a metric, or None if it is hotcoco's -1, which means that it cannot be computed."""
    return None if value < 0 else value


def _percent(value: float | None) -> str:
    return "    n/a" if value is None else f"{value:7.2%}"
