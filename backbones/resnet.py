"""Residual networks, and plain networks without shortcuts (He et al. 2015, https://arxiv.org/abs/1512.03385).

State-dict keys and arithmetic of resnet18..152 are torchvision's: its files load unchanged, and outputs are equal to
the last bit. The CIFAR networks have the keys of the community's files (conv1, bn1, layer1.0.conv1, ...).
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn

from backbones.base import PYRAMID, Backbone, FeatureInfo, LastStage, choose_features
from backbones.blocks import BasicBlock, Block, BlockType, Bottleneck, conv3x3, make_shortcut, recomputed
from backbones.errors import UserError
from backbones.fold import conv_norm
from backbones.norm import NORMS, counted_batches
from backbones.registry import register
from backbones.weights.report import LoadReport

# Projections of option B. torchvision calls them "downsample", the community's CIFAR files "shortcut".
_PROJECTION = re.compile(r"(layer\d)\.\d+\.(?:downsample|shortcut)\.0\.weight$")


@dataclass(frozen=True)
class Architecture:
    """Shape of a network (table 1 and section 4.2 of the paper).

    Attributes:
        block: class of the blocks.
        depths: number of blocks of each stage.
        widths: channels of each stage's 3x3 convolutions.
        first: level of the first stage: 2 after the 7x7 stem and its pool, 0 after the CIFAR networks' 3x3 stem.
        shortcut: option "A", "B" or "C" of section 3.3; None makes a plain network.
    """

    block: BlockType
    depths: tuple[int, ...]
    widths: tuple[int, ...] = (64, 128, 256, 512)
    first: int = 2
    shortcut: str | None = "B"

    @property
    def levels(self) -> tuple[str, ...]:
        """Names of the feature levels that the stages return."""
        return tuple(f"c{self.first + i}" for i in range(len(self.depths)))


class ResNet(Backbone):
    """Residual or plain network: a stem and the stages `layer1`, `layer2`, ..., up to the last chosen feature.

    Args:
        name: registered name.
        architecture: shape of the network.
        features: names of the levels to return, or "all" or "last".
        in_channels: channels of the input.
        output_stride: largest stride; stages that would exceed it are dilated instead.
        norm: "batch" or "group".
        stride_style: "v1.5" or "v1", see `Bottleneck`.
        shortcut: shortcut option "A", "B" or "C"; None uses the architecture's own option.
    """

    def __init__(
        self,
        *,
        name: str,
        architecture: Architecture,
        features: Sequence[str] | str,
        in_channels: int,
        output_stride: int,
        norm: str,
        stride_style: str,
        shortcut: str | None,
    ) -> None:
        # Declare channels and strides of the chosen features.
        block, levels = architecture.block, architecture.levels
        chosen = choose_features(name, features, levels)
        strides = [min(2 ** (architecture.first + i), output_stride) for i in range(len(levels))]
        maps = zip(levels, architecture.widths, strides, strict=True)
        infos = {level: FeatureInfo(level, width * block.expansion, stride) for level, width, stride in maps}
        super().__init__(name=name, feature_info=[infos[f] for f in chosen], in_channels=in_channels)
        if architecture.shortcut is None and shortcut is not None:
            raise UserError(f"{name}: shortcut={shortcut!r}: a plain network has no shortcuts; use {_residual(name)}")
        self._shortcut = shortcut or architecture.shortcut
        if architecture.first == 2 and self._shortcut == "B":
            self.source = ("torchvision", name)
        # Build the stem and the stages up to the last chosen one; `_stage` updates `_inputs` and `_dilation`.
        self._inputs, self._dilation, self._norm, self._style = architecture.widths[0], 1, NORMS[norm], stride_style
        self._levels, self._recompute = levels, False
        self._stem(in_channels, architecture)
        for i in range(levels.index(chosen[-1]) + 1):
            dilate = 2 ** (architecture.first + i) > output_stride
            width, depth = architecture.widths[i], architecture.depths[i]
            stage = self._stage(block, width, depth, stride=1 if i == 0 else 2, dilate=dilate)
            self.add_module(f"layer{i + 1}", stage)
        self.apply(initialise)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        chosen = [f.name for f in self.feature_info]
        x = self.maxpool(self.relu(conv_norm(x, self.conv1, self.bn1)))
        out = {}
        for name, layer in self._layers().items():
            x = self._run(layer, x)
            if name in chosen:
                out[name] = x
        return out

    def accept(self, report: LoadReport, weights: str | os.PathLike[str]) -> None:
        differing = [f"{key} is only in the file" for key in report.beside if self._is_projection(key)]
        differing += [f"{key} is only in the model" for key in report.missing if self._is_projection(key)]
        if differing:
            # These entries are too few to make the file incomplete, but they change all feature maps after them.
            kind = f"option {self._shortcut}" if self._shortcut else "no shortcuts"
            raise UserError(
                f"{self.name} with {kind}: {report.source} was trained with other shortcuts ({differing[0]}); "
                "use the backbone and the shortcut option that the file was trained with"
            )
        super().accept(report, weights)

    def library_state(self) -> dict[str, Tensor]:
        eps = {vars(part)["eps"] for part in self.modules() if hasattr(part, "running_var")}
        same = (self.source, self._style, self.in_channels, list(self._layers()), eps)
        if same != (("torchvision", self.name), "v1.5", 3, list(PYRAMID), {1e-5}):
            raise UserError(
                f"{self.name}: its weights cannot be saved for torchvision, because torchvision's model "
                "of this name has other layers; build the backbone with shortcut B, stride style v1.5, "
                "batch norm with epsilon 1e-5, three input channels and all four stages"
            )
        return counted_batches(self)

    def stages(self) -> list[list[nn.Module]]:
        return [[self.conv1, self.bn1], *([layer] for layer in self._layers().values())]

    def recompute_activations(self) -> None:
        self._recompute = True

    def split_last_stage(self) -> tuple[Backbone, LastStage]:
        _, last = self._last_two()
        trunk = copy.copy(self)
        trunk._modules = dict(self._modules)
        layer = trunk._modules.pop(f"layer{self._levels.index(last.name) + 1}")
        trunk.feature_info = self.feature_info[:-1]
        return trunk, LastStage(list(layer.children() if layer else ()), last)

    def _is_projection(self, key: str) -> bool:
        """Return whether a file's entry is the convolution of a projection shortcut in a stage of this network."""
        found = _PROJECTION.match(key)
        return found is not None and found.group(1) in self._modules

    def _stem(self, in_channels: int, architecture: Architecture) -> None:
        """Create the 7x7 convolution and pool of table 1, or the single 3x3 convolution of section 4.2 (CIFAR)."""
        width, large = architecture.widths[0], architecture.first == 2
        stem = nn.Conv2d(in_channels, width, 7, stride=2, padding=3, bias=False) if large else None
        self.conv1 = stem or conv3x3(in_channels, width)
        self.bn1 = self._norm(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1) if large else nn.Identity()

    def _layers(self) -> dict[str, nn.Module]:
        """Return a dict from level names to the stages that compute them."""
        found: dict[str, nn.Module] = {}
        for number, name in enumerate(self._levels, start=1):
            # An assignment inside a comprehension would divide the graph that torch.compile makes.
            layer = self._modules.get(f"layer{number}")
            if layer:
                found[name] = layer
        return found

    def _run(self, layer: nn.Module, x: Tensor) -> Tensor:
        if not (self._recompute and self.training):
            return layer(x)
        for block in cast(Iterable[Block], layer.children()):
            x = recomputed(block, x)
        return x

    def _stage(self, block: BlockType, width: int, depth: int, *, stride: int, dilate: bool) -> nn.Sequential:
        """Create one stage.

        With `dilate`, the stage has stride 1, and its 3x3 convolutions keep their receptive field.
        """
        before = self._dilation
        if dilate:
            self._dilation, stride = self._dilation * stride, 1
        blocks = [self._block(block, width, stride=stride, dilations=(before, self._dilation))]
        blocks += [self._block(block, width, stride=1, dilations=(self._dilation,) * 2) for _ in range(1, depth)]
        return nn.Sequential(*blocks)

    def _block(self, block: BlockType, width: int, *, stride: int, dilations: tuple[int, int]) -> nn.Module:
        inputs, outputs = self._inputs, width * block.expansion
        made = block(inputs, width, stride=stride, dilations=dilations, style=self._style, norm=self._norm)
        if self._shortcut is None:
            made.residual = False
        else:
            made.downsample = make_shortcut(self._shortcut, inputs, outputs, stride=stride, norm=self._norm)
        self._inputs = outputs
        return made


