"""Tests of timm's and torchvision's models as backbones."""

import functools
import math
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import nn

import backbones
from backbones.common.devices import without_data
from backbones.errors import UserError
from backbones.norm import norm_table

# Families of different architectures. The side of a feature map is side / stride, rounded up or down.
PADDED = [
    "timm/resnet50",
    "timm/test_convnext",
    "timm/test_efficientnet",
    "timm/regnetx_002",
    "timm/densenet121",
    "timm/vgg11",
    "timm/mobilenetv3_small_050",
    "timm/pvt_v2_b0",
    "torchvision/resnet18",
    "torchvision/vgg16",
    "torchvision/googlenet",
    "torchvision/densenet121",
    "torchvision/mobilenet_v3_small",
    "torchvision/efficientnet_b0",
    "torchvision/convnext_tiny",
    "torchvision/shufflenet_v2_x0_5",
]
# Models whose stems are not padded: up to four pixels less.
UNPADDED = ["torchvision/inception_v3", "torchvision/alexnet", "timm/inception_v4"]


@functools.cache
def without_memory(name: str) -> backbones.Backbone:
    """A model whose weights have shapes only, unless it needs numbers while it is built."""
    return without_data(lambda: backbones.build(name, weights=None)).to("meta")


@pytest.mark.parametrize("name", PADDED + UNPADDED)
def test_declared_channels_and_strides_are_actual(name: str) -> None:
    net = without_memory(name)
    out = net(torch.zeros(2, 3, 97, 129, device="meta"))
    assert list(out) == [f.name for f in net.feature_info] == ["c2", "c3", "c4", "c5"]
    for info in net.feature_info:
        assert info.stride == 2 ** int(info.name[1:]) and out[info.name].shape[1] == info.channels
        for actual, side in zip(out[info.name].shape[2:], (97, 129), strict=True):
            least = side // info.stride - (4 if name in UNPADDED else 0)
            assert least <= actual <= math.ceil(side / info.stride)


@pytest.mark.parametrize("name", PADDED + UNPADDED)
def test_stages_hold_every_parameter_once(name: str) -> None:
    net = without_memory(name)
    stages = [{id(p) for m in stage for p in m.parameters()} for stage in net.stages()]
    assert len(stages) == 5
    assert sum(map(len, stages)) == len(set().union(*stages)) == len(list(net.parameters()))


def test_timm_resnet50_equals_timms_own() -> None:
    torch.manual_seed(0)
    theirs = timm.create_model("resnet50", features_only=True, out_indices=(1, 2, 3, 4))
    ours = backbones.build("timm/resnet50", weights=None)
    ours.net.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 65, 97)
    for training in (True, False):
        expected, got = theirs.train(training)(x), ours.train(training)(x)
        assert all(torch.equal(a, b) for a, b in zip(expected, got.values(), strict=True))


def test_torchvision_resnet18_equals_ours(tmp_path) -> None:
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "net.pth")
    cut = backbones.build("torchvision/resnet18", weights=tmp_path / "net.pth").eval()
    ours = backbones.build("resnet18", weights=tmp_path / "net.pth").eval()
    x = torch.randn(1, 3, 65, 97)
    expected = ours(x)
    assert all(torch.equal(value, expected[name]) for name, value in cut(x).items())


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext"])
def test_whole_timm_file_loads(name: str, tmp_path) -> None:
    theirs = timm.create_model(name).eval()
    torch.save(theirs.state_dict(), tmp_path / "net.pth")
    ours = backbones.build(f"timm/{name}", weights=tmp_path / "net.pth").eval()
    assert not ours.load_report.missing
    x = torch.randn(1, 3, 64, 64)
    expected = theirs.forward_intermediates(x, intermediates_only=True)[-1]
    assert torch.equal(ours(x)["c5"], expected)


@pytest.mark.parametrize("name", ["timm/test_resnet", "timm/test_convnext", "torchvision/mobilenet_v3_small"])
def test_freezing_and_dropped_stages(name: str) -> None:
    net = backbones.build(name, weights=None, features=("c3", "c4"))
    net.freeze_stages(2)
    sum(v.sum() for v in net(torch.randn(2, 3, 64, 64)).values()).backward()
    frozen = {id(p) for stage in net.stages()[:2] for m in stage for p in m.parameters()}
    assert frozen and all((p.grad is None) is (id(p) in frozen) for p in net.parameters())


@pytest.mark.parametrize("name", ["timm/test_resnet", "timm/test_efficientnet", "timm/mobilenetv3_small_050"])
@pytest.mark.parametrize("features", [("c2",), ("c2", "c3")])
def test_every_parameter_of_a_shortened_net_gets_a_gradient(name: str, features: tuple[str, ...]) -> None:
    """A parameter without one has no moments in a checkpoint, so that the run could not be resumed."""
    net = backbones.build(name, weights=None, features=features)
    sum(v.square().sum() for v in net(torch.randn(2, 3, 64, 64)).values()).backward()
    assert [key for key, p in net.named_parameters() if p.grad is None] == []


