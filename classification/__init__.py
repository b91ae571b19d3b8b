"""Image classification: a backbone, a global average pool and a linear layer."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from classification.model import Classifier, build

__all__ = ["Classifier", "build"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'classification' has no attribute {name!r}")
    from classification import model

    return getattr(model, name)
