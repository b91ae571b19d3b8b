"""Image classification: a backbone, a global average pool and a linear layer."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from classification.model import Classifier, build
    from classification.trained import Ranking, TrainedClassifier, load

_HOMES = {
    "Classifier": "classification.model",
    "build": "classification.model",
    "Ranking": "classification.trained",
    "TrainedClassifier": "classification.trained",
    "load": "classification.trained",
}
__all__ = ["Classifier", "Ranking", "TrainedClassifier", "build", "load"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import classification` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'classification' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
