"""Residual nets (He et al. 2015, https://arxiv.org/abs/1512.03385): one trunk, whose blocks differ.

State-dict keys and arithmetic are torchvision's: its files load as they are, outputs agree to the last bit.
"""

import copy
from collections.abc import Callable, Sequence
from typing import TypeAlias

from torch import Tensor, nn

from backbones.base import Backbone, FeatureInfo, LastStage, check_features
from backbones.norm import NORMS, conv_norm
from backbones.registry import register

Norm: TypeAlias = Callable[[int], nn.Module]
_WIDTHS = {"c2": 64, "c3": 128, "c4": 256, "c5": 512}


class Block(nn.Module):
    """relu(branch(x) + shortcut(x)); a kind of block says its branch."""

    expansion: int
    relu: nn.ReLU
    downsample: nn.Sequential | None

    def branch(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def shortcut(self, x: Tensor) -> Tensor:
        """Identity, or a 1x1 projection where the size changes (option B of the paper)."""
        if self.downsample is None:
            return x
        return conv_norm(x, *self.downsample)

    def forward(self, x: Tensor) -> Tensor:
        out = self.branch(x)
        out += self.shortcut(x)
        return self.relu(out)


class BasicBlock(Block):
    """Two 3x3 convolutions (figure 5, left); `dilations` are the strided convolution's and the next one's."""

    expansion = 1

    def __init__(
        self, inputs: int, width: int, *, stride: int, dilations: tuple[int, int], style: str, norm: Norm
    ) -> None:
        super().__init__()
        before, after = dilations
        self.conv1 = conv3x3(inputs, width, stride=stride, dilation=before)
        self.bn1 = norm(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = conv3x3(width, width, dilation=after)
        self.bn2 = norm(width)
        self.downsample = None

    def branch(self, x: Tensor) -> Tensor:
        x = self.relu(conv_norm(x, self.conv1, self.bn1))
        return conv_norm(x, self.conv2, self.bn2)


class Bottleneck(Block):
    """1x1, 3x3, 1x1 (figure 5, right).

    The stride sits on the 3x3 ("v1.5") or, as in the paper, on the first 1x1 ("v1").
    """

    expansion = 4

    def __init__(
        self, inputs: int, width: int, *, stride: int, dilations: tuple[int, int], style: str, norm: Norm
    ) -> None:
        super().__init__()
        before, after = dilations
        first, second = (stride, 1) if style == "v1" else (1, stride)
        self.conv1 = conv1x1(inputs, width, stride=first)
        self.bn1 = norm(width)
        # The 3x3 dilates with what stands before the replaced stride, or behind it in "v1": the dilated net
        # then computes, at every second pixel, exactly what the strided one does.
        self.conv2 = conv3x3(width, width, stride=second, dilation=after if style == "v1" else before)
        self.bn2 = norm(width)
        self.conv3 = conv1x1(width, width * self.expansion)
        self.bn3 = norm(width * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None

    def branch(self, x: Tensor) -> Tensor:
        x = self.relu(conv_norm(x, self.conv1, self.bn1))
        x = self.relu(conv_norm(x, self.conv2, self.bn2))
        return conv_norm(x, self.conv3, self.bn3)


BlockType: TypeAlias = type[BasicBlock] | type[Bottleneck]


class ResNet(Backbone):
    """Stem and four stages `layer1`..`layer4`, of which those behind the last wanted feature are left out."""

    def __init__(
        self,
        *,
        name: str,
        block: BlockType,
        depths: Sequence[int],
        features: Sequence[str],
        in_channels: int,
        output_stride: int,
        norm: str,
        stride_style: str,
    ) -> None:
        check_features(name, features, tuple(_WIDTHS))
        strides = {level: min(4 * 2**i, output_stride) for i, level in enumerate(_WIDTHS)}
        infos = [FeatureInfo(f, _WIDTHS[f] * block.expansion, strides[f]) for f in features]
        super().__init__(name=name, feature_info=infos, in_channels=in_channels)
        self.source = ("torchvision", name)
        self._inputs, self._dilation, self._norm, self._style = 64, 1, NORMS[norm], stride_style
        self.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = self._norm(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        for i, (level, depth) in enumerate(zip(_WIDTHS, depths, strict=True)):
            if level <= features[-1]:
                stage = self._stage(
                    block, _WIDTHS[level], depth, stride=1 if i == 0 else 2, dilate=4 * 2**i > output_stride
                )
                self.add_module(f"layer{i + 1}", stage)
        self.apply(initialise)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        wanted = [f.name for f in self.feature_info]
        x = self.maxpool(self.relu(conv_norm(x, self.conv1, self.bn1)))
        out = {}
        for name, layer in self._layers().items():
            x = layer(x)
            if name in wanted:
                out[name] = x
        return out

    def stages(self) -> list[list[nn.Module]]:
        return [[self.conv1, self.bn1], *([layer] for layer in self._layers().values())]

    def split_last_stage(self) -> tuple[Backbone, LastStage]:
        _, last = self._before_last()
        trunk = copy.copy(self)
        trunk._modules = dict(self._modules)
        layer = trunk._modules.pop(f"layer{int(last.name[1:]) - 1}")
        trunk.feature_info = self.feature_info[:-1]
        return trunk, LastStage(list(layer.children() if layer else ()), last)

    def _layers(self) -> dict[str, nn.Module]:
        return {f"c{i + 1}": m for i in range(1, 5) if (m := self._modules.get(f"layer{i}"))}

    def _stage(self, block: BlockType, width: int, depth: int, *, stride: int, dilate: bool) -> nn.Sequential:
        before = self._dilation
        if dilate:
            self._dilation, stride = self._dilation * stride, 1
        blocks = [self._block(block, width, stride=stride, dilations=(before, self._dilation))]
        blocks += [self._block(block, width, stride=1, dilations=(self._dilation,) * 2) for _ in range(1, depth)]
        return nn.Sequential(*blocks)

    def _block(self, block: BlockType, width: int, *, stride: int, dilations: tuple[int, int]) -> nn.Module:
        outputs = width * block.expansion
        made = block(self._inputs, width, stride=stride, dilations=dilations, style=self._style, norm=self._norm)
        if stride != 1 or self._inputs != outputs:
            made.downsample = nn.Sequential(conv1x1(self._inputs, outputs, stride=stride), self._norm(outputs))
        self._inputs = outputs
        return made


def conv3x3(inputs: int, outputs: int, *, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    """3x3 convolution that keeps the size, stride aside; the norm behind it makes a bias useless."""
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=dilation, dilation=dilation, bias=False)


def conv1x1(inputs: int, outputs: int, *, stride: int = 1) -> nn.Conv2d:
    """1x1 convolution without bias."""
    return nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)


def initialise(module: nn.Module) -> None:
    """He initialisation by fan-out (https://arxiv.org/abs/1502.01852); norms start as the identity anyway."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


# Table 1 of the paper: kind of block, and blocks per stage.
_DEPTHS: dict[str, tuple[BlockType, tuple[int, int, int, int]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
    "resnet152": (Bottleneck, (3, 8, 36, 3)),
}


def _build(*, name: str, **options) -> ResNet:
    block, depths = _DEPTHS[name]
    return ResNet(name=name, block=block, depths=depths, **options)


for _name in _DEPTHS:
    register(_name)(_build)
