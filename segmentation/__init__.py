"""Semantic segmentation: fully convolutional networks on any backbone of the registry, and their data sets."""

from typing import TYPE_CHECKING

from backbones.common.lazy import lazy

if TYPE_CHECKING:
    from segmentation.data.dataset import Segmentation
    from segmentation.fcn import FCN, build
    from segmentation.heads import Head, register_head
    from segmentation.metrics import LabelMetrics
    from segmentation.predict import Predictor
    from segmentation.results import LabelMap
    from segmentation.trained import TrainedSegmenter, load
    from segmentation.transforms import register_augmentation

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        "data.dataset": ["Segmentation"],
        "fcn": ["FCN", "build"],
        "heads": ["Head", "register_head"],
        "metrics": ["LabelMetrics"],
        "predict": ["Predictor"],
        "results": ["LabelMap"],
        "trained": ["TrainedSegmenter", "load"],
        "transforms": ["register_augmentation"],
    },
)
