"""Weights files of CIFAR and plain models: the community's layout, ours, and files made with other shortcuts."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

import backbones
import classification
from backbones.errors import UserError


class CommunityBlock(nn.Module):
    """Two 3x3 convolutions; option B's projection is called "shortcut", option A has no entries."""

    def __init__(self, inputs: int, planes: int, stride: int, option: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.padded, self.planes = inputs != planes, planes
        if self.padded and option == "B":
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, planes, 1, stride=stride, bias=False), nn.BatchNorm2d(planes)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.padded:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.planes // 4, self.planes // 4))
        return F.relu(out + x)


class CommunityNet(nn.Module):
    """conv1, bn1, layer1..3 and linear, with random statistics as after a training."""

    def __init__(self, n: int, option: str = "A") -> None:
        super().__init__()
        torch.manual_seed(4)
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        inputs = 16
        for i, planes in enumerate((16, 32, 64), 1):
            blocks = [CommunityBlock(inputs, planes, min(i, 2), option)]
            blocks += [CommunityBlock(planes, planes, 1, option) for _ in range(n - 1)]
            self.add_module(f"layer{i}", nn.Sequential(*blocks))
            inputs = planes
        self.linear = nn.Linear(64, 10)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.1, 0.1)
                module.running_var.uniform_(0.5, 1.5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        # The community's avg_pool2d adds the places in another order, which moves the last bit alone.
        return self.linear(x.mean(dim=(2, 3)))


def community_file(path: Path, layers: int = 20, option: str = "A", prefix: str = "module.") -> nn.Module:
    """Write a checkpoint as the community's training script leaves it, and return its model."""
    net = CommunityNet((layers - 2) // 6, option).eval()
    state = {prefix + key: value for key, value in net.state_dict().items()}
    torch.save({"state_dict": state, "best_prec1": 91.73}, path)
    return net


@pytest.mark.parametrize("prefix", ["module.", ""])
@pytest.mark.parametrize("layers", [20, 56])
def test_community_file_gives_the_same_logits(tmp_path: Path, layers: int, prefix: str) -> None:
    theirs = community_file(tmp_path / "net.th", layers, prefix=prefix)
    ours = classification.build(f"resnet{layers}", 10, weights=tmp_path / "net.th").eval()
    x = torch.randn(4, 3, 32, 32)
    assert torch.equal(ours(x), theirs(x))
    report = ours.load_report
    assert not (report.missing or report.unexpected or report.ignored or report.reshaped)
    # five entries of each convolution and its norm (weight; weight, bias, mean, variance), and the linear layer's two
    assert len(report.matched) == 5 * (layers - 1) + 2


def test_community_file_for_other_classes_leaves_the_linear_layer(tmp_path: Path) -> None:
    theirs = community_file(tmp_path / "net.th")
    ours = classification.build("resnet20", 6, weights=tmp_path / "net.th")
    assert torch.equal(ours.backbone.conv1.weight, theirs.conv1.weight)
    assert ours.load_report.missing == ("fc.bias", "fc.weight")
    assert set(ours.load_report.ignored) == {"module.linear.weight", "module.linear.bias"}


def test_community_file_gives_a_backbone_its_first_stages(tmp_path: Path) -> None:
    theirs = community_file(tmp_path / "net.th")
    trunk = backbones.build("resnet20", weights=tmp_path / "net.th", features=("c0", "c1")).eval()
    x = torch.randn(1, 3, 32, 32)
    inner = theirs.layer2(theirs.layer1(F.relu(theirs.bn1(theirs.conv1(x)))))
    assert torch.equal(trunk(x)["c1"], inner)


def test_file_of_another_depth_is_refused(tmp_path: Path) -> None:
    community_file(tmp_path / "net.th", layers=20)
    with pytest.raises(
        UserError, match=r"resnet56: at least 90% of the model's entries .*net\.th: matched 95 of 275 entries"
    ):
        classification.build("resnet56", 10, weights=tmp_path / "net.th")


@pytest.mark.parametrize("name", ["plain20", "resnet20", "plain18"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_our_own_file_comes_back(tmp_path: Path, name: str, suffix: str) -> None:
    first = classification.build(name, 10).eval()
    write = torch.save if suffix == ".pth" else save_file
    write(first.state_dict(), tmp_path / f"net{suffix}")
    again = classification.build(name, 10, weights=tmp_path / f"net{suffix}").eval()
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(again(x), first(x))


# The model of the file, the model that loads it, and the message.
OTHERS = {
    "projections for a plain net": (
        ("resnet18", "B"),
        ("plain18", None),
        "plain18 with no shortcuts: {} was trained with other shortcuts "
        "(layer2.0.downsample.0.weight is only in the file)",
    ),
    "projections for option A": (("resnet20", "B"), ("resnet20", "A"), "layer2.0.downsample.0.weight is only in the f"),
    "projections everywhere for option B": (("resnet18", "C"), ("resnet18", "B"), "layer1.0.downsample.0.weight is o"),
    "no projections for option B": (
        ("resnet20", "A"),
        ("resnet20", "B"),
        "resnet20 with option B: {} was trained with other shortcuts (layer2.0.downsample.0.weight is only in the "
        "model)",
    ),
    "a plain net's for option B": (
        ("plain34", None),
        ("resnet34", "B"),
        "layer2.0.downsample.0.weight is only in the m",
    ),
}


@pytest.mark.parametrize("case", OTHERS)
def test_file_made_with_other_shortcuts_is_refused(tmp_path: Path, case: str) -> None:
    (made, option), (name, wanted), said = OTHERS[case]
    path = tmp_path / "net.pth"
    torch.save(classification.build(made, 10, shortcut=option).state_dict(), path)
    for build in (classification.build, lambda name, _, **options: backbones.build(name, **options)):
        with pytest.raises(UserError) as caught:
            build(name, 10, weights=path, shortcut=wanted)
        assert said.format(path) in str(caught.value) and "\n" not in str(caught.value)
        assert str(caught.value).endswith("use the backbone and the shortcut option that the file was trained with")


def test_communitys_projections_are_refused_by_option_a(tmp_path: Path) -> None:
    community_file(tmp_path / "net.th", option="B")
    with pytest.raises(
        UserError, match=r"other shortcuts \((module\.)?layer2\.0\.shortcut\.0\.weight is only in the file"
    ):
        classification.build("resnet20", 10, weights=tmp_path / "net.th")


def test_projections_in_stages_left_out_do_not_matter(tmp_path: Path) -> None:
    residual = backbones.build("resnet18", weights=None).eval()
    torch.save(residual.state_dict(), tmp_path / "net.pth")
    x = torch.randn(1, 3, 64, 64)
    for shortcut in ("A", "B"):
        first = backbones.build("resnet18", weights=tmp_path / "net.pth", features=("c2",), shortcut=shortcut).eval()
        assert torch.equal(first(x)["c2"], residual(x)["c2"])
