"""Defines the base class of all backbones, which map images to named feature maps of declared channels and strides."""

from __future__ import annotations

import operator
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import SupportsIndex

import torch
from torch import Tensor, nn

from backbones.errors import UserError
from backbones.norm import freeze_batch_norm, norm_table, set_norm_eps
from backbones.weights.files import read_meta
from backbones.weights.names import foreign_entries
from backbones.weights.report import LoadReport
from backbones.weights.sources import is_weights_file, source_named

PYRAMID = ("c2", "c3", "c4", "c5")  # the levels that detectors and segmentation models use
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class FeatureInfo:
    """Description of one feature map.

    Attributes:
        name: the level, `c{log2(stride)}` of the undilated network. A dilated stage keeps its name.
        channels: number of channels.
        stride: actual stride, in pixels of the input.
    """

    name: str
    channels: int
    stride: int


class LastStage(nn.Sequential):
    """The last stage of a backbone as a separate module. It computes the last feature map from the one before.

    Attributes:
        feature_info: description of the stage's output.
    """

    feature_info: FeatureInfo

    def __init__(self, modules: Sequence[nn.Module], feature_info: FeatureInfo) -> None:
        super().__init__(*modules)
        self.feature_info = feature_info


class Backbone(nn.Module):
    """Base class of all backbones.

    A subclass defines `forward`. It also defines `stages` if its stages can be frozen or have their own learning rates,
    `split_last_stage` for C4 detectors, and `recompute_activations` to save memory.

    Attributes:
        name: name as given to `backbones.build`.
        feature_info: one entry per returned feature map, in order.
        in_channels: number of channels of the input.
        mean, std: normalisation for inputs in 0..1, one value per input channel.
        load_report: report of the loaded weights; None with random weights.
        source: library ("torchvision" or "timm") and name of the model whose published weights fit this backbone, or
            None.
        frozen_stages: number of frozen stages, counted from the stem, as in `freeze_stages`.
        added: beginnings of the entries of layers that no weights file has, because they are added to the network.
        weights_from: program that made the weights file that is to be loaded, see `backbones.weights.sources`; None if
            it is not known.
    """

    source: tuple[str, str] | None = None
    added: tuple[str, ...] = ()

    def __init__(
        self,
        *,
        name: str,
        feature_info: Sequence[FeatureInfo],
        in_channels: int,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.name = name
        self.feature_info = tuple(feature_info)
        self.in_channels = in_channels
        self.mean = per_channel(mean, in_channels)
        self.std = per_channel(std, in_channels)
        self.load_report: LoadReport | None = None
        self.frozen_stages = 0
        self.weights_from: str | None = None
        # Parameters that `freeze_stages` stopped. Parameters that did not train before are not among them.
        self._stopped: list[nn.Parameter] = []

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map normalised images to a dict of feature maps by name, such as "c5".

        Args:
            x: normalised images `[N, in_channels, H, W]`.

        Returns:
            A dict from level names to feature maps `[N, channels, h, w]`, where h and w are about H / stride and W /
            stride.
        """
        raise NotImplementedError

    def normalise(self, images: Tensor) -> Tensor:
        """Normalise uint8 images `[N, C, H, W]` of 0..255 to zero mean and unit std.

        Floating-point images are returned unchanged: the caller must have normalised them already.
        """
        if images.dtype != torch.uint8:
            return images
        images = images.to(memory_format=torch.channels_last).float()
        low = images.new_tensor(self.mean)[:, None, None] * 255
        return (images - low) / (images.new_tensor(self.std)[:, None, None] * 255)

    def __prepare_scriptable__(self) -> nn.Module:
        """Return the model that torch.jit.script compiles in place of this one: the graph of `forward`."""
        graph = torch.fx.Tracer().trace(self)
        # The annotations are texts here, which the compiler cannot read. Without them it infers the types.
        for node in graph.nodes:
            node.type = None
        return torch.fx.GraphModule(self, graph)

    def accept(self, report: LoadReport, weights: str | os.PathLike[str]) -> None:
        """Store the load report, and set the input normalisation to that with which the loaded weights were trained.

        Raises:
            UserError: weights of batch norm were loaded into group norm, for which they are meaningless, or a file has
                weights within parts of this network that this network lacks.
        """
        if norm_table(self).get("group") and any(k.endswith("running_mean") for k in report.beside):
            raise UserError(
                f"{self.name}: {report.source} was trained with batch norm, whose weights do not fit norm='group'; "
                "use norm='batch' or norm='frozen', or weights=None"
            )
        # Published weights are known to fit; libraries drop entries of some of their files.
        others = foreign_entries(self.state_dict(), report.beside) if is_weights_file(weights) else []
        if others:
            raise UserError(
                f"{self.name}: {report.source} belongs to another network, because it has {len(others)} entries that "
                f"this one lacks, such as {others[0]}; use the network that the file was trained with"
            )
        self.load_report = report
        self.adopt_normalisation(weights)

    def come_from(self, name: str) -> None:
        """Prepare for the weights of a known program: set `mean`, `std` and the epsilon of batch norm.

        Raises:
            UserError: the program is not known, or the weights need another number of input channels.
        """
        source = source_named(name)
        assert source is not None
        self.weights_from = name
        self.set_normalisation(per_channel(source.mean, self.in_channels), per_channel(source.std, self.in_channels))
        set_norm_eps(self, source.norm_eps)

    def adopt_normalisation(self, weights: str | os.PathLike[str]) -> None:
        """Set `mean`, `std` and the epsilon of batch norm to the values with which the given weights were trained.

        Our own weights files record these values. With other weights they stay unchanged, unless a subclass knows the
        values.
        """
        meta = read_meta(weights)
        if meta.get("norm_eps") is not None:
            set_norm_eps(self, meta["norm_eps"])
        given = meta.get("input", {})
        mean, std = given.get("mean", ()), given.get("std", ())
        if len(mean) == len(std) == self.in_channels:
            self.set_normalisation(mean, std)

    def set_normalisation(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Set the mean and std with which `normalise` works: one value per input channel, for inputs in 0..1."""
        self.mean, self.std = tuple(mean), tuple(std)

    def library_state(self) -> dict[str, Tensor]:
        """Return the weights with the parameter names of the library's model `source`, without a classifier.

        Raises:
            UserError: no library has this model, or parts of the model are left out here.
        """
        raise UserError(
            f"{self.name}: neither torchvision nor timm has a model with exactly these layers, so the "
            "weights cannot be saved for either; use a model made by classification.build"
        )

    def stages(self) -> list[list[nn.Module]]:
        """Return the modules of the stem, then the modules of each level in order.

        Raises:
            UserError: the subclass does not define its stages.
        """
        raise UserError(
            f"{self.name}: its class {type(self).__name__} does not define `stages`, so its stages can "
            "neither be frozen nor get their own learning rates; define `stages`, or use --freeze 0"
        )

    def recompute_activations(self) -> None:
        """Save memory in training: store only the inputs of the blocks, and recompute the rest in the backward pass.

        Outputs, gradients and running statistics stay the same to the last bit.

        Raises:
            UserError: the subclass cannot do this.
        """
        raise UserError(
            f"{self.name}: its activations cannot be recomputed in the backward pass; leave --recompute out, "
            "or use another backbone, such as resnet50"
        )

    def split_last_stage(self) -> tuple[Backbone, LastStage]:
        """Split off the last stage. C4 detectors use it as the RoI head.

        Returns:
            The backbone without its last feature, and the module that computes this feature from the one before. Both
            share their modules with this backbone.

        Raises:
            UserError: the stage cannot be split off.
        """
        raise UserError(
            f"{self.name}: its last stage cannot be split off for a C4 detector; use neck 'fpn' or 'dc5', or another "
            "backbone, such as resnet50"
        )

    def freeze_stages(self, n: int) -> None:
        """Freeze the first n stages and train the others. 0 freezes nothing, 1 the stem, 2 the stem and c2, ...

        Frozen parameters get no gradient, and their batch norm becomes frozen batch norm. A later call with a smaller n
        makes the parameters of the earlier call train again. Their batch norm stays frozen: statistics over many images
        are better than those of the small batches of fine-tuning.

        Raises:
            UserError: n is not a number of stages of this backbone.
        """
        # A backbone without `stages` can still freeze nothing.
        stages = self.stages() if n or self._stopped else []
        if not isinstance(n, SupportsIndex) or not 0 <= operator.index(n) <= len(stages):
            raise UserError(f"{self.name}: cannot freeze {n!r} stages; expected 0..{len(stages)} (1 is the stem)")
        # Replace the batch norm of these stages.
        freeze_batch_norm(self, within=[m for stage in stages[:n] for m in stage])
        # Undo an earlier call.
        for parameter in self._stopped:
            parameter.requires_grad_(True)
        # Stop the parameters. The replaced norms have none, so ask for the stages again.
        frozen = [p for stage in (self.stages()[:n] if n else []) for m in stage for p in m.parameters()]
        self._stopped = [parameter for parameter in frozen if parameter.requires_grad]
        for parameter in self._stopped:
            parameter.requires_grad_(False)
        self.frozen_stages = n

    def _last_two(self) -> tuple[FeatureInfo, FeatureInfo]:
        """Return the last two feature levels, such as c4 and c5.

        Raises:
            UserError: they are not at neighbouring levels.
        """
        if len(self.feature_info) < 2 or level(self.feature_info[-1]) - level(self.feature_info[-2]) != 1:
            names = ", ".join(f.name for f in self.feature_info)
            raise UserError(
                f"{self.name}: splitting off the last stage needs two neighbouring features, got {names}; choose "
                "features such as ('c4', 'c5')"
            )
        return self.feature_info[-2], self.feature_info[-1]


def level(info: FeatureInfo) -> int:
    """Return the level of a feature as a number, such as 4 for "c4"."""
    return int(info.name[1:])


def per_channel(values: Sequence[float], in_channels: int) -> tuple[float, ...]:
    """Convert values for R, G and B to values for `in_channels` channels, one per channel.

    One channel gets the mean of the three values. More channels get R, G, B in turn, as in the adapted first
    convolution.
    """
    if in_channels == 1:
        return (sum(values) / len(values),)
    return tuple(float(values[i % len(values)]) for i in range(in_channels))


def choose_features(name: str, features: Sequence[str] | str, available: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the feature levels that the argument `features` of `build` selects.

    Args:
        name: the backbone, for the message.
        features: names of levels; "all" (every level from c2, or every level if the last one is below c3); or "last".
        available: all levels of the network, in order.

    Raises:
        UserError: a level does not exist.
    """
    if features == "last":
        return tuple(available[-1:])
    if features == "all":
        return tuple(f for f in available if f in PYRAMID) if available[-1] > "c2" else tuple(available)
    absent = [f for f in features if f not in available]
    if absent:
        raise UserError(f"{name}: has no feature {', '.join(absent)}; choose from {', '.join(available)}")
    return tuple(features)
