"""Tests of ResNets against torchvision, bit for bit, and of the options that torchvision lacks."""

import math
from pathlib import Path

import pytest
import torch
import torchvision
from tolerances import chance
from torch import Tensor, nn

import backbones
from backbones.errors import UserError
from backbones.norm import norm_table

OURS = ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"]


def reference(name: str, **options: object) -> nn.Module:
    """Return torchvision's model with random statistics, so that its norms are not the identity in evaluation mode."""
    torch.manual_seed(3)
    net = torchvision.models.get_model(name, weights=None, **options)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.0)
            module.bias.data.uniform_(-0.1, 0.1)
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return net


def levels(net: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Return torchvision's feature maps by our names."""
    x = net.maxpool(net.relu(net.bn1(net.conv1(x))))
    out = {}
    for i in range(1, 5):
        x = out[f"c{i + 1}"] = getattr(net, f"layer{i}")(x)
    return out


def trunk_of(net: nn.Module) -> dict[str, Tensor]:
    return {k: v for k, v in net.state_dict().items() if not k.startswith("fc.")}


@pytest.mark.parametrize("name", OURS)
def test_keys_are_torchvisions(name: str) -> None:
    with torch.device("meta"):
        theirs = trunk_of(torchvision.models.get_model(name, weights=None))
        ours = backbones.build(name, weights=None).state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}
    assert list(ours) == list(theirs)


@pytest.mark.parametrize(
    ("name", "output_stride"),
    [
        ("resnet18", 32),
        ("resnet34", 32),
        ("resnet50", 32),
        ("resnet50", 16),
        ("resnet50", 8),
        ("resnet101", 32),
        ("resnet152", 32),
    ],
)
def test_outputs_equal_torchvisions_to_the_last_bit(name: str, output_stride: int) -> None:
    dilated = {} if output_stride == 32 else {"replace_stride_with_dilation": [False, output_stride == 8, True]}
    theirs = reference(name, **dilated)
    with torch.device("meta"):
        ours = backbones.build(name, weights=None, output_stride=output_stride)
    ours.load_state_dict({k: v.clone() for k, v in trunk_of(theirs).items()}, assign=True)
    x = torch.randn(2, 3, 65, 97)
    for training in (False, True):
        expected = levels(theirs.train(training), x)
        for level, value in ours.train(training)(x).items():
            assert torch.equal(value, expected[level]), level
        # running statistics are equal after the step
        after = trunk_of(theirs)
        assert all(torch.equal(v, after[k]) for k, v in ours.state_dict().items())


def test_gradients_equal_torchvisions_to_the_last_bit() -> None:
    theirs, ours = reference("resnet18"), backbones.build("resnet18", weights=None)
    ours.load_state_dict(trunk_of(theirs))
    x = torch.randn(2, 3, 64, 64)
    levels(theirs, x)["c5"].square().mean().backward()
    ours(x)["c5"].square().mean().backward()
    expected = dict(theirs.named_parameters())
    assert all(torch.equal(p.grad, expected[n].grad) for n, p in ours.named_parameters())


def test_initialisation_is_he_by_fan_out() -> None:
    torch.manual_seed(0)
    net = backbones.build("resnet50", weights=None)
    weight = net.get_submodule("layer3.1.conv2").weight
    # std = sqrt(2 / fan_out), fan_out = 256 outputs * 3 * 3; the standard error of a std is std / sqrt(2 n)
    expected = math.sqrt(2 / (256 * 9))
    assert weight.std().item() == pytest.approx(expected, abs=chance(expected, 2 * weight.numel()))
    assert net.get_submodule("layer1.0.bn3").weight.eq(1).all()  # zero_init_residual is off


@pytest.mark.parametrize("output_stride", [32, 16, 8])
@pytest.mark.parametrize("name", OURS)
def test_declared_channels_and_strides_are_actual(name: str, output_stride: int) -> None:
    with torch.device("meta"):
        net = backbones.build(name, weights=None, output_stride=output_stride)
    height, width = 97, 129
    out = net(torch.zeros(1, 3, height, width, device="meta"))
    assert list(out) == [f.name for f in net.feature_info] == ["c2", "c3", "c4", "c5"]
    assert [f.stride for f in net.feature_info] == [min(s, output_stride) for s in (4, 8, 16, 32)]
    for info in net.feature_info:
        size = (math.ceil(height / info.stride), math.ceil(width / info.stride))
        assert out[info.name].shape == (1, info.channels, *size)


@pytest.mark.parametrize("style", ["v1", "v1.5"])
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_dilation_computes_the_strided_map_at_every_second_pixel(name: str, style: str) -> None:
    options = {"weights": None, "stride_style": style}
    strided, dilated = backbones.build(name, **options), backbones.build(name, output_stride=16, **options)
    dilated.load_state_dict(strided.state_dict())
    x = torch.randn(1, 3, 128, 128, dtype=torch.double)
    coarse, fine = (net.double().eval()(x)["c5"] for net in (strided, dilated))
    torch.testing.assert_close(fine[:, :, ::2, ::2], coarse)


