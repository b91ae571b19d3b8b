"""TensorFlow's padding in exported models: equal to timm's, and in a form that torch.export can save."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from timm.layers import AvgPool2dSame, Conv2dSame, ScaledStdConv2dSame
from timm.layers.pool2d_same import MaxPool2dSame
from torch import nn
from torch.export import Dim

from tools.exports.same_padding import traceable_padding


@pytest.mark.parametrize("kernel", [1, 2, 3, 5, 6])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (4, 1), (1, 2), (2, 3)])
def test_the_padding_is_that_of_timm(kernel: int, stride: int, dilation: int):
    torch.manual_seed(0)
    conv = Conv2dSame(2, 4, kernel, stride=stride, dilation=dilation, groups=2)
    for fixed, sizes in ((True, [(32, 32), (16, 48)]), (False, [(32, 32), (31, 30), (29, 33)])):
        for size in sizes:
            image = torch.randn(1, 2, *size)
            expected = conv(image)
            with traceable_padding(fixed=fixed):
                assert torch.equal(conv(image), expected)
            assert torch.equal(conv(image), expected)


def test_kernels_that_are_not_square():
    conv = Conv2dSame(1, 1, (3, 5), stride=(1, 2))
    image = torch.randn(1, 1, 8, 8)
    expected = conv(image)
    for fixed in (True, False):
        with traceable_padding(fixed=fixed):
            assert torch.equal(conv(image), expected)


@pytest.mark.parametrize("fixed", [True, False])
def test_a_model_of_any_size_can_be_saved(fixed: bool, tmp_path: Path):
    """All kinds of layers with this padding, one of them with a kernel smaller than its stride."""
    layers = [Conv2dSame(3, 4, 3, stride=2), ScaledStdConv2dSame(4, 4, 3, stride=2, padding="same")]
    model = nn.Sequential(*layers, MaxPool2dSame(3, 2), AvgPool2dSame(2, 2), Conv2dSame(4, 4, 2, stride=4)).eval()
    unit = 64 if fixed else 1
    sides = {2: unit * Dim("rows", min=128 // unit, max=1024), 3: unit * Dim("columns", min=128 // unit, max=1024)}
    with traceable_padding(fixed=fixed):
        program = torch.export.export(model, (torch.randn(1, 3, 192, 256),), dynamic_shapes=(sides,), strict=False)
    torch.export.save(program, tmp_path / "model.pt2")
    loaded = torch.export.load(tmp_path / "model.pt2").module()
    for size in ((128, 128), (192, 64 * 5)) if fixed else ((131, 197), (128, 133)):
        image = torch.randn(1, 3, *size)
        assert torch.allclose(loaded(image), model(image), atol=1e-5)
