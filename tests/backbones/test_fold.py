"""Tests of folded batch norm: when it is folded, how long it is cached, and that outputs stay as expected."""

from __future__ import annotations

import copy

import pytest
import torch
from tolerances import assert_rounded
from torch import Tensor, nn
from torch.nn.utils import prune
from torchvision.ops import FrozenBatchNorm2d

import backbones
from backbones.fold import Folds, conv_norm
from backbones.norm import freeze_batch_norm


def layers(conv: nn.Module | None = None) -> tuple[nn.Module, nn.BatchNorm2d, Tensor]:
    """Return a convolution, a batch norm in evaluation mode with random numbers, and an input."""
    torch.manual_seed(0)
    conv, norm = conv or nn.Conv2d(3, 5, 3, bias=False), nn.BatchNorm2d(5).eval()
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2.0)
        norm.bias.normal_()
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2.0)
    return conv, norm, torch.randn(2, 3, 9, 9)


def predict(x: Tensor, conv: nn.Module, norm: nn.Module, folds: Folds) -> Tensor:
    """Return the context in which the evaluation loop computes."""
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16), folds:
        return conv_norm(x, conv, norm)


def test_a_prediction_in_16_bits_is_one_convolution_made_once() -> None:
    conv, norm, x = layers()
    folds = Folds()
    out = predict(x, conv, norm, folds)
    assert out.dtype == torch.bfloat16
    # The input, the folded weight, the bias and the output are each rounded once to 16 bits; the sum is not.
    assert_rounded(out.float(), norm(conv(x)).detach(), terms=4, dtype=torch.bfloat16)
    weight = folds.cache[conv][torch.bfloat16][0]
    predict(x, conv, norm, folds)
    assert folds.cache[conv][torch.bfloat16][0] is weight
    with torch.inference_mode(), folds:  # the same object serves fp32 as well
        assert torch.equal(conv_norm(x, conv, norm), norm(conv(x)))


def test_fp32_and_training_and_code_outside_the_context_use_two_layers() -> None:
    conv, norm, x = layers()
    with torch.autocast("cpu", torch.bfloat16):
        plain = norm(conv(x))
        assert torch.equal(conv_norm(x, conv, norm), plain)
        with torch.no_grad():
            assert torch.equal(conv_norm(x, conv, norm), plain)
            with Folds():
                folded = conv_norm(x, conv, norm)
        with Folds():  # gradients are enabled
            assert torch.equal(conv_norm(x, conv, norm), plain)
    assert not torch.equal(folded, plain)


def test_a_new_object_uses_new_weights() -> None:
    conv, norm, x = layers()
    before = predict(x, conv, norm, Folds())
    conv.weight.data.mul_(-1)  # torch does not notice this write
    assert not torch.equal(predict(x, conv, norm, Folds()), before)


def test_contexts_nest_and_end_with_their_block() -> None:
    conv, norm, x = layers()
    outer, inner = Folds(), Folds()
    with outer:
        first = predict(x, conv, norm, inner)
        with outer:
            predict(x, conv, norm, inner)
    assert len(outer.cache) == 1 and not inner.cache
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert not torch.equal(conv_norm(x, conv, norm), first)  # no context is left open
    del conv, first
    assert not outer.cache  # the cache does not keep a layer alive


class Doubled(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def pruned() -> nn.Module:
    conv = nn.Conv2d(3, 5, 3, bias=False)
    prune.l1_unstructured(conv, "weight", 0.5)
    state = {"weight_orig": torch.randn(5, 3, 3, 3), "weight_mask": torch.ones(5, 3, 3, 3)}
    conv.load_state_dict(state)  # the hook computes its weight in the next forward pass
    return conv


ODD = {
    "another padding": lambda: nn.Conv2d(3, 5, 3, bias=False, padding=1, padding_mode="circular"),
    "a subclass": lambda: Doubled(3, 5, 3, bias=False),
    "pruned": pruned,
    "a sequence": lambda: nn.Sequential(nn.Conv2d(3, 5, 3, bias=False)),
    "parametrised": lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 5, 3, bias=False)),
}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("frozen", [False, True])
def test_layers_that_are_not_plain_are_called_as_they_are(kind: str, frozen: bool) -> None:
    conv, norm, x = layers(ODD[kind]())
    last = freeze_batch_norm(norm) if frozen else norm
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        plain = last(conv(x))
    assert torch.equal(predict(x, conv, last, Folds()), plain)


def test_hooks_see_both_layers() -> None:
    conv, norm, x = layers()
    seen = []
    conv.register_forward_hook(lambda *_: seen.append("conv"))
    norm.register_forward_pre_hook(lambda *_: seen.append("norm"))
    predict(x, conv, norm, Folds())
    assert seen == ["conv", "norm"]


def test_norms_without_statistics_or_weights_are_called() -> None:
    conv, _, x = layers()
    for norm in (nn.BatchNorm2d(5, track_running_stats=False), nn.BatchNorm2d(5, affine=False), nn.GroupNorm(5, 5)):
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            plain = norm.eval()(conv(x))
        assert torch.equal(predict(x, conv, norm, Folds()), plain)


def test_frozen_norm_is_folded_everywhere_and_learns_through_the_fold() -> None:
    conv, norm, x = (each.double() for each in layers())
    frozen = freeze_batch_norm(copy.deepcopy(norm))
    assert isinstance(frozen, FrozenBatchNorm2d)
    norm(conv(x)).square().sum().backward()
    expected, conv.weight.grad = conv.weight.grad, None
    with Folds():
        conv_norm(x, conv, frozen).square().sum().backward()
    torch.testing.assert_close(conv.weight.grad, expected)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "plain34", "resnet20"])
def test_models_predict_in_16_bits_as_with_two_layers(name: str) -> None:
    torch.manual_seed(0)
    net = backbones.build(name, weights=None, features="last").train()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        net(x)  # sets running statistics
        (expected,) = net.eval()(x).values()
        with torch.autocast("cpu", torch.bfloat16):
            (plain,) = net(x).values()
            with Folds():
                (folded,) = net(x).values()
    errors = [((out.float() - expected).norm() / expected.norm()).item() for out in (plain, folded)]
    assert errors[1] < max(0.02, 1.5 * errors[0])
    assert not torch.equal(plain, folded)
