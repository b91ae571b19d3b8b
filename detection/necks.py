"""Necks are the layers between a backbone and the detection heads. FPN, C4 and DC5 are registered here.

To add a neck, register a function or class that returns its parts:

    @detection.register_neck("last")
    def last_feature(backbone, settings):
        return NeckParts(Neck(backbone(features=("c5",))))

Then `detection.build("resnet50", 80, neck="last")` builds a detector with it. `NeckBuilder` documents the arguments of
the function, and `Neck` the features that its result declares. Anchors, RoI scales and widths follow from these.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, TwoMLPHead
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from backbones import Backbone, FeatureInfo
from backbones.base import PYRAMID, LastStage
from backbones.blocks import recomputed
from backbones.common.registry import Registry
from backbones.norm import group_norm
from detection.settings import DetectorSettings

BOX_CONVOLUTIONS = 4  # of the box head "conv" (Wu and He 2018, Group Normalization, section 4.2)
ROI_SIZE = 7  # cells along a side of the RoI features that a two-layer head reads (Fast R-CNN, section 2.1)
HEAD_NORMS: dict[str, Callable[[int], nn.Module] | None] = {
    "none": None,
    "batch": nn.BatchNorm2d,
    "group": group_norm,
}


class BackboneBuilder(Protocol):
    """Function that builds a neck's backbone with the user's weights and norm.

    If the user gave a built backbone in place of a name, that backbone is returned and the arguments are ignored.
    """

    def __call__(self, *, features: Sequence[str], output_stride: int = 32) -> Backbone: ...


class BoxHead(nn.Module):
    """Base class of modules that map RoI features `[R, C, roi_size, roi_size]` to vectors `[R, out_channels]`."""

    out_channels: int


class MapHead(BoxHead):
    """Base class of box heads whose vectors are means over a map `[R, out_channels, h, w]`. A mask branch shares it."""

    def maps(self, rois: Tensor) -> Tensor:
        """Return the map of each RoI, from RoI features `[R, C, roi_size, roi_size]`."""
        raise NotImplementedError

    def forward(self, rois: Tensor) -> Tensor:
        """Return one vector per RoI."""
        return self.maps(rois).mean(dim=(2, 3))


class Neck(nn.Module):
    """A backbone and the layers that turn its features into the detector's. This base class adds no layers.

    Args:
        body: the backbone. Its state-dict keys start with `backbone.body.`, as in torchvision's detectors.
        feature_info: name, channels and stride of each feature map that `forward` returns and the RPN reads, finest
            first, all with the same number of channels. By default those of the backbone.
        roi_features: the entries of `feature_info` whose maps RoIs are read from. By default all.
        roi_size: number of cells along a side of the RoI features.

    Attributes:
        recomputes: in training, store only the inputs of the neck's layers and compute them again in the backward pass.
    """

    def __init__(
        self,
        body: Backbone,
        *,
        feature_info: Sequence[FeatureInfo] | None = None,
        roi_features: Sequence[FeatureInfo] | None = None,
        roi_size: int = ROI_SIZE,
    ) -> None:
        super().__init__()
        self.body = body
        self.feature_info = tuple(body.feature_info if feature_info is None else feature_info)
        self.roi_features = tuple(self.feature_info if roi_features is None else roi_features)
        self.roi_size = roi_size
        self.recomputes = False

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return `{feature name: [N, channels, H / stride, W / stride]}` of images `[N, C, H, W]`."""
        return OrderedDict(self.body(images))


class NeckParts(NamedTuple):
    """Parts of a detector that a registered neck returns.

    Attributes:
        neck: the module with the backbone in it.
        box_head: maps RoI features to vectors. None uses the head that `settings.box_head` names.
    """

    neck: Neck
    box_head: BoxHead | None = None


class NeckBuilder(Protocol):
    """Interface of a registered neck: a function that returns the neck's parts.

    Args:
        backbone: builds the backbone, with the features that the neck needs.
        settings: the detector's settings. A neck may ignore any of them.
    """

    def __call__(self, backbone: BackboneBuilder, settings: DetectorSettings) -> NeckParts: ...


NECKS: Registry[NeckBuilder] = Registry("neck")
register_neck = NECKS.register


def require_neck(name: str) -> None:
    """Raise a UserError that suggests similar names, unless a neck of this name is registered."""
    _ = NECKS[name]


@register_neck("fpn")
def fpn(backbone: BackboneBuilder, settings: DetectorSettings) -> NeckParts:
    """Return the neck FPN over c2..c5, or over all features of a backbone that is built already."""
    return NeckParts(FPN(backbone(features=PYRAMID), settings.fpn_channels, settings.fpn_norm))


