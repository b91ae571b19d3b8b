"""mIoU and its companions, from one integer confusion matrix over all images and processes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import cv2
import numpy as np
from torch import Tensor

POLICY = "classes without a pixel in truth and prediction are n/a and left out of the mean"


class LabelMetrics:
    """Counts label maps with hotcoco's evaluator (mmsegmentation's formulas).

    Args:
        classes: names by class number.
        ignore_index: of truth pixels that do not count.
        keep: keep the predicted label maps as well, compressed.

    Attributes:
        maps: those that were kept, PNG content by the target's `index`.
    """

    def __init__(self, classes: Sequence[str], *, ignore_index: int = 255, keep: bool = False) -> None:
        from hotcoco.semantic import SemanticEval

        self.classes = tuple(classes)
        self._new = lambda: SemanticEval(list(self.classes), ignore_index=ignore_index)
        self._counts = self._new()
        self.keep = keep
        self.maps: dict[int, bytes] = {}

    def update(self, predictions: Sequence[Tensor], targets: dict[str, Any]) -> None:
        """Add a batch.

        Args:
            predictions: a label map `[H, W]` an image.
            targets: `mask`, the truth of the same size each; `index` where maps are kept.
        """
        if self.keep:
            labels = zip(targets["index"].tolist(), predictions, strict=True)
            self.maps |= {index: _png(predicted.cpu().numpy()) for index, predicted in labels}
        for predicted, truth in zip(predictions, targets["mask"], strict=True):
            self._counts.update(truth.cpu().numpy(), predicted.cpu().numpy())

    def state(self) -> Any:
        """What `merge` takes; travels between processes."""
        return self._counts, self.maps

    def merge(self, states: Iterable[Any]) -> None:
        """Become the sum of all processes' states."""
        merged = self._new()
        maps: dict[int, bytes] = {}
        for counts, kept in states:
            merged.merge(counts)
            maps |= kept
        self._counts, self.maps = merged, maps

    def confusion(self) -> np.ndarray:
        """Pixels `[K, K]` int64: row the true class, column the predicted one."""
        return self._counts.confusion().astype(np.int64)

    def compute(self) -> dict[str, Any]:
        """Figures in 0..1; None where there is nothing to measure.

        Returns:
            `mIoU`, `pixel_accuracy`, `mean_accuracy`, `frequency_weighted_IoU`, `per_class` IoU by name, `absent`
            (names of classes that occur nowhere), `images`, `pixels` and the `confusion` matrix.
        """
        found = self._counts.results()
        per_class = {row["name"]: _known(row["IoU"]) for row in found["per_class"]}
        return {
            "mIoU": _known(found["mIoU"]),
            "pixel_accuracy": _known(found["aAcc"]),
            "mean_accuracy": _known(found["mAcc"]),
            "frequency_weighted_IoU": _known(found["fwIoU"]),
            "per_class": per_class,
            "absent": [name for name, value in per_class.items() if value is None],
            "images": self._counts.n_images,
            "pixels": found["n_pixels"],
            "confusion": self.confusion().tolist(),
        }


def format_table(results: dict[str, Any]) -> str:
    """The figures as text: the means, then each class."""
    lines = [f"{results['images']} images"]
    for name in ("mIoU", "pixel_accuracy", "mean_accuracy", "frequency_weighted_IoU"):
        lines.append(f"{name:<24}{_percent(results[name])}")
    lines += [f"  {name:<22}{_percent(value)}" for name, value in results["per_class"].items()]
    if results["absent"]:
        lines.append(f"{len(results['absent'])} of {len(results['per_class'])} {POLICY}")
    return "\n".join(lines)


def _png(labels: np.ndarray) -> bytes:
    """Class numbers `[H, W]` below 256 as PNG; the quickest compression, since maps are smooth anyway."""
    done, content = cv2.imencode(".png", labels.astype(np.uint8), [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not done:
        raise RuntimeError("OpenCV wrote no PNG")
    return content.tobytes()


def _known(value: float) -> float | None:
    return None if value < 0 else value


def _percent(value: float | None) -> str:
    return "    n/a" if value is None else f"{value:7.2%}"
