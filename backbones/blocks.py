"""Blocks of residual and plain networks (He et al. 2015, https://arxiv.org/abs/1512.03385)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeAlias

import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from backbones.fold import conv_norm

Norm: TypeAlias = Callable[[int], nn.Module]


class Padding(nn.Module):
    """Shortcut of option A (section 3.3): takes every `stride`-th pixel and fills additional channels with zeros.

    Half of the zero channels come before the input's channels and half after them, as in widely used CIFAR models.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.before = (outputs - inputs) // 2
        self.after = outputs - inputs - self.before
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))


class Projection(nn.Sequential):
    """Shortcut of option B (section 3.3, equation 2): a 1x1 convolution and its norm."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: Norm) -> None:
        super().__init__(conv1x1(inputs, outputs, stride=stride), norm(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return conv_norm(x, *self)


class Block(nn.Module):
    """Base class of blocks. A residual block is relu(branch(x) + shortcut(x)) (equation 1), a plain one
    relu(branch(x)).

    A subclass defines the branch.

    Attributes:
        downsample: the shortcut; None is the identity.
        residual: whether there is a shortcut at all.
    """

    expansion: int
    relu: nn.ReLU
    downsample: Padding | Projection | None
    residual: bool

    def branch(self, x: Tensor) -> Tensor:
        """Compute the branch. It maps `[N, inputs, H, W]` to `[N, width * expansion, h, w]`."""
        raise NotImplementedError

    def shortcut(self, x: Tensor) -> Tensor:
        """Compute the shortcut, in the shape of the branch's output."""
        return x if self.downsample is None else self.downsample(x)

    def forward(self, x: Tensor) -> Tensor:
        out = self.branch(x)
        if self.residual:
            out += self.shortcut(x)
        return self.relu(out)


class BasicBlock(Block):
    """Block of two 3x3 convolutions (figure 5, left).

    Args:
        inputs: input channels.
        width: channels of the 3x3 convolutions.
        stride: stride of the first convolution.
        dilations: of the first convolution and of the second.
        style: unused, because only one convolution can have the stride.
        norm: creates a normalisation layer for a number of channels.
    """

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
        self.residual = True

    def branch(self, x: Tensor) -> Tensor:
        x = self.relu(conv_norm(x, self.conv1, self.bn1))
        return conv_norm(x, self.conv2, self.bn2)


class Bottleneck(Block):
    """Block of 1x1, 3x3 and 1x1 convolutions (figure 5, right). The last convolution has 4 * `width` channels.

    Args:
        inputs: input channels.
        width: channels of the 3x3 convolution.
        stride: stride of the block.
        dilations: dilation before this block's stride, and after it.
        style: "v1.5" puts the stride on the 3x3 convolution; "v1", as in the paper, on the first 1x1.
        norm: creates a normalisation layer for a number of channels.
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
        # Dilate the 3x3 as before the replaced stride in "v1.5", where the stride was here, and as after it in "v1".
        # The dilated network then computes, at every second pixel, exactly what the strided one does.
        self.conv2 = conv3x3(width, width, stride=second, dilation=after if style == "v1" else before)
        self.bn2 = norm(width)
        self.conv3 = conv1x1(width, width * self.expansion)
        self.bn3 = norm(width * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        self.residual = True

    def branch(self, x: Tensor) -> Tensor:
        x = self.relu(conv_norm(x, self.conv1, self.bn1))  # reduce the channels
        x = self.relu(conv_norm(x, self.conv2, self.bn2))
        return conv_norm(x, self.conv3, self.bn3)  # restore them


BlockType: TypeAlias = type[BasicBlock] | type[Bottleneck]


def make_shortcut(option: str, inputs: int, outputs: int, *, stride: int, norm: Norm) -> Padding | Projection | None:
    """Return the shortcut of a block for option "A", "B" or "C" of section 3.3, or None for the identity."""
    if option != "C" and stride == 1 and inputs == outputs:
        return None
    return Padding(inputs, outputs, stride) if option == "A" else Projection(inputs, outputs, stride, norm)


def conv3x3(inputs: int, outputs: int, *, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    """Return a 3x3 convolution that keeps the size at stride 1. It has no bias because a norm follows."""
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=dilation, dilation=dilation, bias=False)


def conv1x1(inputs: int, outputs: int, *, stride: int = 1) -> nn.Conv2d:
    """Return a 1x1 convolution without bias."""
    return nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)


def recomputed(block: nn.Module, x: Any) -> Any:
    """Return block(x) without storing the block's inner feature maps; the backward pass computes them again.

    Args:
        x: a tensor, or a list or dict of tensors.
    """

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _keep_statistics(block)

    return checkpoint(block, x, use_reentrant=False, context_fn=contexts)


@contextmanager
def _keep_statistics(block: nn.Module) -> Iterator[None]:
    """Context manager that keeps batch norm's running statistics unchanged during a second forward pass.

    Batch norm updates copies instead. If it did not track statistics at all, it would save other tensors than in the
    first pass.
    """
    norms = [m for m in block.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    kept = [dict(norm._buffers) for norm in norms]
    for norm in norms:
        norm._buffers.update({name: b if b is None else b.clone() for name, b in norm._buffers.items()})
    try:
        yield
    finally:
        for norm, buffers in zip(norms, kept, strict=True):
            norm._buffers.update(buffers)