@register_neck("c4")
def c4(backbone: BackboneBuilder, settings: DetectorSettings) -> NeckParts:
    """Return the neck C4: RoI features come from conv4, and conv5 is the box head (He et al. 2016, appendix A).

    The last two features of a built backbone must be c4 and c5.
    """
    trunk, conv5 = backbone(features=("c4", "c5")).split_last_stage()
    head = StageHead(conv5, norm=settings.head_norm == "batch")
    return NeckParts(Neck(trunk, roi_size=2 * ROI_SIZE), head)  # conv5 has stride 2


@register_neck("dc5")
def dc5(backbone: BackboneBuilder, settings: DetectorSettings) -> NeckParts:
    """Return the neck DC5: one feature, conv5 dilated to stride 16. A backbone built already must return just that."""
    return NeckParts(Neck(backbone(features=("c5",), output_stride=16)))


class FPN(Neck):
    """Feature pyramid network (Lin et al. 2017). All levels have the same number of channels.

    An additional level, subsampled from the last one, has the largest anchors. RoIs are not read from it (section 4.1).
    """

    def __init__(self, body: Backbone, channels: int, norm: str = "none") -> None:
        infos = body.feature_info
        levels = [_level(info.stride, channels) for info in infos]
        super().__init__(body, feature_info=[*levels, _level(2 * infos[-1].stride, channels)], roi_features=levels)
        self.fpn = FeaturePyramidNetwork(
            [info.channels for info in infos], channels, LastLevelMaxPool(), norm_layer=HEAD_NORMS[norm]
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the pyramid's feature maps, `{"p2": ..., "p6": ...}`."""
        features = OrderedDict(self.body(images))
        maps = recomputed(self.fpn, features) if self.recomputes and self.training else self.fpn(features)
        return OrderedDict(zip((info.name for info in self.feature_info), maps.values(), strict=True))


class TwoLayerHead(TwoMLPHead, BoxHead):
    """Box head of two fully connected layers with the same width."""

    def __init__(self, neck: Neck, width: int) -> None:
        super().__init__(neck.roi_features[0].channels * neck.roi_size**2, width)
        self.out_channels = width


class HeadNorm(nn.Module):
    """Batch norm that a head adds to the layers of a backbone. `--norm frozen` and auto leave it live."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise maps `[R, C, h, w]`."""
        return self.bn(x)


class ConvHead(FastRCNNConvFCHead, BoxHead):
    """Box head of four 3x3 convolutions and one linear layer (Wu and He 2018, section 4.2).

    Args:
        width: channels of the convolutions.
        out_channels: width of the linear layer.
        norm: norm layers after the convolutions, which then have no bias: none, batch or group.
    """

    def __init__(self, neck: Neck, width: int, out_channels: int, norm: str) -> None:
        size = (neck.roi_features[0].channels, neck.roi_size, neck.roi_size)
        super().__init__(size, [width] * BOX_CONVOLUTIONS, [out_channels], HEAD_NORMS[norm])
        self.out_channels = out_channels


def default_box_head(neck: Neck, settings: DetectorSettings) -> BoxHead:
    """Return the box head of a neck that brings none of its own."""
    if settings.box_head == "conv":
        return ConvHead(neck, settings.fpn_channels, settings.head_channels, settings.head_norm)
    return TwoLayerHead(neck, settings.head_channels)


class StageHead(MapHead):
    """Box head that applies a backbone's last stage to RoI features `[R, C4, 14, 14]` and averages over positions:

    `[R, C5]`.

    Args:
        norm: whether batch norm follows the stage (He et al. 2020, MoCo, appendix "Detection on PASCAL VOC").
    """

    def __init__(self, stage: LastStage, *, norm: bool = False) -> None:
        super().__init__()
        self.stage, self.recomputes = stage, False
        self.norm = HeadNorm(stage.feature_info.channels) if norm else None
        self.out_channels = stage.feature_info.channels

    def maps(self, rois: Tensor) -> Tensor:
        """Return the stage's features of each RoI, `[R, C5, 7, 7]`."""
        if self.recomputes and self.training:
            for block in self.stage.children():
                rois = recomputed(block, rois)
            maps = rois
        else:
            maps = self.stage(rois)
        return maps if self.norm is None else self.norm(maps)


def _level(stride: int, channels: int) -> FeatureInfo:
    """Return the `FeatureInfo` of a pyramid level with this stride and number of channels."""
    return FeatureInfo(f"p{int(math.log2(stride))}", channels, stride)
