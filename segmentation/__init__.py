"""Fully convolutional networks on any backbone of the registry, and label maps for them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segmentation.data import Segmentation
    from segmentation.fcn import FCN, build
    from segmentation.metrics import LabelMetrics
    from segmentation.predict import Predictor
    from segmentation.trained import LabelMap, TrainedSegmenter, load

_HOMES = {
    "build": "segmentation.fcn",
    "FCN": "segmentation.fcn",
    "LabelMetrics": "segmentation.metrics",
    "Predictor": "segmentation.predict",
    "Segmentation": "segmentation.data",
    "LabelMap": "segmentation.trained",
    "TrainedSegmenter": "segmentation.trained",
    "load": "segmentation.trained",
}
__all__ = ["FCN", "LabelMap", "LabelMetrics", "Predictor", "Segmentation", "TrainedSegmenter", "build", "load"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import segmentation` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'segmentation' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
