"""Convolutions with TensorFlow's padding (SAME) for images whose sides are multiples of all strides."""

from __future__ import annotations

import torch.nn.functional as F
from timm.layers import Conv2dSame
from torch import Tensor, nn


class FixedPadding(nn.Module):
    """A convolution with TensorFlow's padding, for inputs whose sides are multiples of its stride.

    The padding is then the same for all sizes. Otherwise it is computed from the size, and torch.export needs many
    minutes to simplify the sizes of a network.

    Args:
        conv: the convolution, whose weights are shared.
    """

    def __init__(self, conv: Conv2dSame) -> None:
        super().__init__()
        self.conv = conv
        # SAME pads by dilation * (kernel - 1) + 1 - stride, and by one more at the end if this is odd.
        sides = zip(conv.kernel_size, conv.dilation, conv.stride, strict=True)
        rows, columns = (max(0, dilation * (kernel - 1) + 1 - stride) for kernel, dilation, stride in sides)
        self.padding = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)

    def forward(self, x: Tensor) -> Tensor:
        conv = self.conv
        padded = F.pad(x, self.padding)
        return F.conv2d(padded, conv.weight, conv.bias, conv.stride, 0, conv.dilation, conv.groups)


def fix_padding(model: nn.Module) -> None:
    """Replace the convolutions of a model that have TensorFlow's padding by ones with a fixed padding, in place."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, Conv2dSame):
                setattr(module, name, FixedPadding(child))
