"""Export to torchvision and timm, and import from their files: equal entries and equal outputs."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

import backbones
import classification
import detection
from backbones.errors import UserError
from backbones.norm import freeze_batch_norm, set_norm_eps

IMAGES = (2, 3, 64, 64)


def images() -> Tensor:
    return torch.randn(IMAGES, generator=torch.Generator().manual_seed(0))


def trained(net: nn.Module) -> nn.Module:
    """Give batch norm statistics and weights other than 0 and 1, as training would."""
    generator = torch.Generator().manual_seed(1)
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            for value in (part.weight.data, part.running_var):
                value.copy_(torch.rand(value.shape, generator=generator) / 2 + 0.75)
            for value in (part.bias.data, part.running_mean):
                value.copy_(torch.randn(value.shape, generator=generator) / 10)
    return net.eval()


def kept(net: nn.Module, path: Path) -> Path:
    torch.save(net.state_dict(), path)
    return path


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_a_classifier_is_exported_to_torchvision(name: str, tmp_path: Path) -> None:
    """Load a state dict through a file, with every entry."""
    ours = trained(classification.build(name, 7))
    path = tmp_path / "net.pth"
    torch.save(ours.library_state(), path)
    theirs = torchvision.models.get_model(name, weights=None, num_classes=7).eval()
    theirs.load_state_dict(torch.load(path, weights_only=True), strict=True)
    with torch.no_grad():
        assert torch.equal(ours(images()), theirs(images()))


def test_a_frozen_classifier_is_exported_to_torchvision() -> None:
    ours = trained(classification.build("resnet18", 3))
    freeze_batch_norm(ours)
    theirs = torchvision.models.resnet18(num_classes=3).eval()
    theirs.load_state_dict(ours.library_state(), strict=True)
    with torch.no_grad():
        torch.testing.assert_close(ours(images()), theirs(images()))


def test_a_backbone_without_head_is_exported_to_torchvision() -> None:
    ours = trained(backbones.build("resnet18", weights=None))
    theirs = torchvision.models.resnet18().eval()
    theirs.fc = nn.Identity()
    theirs.load_state_dict(ours.library_state(), strict=True)
    with torch.no_grad():
        assert torch.equal(ours(images())["c5"].mean((2, 3)), theirs(images()))


@pytest.mark.parametrize("name", ["torchvision/mobilenet_v3_small", "timm/resnet18d"])
def test_a_librarys_own_model_is_exported_to_it(name: str) -> None:
    ours = trained(classification.build(name, 3))
    library, arch = name.split("/")
    theirs = (
        timm.create_model(arch, num_classes=3)
        if library == "timm"
        else torchvision.models.get_model(arch, num_classes=3)
    )
    theirs.load_state_dict(ours.library_state(), strict=True)
    with torch.no_grad():
        assert torch.equal(ours(images()), theirs.eval()(images()))


@pytest.mark.parametrize(
    "name, options",
    [
        ("resnet20", {}),
        ("plain18", {}),
        ("resnet18", {"shortcut": "A"}),
        ("resnet50", {"stride_style": "v1"}),
        ("resnet18", {"norm": "group"}),
        ("resnet18", {"in_channels": 1}),
    ],
)
def test_models_unknown_to_torchvision_are_refused(name: str, options: dict) -> None:
    with pytest.raises(UserError, match=f"{name}: its weights cannot be saved for torchvision"):
        classification.build(name, 3, **options).library_state()


def test_features_and_epsilon_that_files_cannot_hold_are_refused() -> None:
    with pytest.raises(UserError, match="four stages"):
        backbones.build("resnet18", weights=None, features=("c2", "c4")).library_state()
    with pytest.raises(UserError, match="neither torchvision nor timm has a model with exactly these layers"):
        backbones.build("timm/resnet18", weights=None).library_state()
    net = classification.build("resnet18", 3)
    set_norm_eps(net, 1e-3)
    with pytest.raises(UserError, match="epsilon 1e-5"):
        net.library_state()


@pytest.mark.parametrize(("library", "name"), [("timm", "resnet18"), ("torchvision", "timm/resnet18")])
def test_either_librarys_file_gives_its_logits(library: str, name: str, tmp_path: Path) -> None:
    theirs = trained(
        timm.create_model("resnet18", num_classes=5)
        if library == "timm"
        else torchvision.models.resnet18(num_classes=5)
    )
    ours = classification.build(name, 5, weights=kept(theirs, tmp_path / "net.pth")).eval()
    with torch.no_grad():
        assert torch.equal(ours(images()), theirs(images()))


def test_a_gated_network_is_not_mistaken_for_a_plain_resnet(tmp_path: Path) -> None:
    """SE-ResNet has all entries of ResNet, and gates besides."""
    path = kept(timm.create_model("seresnet18" if timm.is_model("seresnet18") else "seresnet50"), tmp_path / "net.pth")
    name = "resnet18" if timm.is_model("seresnet18") else "resnet50"
    for build in (
        lambda: classification.build(name, 1000, weights=path),
        lambda: detection.build(name, 3, weights=path),
    ):
        with pytest.raises(UserError, match=r"another network, because it has .* layer1\.0\.se"):
            build()


def test_the_file_of_an_older_torchvision_gives_the_same_detector(tmp_path: Path) -> None:
    """The published COCO file of 2019 has fpn.inner_blocks.0.weight; since torchvision 0.14 there is another ".0"."""
    torch.manual_seed(0)
    theirs = torchvision.models.detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=3)
    path = tmp_path / "old.pth"
    torch.save({older(name): value for name, value in theirs.state_dict().items()}, path)
    ours = detection.build("resnet50", 2, weights=path)
    assert ours.load_report.missing == ours.load_report.unexpected == ()
    for part in (
        "backbone.fpn.inner_blocks.3.0.weight",
        "backbone.fpn.layer_blocks.0.0.bias",
        "rpn.head.conv.0.0.weight",
    ):
        assert torch.equal(ours.state_dict()[part], theirs.state_dict()[part])


def older(name: str) -> str:
    name = name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
    return name.replace(".0.weight", ".weight").replace(".0.bias", ".bias") if "fpn." in name else name


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_a_detector_can_start_from_the_classifier_of_either_library(library: str, tmp_path: Path) -> None:
    theirs = timm.create_model("resnet18") if library == "timm" else torchvision.models.resnet18()
    body = detection.build("resnet18", 3, weights=kept(theirs, tmp_path / "net.pth")).backbone.body
    given = theirs.state_dict()
    assert all(torch.equal(value, given[name]) for name, value in body.state_dict().items())
