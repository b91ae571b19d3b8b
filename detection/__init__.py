"""Faster R-CNN on any backbone of the registry, and COCO data for it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detection.annotations import CategoryMap, CocoAnnotations
    from detection.data import CocoDetection
    from detection.faster_rcnn import FasterRCNN, build
    from detection.trained import Detections, TrainedDetector, load

_HOMES = {
    "build": "detection.faster_rcnn",
    "FasterRCNN": "detection.faster_rcnn",
    "CategoryMap": "detection.annotations",
    "CocoAnnotations": "detection.annotations",
    "CocoDetection": "detection.data",
    "Detections": "detection.trained",
    "TrainedDetector": "detection.trained",
    "load": "detection.trained",
}
__all__ = [
    "CategoryMap",
    "CocoAnnotations",
    "CocoDetection",
    "Detections",
    "FasterRCNN",
    "TrainedDetector",
    "build",
    "load",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import detection` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'detection' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
