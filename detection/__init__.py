"""Faster R-CNN on any backbone of the registry, and COCO data for it."""

from typing import TYPE_CHECKING

from backbones.common.lazy import lazy

if TYPE_CHECKING:
    from detection.data.annotations import CategoryMap, CocoAnnotations
    from detection.data.dataset import CocoDetection
    from detection.faster_rcnn import FasterRCNN, build
    from detection.trained import Detections, TrainedDetector, load

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        "data.annotations": ["CategoryMap", "CocoAnnotations"],
        "data.dataset": ["CocoDetection"],
        "faster_rcnn": ["FasterRCNN", "build"],
        "trained": ["Detections", "TrainedDetector", "load"],
    },
)
