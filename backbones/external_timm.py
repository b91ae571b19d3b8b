"""timm's models as backbones. timm declares their levels, channels and strides.

A level's name is `c{log2(stride)}` of the undilated network. Some families (hrnet, dla) need sides divisible by 32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import timm
from torch import nn

from backbones.base import FeatureInfo, choose_features
from backbones.common.devices import without_data
from backbones.errors import UserError
from backbones.external_timm_maps import TimmBackbone
from backbones.external_vit import build_vit
from backbones.weights.published import timm_config


def names() -> list[str]:
    """Return the names of all timm models, as timm/<name>."""
    return [f"timm/{n}" for n in timm.list_models()]


def build(*, name: str, features: Sequence[str] | str, in_channels: int, output_stride: int) -> TimmBackbone:
    """Build a timm model with random weights. The arguments are those of `backbones.build`."""
    _check_tag(name)
    reductions = _reductions(name)
    if is_plain(reductions):
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
        net: Any = without_data(lambda: timm.create_model(name.split("/", 1)[1], features_only=True, pretrained=False))
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