def test_stride_style_moves_the_stride_and_no_key() -> None:
    paper, later = (backbones.build("resnet50", weights=None, stride_style=s) for s in ("v1", "v1.5"))
    first = [paper.get_submodule("layer2.0.conv1"), paper.get_submodule("layer2.0.conv2")]
    second = [later.get_submodule("layer2.0.conv1"), later.get_submodule("layer2.0.conv2")]
    assert [c.stride for c in first] == [(2, 2), (1, 1)] and [c.stride for c in second] == [(1, 1), (2, 2)]
    assert list(paper.state_dict()) == list(later.state_dict())


def test_stages_after_the_last_feature_are_left_out() -> None:
    net = backbones.build("resnet18", weights=None, features=("c2", "c4"))
    assert hasattr(net, "layer3") and not hasattr(net, "layer4")
    out = net(torch.randn(2, 3, 64, 64))
    assert list(out) == ["c2", "c4"]
    out["c4"].sum().backward()
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize("n", range(5))
def test_freezing_stages(n: int) -> None:
    net = backbones.build("resnet18", weights=None)
    net.freeze_stages(n)
    sum(v.sum() for v in net(torch.randn(2, 3, 64, 64)).values()).backward()
    parts = [(net.conv1, net.bn1), (net.layer1,), (net.layer2,), (net.layer3,), (net.layer4,)]
    for i, modules in enumerate(parts):
        trained = [p.grad is not None for m in modules for p in m.parameters()]
        assert all(t is (i >= n) for t in trained)
    # stem 1; 4 in the first stage; 4 and a projection in each other one
    frozen = sum([1, 4, 5, 5][:n])
    assert norm_table(net).get("frozen", 0) == frozen


def test_freezing_every_stage() -> None:
    net = backbones.build("resnet18", weights=None)
    net.freeze_stages(5)
    assert not any(p.requires_grad for p in net.parameters()) and norm_table(net) == {"frozen": 20}


@pytest.mark.parametrize("n", [-1, 6, 1.5])
def test_freezing_out_of_range_names_the_range(n: float) -> None:
    with pytest.raises(UserError, match=r"resnet18: cannot freeze .* expected 0\.\.5"):
        backbones.build("resnet18", weights=None).freeze_stages(n)


def test_split_gives_the_same_last_map() -> None:
    net = backbones.build("resnet18", weights=None).eval()
    x = torch.randn(1, 3, 64, 64)
    whole = net(x)
    trunk, last = net.split_last_stage()
    cut = trunk(x)
    assert list(cut) == ["c2", "c3", "c4"] and not hasattr(trunk, "layer4")
    assert [f.name for f in trunk.feature_info] == ["c2", "c3", "c4"]
    assert torch.equal(last(cut["c4"]), whole["c5"])
    assert (last.feature_info.name, last.feature_info.channels, last.feature_info.stride) == ("c5", 512, 32)
    # Together they hold every parameter once.
    assert {id(p) for m in (trunk, last) for p in m.parameters()} == {id(p) for p in net.parameters()}


def test_split_needs_two_neighbours() -> None:
    with pytest.raises(UserError, match="two neighbouring features, got c3, c5"):
        backbones.build("resnet18", weights=None, features=("c3", "c5")).split_last_stage()


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
def test_other_channels(channels: int) -> None:
    net = backbones.build("resnet18", weights=None, in_channels=channels)
    assert net.conv1.in_channels == net.in_channels == len(net.mean) == len(net.std) == channels
    assert net(torch.randn(1, channels, 64, 64))["c5"].shape == (1, 512, 2, 2)


@pytest.mark.parametrize("channels", [1, 4])
def test_file_for_three_channels_fills_another_number(channels: int, tmp_path: Path) -> None:
    theirs = reference("resnet18")
    torch.save(theirs.state_dict(), tmp_path / "net.pth")
    net = backbones.build("resnet18", weights=tmp_path / "net.pth", in_channels=channels)
    assert net.load_report.reshaped == ("conv1.weight",) and not net.load_report.missing
    assert torch.equal(net.layer1[0].conv1.weight, theirs.layer1[0].conv1.weight)


def test_group_norm_refuses_weights_of_batch_norm(tmp_path: Path) -> None:
    torch.save(reference("resnet18").state_dict(), tmp_path / "net.pth")
    with pytest.raises(UserError, match="trained with batch norm"):
        backbones.build("resnet18", weights=tmp_path / "net.pth", norm="group")
    own = backbones.build("resnet18", weights=None, norm="group")
    torch.save(own.state_dict(), tmp_path / "own.pth")
    again = backbones.build("resnet18", weights=tmp_path / "own.pth", norm="group")
    assert torch.equal(again.conv1.weight, own.conv1.weight)


def test_frozen_norm_with_a_file_gives_the_same_maps(tmp_path: Path) -> None:
    theirs = reference("resnet50").eval()
    torch.save(theirs.state_dict(), tmp_path / "net.pth")
    net = backbones.build("resnet50", weights=tmp_path / "net.pth", norm="frozen")
    x = torch.randn(1, 3, 64, 64, dtype=torch.double)
    torch.testing.assert_close(net.double()(x)["c5"], levels(theirs.double(), x)["c5"])
