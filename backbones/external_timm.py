"""timm's models as backbones. timm declares their levels, channels and strides.

A level's name is `c{log2(stride)}` of the undilated network. Some families (hrnet, dla) need sides divisible by 32.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Sequence
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.models._features import FeatureDictNet
from torch import Tensor, nn

from backbones.base import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Backbone,
    FeatureInfo,
    LastStage,
    choose_features,
    per_channel,
)
from backbones.errors import UserError
from backbones.external import staged
from backbones.weights.published import timm_config


def names() -> list[str]:
    """Return the names of all timm models, as timm/<name>."""
    return [f"timm/{n}" for n in timm.list_models()]


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


def build(*, name: str, features: Sequence[str] | str, in_channels: int, output_stride: int) -> TimmBackbone:
    """Build a timm model with random weights. The arguments are those of `backbones.build`."""
    _check_tag(name)
    reductions = _reductions(name)
    if is_plain(reductions):
        from backbones.external_vit import build_vit  # which imports this module

        return build_vit(
            name=name, patch=reductions[0], features=features, in_channels=in_channels, output_stride=output_stride
        )
    levels = _timm_levels(name, reductions)
    features = choose_features(name, features, tuple(levels))
    options: dict[str, Any] = {} if output_stride == 32 else {"output_stride": output_stride}
    config = timm.models.get_pretrained_cfg(name.split("/", 1)[1])
    if config is not None and config.fixed_input_size:
        options["strict_img_size"] = False  # models with windows then accept any size and pad inside
    try:
        net: Any = timm.create_model(
            name.split("/", 1)[1],
            features_only=True,
            out_indices=tuple(levels[f] for f in features),
            in_chans=in_channels,
            **options,
        )
    except (TypeError, AssertionError, NotImplementedError) as error:
        raise UserError(
            f"{name}: timm cannot build this model with {_describe(options)}; use other options or another model"
        ) from error
    info = net.feature_info
    _drop_after(net, info.module_name()[-1])
    declared = [FeatureInfo(f, c, s) for f, c, s in zip(features, info.channels(), info.reduction(), strict=True)]
    return TimmBackbone(net=net, feature_info=declared, name=name, in_channels=in_channels)


def _drop_after(net: nn.Module, last: str) -> None:
    """Replace the modules that follow the last feature in a sequence by identities.

    timm's EfficientNets and MobileNets keep the stage after it. Its parameters would get no gradient, which neither
    DistributedDataParallel nor a resumed optimizer accepts.

    Args:
        last: name of the module that gives the last feature, such as blocks.1.
    """
    parts = last.split(".")
    for depth in range(len(parts) - 1):
        name = ".".join(parts[: depth + 1])
        sequence = dict(net.named_modules()).get(name)
        if isinstance(sequence, nn.Sequential) and parts[depth + 1].isdecimal():
            for index in range(int(parts[depth + 1]) + 1, len(sequence)):
                sequence[index] = nn.Identity()


def _check_tag(name: str) -> None:
    """Refuse "timm/<model>.<tag>" with a tag that the model does not have."""
    arch, _, tag = name.split("/", 1)[1].partition(".")
    if tag and timm_config(arch, tag) is None:
        tags = ", ".join(n.split(".", 1)[1] for n in timm.list_pretrained(f"{arch}.*"))
        raise UserError(f"{name}: timm/{arch} has no weights {tag!r}; the available tags are: {tags or 'none'}")


def _describe(options: dict[str, Any]) -> str:
    """Describe the options of a timm model in words."""
    words = {"strict_img_size": "inputs of any size"}
    return ", ".join(words.get(k, f"{k}={v}") for k, v in options.items()) or "these options"


def is_plain(reductions: Sequence[int]) -> bool:
    """Return whether all features of a timm model have one stride, as those of a plain transformer do."""
    return len(reductions) > 1 and len(set(reductions)) == 1


def _reductions(name: str) -> list[int]:
    """Return the stride of each feature of a timm model.

    Raises:
        UserError: timm has no features of this model.
    """
    try:
        with torch.device("meta"):
            net: Any = timm.create_model(name.split("/", 1)[1], features_only=True, pretrained=False)
        return [entry["reduction"] for entry in net.feature_info.info]
    except Exception as error:  # each family raises other kinds of exceptions
        raise UserError(
            f"{name} does not return feature maps of several strides; use a model with stages, such as "
            "timm/convnext_tiny"
        ) from error


def _timm_levels(name: str, reductions: Sequence[int]) -> dict[str, int]:
    """Return the index of each level in timm's feature list: the last entry at each stride of the undilated model."""
    levels = {f"c{int(math.log2(r))}": i for i, r in enumerate(reductions) if r > 1 and math.log2(r).is_integer()}
    if len(levels) < 2:
        raise UserError(
            f"{name} returns feature maps of one stride only; use a model with stages, such as timm/convnext_tiny"
        )
    return levels
