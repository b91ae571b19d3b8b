"""TensorFlow's padding in exported detectors: fixed, and equal to that of timm for multiples of the strides."""

from __future__ import annotations

import pytest
import torch
from timm.layers import Conv2dSame
from torch import nn

from tools.exports.fixed_padding import FixedPadding, fix_padding


@pytest.mark.parametrize("kernel", [1, 2, 3, 5, 6])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (4, 1), (1, 2), (2, 3)])
def test_the_padding_is_that_of_the_size(kernel: int, stride: int, dilation: int):
    torch.manual_seed(0)
    conv = Conv2dSame(2, 4, kernel, stride=stride, dilation=dilation, groups=2)
    fixed = FixedPadding(conv)
    for size in ((32, 32), (16, 48)):
        image = torch.randn(1, 2, *size)
        assert torch.equal(fixed(image), conv(image))


def test_kernels_that_are_not_square():
    conv = Conv2dSame(1, 1, (3, 5), stride=(1, 2))
    image = torch.randn(1, 1, 8, 8)
    assert torch.equal(FixedPadding(conv)(image), conv(image))


def test_all_such_convolutions_of_a_model_are_replaced():
    model = nn.Sequential(Conv2dSame(3, 4, 3, stride=2), nn.Sequential(nn.ReLU(), Conv2dSame(4, 4, 5, stride=2)))
    image = torch.randn(2, 3, 32, 64)
    expected = model(image)
    fix_padding(model)
    assert not any(type(each) is Conv2dSame for each in (model[0], model[1][1]))
    assert torch.equal(model(image), expected)
