"""Weight gradients of channels_last convolutions: the values of torch's own, in the cases that the mode handles."""

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from backbones.common import convolutions
from backbones.common.convolutions import ContiguousWeightGradients, fast_weight_gradients
from tests.tolerances import assert_rounded

CPU = torch.device("cpu")


def gradients(layer: nn.Module, images: torch.Tensor, context) -> list[torch.Tensor]:
    """Return the output and the gradients of images, weight and bias of a layer, computed within a context."""
    images = images.clone(memory_format=torch.preserve_format).requires_grad_()
    layer.zero_grad()
    with context:
        found = layer(images)
    found.square().sum().backward()
    return [found.detach(), images.grad, *(p.grad for p in layer.parameters())]


@pytest.mark.parametrize("settings", [{}, {"stride": 2, "bias": False}, {"padding": (2, 1), "dilation": (2, 1)}])
def test_the_gradients_are_torchs_own(settings):
    layer = nn.Conv2d(5, 6, 3, **settings).to(memory_format=torch.channels_last)
    images = torch.randn(2, 5, 9, 12).to(memory_format=torch.channels_last)
    found = gradients(layer, images, ContiguousWeightGradients())
    assert_rounded(found, gradients(layer, images, nullcontext()), terms=2 * 9 * 12 * 54)
    assert found[0].is_contiguous(memory_format=torch.channels_last)


def test_frozen_inputs_and_frozen_biases_get_no_gradient():
    layer = nn.Conv2d(5, 6, 3).to(memory_format=torch.channels_last)
    layer.bias.requires_grad_(False)
    with ContiguousWeightGradients():
        found = layer(torch.randn(2, 5, 9, 9).to(memory_format=torch.channels_last))
    assert type(found.grad_fn).__name__ == "_ConvolutionBackward"
    found.sum().backward()
    assert layer.weight.grad is not None and layer.bias.grad is None


@pytest.mark.parametrize(
    "case", ["frozen", "no grad", "contiguous", "1x1", "grouped", "double", "same", "autocast", "one image", "keywords"]
)
def test_other_convolutions_are_left_to_torch(case):
    groups, size = 2 if case == "grouped" else 1, 1 if case == "1x1" else 3
    layer = nn.Conv2d(4, 6, size, groups=groups, padding="same" if case == "same" else 0).requires_grad_(
        case != "frozen"
    )
    images = torch.randn(2, 4, 9, 9)
    if case != "contiguous":
        layer, images = (each.to(memory_format=torch.channels_last) for each in (layer, images))
    if case == "double":
        layer, images = layer.double(), images.double()
    images = (images[0] if case == "one image" else images).requires_grad_()
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=case == "autocast")
    with torch.set_grad_enabled(case != "no grad"), autocast, ContiguousWeightGradients():
        found = F.conv2d(images, weight=layer.weight) if case == "keywords" else layer(images)
    assert "_ConvolutionBackward" not in type(found.grad_fn).__name__


@pytest.mark.parametrize(("capability", "kind"), [("AVX2", ContiguousWeightGradients), ("AVX512", nullcontext)])
def test_only_cpus_with_avx2_alone_use_it(monkeypatch, capability, kind):
    monkeypatch.setattr(convolutions.torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert type(fast_weight_gradients(CPU)) is kind
    assert type(fast_weight_gradients(torch.device("cuda"))) is nullcontext
