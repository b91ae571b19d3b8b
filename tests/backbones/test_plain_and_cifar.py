"""Tests of plain networks, CIFAR networks (section 4.2) and shortcuts, against hand-computed numbers and models."""

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

import backbones
import classification
import detection
from backbones.errors import UserError
from backbones.norm import norm_table
from tools import train_cls
from tools.engine.cost import macs, parameters

CIFAR = [20, 32, 44, 56, 110]
NETS = backbones.names()
SMALL = [name for name in NETS if name != "resnet1202"]  # its 1202 layers take a minute


def is_cifar(name: str) -> bool:
    return int(name.removeprefix("resnet").removeprefix("plain")) in (*CIFAR, 1202)


def on_meta(name: str, classes: int = 1000, **options: object) -> nn.Module:
    with torch.device("meta"):
        return classification.build(name, classes, **options)


def trained(name: str, **options: object) -> backbones.Backbone:
    """Return a random backbone in evaluation mode, with random statistics so that its norms are not the identity."""
    torch.manual_seed(3)
    net = backbones.build(name, weights=None, **options)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.0)
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return net.eval()


# With n blocks per stage and ten classes: stem 3*16*9 + 32 = 464, linear layer 64*10 + 10 = 650. A stage of width w has
# 2n convolutions of w*w*9 and norms of 2w: n * (2*9*(16^2 + 32^2 + 64^2) + 4*(16 + 32 + 64)) = n * 97216, but the
# first convolutions of the second and third stage have half the inputs: less 9*16*32 + 9*32*64 = 23040.
# 464 + 650 + 97216 n - 23040 = 97216 n - 21926. Table 6 says 0.27, 0.46, 0.66, 0.85, 1.7 and 19.4 million.
@pytest.mark.parametrize(
    ("layers", "count", "millions"),
    [
        (20, 269_722, "0.27"),
        (32, 464_154, "0.46"),
        (44, 658_586, "0.66"),
        (56, 853_018, "0.85"),
        (110, 1_727_962, "1.7"),
        (1202, 19_421_274, "19.4"),
    ],
)
def test_parameters_of_table_6(layers: int, count: int, millions: str) -> None:
    n = (layers - 2) // 6
    assert count == 97_216 * n - 21_926
    assert f"{count / 1e6:.{len(millions.split('.')[1])}f}" == millions
    net = on_meta(f"resnet{layers}", 10)
    assert parameters(net) == count
    assert sum(isinstance(m, (nn.Conv2d, nn.Linear)) for m in net.modules()) == layers


def test_multiply_adds_of_table_1() -> None:
    plain, identity, projections = (
        macs(on_meta(name, **options), 224)
        for name, options in (("plain34", {}), ("resnet34", {"shortcut": "A"}), ("resnet34", {}))
    )
    # Option A has no multiplications. Option B has three projections each 64*128*28*28 = 128*256*14*14 = 256*512*7*7.
    assert plain == identity == projections - 3 * 64 * 128 * 28 * 28
    assert f"{plain / 1e9:.2f}" == "3.64"  # the paper's 3.6
    with torch.device("meta"):
        vgg = macs(torchvision.models.vgg19(), 224)
    # Section 3.3: "only 18% of VGG-19 (19.6 billion FLOPs)".
    assert f"{vgg / 1e9:.1f}" == "19.6" and 0.18 <= plain / vgg < 0.19


