"""What stands between a backbone and the detection heads: FPN, C4 and DC5 behind one interface."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

import backbones
from backbones import Backbone, FeatureInfo
from backbones.norm import group_norm

ROI_SIZE = 7  # RoI features are 7x7 before the two-layer head
PYRAMID = ("c2", "c3", "c4", "c5")
PYRAMID_NORMS: dict[str, Callable[[int], nn.Module] | None] = {
    "none": None,
    "batch": nn.BatchNorm2d,
    "group": group_norm,
}


class Neck(nn.Module):
    """A backbone and what turns its features into those that proposals and RoIs are read from.

    Attributes:
        body: the backbone; its state-dict keys stay behind `backbone.body.` as in torchvision's detectors.
        feature_info: features of the proposal net, finest first.
        roi_features: those among them that RoIs are read from.
        roi_size: side of the RoI features in cells.
    """

    feature_info: tuple[FeatureInfo, ...]
    roi_features: tuple[FeatureInfo, ...]
    roi_size: int = ROI_SIZE

    def __init__(self, body: Backbone) -> None:
        super().__init__()
        self.body = body

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """`[N, C, H, W]` to `{feature name: [N, channels, H / stride, W / stride]}`."""
        return OrderedDict(self.body(images))

    def box_head(self, width: int) -> tuple[nn.Module, int]:
        """A module from RoI features to vectors, and the vectors' width."""
        inputs = self.roi_features[0].channels * self.roi_size**2
        return TwoMLPHead(inputs, width), width


class PyramidNeck(Neck):
    """FPN: every level at one width, and a coarser level subsampled from the last for large anchors."""

    def __init__(self, body: Backbone, channels: int, norm: str = "none") -> None:
        super().__init__(body)
        infos = body.feature_info
        self.fpn = FeaturePyramidNetwork(
            [info.channels for info in infos], channels, LastLevelMaxPool(), norm_layer=PYRAMID_NORMS[norm]
        )
        self.roi_features = tuple(_pyramid_level(info.stride, channels) for info in infos)
        self.feature_info = (*self.roi_features, _pyramid_level(2 * infos[-1].stride, channels))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps = self.fpn(OrderedDict(self.body(images)))
        return OrderedDict(zip((info.name for info in self.feature_info), maps.values(), strict=True))


class SingleLevelNeck(Neck):
    """The backbone's last feature as it is: DC5."""

    def __init__(self, body: Backbone) -> None:
        super().__init__(body)
        self.feature_info = self.roi_features = body.feature_info


class C4Neck(SingleLevelNeck):
    """RoI features from conv4, and conv5 over each of them as the head (He et al. 2016, appendix A)."""

    roi_size = 14  # conv5 halves it to 7

    def __init__(self, body: Backbone) -> None:
        trunk, last_stage = body.split_last_stage()
        super().__init__(trunk)
        self.feature_info = self.roi_features = trunk.feature_info
        # Not registered here: the stage's parameters belong to the box head, once.
        self._last_stage = [last_stage]

    def box_head(self, width: int) -> tuple[nn.Module, int]:
        stage = self._last_stage[0]
        return StageHead(stage), stage.feature_info.channels


class StageHead(nn.Module):
    """A backbone's stage over RoI features, averaged: `[R, C4, 14, 14]` to `[R, C5]`."""

    def __init__(self, stage: nn.Module) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, rois: Tensor) -> Tensor:
        return self.stage(rois).mean(dim=(2, 3))


def fpn_neck(backbone: str | Backbone, *, fpn_channels: int, fpn_norm: str, **options: Any) -> PyramidNeck:
    """FPN over c2..c5 of a name, or over all features of a module."""
    return PyramidNeck(_body(backbone, features=PYRAMID, **options), fpn_channels, fpn_norm)


def c4_neck(backbone: str | Backbone, *, fpn_channels: int, fpn_norm: str, **options: Any) -> C4Neck:
    """RoIs from conv4 with conv5 as the head; a module must give c4 and c5 as its last features."""
    return C4Neck(_body(backbone, features=("c4", "c5"), **options))


def dc5_neck(backbone: str | Backbone, *, fpn_channels: int, fpn_norm: str, **options: Any) -> SingleLevelNeck:
    """A conv5 dilated to stride 16; a module must give that as its only feature."""
    return SingleLevelNeck(_body(backbone, features=("c5",), output_stride=16, **options))


def _body(backbone: str | Backbone, **options: Any) -> Backbone:
    return backbones.build(backbone, **options) if isinstance(backbone, str) else backbone


def _pyramid_level(stride: int, channels: int) -> FeatureInfo:
    return FeatureInfo(f"p{int(math.log2(stride))}", channels, stride)
