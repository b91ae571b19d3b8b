"""Plain vision transformers of timm as backbones: a feature pyramid from the one map of a transformer.

The pyramid is the simple feature pyramid of Li et al. (2022, https://arxiv.org/abs/2203.16527, section 3): maps of
strides 4, 8, 16 and 32 from the last map of stride 16, by transposed convolutions and pooling, without connections
between the levels. The layers of the pyramid start from random weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import timm
import torch.nn.functional as F
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from backbones.base import PYRAMID, Backbone, FeatureInfo, LastStage, choose_features
from backbones.errors import UserError
from backbones.external_timm_maps import TimmBackbone

GROUPS = len(PYRAMID)  # groups of blocks that freeze and train as the stages of a convolutional network do


class SimplePyramid(nn.Module):
    """Maps of several strides from one map.

    Args:
        channels: of the map.
        stride: of the map in pixels, a power of two.
        strides: of the maps to return, powers of two.
    """

    def __init__(self, channels: int, stride: int, strides: Sequence[int]) -> None:
        super().__init__()
        self.levels = nn.ModuleList(_resampling(channels, stride, wanted) for wanted in strides)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return a map for each stride, from a map `[N, channels, h, w]`."""
        return [level(x) for level in self.levels]


class VitBackbone(TimmBackbone):
    """A plain vision transformer of timm with a `SimplePyramid`.

    Images may have any size: position embeddings are interpolated, and images are padded to whole patches. A patch
    whose side is no power of two, such as 14, is given the next larger power of two pixels: images are shrunk before.

    Args:
        net: timm's transformer, without its head.
        patch: side of a patch in pixels of the images that the transformer gets.
        stride: side of a patch in pixels of the images before they are shrunk.
    """

    added = ("pyramid.",)

    def __init__(
        self, *, net: Any, feature_info: Sequence[FeatureInfo], name: str, in_channels: int, patch: int, stride: int
    ) -> None:
        super().__init__(net=net, feature_info=feature_info, name=name, in_channels=in_channels)
        self.patch, self.patch_stride = (patch, patch), stride
        self.pyramid = SimplePyramid(net.embed_dim, stride, [info.stride for info in feature_info])
        self._recompute = False

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        height, width = x.shape[-2:]
        x = F.pad(x, (0, -width % self.patch_stride, 0, -height % self.patch_stride))
        if self.patch[0] != self.patch_stride:
            size = [side // self.patch_stride * self.patch[0] for side in x.shape[-2:]]
            x = F.interpolate(x, size=size, mode="bilinear", antialias=True, align_corners=False)
        (last,) = self.net.forward_intermediates(x, indices=1, norm=True, intermediates_only=True)
        maps = zip(self.feature_info, self.pyramid(last), strict=True)
        # Cut off what belongs to the padding alone.
        return {i.name: m[..., : -(-height // i.stride), : -(-width // i.stride)] for i, m in maps}

    def __prepare_scriptable__(self) -> nn.Module:
        raise UserError(
            f"{self.name}: cannot be compiled by torch.jit.script, because its position embeddings follow the size of "
            "the image; export another format, or use another backbone, such as resnet50"
        )

    def split_last_stage(self) -> tuple[Backbone, LastStage]:
        raise UserError(f"{self.name}: a transformer has no last stage for a C4 detector; use neck fpn")

    def recompute_activations(self) -> None:
        self._recompute = True
        self.train(self.training)

    def train(self, mode: bool = True) -> VitBackbone:
        """Set the mode; in training mode, the blocks are recomputed if `recompute_activations` was called."""
        super().train(mode)
        self.net.set_grad_checkpointing(self._recompute and mode)
        return self

    def stages(self) -> list[list[nn.Module]]:
        blocks = list(self.net.blocks)
        bounds = [round(len(blocks) * part / GROUPS) for part in range(GROUPS + 1)]
        groups: list[list[nn.Module]] = [blocks[start:stop] for start, stop in pairwise(bounds)]
        groups[-1] += [self.net.norm, self.pyramid]
        return [[self.net.patch_embed], *groups]

    def freeze_stages(self, n: int) -> None:
        super().freeze_stages(n)
        # Position embeddings and tokens belong to the stem, but are no modules.
        embeddings = [p for p in self.net.parameters(recurse=False) if n and p.requires_grad]
        for parameter in embeddings:
            parameter.requires_grad_(False)
        self._stopped += embeddings


def build_vit(
    *, name: str, patch: int, features: Sequence[str] | str, in_channels: int, output_stride: int
) -> VitBackbone:
    """Build a vision transformer of timm with random weights. The other arguments are those of `backbones.build`.

    Args:
        patch: side of a patch in pixels.

    Raises:
        UserError: the model gives no map of patches, or has no position embeddings for other sizes.
    """
    if output_stride != 32:
        raise UserError(
            f"{name}: a transformer has no dilated last stage (output_stride={output_stride}); detect with neck fpn, "
            "and segment with a head such as fcn8s"
        )
    arch = name.split("/", 1)[1]
    try:
        net: Any = timm.create_model(arch, num_classes=0, in_chans=in_channels, dynamic_img_size=True)
        net.prune_intermediate_layers(len(net.blocks) - 1, prune_norm=False, prune_head=True)
    except (TypeError, AssertionError, NotImplementedError, AttributeError) as error:
        raise UserError(
            f"{name}: is a transformer whose features cannot be read at any image size; use a plain one, such as "
            "timm/vit_small_patch16_224"
        ) from error
    stride = 2 ** math.ceil(math.log2(patch))
    infos = [FeatureInfo(level, _channels(net.embed_dim, stride, 2 ** int(level[1:])), 2 ** int(level[1:]))
             for level in choose_features(name, features, PYRAMID)]  # fmt: skip
    return VitBackbone(net=net, feature_info=infos, name=name, in_channels=in_channels, patch=patch, stride=stride)


def _steps(stride: int, wanted: int) -> int:
    """Return how often a map is doubled in size; below 0 if it is halved."""
    return int(math.log2(stride / wanted))


def _channels(channels: int, stride: int, wanted: int) -> int:
    """Return the channels of a level: each doubling of the size halves them."""
    return max(1, channels >> max(0, _steps(stride, wanted)))


def _resampling(channels: int, stride: int, wanted: int) -> nn.Module:
    """Return the layers from a map of one stride to a map of another one."""
    steps = _steps(stride, wanted)
    if steps < 0:
        return nn.MaxPool2d(2**-steps, ceil_mode=True)
    layers: list[nn.Module] = []
    for step in range(steps):
        inputs, outputs = (max(1, channels >> each) for each in (step, step + 1))
        layers += [LayerNorm2d(inputs), nn.GELU()] if step else []
        layers.append(nn.ConvTranspose2d(inputs, outputs, 2, stride=2))
    return nn.Sequential(*layers)
