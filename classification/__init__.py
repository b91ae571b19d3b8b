"""Image classification: a backbone, a global average pool and a linear layer."""

from typing import TYPE_CHECKING

from backbones.common.lazy import lazy

if TYPE_CHECKING:
    from classification.data.layouts import register_layout
    from classification.explain import Explanation
    from classification.model import Classifier, build
    from classification.results import ClassSet, Ranking
    from classification.trained import TrainedClassifier, load
    from classification.transforms import register_augmentation

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        "data.layouts": ["register_layout"],
        "explain": ["Explanation"],
        "model": ["Classifier", "build"],
        "results": ["ClassSet", "Ranking"],
        "trained": ["TrainedClassifier", "load"],
        "transforms": ["register_augmentation"],
    },
)