# With 1000 classes, as torchvision counts option B. A projection of a inputs and b outputs: a*b + 2b.
@pytest.mark.parametrize(
    ("name", "option", "count"),
    [
        ("resnet18", "B", 11_689_512),
        # less 64*128 + 256, 128*256 + 512, 256*512 + 1024: 173824
        ("resnet18", "A", 11_689_512 - 173_824),
        # more, on the 2, 1, 1, 1 blocks of unchanged size: 2*(64*64 + 128) + 16640 + 66048 + 263168 = 354304
        ("resnet18", "C", 11_689_512 + 354_304),
        ("resnet34", "B", 21_797_672),
        ("resnet34", "A", 21_797_672 - 173_824),
        # on 3, 3, 5, 2 blocks: 3*4224 + 3*16640 + 5*66048 + 2*263168 = 919168
        ("resnet34", "C", 21_797_672 + 919_168),
    ],
)
def test_parameters_by_option(name: str, option: str, count: int) -> None:
    net = on_meta(name, shortcut=option)
    assert parameters(net) == count
    projected = {key.split(".downsample")[0] for key in net.backbone.state_dict() if ".downsample." in key}
    blocks = {key.removesuffix(".conv1.weight") for key in net.backbone.state_dict() if key.endswith(".conv1.weight")}
    assert projected == {"A": set(), "B": {"layer2.0", "layer3.0", "layer4.0"}, "C": blocks}[option]


@pytest.mark.parametrize("layers", [18, 34, *CIFAR])
def test_plain_net_is_the_residual_one_without_projections(layers: int) -> None:
    plain, residual = (on_meta(f"{kind}{layers}").state_dict() for kind in ("plain", "resnet"))
    without = {k: v.shape for k, v in residual.items() if ".downsample." not in k}
    assert {k: v.shape for k, v in plain.items()} == without and list(plain) == list(without)
    assert list(plain) == list(on_meta(f"resnet{layers}", shortcut="A").state_dict())


def by_hand(state: dict[str, Tensor], x: Tensor, *, shortcut: bool) -> Tensor:
    """Compute a CIFAR network in evaluation mode from its weights: convolutions in a row, and option A's shortcuts."""

    def conv(at: str, number: int, x: Tensor, stride: int = 1) -> Tensor:
        norm = {k: state[f"{at}bn{number}.{k}"] for k in ("running_mean", "running_var", "weight", "bias")}
        return F.batch_norm(F.conv2d(x, state[f"{at}conv{number}.weight"], stride=stride, padding=1), **norm)

    x = conv("", 1, x).relu()
    for first in [k.removesuffix("conv1.weight") for k in state if k.endswith(".conv1.weight")]:
        stride = 2 if first in ("layer2.0.", "layer3.0.") else 1
        out = conv(first, 2, conv(first, 1, x, stride).relu())
        if shortcut:
            identity = x[:, :, ::stride, ::stride]
            zeros = torch.zeros_like(identity)[:, : (out.shape[1] - x.shape[1]) // 2]
            out = out + torch.cat([zeros, identity, zeros], 1)
        x = out.relu()
    return x


@pytest.mark.parametrize(("name", "shortcut"), [("plain20", False), ("resnet20", True), ("plain32", False)])
def test_cifar_net_equals_one_written_by_hand(name: str, shortcut: bool) -> None:
    net = trained(name).double()
    x = torch.randn(2, 3, 33, 30, dtype=torch.double)
    torch.testing.assert_close(net(x)["c2"], by_hand(net.state_dict(), x, shortcut=shortcut))


def test_plain18_equals_a_chain_of_its_layers() -> None:
    net = trained("plain18")
    x = out = torch.randn(1, 3, 64, 64)
    for name, module in net.named_modules():
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d)):
            out = module(out)
        if isinstance(module, nn.BatchNorm2d):
            out = out.relu()
        if name == "maxpool":
            out = module(out)
    assert torch.equal(net(x)["c5"], out)


@pytest.mark.parametrize("name", NETS)
def test_declared_channels_and_strides_are_actual(name: str) -> None:
    levels = ["c0", "c1", "c2"] if is_cifar(name) else ["c2", "c3", "c4", "c5"]
    for output_stride in (32,) if is_cifar(name) else (32, 8):
        net = backbones.build(name, weights=None, output_stride=output_stride).eval()
        with torch.inference_mode():
            out = net(torch.zeros(1, 3, 33, 47))
        assert list(out) == [f.name for f in net.feature_info] == levels
        for info in net.feature_info:
            assert info.stride == min(2 ** int(info.name[1:]), output_stride)
            assert out[info.name].shape == (1, info.channels, math.ceil(33 / info.stride), math.ceil(47 / info.stride))


