"""TODO-DOC tools/runs/metrics.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Metric:
    """A fraction (0..1) of results.json and of the evaluation lines, shown in percent.

    Attributes:
        error: show 1 - fraction.
    """

    key: str
    title: str
    error: bool = False

    def percent(self, values: dict[str, Any]) -> float | None:
        """The value in percent; None where it is absent or null."""
        value = values.get(self.key)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return None
        return 100 * (1 - value) if self.error else 100 * value


@dataclass(frozen=True)
class Task:
    """What a training script is judged by.

    Attributes:
        metrics: columns of the table.
        solid, dashed: curves of the plot, on held-out and on training images.
        axis: what the curves show.
    """

    metrics: tuple[Metric, ...]
    solid: Metric
    dashed: Metric | None
    axis: str


_TOP1 = Metric("top1", "top-1 error %", error=True)


_TRAIN = Metric("train_top1", "training error %", error=True)


_AP = Metric("AP", "AP %")


_MIOU, _PIXELS = Metric("mIoU", "mIoU %"), Metric("pixel_accuracy", "pixel accuracy %")


TASKS = {
    "train_cls": Task((_TOP1, Metric("top5", "top-5 error %", error=True), _TRAIN), _TOP1, _TRAIN, "error (%)"),
    "train_det": Task((_AP, Metric("AP50", "AP50 %"), Metric("AP75", "AP75 %")), _AP, None, "AP (%)"),
    "train_seg": Task((_MIOU, _PIXELS), _MIOU, None, "mIoU (%)"),
}
