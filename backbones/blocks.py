"""Blocks of residual and plain nets: a branch of convolutions, and what is added to it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeAlias

import torch.nn.functional as F
from torch import Tensor, nn

from backbones.fold import conv_norm

Norm: TypeAlias = Callable[[int], nn.Module]


class Padding(nn.Module):
    """Option A (section 3.3): the identity at every stride-th pixel, with zeros for the new channels.

    The zeros stand half before and half behind, as the CIFAR files of the community were trained.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.before = (outputs - inputs) // 2
        self.behind = outputs - inputs - self.before
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.behind))


class Projection(nn.Sequential):
    """Option B: a 1x1 convolution and its norm."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: Norm) -> None:
        super().__init__(conv1x1(inputs, outputs, stride=stride), norm(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return conv_norm(x, *self)


class Block(nn.Module):
    """relu(branch(x) + shortcut(x)), or relu(branch(x)) in a plain net; a kind of block says its branch.

    Attributes:
        downsample: the shortcut; None is the identity.
        residual: whether there is a shortcut at all.
    """

    expansion: int
    relu: nn.ReLU
    downsample: Padding | Projection | None
    residual: bool

    def branch(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def shortcut(self, x: Tensor) -> Tensor:
        return x if self.downsample is None else self.downsample(x)

    def forward(self, x: Tensor) -> Tensor:
        out = self.branch(x)
        if self.residual:
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
        self.residual = True

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
        self.residual = True

    def branch(self, x: Tensor) -> Tensor:
        x = self.relu(conv_norm(x, self.conv1, self.bn1))
        x = self.relu(conv_norm(x, self.conv2, self.bn2))
        return conv_norm(x, self.conv3, self.bn3)


BlockType: TypeAlias = type[BasicBlock] | type[Bottleneck]


def make_shortcut(option: str, inputs: int, outputs: int, *, stride: int, norm: Norm) -> Padding | Projection | None:
    """The shortcut of a block by the paper's option: "A", "B" or "C"; None is the identity."""
    if option != "C" and stride == 1 and inputs == outputs:
        return None
    return Padding(inputs, outputs, stride) if option == "A" else Projection(inputs, outputs, stride, norm)


def conv3x3(inputs: int, outputs: int, *, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    """3x3 convolution that keeps the size, stride aside; the norm behind it makes a bias useless."""
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=dilation, dilation=dilation, bias=False)


def conv1x1(inputs: int, outputs: int, *, stride: int = 1) -> nn.Conv2d:
    """1x1 convolution without bias."""
    return nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)


def recomputed(block: Block, x: Tensor) -> Tensor:
    """block(x), whose inner maps are computed again in the backward pass instead of being kept."""
    from torch.utils.checkpoint import checkpoint

    def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
        return nullcontext(), _statistics_at_rest(block)

    return checkpoint(block, x, use_reentrant=False, context_fn=contexts)


@contextmanager
def _statistics_at_rest(block: Block) -> Iterator[None]:
    """Batch norm counts a batch once: the second computation moves copies of the running statistics."""
    # The norms keep tracking: without it they would save other tensors than in the first computation.
    norms = [m for m in block.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    kept = [dict(norm._buffers) for norm in norms]
    for norm in norms:
        norm._buffers.update({name: b if b is None else b.clone() for name, b in norm._buffers.items()})
    try:
        yield
    finally:
        for norm, buffers in zip(norms, kept, strict=True):
            norm._buffers.update(buffers)
