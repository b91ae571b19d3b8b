"""Whole models of torchvision and timm with their own heads."""

from __future__ import annotations

import os
import re
from typing import Any, cast

from torch import Tensor, nn
from torchvision.models import get_model

import backbones
from backbones.base import IMAGENET_MEAN, IMAGENET_STD, Backbone, per_channel
from backbones.common.devices import without_data
from backbones.common.numeric import whole_number
from backbones.errors import UserError, first_line
from backbones.external_torchvision import replace_first_conv
from backbones.norm import counted_batches
from backbones.registry import refuse_options
from backbones.weights.loading import load, state_for
from backbones.weights.published import timm_config, timm_pretrained
from backbones.weights.report import LoadReport
from backbones.weights.sources import chosen_style

# Entries of the auxiliary classifiers that GoogLeNet and Inception v3 are trained with. Ours have none.
AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")
# torchvision's models that need inputs of -1..1 and have auxiliary classifiers.
INCEPTIONS = ("googlenet", "inception_v3")


class LibraryModel(Backbone):
    """A backbone around a library's whole model, `net`. Its only output is "logits", from the library's own head.

    It declares no features. Normalisation, weights and freezing work as in any other backbone.
    """

    def __init__(self, net: nn.Module, *, name: str, in_channels: int, num_classes: int) -> None:
        library, arch = name.split("/", 1)
        mean, std = _normalisation(library, arch, net)
        super().__init__(name=name, feature_info=(), in_channels=in_channels, mean=mean, std=std)
        self.source: tuple[str, str] = (library, arch)
        self.net: Any = net
        self.num_classes, self._recompute = num_classes, False

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map normalised images `[N, in_channels, H, W]` to {"logits": `[N, num_classes]`}.

        Raises:
            UserError: the model does not accept images of this size.
        """
        try:
            return {"logits": self.net(x)}
        except AssertionError as error:  # both libraries refuse a size with an assertion
            why = first_line(error).rstrip(".")
            raise UserError(f"{self.name}: {why}; use images of the size that the model needs") from None

    def __prepare_scriptable__(self) -> nn.Module:
        return ScriptableLogits(self.net)

    def load(self, weights: str | os.PathLike[str]) -> LoadReport:
        """Load weights. If the number of classes differs, the last layer is not loaded but reported as missing.

        Raises:
            UserError: the weights are not available, or anything but the last layer does not fit.
        """
        state, source = self._entries(weights)
        head = tuple(self.head_entries()[0])
        # `load` accepts a tenth of the entries as missing. A small model's head may be more, so leave it out.
        minimum = 0.9 * (1 - len(head) / len(self.state_dict()))
        report = load(self, state, source=source, ignore=(*head, *AUXILIARY), minimum=minimum)
        body = [key for key in report.missing if key not in head]
        if body:
            raise UserError(
                f"{self.name}: {source} lacks the entry {body[0]}; give a file of the whole model, or weights=None"
            )
        self.accept(report, weights)
        return report

    def adopt_normalisation(self, weights: str | os.PathLike[str]) -> None:
        super().adopt_normalisation(weights)
        config = timm_config(self.source[1], str(weights)) if self.source[0] == "timm" else None
        if config is not None:
            mean, std = (per_channel(values, self.in_channels) for values in (config.mean, config.std))
            self.set_normalisation(mean, std)

    def recompute_activations(self) -> None:
        # timm recomputes the blocks of a transformer; recomputed batch norm would update its statistics twice.
        if not hasattr(self.net, "dynamic_img_size"):
            super().recompute_activations()
        self._recompute = True
        self.train(self.training)

    def train(self, mode: bool = True) -> LibraryModel:
        """Set the mode; in training mode, the blocks are recomputed if `recompute_activations` was called."""
        super().train(mode)
        if self._recompute:
            self.net.set_grad_checkpointing(mode)
        return self

    def library_state(self) -> dict[str, Tensor]:
        return {name.removeprefix("net."): value for name, value in counted_batches(self).items()}

    def stages(self) -> list[list[nn.Module]]:
        """Return the modules of each stage. Their names in the library's feature extractor tell the stages."""
        trunk = without_data(
            lambda: backbones.build(self.name, weights=None, features="last", in_channels=self.in_channels)
        )
        names = {module: name.removeprefix("net.") for name, module in trunk.named_modules()}
        own = dict(self.net.named_modules())
        added = tuple(each.removesuffix(".") for each in trunk.added)
        return [
            [own[_whole_name(names[module], own)] for module in stage if names[module] not in added]
            for stage in trunk.stages()
        ]

    def _entries(self, weights: str | os.PathLike[str]) -> tuple[dict[str, Tensor], str]:
        """Return the entries of a file or of published weights, and a name for their source."""
        library, arch = self.source
        config = timm_config(arch, weights) if library == "timm" and isinstance(weights, str) else None
        if config is None or not config.has_weights:
            return state_for(self, weights)
        # Let timm load its weights: the files of some of its models need timm's own conversion.
        tagged = arch if weights == "imagenet" else f"{arch.split('.')[0]}.{weights}"
        net = timm_pretrained(lambda: _create_timm(tagged, pretrained=True), name=f"timm/{tagged}")
        return net.state_dict(), f"timm {arch} {weights}"

    def head_entries(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the entries of the last layer, whose shapes depend on the number of classes.

        Returns:
            The entries, and those of a model with one more class, which may hold no data.
        """
        more = self.num_classes + 1
        other = without_data(lambda: _create(self.name, num_classes=more, in_channels=self.in_channels)).state_dict()
        own = {f"net.{k}": v for k, v in self.net.state_dict().items() if v.shape != other[k].shape}
        return own, {name: other[name.removeprefix("net.")] for name in own}


class ScriptableLogits(nn.Module):
    """Logits of a `LibraryModel` in a form that torch.jit.script compiles."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return {"logits": `[N, num_classes]`}."""
        return {"logits": self.net(x)}


def build_library_model(
    name: str,
    num_classes: int,
    *,
    in_channels: int = 3,
    norm: str = "batch",
    weights_from: str | None = None,
    **options: object,
) -> LibraryModel:
    """Build the whole model "torchvision/<name>" or "timm/<name>" with random weights.

    Args:
        name: the model's name.
        num_classes: number of logits.
        in_channels: channels of the images.
        norm: "batch", "frozen" or "sync"; the caller converts the norm layers once the weights are loaded.
        weights_from: program that made the weights file that is to be loaded, as in `backbones.build`.
        options: other options of `backbones.build`; refused, since a library's model does not have them.

    Raises:
        UserError: the name or an option is unknown.
    """
    style = chosen_style(cast("str | None", options.pop("stride_style", None)), weights_from, None)
    ours = {"stride_style": style or "v1.5", "shortcut": options.pop("shortcut", None)}
    refuse_options(name, {"norm": norm if norm == "group" else "batch", **ours})
    if options:
        key, value = next(iter(options.items()))
        raise UserError(
            f"{name}: {key}={value!r} applies to backbones, not to a library's complete classifier; leave {key} out"
        )
    if norm not in ("batch", "sync", "frozen"):
        raise UserError(f"{name}: norm={norm!r}: expected 'batch', 'sync' or 'frozen'")
    in_channels = whole_number("in_channels", in_channels)
    # A timm name may end in a tag after a dot. The list of names has no tags.
    if not backbones.names(name.split(".")[0] if name.startswith("timm/") else name):
        backbones.build(name, weights=None)  # raises the error that suggests similar names
    net = _create(name, num_classes=num_classes, in_channels=in_channels)
    model = LibraryModel(net, name=name, in_channels=in_channels, num_classes=num_classes)
    if weights_from is not None:
        model.come_from(weights_from)
    return model


def _create(name: str, *, num_classes: int, in_channels: int) -> nn.Module:
    library, arch = name.split("/", 1)
    if library == "timm":
        try:  # plain transformers then accept images of any number of patches
            return _create_timm(arch, num_classes=num_classes, in_chans=in_channels, dynamic_img_size=True)
        except UserError:
            return _create_timm(arch, num_classes=num_classes, in_chans=in_channels)
    # Without weights, torchvision leaves inputs of -1..1 as they are. The auxiliary classifiers only help training.
    inception = {"aux_logits": False, "init_weights": True} if arch in INCEPTIONS else {}
    net = get_model(arch, weights=None, num_classes=num_classes, **inception)
    replace_first_conv(net, in_channels)
    return net


def _create_timm(arch: str, **options: Any) -> nn.Module:
    import timm

    try:
        return timm.create_model(arch, **options)
    except (RuntimeError, TypeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"timm/{arch}: timm cannot build it ({first_line(error)}); use another model or tag") from error


def _normalisation(library: str, arch: str, net: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and std with which the images must be normalised for a model's published weights."""
    if library == "timm":
        config = net.pretrained_cfg
        return config.get("mean", IMAGENET_MEAN), config.get("std", IMAGENET_STD)
    # torchvision converts ImageNet's normalisation to -1..1 inside these models. Ours normalise to -1..1 at once.
    return ((0.5,) * 3, (0.5,) * 3) if arch in INCEPTIONS else (IMAGENET_MEAN, IMAGENET_STD)


def _whole_name(name: str, own: dict[str, nn.Module]) -> str:
    """Return a module's name in the whole model; timm's extractors rename stages.0 to stages_0 or model.stages.0."""
    bare = name.removeprefix("model.")
    return bare if bare in own else re.sub(r"^(\w+?)_(\d+)(?=\.|$)", r"\1.\2", bare)
