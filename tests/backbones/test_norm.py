"""Tests of frozen batch norm, which keeps its numbers in any model, and of the count of norm layers."""

import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

import backbones
from backbones.errors import UserError
from backbones.fold import conv_norm
from backbones.norm import freeze_batch_norm, group_norm, norm_table


def settled(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    """Replace the zeros and ones of a new layer by random numbers."""
    for value in (norm.weight.data, norm.running_var):
        value.uniform_(0.5, 2.0)
    for value in (norm.bias.data, norm.running_mean):
        value.normal_()
    return norm


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("geometry", [{}, {"stride": 2, "padding": 1}, {"dilation": 2, "groups": 2}])
def test_folded_norm_equals_norm_after_convolution(bias: bool, geometry: dict) -> None:
    conv = nn.Conv2d(4, 6, 3, bias=bias, **geometry).double()
    norm = settled(nn.BatchNorm2d(6)).double().eval()
    frozen = freeze_batch_norm(nn.Sequential(norm))[0]
    x = torch.randn(2, 4, 11, 9, dtype=torch.double)
    torch.testing.assert_close(conv_norm(x, conv, frozen), norm(conv(x)))
    assert torch.equal(conv_norm(x, conv, norm), norm(conv(x)))


def test_gradient_reaches_the_weight_through_the_fold() -> None:
    conv, norm = nn.Conv2d(3, 5, 3, bias=False).double(), settled(nn.BatchNorm2d(5)).double().eval()
    x = torch.randn(2, 3, 8, 8, dtype=torch.double)
    norm(conv(x)).square().sum().backward()
    expected, conv.weight.grad = conv.weight.grad, None
    conv_norm(x, conv, freeze_batch_norm(nn.Sequential(norm))[0]).square().sum().backward()
    torch.testing.assert_close(conv.weight.grad, expected)


def test_freezing_keeps_output_and_keys() -> None:
    net = backbones.build("resnet18", weights=None).double().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            settled(module)
    x = torch.randn(1, 3, 64, 64, dtype=torch.double)
    before, keys = net(x), set(net.state_dict())
    assert freeze_batch_norm(net) is net
    assert norm_table(net) == {"frozen": 20}
    assert set(net.state_dict()) == {k for k in keys if not k.endswith("num_batches_tracked")}
    for name, value in net.train()(x).items():  # frozen norm computes the same in training mode
        torch.testing.assert_close(value, before[name])


def test_frozen_net_loads_a_batch_norm_state_dict() -> None:
    state = backbones.build("resnet18", weights=None).state_dict()
    net = freeze_batch_norm(backbones.build("resnet18", weights=None))
    result = net.load_state_dict(state)
    assert not result.missing_keys and not result.unexpected_keys


def test_a_lone_layer_and_a_shared_one() -> None:
    assert isinstance(freeze_batch_norm(nn.BatchNorm2d(3)), FrozenBatchNorm2d)
    shared = nn.BatchNorm2d(3)
    net = freeze_batch_norm(nn.Sequential(shared, nn.ReLU(), shared))
    assert isinstance(net[0], FrozenBatchNorm2d) and net[2] is net[0]


def test_freezing_within_leaves_the_rest_live() -> None:
    net = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3))
    freeze_batch_norm(net, within=[net[0]])
    assert norm_table(net) == {"frozen": 1, "live": 1}


def test_norm_without_statistics_is_refused() -> None:
    with pytest.raises(UserError, match="running statistics"):
        freeze_batch_norm(nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False)))


def test_norm_without_affine_numbers_freezes() -> None:
    norm = nn.BatchNorm2d(3, affine=False)
    norm.running_mean.normal_()
    x = torch.randn(2, 3, 4, 4)
    expected = norm.eval()(x)
    torch.testing.assert_close(freeze_batch_norm(nn.Sequential(norm))(x), expected)


@pytest.mark.parametrize(("channels", "groups"), [(64, 32), (48, 24), (36, 18), (7, 7), (37, 1)])
def test_group_norm_falls_back_to_a_divisor(channels: int, groups: int) -> None:
    assert group_norm(channels).num_groups == groups


def test_norm_table_counts_by_state() -> None:
    net = nn.Sequential(nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.LayerNorm(4), nn.InstanceNorm2d(4), nn.ReLU())
    assert norm_table(net) == {"live": 1, "group": 1, "layer": 1, "instance": 1}
    assert norm_table(nn.ReLU()) == {}
    # 1 of the stem, 2 in each of 8 blocks, 3 projections
    assert norm_table(backbones.build("resnet18", weights=None, norm="group")) == {"group": 20}


@pytest.mark.parametrize("name", ["resnet20", "plain18", "timm/resnet10t", "torchvision/mobilenet_v2"])
def test_synchronised_norm_has_the_keys_and_numbers_of_live_norm(name: str) -> None:
    torch.manual_seed(0)
    live = backbones.build(name, weights=None)
    shared = backbones.build(name, weights=None, norm="sync")
    shared.load_state_dict(live.state_dict())
    (count,) = norm_table(live).values()
    assert norm_table(shared) == {"live, synchronised": count}
    x = torch.rand(2, 3, 64, 64)
    for before, after in zip(live.eval()(x).values(), shared.eval()(x).values(), strict=True):
        assert torch.equal(before, after)