@pytest.mark.parametrize("name", SMALL)
def test_gradient_reaches_every_parameter(name: str) -> None:
    torch.manual_seed(0)
    net = classification.build(name, 10).train()
    images = torch.randn(2, 3, 16, 16) if is_cifar(name) else torch.randn(2, 3, 64, 64)
    loss = net(images, {"label": torch.tensor([1, 7])})["loss_cls"]
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in net.parameters())


@pytest.mark.parametrize(
    ("features", "wanted"),
    [("all", ["c0", "c1", "c2"]), ("last", ["c2"]), (("c0", "c2"), ["c0", "c2"]), (["c1"], ["c1"])],
)
def test_features_of_a_cifar_net(features: object, wanted: list[str]) -> None:
    net = backbones.build("resnet20", weights=None, features=features)
    out = net(torch.randn(1, 3, 32, 32))
    assert list(out) == wanted
    sizes = {"c0": (1, 16, 32, 32), "c1": (1, 32, 16, 16), "c2": (1, 64, 8, 8)}
    assert all(value.shape == sizes[name] for name, value in out.items())
    assert hasattr(net, "layer3") is ("c2" in wanted)


def test_one_gray_channel() -> None:
    net = backbones.build("resnet20", weights=None, in_channels=1)
    assert net(torch.randn(1, 1, 28, 28))["c2"].shape == (1, 64, 7, 7)