def test_models_with_windows_pad_incomplete_patches_with_zeros():
    net = backbones.build("timm/swin_tiny_patch4_window7_224", weights=None, features=("c2", "c3")).eval()
    image = torch.rand(1, 3, 33, 62)
    whole = torch.zeros(1, 3, 36, 64)
    whole[..., :33, :62] = image
    with torch.no_grad():
        maps, expected = net(image), net(whole)
    assert [m.shape[-2:] for m in maps.values()] == [(9, 16), (5, 8)]
    assert all(torch.equal(maps[name], expected[name]) for name in maps)


@pytest.mark.parametrize("name", ["timm/test_resnet", "timm/mobilenetv3_small_050", "torchvision/mobilenet_v3_small"])
def test_frozen_norm_gives_the_same_maps(name: str) -> None:
    net = backbones.build(name, weights=None, features=("c3", "c4")).double().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.8, 1.2)
    x = torch.randn(1, 3, 64, 64, dtype=torch.double)
    before = net(x)
    backbones.freeze_batch_norm(net)
    assert set(norm_table(net)) == {"frozen"}
    for key, value in net.train()(x).items():
        torch.testing.assert_close(value, before[key])


@pytest.mark.parametrize("name", ["timm/test_resnet", "timm/test_convnext", "timm/regnetx_002"])
def test_split_gives_the_same_last_map(name: str) -> None:
    net = backbones.build(name, weights=None).eval()
    x = torch.randn(1, 3, 64, 64)
    whole = net(x)
    trunk, last = net.split_last_stage()
    cut = trunk(x)
    assert list(cut) == ["c2", "c3", "c4"] and last.feature_info == net.feature_info[-1]
    assert torch.equal(last(cut["c4"]), whole["c5"])
    assert not {id(p) for p in trunk.parameters()} & {id(p) for p in last.parameters()}


def test_output_stride_where_timm_has_it() -> None:
    net = backbones.build("timm/test_resnet", weights=None, output_stride=16)
    assert [(f.name, f.stride) for f in net.feature_info][-2:] == [("c4", 16), ("c5", 16)]
    assert net(torch.randn(2, 3, 64, 64))["c5"].shape[2:] == (4, 4)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("torchvision/vit_b_16", {}, "feature maps"),
        ("timm/mixer_b16_224", {}, "features cannot be read at any image size"),
        ("timm/test_resnet", {"norm": "group"}, "norm='group' is not available"),
        ("timm/test_resnet", {"stride_style": "v1"}, "stride_style='v1' is not available"),
        ("timm/test_resnet", {"features": ("c5", "c6")}, "has no feature c6; choose from"),
        ("timm/resnet50.nonsense", {}, "timm/resnet50 has no weights 'nonsense'; the available tags are"),
        ("timm/pvt_v2_b0", {"output_stride": 16}, "output_stride=16"),
        ("torchvision/resnet18", {"output_stride": 16}, "output_stride=16"),
        ("timm/coatnet_0_rw_224", {}, "cannot build this model with inputs of any size"),
    ],
)
def test_refusals_are_one_line(name: str, options: dict, said: str) -> None:
    with pytest.raises(UserError) as caught:
        backbones.build(name, weights=None, **options)
    assert said in str(caught.value) and name.split(".")[0] in str(caught.value) and "\n" not in str(caught.value)


def test_torchvision_nets_cannot_be_split() -> None:
    with pytest.raises(UserError, match="cannot be split off"):
        backbones.build("torchvision/mobilenet_v3_small", weights=None).split_last_stage()


def test_normalisation_follows_the_model_and_its_tag() -> None:
    assert backbones.build("torchvision/googlenet", weights=None, features=("c2",)).mean == (0.5, 0.5, 0.5)
    net = backbones.build("timm/tf_efficientnet_b0", weights=None, features=("c3",))
    net.adopt_normalisation("ap_in1k")
    assert net.mean == net.std == (0.5, 0.5, 0.5)
    net.adopt_normalisation("some/file.pth")
    assert net.mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("name", ["timm/test_resnet", "torchvision/mobilenet_v3_small"])
@pytest.mark.parametrize("channels", [1, 4])
def test_other_channels(name: str, channels: int) -> None:
    net = backbones.build(name, weights=None, in_channels=channels)
    assert len(net.mean) == len(net.std) == channels
    assert net(torch.randn(2, channels, 64, 64))["c5"].shape[0] == 2


GATES = {
    "torchvision/resnet18": "layer1.0.se.fc1.weight",
    "timm/resnet18": "layer1.0.se.fc1.weight",
    "timm/test_convnext": "stages.0.blocks.0.gate.weight",
    "torchvision/squeezenet1_1": "features.3.gate.weight",
}


@pytest.mark.parametrize("name", GATES)
def test_a_file_with_gates_is_of_another_network_and_a_file_with_more_stages_is_not(name: str, tmp_path: Path):
    library, arch = name.split("/")
    whole = timm.create_model(arch) if library == "timm" else torchvision.models.get_model(arch)
    state = whole.state_dict()
    torch.save(state, tmp_path / "plain.pth")
    torch.save({**state, GATES[name]: torch.ones(4, 4)}, tmp_path / "gated.pth")
    few = backbones.build(name, weights=tmp_path / "plain.pth", features=("c2", "c3"))
    assert few.load_report is not None and few.load_report.unexpected  # of the stages that are left out
    with pytest.raises(UserError, match=f"belongs to another network, .* such as {GATES[name]}; use"):
        backbones.build(name, weights=tmp_path / "gated.pth", features=("c2", "c3"))
