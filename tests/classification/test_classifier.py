"""The classification model: torchvision's logits bit for bit, and loading of its weights."""

import json
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file

import backbones
import classification
from backbones.errors import UserError
from backbones.norm import norm_table


def saved(path: Path, name: str = "resnet18", prefix: str = "", **options: object) -> torch.nn.Module:
    """Write the state dict of a random model of torchvision, and return the model."""
    net = torchvision.models.get_model(name, weights=None, **options).eval()
    torch.save({prefix + k: v for k, v in net.state_dict().items()}, path)
    return net


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_whole_net_gives_torchvisions_logits(tmp_path: Path, name: str) -> None:
    theirs = saved(tmp_path / "net.pth", name)
    ours = classification.build(name, 1000, weights=tmp_path / "net.pth").eval()
    x = torch.randn(2, 3, 65, 97)
    assert torch.equal(ours(x), theirs(x))
    assert not ours.load_report.missing and {"fc.weight", "fc.bias"} <= set(ours.load_report.matched)


def test_wrapped_file_gives_the_linear_layer_too(tmp_path: Path) -> None:
    theirs = saved(tmp_path / "net.pth", prefix="module.")
    ours = classification.build("resnet18", 1000, weights=tmp_path / "net.pth")
    assert torch.equal(ours.fc.weight, theirs.fc.weight)


def test_our_own_file_comes_back(tmp_path: Path) -> None:
    first = classification.build("resnet18", 7).eval()
    torch.save(first.state_dict(), tmp_path / "ours.pth")
    again = classification.build("resnet18", 7, weights=tmp_path / "ours.pth").eval()
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(again(x), first(x))


def test_other_number_of_classes_loads_the_backbone_alone(tmp_path: Path) -> None:
    theirs = saved(tmp_path / "net.pth", num_classes=10)
    ours = classification.build("resnet18", 5, weights=tmp_path / "net.pth")
    assert ours.fc.weight.shape == (5, 512)
    assert torch.equal(ours.backbone.conv1.weight, theirs.conv1.weight)
    assert set(ours.load_report.missing) == {"fc.weight", "fc.bias"}
    assert "2 missing" in str(ours.load_report) and "\n" not in str(ours.load_report)


def test_frozen_norm_with_weights(tmp_path: Path) -> None:
    theirs = saved(tmp_path / "net.pth")
    ours = classification.build("resnet18", 1000, weights=tmp_path / "net.pth", norm="frozen").double()
    assert norm_table(ours) == {"frozen": 20}
    x = torch.randn(2, 3, 64, 64, dtype=torch.double)
    torch.testing.assert_close(ours(x), theirs.double()(x))
    with pytest.raises(UserError, match="random statistics"):
        classification.build("resnet18", 10, norm="frozen")


def test_takes_a_backbone_and_trains_all_of_it() -> None:
    net = classification.build(backbones.build("resnet18", weights=None, features=("c5",)), 3)
    logits = net(torch.randn(2, 3, 64, 64))
    assert logits.shape == (2, 3)
    logits.sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    with pytest.raises(
        UserError, match="features: cannot be chosen here, because the backbone is built already; pass these options to"
    ):
        classification.build(net.backbone, 3, features=("c5",))


@pytest.mark.parametrize("name", ["timm/test_resnet", "timm/test_convnext", "torchvision/squeezenet1_1"])
def test_other_libraries_trunks(name: str) -> None:
    net = classification.build(backbones.build(name, weights=None, features="last"), 4)
    logits = net(torch.randn(2, 3, 64, 64))
    assert logits.shape == (2, 4)
    logits.sum().backward()
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize("count", [0, -1, 2.5])
def test_wrong_number_of_classes(count: float) -> None:
    with pytest.raises(UserError, match=r"num_classes=.*at least 1"):
        classification.build("resnet18", count)


def test_a_backbone_of_a_plugin_trains_all_of_it(tiny_backbone: str) -> None:
    net = classification.build(tiny_backbone, 3, in_channels=2)
    assert [info.name for info in net.backbone.feature_info] == ["c4"]
    net(torch.randn(2, 2, 40, 56), {"label": torch.tensor([0, 2])})["loss_cls"].backward()
    assert [name for name, parameter in net.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("name", ["resnet20", "torchvision/squeezenet1_1"])
def test_each_class_keeps_its_logit_in_another_order(tmp_path: Path, name: str):
    before, path = classification.build(name, 3).eval(), tmp_path / "model.safetensors"
    save_file(before.state_dict(), path, {"meta": json.dumps({"classes": ["ant", "bee", "cow"]})})
    images = torch.randn(2, 3, 64, 64)
    after = classification.build(name, 3, weights=path, classes=("cow", "ant", "bee")).eval()
    other = classification.build(name, 3, weights=path, classes=("cow", "ant", "dog")).eval()
    with torch.inference_mode():
        expected = before(images)
        assert torch.equal(other(images), expected)
        assert torch.allclose(after(images), expected[:, [2, 0, 1]], rtol=1e-5, atol=1e-6)
    assert after.load_report is not None
    assert after.load_report.moved == ("cow: 2 -> 0", "ant: 0 -> 1", "bee: 1 -> 2")
