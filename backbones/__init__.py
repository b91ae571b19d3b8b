"""Backbones pretrained once and transferred everywhere: names in, named feature maps out.

``backbones.build("resnet50")`` gives a `Backbone`. The exports are lazy: `import backbones` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from backbones.base import Backbone, FeatureInfo
    from backbones.errors import UserError
    from backbones.fold import Folds, conv_norm
    from backbones.norm import freeze_batch_norm, norm_table, synchronise_batch_norm
    from backbones.registry import build, names, register
    from backbones.weights import LoadReport

_HOMES = {
    "Backbone": "base",
    "FeatureInfo": "base",
    "Folds": "fold",
    "LoadReport": "weights",
    "UserError": "errors",
    "build": "registry",
    "conv_norm": "fold",
    "freeze_batch_norm": "norm",
    "names": "registry",
    "norm_table": "norm",
    "register": "registry",
    "synchronise_batch_norm": "norm",
}

__all__ = [
    "Backbone",
    "FeatureInfo",
    "Folds",
    "LoadReport",
    "UserError",
    "build",
    "conv_norm",
    "freeze_batch_norm",
    "names",
    "norm_table",
    "register",
    "synchronise_batch_norm",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'backbones' has no attribute {name!r}")
    return getattr(import_module(f"backbones.{_HOMES[name]}"), name)
