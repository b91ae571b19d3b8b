"""Registry of segmentation heads, the interface of a head, and the heads of the FCN paper.

A plugin adds a head by registering a function:

    @segmentation.register_head("linear", features=1, output_stride=16)
    def build_linear(feature_info, num_classes, *, aux):
        return segmentation.Head(classifier=nn.Conv2d(feature_info[-1].channels, num_classes, 1))

FCN-32s scores the last feature alone; FCN-16s and FCN-8s add the scores of one and two finer features (Long, Shelhamer,
Darrell 2015). "dilated" is FCN-32s on a backbone whose last stages dilate instead of striding, as papers on ResNets do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.segmentation.fcn import FCNHead

from backbones import FeatureInfo
from backbones.common.registry import Registry


class Head(NamedTuple):
    """Modules of a segmentation head. The model upsamples their scores to the size of the images.

    Attributes:
        classifier: maps the last feature `[N, C, h, w]` to scores `[N, num_classes, h, w]`.
        fusion: maps these scores and all features (by name) to finer scores; None for none.
        aux_classifier: maps the feature before the last to scores for a second training loss; None for none.
    """

    classifier: nn.Module
    fusion: nn.Module | None = None
    aux_classifier: nn.Module | None = None


class HeadBuilder(Protocol):
    """Interface of a function that builds a head with random weights."""

    def __call__(self, feature_info: tuple[FeatureInfo, ...], num_classes: int, *, aux: bool) -> Head:
        """Build a head with random weights.

        Args:
            feature_info: name, channels and stride of the backbone's features from fine to coarse: as many as the head
                was registered with, or two if `aux` asks for more.
            num_classes: number of scores per pixel.
            aux: whether to add a second loss on the feature before the last; a head without a second loss ignores this.
        """


@dataclass(frozen=True)
class RegisteredHead:
    """A registered segmentation head: its builder, and the number of features and output stride that it needs.

    Attributes:
        features: how many of the backbone's last features the head reads.
        output_stride: stride of the last feature if the user does not choose one.
    """

    build: HeadBuilder
    features: int
    output_stride: int

    def __call__(self, feature_info: tuple[FeatureInfo, ...], num_classes: int, *, aux: bool) -> Head:
        return self.build(feature_info, num_classes, aux=aux)


HEADS: Registry[RegisteredHead] = Registry("segmentation head")


def register_head(name: str, *, features: int = 1, output_stride: int = 32) -> Callable[[HeadBuilder], HeadBuilder]:
    """Return a decorator that registers a `HeadBuilder` under `name`, for `segmentation.build(head=name)`.

    Args:
        features: how many of the backbone's last features the head reads; earlier ones are not computed.
        output_stride: stride of the backbone's last feature if the user does not choose one: 8, 16 or 32.

    Raises:
        ValueError: the name is already registered.
    """

    def add(builder: HeadBuilder) -> HeadBuilder:
        HEADS.register(name)(RegisteredHead(builder, features, output_stride))
        return builder

    return add


@register_head("dilated", output_stride=8)
def build_dilated(feature_info: tuple[FeatureInfo, ...], num_classes: int, *, aux: bool) -> Head:
    """Build the head "dilated", which predicts class scores from the last feature of a dilated backbone."""
    return _fcn(feature_info, num_classes, scored=1, aux=aux)


@register_head("fcn32s")
def build_fcn32s(feature_info: tuple[FeatureInfo, ...], num_classes: int, *, aux: bool) -> Head:
    """Build the head "fcn32s", which predicts class scores from the last feature (stride 32)."""
    return _fcn(feature_info, num_classes, scored=1, aux=aux)


@register_head("fcn16s", features=2)
def build_fcn16s(feature_info: tuple[FeatureInfo, ...], num_classes: int, *, aux: bool) -> Head:
    """Build the head "fcn16s", which adds class scores from the last two features (strides 32 and 16)."""
    return _fcn(feature_info, num_classes, scored=2, aux=aux)


@register_head("fcn8s", features=3)
def build_fcn8s(feature_info: tuple[FeatureInfo, ...], num_classes: int, *, aux: bool) -> Head:
    """Build the head "fcn8s", which adds class scores from the last three features (strides 32, 16 and 8)."""
    return _fcn(feature_info, num_classes, scored=3, aux=aux)


def _fcn(feature_info: tuple[FeatureInfo, ...], num_classes: int, *, scored: int, aux: bool) -> Head:
    # A seed gives its weights in this order of construction.
    fusion = Fusion(feature_info[-scored:], num_classes) if scored > 1 else None
    second = FCNHead(feature_info[-2].channels, num_classes) if aux else None
    return Head(FCNHead(feature_info[-1].channels, num_classes), fusion, second)


class Fusion(nn.Module):
    """Adds the scores of finer features to those of the last feature, from coarse to fine (figure 3 of the FCN paper).

    The finer scores start at zero and the upsampling starts as bilinear interpolation (section 4.2), so that training
    starts from the outputs of FCN-32s.
    """

    def __init__(self, feature_info: tuple[FeatureInfo, ...], num_classes: int) -> None:
        super().__init__()
        *finer, last = feature_info
        self.names = [info.name for info in reversed(finer)]
        self.scores = nn.ModuleList(_zeroed(nn.Conv2d(info.channels, num_classes, 1)) for info in reversed(finer))
        strides = [info.stride for info in (last, *reversed(finer))]
        self.enlarge = nn.ModuleList(_bilinear(num_classes, coarse // fine) for coarse, fine in pairwise(strides))

    def forward(self, x: Tensor, features: dict[str, Tensor]) -> Tensor:
        """Map scores `[N, K, h, w]` of the last feature to scores at the size of the finest feature."""
        for name, score, enlarge in zip(self.names, self.scores, self.enlarge, strict=True):
            # Upsample the scores so far to the next finer feature, then add that feature's own scores.
            x = _fitted(enlarge(x), features[name].shape[-2:]) + score(features[name])
        return x


def _zeroed(layer: nn.Conv2d) -> nn.Conv2d:
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def _fitted(x: Tensor, size: Sequence[int]) -> Tensor:
    """Crop maps to size (height, width), or extend them by repeating the last row and column."""
    height, width = size
    if torch.compiler.is_compiling():
        # The same with indices, so that a graph that is traced with one size holds for any size.
        rows, columns = (torch.arange(new, device=x.device).clamp(max=x.shape[axis] - 1)
                         for axis, new in ((-2, height), (-1, width)))  # fmt: skip
        return x.index_select(-2, rows).index_select(-1, columns)
    more = (0, max(0, width - x.shape[-1]), 0, max(0, height - x.shape[-2]))
    return (F.pad(x, more, mode="replicate") if any(more) else x)[..., :height, :width]


def _bilinear(channels: int, factor: int) -> nn.Module:
    """Return a learnable upsampling layer that starts as bilinear interpolation of each class separately."""
    if factor == 1:
        return nn.Identity()
    side = 2 * factor
    layer = nn.ConvTranspose2d(channels, channels, side, stride=factor, padding=factor // 2, bias=False)
    # The kernel of bilinear interpolation falls linearly from its centre, in both directions.
    steps = 1 - (torch.arange(side) + 0.5 - factor).abs() / factor
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[range(channels), range(channels)] = steps[:, None] * steps[None, :]
    return layer
