"""Backbones: networks that are built by name and return named feature maps, with published weights or your own.

``backbones.build("resnet50")`` returns a `Backbone`. Its modules are imported on first use, so that `import backbones`
is quick.
"""

from typing import TYPE_CHECKING

from backbones.common.lazy import lazy

if TYPE_CHECKING:
    from backbones.base import Backbone, FeatureInfo, choose_features
    from backbones.errors import UserError
    from backbones.fold import Folds, conv_norm
    from backbones.norm import freeze_batch_norm, norm_table, synchronise_batch_norm
    from backbones.registry import build, names, register
    from backbones.weights.report import LoadReport

__version__ = "0.2.0"

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        "base": ["Backbone", "FeatureInfo", "choose_features"],
        "errors": ["UserError"],
        "fold": ["Folds", "conv_norm"],
        "norm": ["freeze_batch_norm", "norm_table", "synchronise_batch_norm"],
        "registry": ["build", "names", "register"],
        "weights.report": ["LoadReport"],
    },
)
