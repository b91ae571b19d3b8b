"""Faster R-CNN on any registered backbone, and its data sets."""

from typing import TYPE_CHECKING

from backbones.common.lazy import lazy

if TYPE_CHECKING:
    from detection.data.annotations import CategoryMap, CocoAnnotations
    from detection.data.dataset import CocoDetection
    from detection.data.layouts.known import register_layout
    from detection.faster_rcnn import FasterRCNN, build
    from detection.necks import Neck, NeckParts, register_neck
    from detection.results import Detection, Detections
    from detection.trained import TrainedDetector, load, rebuild
    from detection.transforms import register_augmentation

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        "data.annotations": ["CategoryMap", "CocoAnnotations"],
        "data.dataset": ["CocoDetection"],
        "data.layouts.known": ["register_layout"],
        "faster_rcnn": ["FasterRCNN", "build"],
        "necks": ["Neck", "NeckParts", "register_neck"],
        "results": ["Detection", "Detections"],
        "trained": ["TrainedDetector", "load", "rebuild"],
        "transforms": ["register_augmentation"],
    },
)
