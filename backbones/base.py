"""The contract of every backbone: images in, feature maps by name out, channels and strides declared."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from backbones.errors import UserError
from backbones.norm import freeze_batch_norm, norm_table
from backbones.weights.files import read_meta

if TYPE_CHECKING:
    from backbones.weights.report import LoadReport

PYRAMID = ("c2", "c3", "c4", "c5")  # what detectors and segmenters take
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class FeatureInfo:
    """What a head needs to know of one feature map.

    The name is the level, `c{log2(stride)}` of the undilated net; `stride` is the true one, in input pixels.
    """

    name: str
    channels: int
    stride: int


class LastStage(nn.Sequential):
    """The last stage of a backbone on its own: maps the trunk's last feature map to this one's."""

    feature_info: FeatureInfo

    def __init__(self, modules: Sequence[nn.Module], feature_info: FeatureInfo) -> None:
        super().__init__(*modules)
        self.feature_info = feature_info


class Backbone(nn.Module):
    """Base of all backbones.

    Attributes:
        name: as given to `backbones.build`.
        feature_info: one entry per returned feature, in order.
        in_channels: channels of the input.
        mean, std: normalisation for inputs in 0..1, one value per input channel.
        load_report: what the weights gave, or None with random weights.
        source: library ("torchvision" or "timm") and net whose published weights fit, or None.
        frozen_stages: how many of the first stages do not train; `freeze_stages` says it.
    """

    source: tuple[str, str] | None = None

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
        self._stopped: list[nn.Parameter] = []  # by freezing, of those that train otherwise

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """[N, in_channels, H, W], normalised -> {name: [N, channels, about H/stride, about W/stride]}."""
        raise NotImplementedError

    def normalised(self, images: Tensor) -> Tensor:
        """Bytes 0..255 `[N, C, H, W]` brought to zero mean and unit deviation; floating images are so already."""
        if images.dtype != torch.uint8:
            return images
        images = images.to(memory_format=torch.channels_last).float()
        low = images.new_tensor(self.mean)[:, None, None] * 255
        return (images - low) / (images.new_tensor(self.std)[:, None, None] * 255)

    def accept(self, report: "LoadReport", weights: str | os.PathLike[str]) -> None:
        """Keep the report of weights just loaded, and take over the normalisation that they were trained with.

        Raises:
            UserError: numbers of batch norm went into group norm, where they mean something else.
        """
        if norm_table(self).get("group") and any(k.endswith("running_mean") for k in report.unexpected):
            raise UserError(
                f"{self.name}: {report.source} was trained with batch norm, which norm='group' cannot take over; "
                "take norm='batch' or 'frozen', or weights=None"
            )
        self.load_report = report
        self.adopt_normalisation(weights)

    def adopt_normalisation(self, weights: str | os.PathLike[str]) -> None:
        """Take over the mean and std that the named weights were trained with, where those of a net differ.

        Files of ours say them.
        """
        given = read_meta(weights).get("input", {})
        mean, std = given.get("mean", ()), given.get("std", ())
        if len(mean) == len(std) == self.in_channels:
            self.mean, self.std = tuple(mean), tuple(std)

    def set_normalisation(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Normalise with this mean and std, one value per input channel, for inputs in 0..1."""
        self.mean, self.std = tuple(mean), tuple(std)

    def library_state(self) -> dict[str, Tensor]:
        """The entries under the names that the library's own net has (`source`), its classifier aside.

        Raises:
            UserError: where no library has this net, or parts of it are left out.
        """
        raise UserError(f"{self.name}: no library has this net, or not in one piece; take classification.build's")

    def stages(self) -> list[list[nn.Module]]:
        """The stem, then the modules of each level in order."""
        raise NotImplementedError

    def recompute_activations(self) -> None:
        """Keep only the inputs of the blocks for the backward pass and compute the rest again: memory for time.

        Outputs, gradients and running statistics stay the same to the last bit.
        """
        raise UserError(f"{self.name}: cannot recompute its activations; take one of ours")

    def split_last_stage(self) -> tuple["Backbone", LastStage]:
        """Cut the last feature off: (backbone without it, module that makes it from the one before).

        The two share their modules with this backbone. Serves C4 detectors, whose RoI head is conv5.
        """
        raise UserError(f"{self.name}: its last stage cannot be cut off (C4); take one of ours, or neck 'fpn' or 'dc5'")

    def freeze_stages(self, n: int) -> None:
        """Train all but the first n stages: 0 freezes nothing, 1 the stem, 2 the stem and c2, ...

        Frozen parameters take no gradient, and batch norm becomes frozen batch norm. A later call with a smaller n
        thaws: what an earlier one stopped trains again. Batch norm stays frozen then, as detectors fine-tune: its
        statistics over many images are worth more than those of small batches.

        Raises:
            UserError: n is not a number of stages that this net has.
        """
        stages = self.stages()
        if not isinstance(n, int) or not 0 <= n <= len(stages):
            raise UserError(f"{self.name}: cannot freeze {n!r} stages; expected 0..{len(stages)} (1 is the stem)")
        freeze_batch_norm(self, within=[m for stage in stages[:n] for m in stage])
        for parameter in self._stopped:
            parameter.requires_grad_(True)
        frozen = [p for stage in self.stages()[:n] for m in stage for p in m.parameters()]
        self._stopped = [parameter for parameter in frozen if parameter.requires_grad]
        for parameter in self._stopped:
            parameter.requires_grad_(False)
        self.frozen_stages = n

    def _before_last(self) -> tuple[FeatureInfo, FeatureInfo]:
        """The last two features, checked to be neighbours."""
        if len(self.feature_info) < 2 or level(self.feature_info[-1]) - level(self.feature_info[-2]) != 1:
            wanted = ", ".join(f.name for f in self.feature_info)
            raise UserError(f"{self.name}: cutting the last stage off needs two neighbouring features, got {wanted}")
        return self.feature_info[-2], self.feature_info[-1]


def level(info: FeatureInfo) -> int:
    """4 for c4."""
    return int(info.name[1:])


def per_channel(values: Sequence[float], in_channels: int) -> tuple[float, ...]:
    """RGB values for any number of channels, as the adapted convolution has them.

    One channel takes the average, more repeat R, G, B.
    """
    if in_channels == 1:
        return (sum(values) / len(values),)
    return tuple(float(values[i % len(values)]) for i in range(in_channels))


def choose_features(name: str, features: Sequence[str] | str, available: Sequence[str]) -> tuple[str, ...]:
    """The levels that `features` asks for: names, or "all" (those from c2 on, where there are such) or "last".

    Raises:
        UserError: for a level that the net does not have.
    """
    if features == "last":
        return tuple(available[-1:])
    if features == "all":
        return tuple(f for f in available if f in PYRAMID) if available[-1] > "c2" else tuple(available)
    absent = [f for f in features if f not in available]
    if absent:
        raise UserError(f"{name} has no feature {', '.join(absent)}; it has {', '.join(available)}")
    return tuple(features)