def initialise(module: nn.Module) -> None:
    """Initialise a convolution by its fan-out (https://arxiv.org/abs/1502.01852). Other modules are left unchanged."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _residual(plain: str) -> str:
    return plain.replace("plain", "resnet")


def _imagenet() -> dict[str, Architecture]:
    """Return the residual networks of table 1 and the plain networks of table 2."""
    residual = {
        "resnet18": Architecture(BasicBlock, (2, 2, 2, 2)),
        "resnet34": Architecture(BasicBlock, (3, 4, 6, 3)),
        "resnet50": Architecture(Bottleneck, (3, 4, 6, 3)),
        "resnet101": Architecture(Bottleneck, (3, 4, 23, 3)),
        "resnet152": Architecture(Bottleneck, (3, 8, 36, 3)),
    }
    plain = {f"plain{n}": Architecture(BasicBlock, residual[f"resnet{n}"].depths, shortcut=None) for n in (18, 34)}
    return {**residual, **plain}


def _cifar() -> dict[str, Architecture]:
    """Return the networks of section 4.2 with 6n + 2 layers, for 32x32 images: residual (option A) and plain."""
    widths = (16, 32, 64)

    def network(layers: int, shortcut: str | None) -> Architecture:
        return Architecture(BasicBlock, ((layers - 2) // 6,) * 3, widths, first=0, shortcut=shortcut)

    residual = {f"resnet{n}": network(n, "A") for n in (20, 32, 44, 56, 110, 1202)}
    return {**residual, **{f"plain{n}": network(n, None) for n in (20, 32, 44, 56, 110)}}


_ARCHITECTURES = {**_imagenet(), **_cifar()}


def _build(
    *,
    name: str,
    features: Sequence[str] | str = "all",
    in_channels: int = 3,
    output_stride: int = 32,
    norm: str = "batch",
    stride_style: str = "v1.5",
    shortcut: str | None = None,
) -> ResNet:
    return ResNet(
        name=name,
        architecture=_ARCHITECTURES[name],
        features=features,
        in_channels=in_channels,
        output_stride=output_stride,
        norm=norm,
        stride_style=stride_style,
        shortcut=shortcut,
    )


for _name in _ARCHITECTURES:
    register(_name)(_build)
