"""torchvision's and timm's whole nets with their own heads."""

from __future__ import annotations

import os
import re
from typing import Any

import torch
from torch import Tensor, nn

import backbones
from backbones.base import IMAGENET_MEAN, IMAGENET_STD, Backbone, per_channel
from backbones.errors import UserError, first_line
from backbones.norm import counted_batches
from backbones.registry import refuse_options
from backbones.weights.loading import load, state_for
from backbones.weights.published import timm_config, timm_pretrained
from backbones.weights.report import LoadReport

# Entries of the classifiers beside the trunk that GoogLeNet and Inception v3 are trained with; left out here.
AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")


class LibraryNet(Backbone):
    """A library's whole net, `net`: its one output is "logits", of the library's own head, and it declares no features.

    In all else (normalisation, weights, freezing) a backbone like others.
    """

    def __init__(self, net: nn.Module, *, name: str, in_channels: int, num_classes: int) -> None:
        library, arch = name.split("/", 1)
        mean, std = _normalisation(library, arch, net)
        super().__init__(name=name, feature_info=(), in_channels=in_channels, mean=mean, std=std)
        self.source: tuple[str, str] = (library, arch)
        self.net, self.num_classes = net, num_classes

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """[N, in_channels, H, W], normalised -> {"logits": [N, num_classes]}.

        Raises:
            UserError: where the net was made for another size of images.
        """
        try:
            return {"logits": self.net(x)}
        except AssertionError as error:  # how both libraries refuse a size
            raise UserError(f"{self.name}: {first_line(error)}; take images of the net's own size") from None

    def load(self, weights: str | os.PathLike[str]) -> LoadReport:
        """Fill the net; its last layer only where the weights' classes are as many, else the report has it as missing.

        Raises:
            UserError: the weights cannot be had, or anything but the last layer does not fit.
        """
        state, source = self._entries(weights)
        head = self._head()
        # A small net's head may be more than the tenth of the entries that may be missing.
        minimum = 0.9 * (1 - len(head) / len(self.state_dict()))
        report = load(self, state, source=source, ignore=(*head, *AUXILIARY), minimum=minimum)
        body = [key for key in report.missing if key not in head]
        if body:
            raise UserError(f"{self.name}: {source} has no {body[0]}; give a file of the whole net, or weights=None")
        self.accept(report, weights)
        return report

    def adopt_normalisation(self, weights: str | os.PathLike[str]) -> None:
        super().adopt_normalisation(weights)
        config = timm_config(self.source[1], str(weights)) if self.source[0] == "timm" else None
        if config is not None:
            self.mean = per_channel(config.mean, self.in_channels)
            self.std = per_channel(config.std, self.in_channels)

    def library_state(self) -> dict[str, Tensor]:
        return {name.removeprefix("net."): value for name, value in counted_batches(self).items()}

    def stages(self) -> list[list[nn.Module]]:
        """Those of the same net as a feature extractor, found in the whole one by their names."""
        with torch.device("meta"):
            trunk = backbones.build(self.name, weights=None, features="last", in_channels=self.in_channels)
        names = {module: name.removeprefix("net.") for name, module in trunk.named_modules()}
        own = dict(self.net.named_modules())
        return [[own[_unflattened(names[module], own)] for module in stage] for stage in trunk.stages()]

    def _entries(self, weights: str | os.PathLike[str]) -> tuple[dict[str, Tensor], str]:
        """The entries of a file or of published weights, and where they are from."""
        library, arch = self.source
        config = timm_config(arch, weights) if library == "timm" and isinstance(weights, str) else None
        if config is None or not config.has_weights:
            return state_for(self, weights)
        # Files of some of timm's nets want timm's own conversion.
        tagged = arch if weights == "imagenet" else f"{arch.split('.')[0]}.{weights}"
        net = timm_pretrained(lambda: _timm_net(tagged, pretrained=True), name=f"timm/{tagged}")
        return net.state_dict(), f"timm {arch} {weights}"

    def _head(self) -> tuple[str, ...]:
        """Entries whose size depends on the number of classes."""
        with torch.device("meta"):
            other = _whole(self.name, num_classes=self.num_classes + 1, in_channels=self.in_channels).state_dict()
        return tuple(f"net.{k}" for k, v in self.net.state_dict().items() if v.shape != other[k].shape)


def build_whole(
    name: str, num_classes: int, *, in_channels: int = 3, norm: str = "batch", **options: Any
) -> LibraryNet:
    """A whole net "torchvision/<name>" or "timm/<name>" with random weights.

    Args:
        norm: "batch", or "frozen" or "sync", which the caller sees to once the weights are in.
        options: those of `backbones.build` that only our own nets have: refused.

    Raises:
        UserError: unknown name or option.
    """
    ours = {"stride_style": options.pop("stride_style", "v1.5"), "shortcut": options.pop("shortcut", None)}
    refuse_options(name, {"norm": norm if norm == "group" else "batch", **ours})
    if options:
        key, value = next(iter(options.items()))
        raise UserError(
            f"{name}: {key}={value!r} is for backbones; the library's whole net comes as it is, leave it out"
        )
    if norm not in ("batch", "sync", "frozen"):
        raise UserError(f"{name}: norm={norm!r}: expected 'batch', 'sync' or 'frozen'")
    if not isinstance(in_channels, int) or in_channels < 1:
        raise UserError(f"in_channels={in_channels!r}: expected a whole number of at least 1")
    # A timm name may carry a tag behind a dot; the listing has the bare nets.
    if not backbones.names(name.split(".")[0] if name.startswith("timm/") else name):
        backbones.build(name, weights=None)  # refuses the name, and says which are near
    net = _whole(name, num_classes=num_classes, in_channels=in_channels)
    return LibraryNet(net, name=name, in_channels=in_channels, num_classes=num_classes)


def _whole(name: str, *, num_classes: int, in_channels: int) -> nn.Module:
    library, arch = name.split("/", 1)
    if library == "timm":
        return _timm_net(arch, num_classes=num_classes, in_chans=in_channels)
    return _torchvision_net(arch, num_classes, in_channels)


def _torchvision_net(arch: str, num_classes: int, in_channels: int) -> nn.Module:
    from torchvision.models import get_model

    from backbones.external_torchvision import rewiden

    # Without weights these two take -1..1 as it comes; the classes beside the trunk serve training with them alone.
    inception = {"aux_logits": False, "init_weights": True} if arch in ("googlenet", "inception_v3") else {}
    net = get_model(arch, weights=None, num_classes=num_classes, **inception)
    rewiden(net, in_channels)
    return net


def _timm_net(arch: str, **options: Any) -> nn.Module:
    import timm

    try:
        return timm.create_model(arch, **options)
    except (RuntimeError, TypeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"timm/{arch}: timm cannot build it ({first_line(error)}); take another net or tag") from error


def _normalisation(library: str, arch: str, net: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if library == "timm":
        config = net.pretrained_cfg
        return config.get("mean", IMAGENET_MEAN), config.get("std", IMAGENET_STD)
    # These two were trained on -1..1: torchvision converts inside the net, here the normalisation says it.
    inception = arch in ("googlenet", "inception_v3")
    return ((0.5,) * 3, (0.5,) * 3) if inception else (IMAGENET_MEAN, IMAGENET_STD)


def _unflattened(name: str, own: dict[str, nn.Module]) -> str:
    """The whole net's name of a part: timm's feature extractors call stages.0 stages_0 or model.stages.0."""
    bare = name.removeprefix("model.")
    return bare if bare in own else re.sub(r"^(\w+?)_(\d+)(?=\.|$)", r"\1.\2", bare)
