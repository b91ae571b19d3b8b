"""Folded batch norm: when it is folded, that it is kept, and that nothing stale is."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

import backbones
from backbones.fold import conv_norm, folded, folds
from backbones.norm import freeze_batch_norm


@torch.inference_mode(False)
def layers() -> tuple[nn.Conv2d, nn.BatchNorm2d, Tensor]:
    """A convolution, a batch norm at rest with numbers of its own, and an input."""
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(3, 5, 3, bias=False), nn.BatchNorm2d(5).eval()
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2.0)
        norm.bias.normal_()
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2.0)
    return conv, norm, torch.randn(2, 3, 9, 9)


@pytest.fixture
def predicting():
    """As the evaluation loop computes."""
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        yield


def test_a_prediction_in_16_bits_is_one_convolution(predicting) -> None:
    conv, norm, x = layers()
    assert folds(x, conv, norm)
    with torch.autocast("cpu", enabled=False):
        expected = norm(conv(x))
    out = conv_norm(x, conv, norm)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), expected, rtol=0.02, atol=0.02)
    assert folded(x, conv, norm)[0] is folded(x, conv, norm)[0]  # made once


def test_fp32_training_and_watched_layers_stay_two_layers() -> None:
    conv, norm, x = layers()
    with torch.no_grad():
        assert not folds(x, conv, norm)  # fp32: to the last bit
    with torch.autocast("cpu", torch.bfloat16):
        assert not folds(x, conv, norm)  # a gradient is asked for
        with torch.no_grad():
            assert folds(x, conv, norm)
            assert not folds(x, conv, copy.deepcopy(norm).train())
            assert not folds(x, conv, nn.BatchNorm2d(5, track_running_stats=False).eval())
            assert not folds(x, conv, nn.BatchNorm2d(5, affine=False).eval())
            norm.register_forward_hook(lambda *_: None)
            assert not folds(x, conv, norm)


def test_whatever_changes_the_numbers_makes_a_new_fold(predicting) -> None:
    conv, norm, x = layers()
    norm.requires_grad_(False)

    def step() -> None:
        with torch.enable_grad():
            optimizer = torch.optim.SGD(conv.parameters(), lr=0.1)
            conv(x.clone()).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()

    def statistics() -> None:
        norm.train()(torch.randn(4, 5, 3, 3))
        norm.eval()

    changes = {
        "a step of the optimizer": step,
        "running statistics": statistics,
        "loaded weights": lambda: conv.load_state_dict({"weight": torch.randn(5, 3, 3, 3)}),
        "another parameter": lambda: setattr(conv, "weight", nn.Parameter(conv.weight.detach() * 2)),
        "a state dict that is assigned": lambda: norm.load_state_dict(
            {**norm.state_dict(), "bias": torch.full((5,), 3.0)}, assign=True
        ),
    }
    for name, change in changes.items():
        before = conv_norm(x, conv, norm)
        with torch.inference_mode(False):
            change()
        after = conv_norm(x, conv, norm)
        assert not torch.equal(before, after), name
        torch.testing.assert_close(after, conv_norm(x, *copy.deepcopy((conv, norm))), rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("zeroed", [True, False], ids=["gradient gone", "gradient kept"])
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_steps_of_fused_optimizers_are_noticed_though_torch_does_not_count_them(optimizer: type, zeroed: bool) -> None:
    conv, norm, x = layers()
    fused = optimizer(conv.parameters(), lr=0.1, fused=True)

    def predict() -> Tensor:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            return conv_norm(x, conv, norm)

    before = predict()
    conv_norm(x, conv, norm).square().sum().backward()
    assert torch.equal(predict(), before)  # between gradient and step
    fused.step()
    if zeroed:
        fused.zero_grad()
    assert not torch.equal(predict(), before)


def test_another_memory_format_makes_a_new_fold_in_it(predicting) -> None:
    conv, norm, x = layers()
    folded(x, conv, norm)
    conv.to(memory_format=torch.channels_last)
    assert folded(x, conv, norm)[0].is_contiguous(memory_format=torch.channels_last)


def test_a_write_that_torch_cannot_see_counts_from_the_next_eval(predicting) -> None:
    with torch.inference_mode(False):
        net = backbones.build("resnet20", weights=None, features="last").eval()
    x = torch.randn(1, 3, 32, 32)
    before = net(x)["c2"]
    net.conv1.weight.data.mul_(-1)
    assert not torch.equal(net.eval()(x)["c2"], before)


def test_what_a_prediction_kept_serves_a_training_step_through_frozen_layers() -> None:
    conv, norm, x = layers()
    frozen = freeze_batch_norm(norm)
    assert isinstance(frozen, FrozenBatchNorm2d)
    conv.requires_grad_(False)
    with torch.inference_mode():
        kept = folded(x, conv, frozen)[0]
    x.requires_grad_()
    assert folded(x, conv, frozen)[0] is kept
    conv_norm(x, conv, frozen).sum().backward()
    assert x.grad is not None


def test_nets_predict_in_16_bits_as_with_two_layers() -> None:
    torch.manual_seed(0)
    net = backbones.build("resnet18", weights=None).train()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        net(x)  # running statistics of its own
        expected = net.eval()(x)["c5"]
        with torch.autocast("cpu", torch.bfloat16):
            out = net(x)["c5"].float()
    assert ((out - expected).norm() / expected.norm()).item() < 0.02