REFUSED = {
    "plain net": ("plain34", {"shortcut": "A"}, "plain34: shortcut='A': a plain network has no shortcuts; use"),
    "plain CIFAR net": ("plain20", {"shortcut": "B"}, "a plain network has no shortcuts; use resnet20"),
    "timm's": ("timm/resnet18", {"shortcut": "A"}, "timm/resnet18: shortcut='A' is not available for this backbone"),
    "torchvision's": ("torchvision/vgg11", {"shortcut": "C"}, "torchvision/vgg11: shortcut='C' is not available"),
    "small letter": ("resnet20", {"shortcut": "a"}, "shortcut='a': expected one of None, 'A', 'B', 'C'"),
    "no letter": ("resnet20", {"shortcut": True}, "shortcut=True: expected one of"),
    "pyramid of a CIFAR net": (
        "resnet20",
        {"features": ("c2", "c5")},
        "resnet20: has no feature c5; choose from c0, c1, c2",
    ),
    "c0 of a large net": ("plain34", {"features": ("c0",)}, "plain34: has no feature c0; choose from c2, c3, c4, c5"),
    "frozen random norm": ("resnet20", {"norm": "frozen"}, "resnet20: norm='frozen' with weights=None"),
    "weights of a plain net": ("plain34", {"weights": "IMAGENET1K_V1"}, "plain34: no published weights 'IMAGENET1"),
    "weights of a CIFAR net": ("resnet20", {"weights": "imagenet"}, "resnet20: no published weights 'imagenet'"),
    "weights of an option": (
        "resnet34",
        {"weights": "imagenet", "shortcut": "A"},
        "no published weights 'imagenet'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_user_errors_are_one_line(case: str) -> None:
    name, options, said = REFUSED[case]
    with pytest.raises(UserError) as caught:
        backbones.build(name, **{"weights": None, **options})
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("n", range(5))
def test_freezing_stages_of_a_cifar_net(n: int) -> None:
    net = backbones.build("resnet20", weights=None)
    net.freeze_stages(n)
    out = net(torch.randn(2, 3, 16, 16))["c2"].sum()
    assert out.requires_grad is (n < 4)
    if n < 4:
        out.backward()
    for i, modules in enumerate([(net.conv1, net.bn1), (net.layer1,), (net.layer2,), (net.layer3,)]):
        assert all((p.grad is not None) is (i >= n) for m in modules for p in m.parameters())
    # the stem's norm, then two in each of three blocks a stage
    assert norm_table(net).get("frozen", 0) == [0, 1, 7, 13, 19][n]


def test_freezing_more_than_a_cifar_net_has() -> None:
    with pytest.raises(UserError, match=r"resnet20: cannot freeze 5 stages; expected 0\.\.4"):
        backbones.build("resnet20", weights=None).freeze_stages(5)


@pytest.mark.parametrize("name", ["resnet20", "plain20", "plain18"])
def test_split_gives_the_same_last_map(name: str) -> None:
    net = trained(name)
    x = torch.randn(1, 3, 64, 64)
    whole = net(x)
    trunk, last = net.split_last_stage()
    cut = trunk(x)
    levels = [f.name for f in net.feature_info]
    assert list(cut) == levels[:-1] == [f.name for f in trunk.feature_info]
    assert torch.equal(last(cut[levels[-2]]), whole[levels[-1]]) and last.feature_info == net.feature_info[-1]
    assert {id(p) for m in (trunk, last) for p in m.parameters()} == {id(p) for p in net.parameters()}


@pytest.mark.parametrize("name", ["resnet20", "plain20", "plain34"])
def test_group_norm(name: str) -> None:
    net = backbones.build(name, weights=None, norm="group").double().train()
    assert set(norm_table(net)) == {"group"}
    assert net.bn1.num_groups == (32 if name == "plain34" else 16)  # 16 channels have no 32 groups
    x = torch.randn(2, 3, 64, 64, dtype=torch.double)
    alone = torch.cat([list(net(image[None]).values())[-1] for image in x])
    torch.testing.assert_close(list(net(x).values())[-1], alone)


def test_frozen_norm_with_a_file_gives_the_same_maps(tmp_path: Path) -> None:
    live = trained("resnet20")
    torch.save(live.state_dict(), tmp_path / "net.pth")
    frozen = backbones.build("resnet20", weights=tmp_path / "net.pth", norm="frozen").train()
    assert norm_table(frozen) == {"frozen": 19}
    x = torch.randn(2, 3, 32, 32, dtype=torch.double)
    torch.testing.assert_close(frozen.double()(x)["c2"], live.double()(x)["c2"])


@pytest.mark.parametrize("neck", ["fpn", "c4", "dc5"])
def test_detector_on_the_name_of_a_cifar_network_is_refused(neck: str) -> None:
    with pytest.raises(UserError, match=r"^resnet20: has no feature c.*; choose from c0, c1, c2$"):
        detection.build("resnet20", 2, neck=neck)


def test_detector_over_a_built_cifar_net_trains() -> None:
    net = detection.build(
        backbones.build("resnet20", weights=None), 2, fpn_channels=8, head_channels=8, min_size=64, max_size=64
    )
    # one anchor size a level: eight times the strides 1, 2, 4, and 8 of the level on top
    assert [info.stride for info in net.backbone.feature_info] == [1, 2, 4, 8]
    target = {"boxes": torch.tensor([[8.0, 8.0, 40.0, 40.0]]), "labels": torch.tensor([1])}
    losses = net.train()([torch.rand(3, 64, 64)], [target])
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert net.backbone.body.conv1.weight.grad.any()


def test_command_trains_with_recomputing(script, tmp_path: Path) -> None:
    words = ("--limit", 48, "--epochs", 1, "--workers", 0, "--recompute", "true", "--output", tmp_path / "run")
    done = script("train_cls.py", *words, cwd=tmp_path, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "model.safetensors").is_file()
    assert 0 <= json.loads((tmp_path / "run" / "results.json").read_text())["top1"] <= 1


def test_command_refuses_to_recompute_a_model_of_a_library(tmp_path: Path) -> None:
    words = ["--limit", "48", "--weights", "none", "--recompute", "true", "--output", str(tmp_path / "run")]
    with pytest.raises(
        UserError, match="torchvision/resnet18: its activations cannot be recomputed in the backward pass"
    ):
        train_cls.main(["--backbone", "torchvision/resnet18", *words])
    assert not (tmp_path / "run").exists()
