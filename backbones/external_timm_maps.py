"""Backbones around models of timm that return their feature maps."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from typing import Any

import timm
import torch.nn.functional as F
from timm.models._features import FeatureDictNet
from torch import Tensor, nn

from backbones.base import IMAGENET_MEAN, IMAGENET_STD, Backbone, FeatureInfo, LastStage, per_channel
from backbones.external import staged
from backbones.weights.published import timm_config


class TimmBackbone(Backbone):
    """A backbone around a timm model. The attribute `net` is the model, built with timm's `features_only=True`."""

    net: Any  # timm's three wrappers for features have the same interface but no common base class

    def __init__(self, *, net: Any, feature_info: Sequence[FeatureInfo], name: str, in_channels: int) -> None:
        config = net.pretrained_cfg
        mean, std = config.get("mean", IMAGENET_MEAN), config.get("std", IMAGENET_STD)
        super().__init__(name=name, feature_info=feature_info, in_channels=in_channels, mean=mean, std=std)
        self.source: tuple[str, str] = ("timm", name.split("/", 1)[1])
        self.net = net
        patches = [m.patch_size for m in net.modules() if isinstance(m, timm.layers.PatchEmbed)]
        self.patch: tuple[int, int] = patches[0] if patches else (1, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        height, width = x.shape[-2:]
        # Some models refuse incomplete patches. Pad with zeros to whole ones; convolutions would round up as well.
        maps = self.net(F.pad(x, (0, -width % self.patch[1], 0, -height % self.patch[0])))
        if self._channels_last():
            maps = [m.permute(0, 3, 1, 2).contiguous() for m in maps]
        return {f.name: m for f, m in zip(self.feature_info, maps, strict=True)}

    def _channels_last(self) -> bool:
        """Return whether the feature maps have their channels last, as those of Swin do."""
        return str(getattr(self.net, "output_fmt", "NCHW")).endswith("NHWC")

    def __prepare_scriptable__(self) -> nn.Module:
        return ScriptableMaps(self.net, [f.name for f in self.feature_info], self.patch, self._channels_last())

    def adopt_normalisation(self, weights: str | os.PathLike[str]) -> None:
        super().adopt_normalisation(weights)
        config = timm_config(self.source[1], str(weights))
        if config is not None:
            self.mean = per_channel(config.mean, self.in_channels)
            self.std = per_channel(config.std, self.in_channels)

    def stages(self) -> list[list[nn.Module]]:
        leaves = [n for n, m in self.net.named_modules() if not list(m.children())]
        info = self.net.feature_info.info
        spans = _spans(leaves, [entry["module"] for entry in info if entry["reduction"] >= 4])
        before = _spans(leaves, [entry["module"] for entry in info if entry["reduction"] < 4])
        start, stop = spans[0]
        # A level may be named by its last layer alone (VGG's pools). Then it begins after the level before.
        stem = before[-1][1] if before and stop - start == 1 else start
        return staged(self.net, leaves, [stem, *(stop for _, stop in spans)])

    def split_last_stage(self) -> tuple[Backbone, LastStage]:
        _, last = self._last_two()
        # `forward` transposes maps with channels last, but the split-off stage needs them untransposed.
        if not isinstance(self.net, FeatureDictNet) or self._channels_last():
            return super().split_last_stage()
        children = list(self.net.named_children())
        ends = list(self.net.return_layers)
        cut = [n for n, _ in children].index(ends[-2]) + 1
        trunk = copy.copy(self)
        trunk._modules = {**self._modules, "net": copy.copy(self.net)}
        trunk.net._modules = dict(children[:cut])
        trunk.net.return_layers = {k: v for k, v in self.net.return_layers.items() if k != ends[-1]}
        trunk.feature_info = self.feature_info[:-1]
        return trunk, LastStage([m for _, m in children[cut:]], last)


class ScriptableMaps(nn.Module):
    """Maps of a `TimmBackbone` in a form that torch.jit.script compiles.

    Args:
        net: timm's model, which returns a list of feature maps.
        names: of the feature maps.
        patch: height and width that the sides of images are padded to a multiple of.
        channels_last: whether the maps have their channels last.
    """

    def __init__(self, net: nn.Module, names: list[str], patch: tuple[int, int], channels_last: bool) -> None:
        super().__init__()
        self.net, self.names, self.patch, self.channels_last = net, names, patch, channels_last

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return the feature maps as `TimmBackbone` does."""
        bottom, right = -x.shape[2] % self.patch[0], -x.shape[3] % self.patch[1]
        maps = self.net(F.pad(x, [0, right, 0, bottom]))
        found: dict[str, Tensor] = {}
        for i, name in enumerate(self.names):
            found[name] = maps[i].permute(0, 3, 1, 2).contiguous() if self.channels_last else maps[i]
        return found


def _spans(names: list[str], ends: list[str]) -> list[tuple[int, int]]:
    """Return for each prefix in `ends` the range of the modules with this prefix: first index, and last index + 1.

    timm's wrappers rename stages.0 to stages_0 or model.stages.0.
    """
    spans = []
    for end in ends:
        prefixes = (end, end.replace(".", "_", 1), f"model.{end}")
        at = [i for i, n in enumerate(names) if any(n == p or n.startswith(f"{p}.") for p in prefixes)]
        if at:
            spans.append((at[0], at[-1] + 1))
    return spans
