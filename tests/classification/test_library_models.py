"""Whole models of torchvision and timm as classifiers: the library's logits bit for bit, heads, channels, weights."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from tolerances import assert_rounded
from torch import nn

import backbones
import classification
from backbones.errors import UserError
from backbones.norm import norm_table
from classification.evaluation_sizes import published_sizes

# Sides in pixels. The files of the two inceptions hold their auxiliary classifiers, as the published ones do.
TORCHVISION = {
    "alexnet": 64,
    "vgg11": 32,
    "googlenet": 64,
    "inception_v3": 75,
    "mobilenet_v3_small": 64,
    "squeezenet1_1": 64,
}
TIMM = {"resnet10t": 64, "test_convnext": 64, "test_vit": 160, "inception_resnet_v2": 75}
INCEPTION = ("googlenet", "inception_v3")


def theirs(name: str, **options: object) -> nn.Module:
    """Return a seeded random model of a library whose running statistics are not zero and one."""
    torch.manual_seed(0)
    library, arch = name.split("/")
    if library == "timm":
        net = timm.create_model(arch, **options)
    else:
        inception = {"init_weights": False} if arch in INCEPTION else {}
        net = torchvision.models.get_model(arch, weights=None, **inception, **options)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.8, 1.2)
    return net.eval()


def saved(net: nn.Module, path: Path) -> Path:
    torch.save(net.state_dict(), path)
    return path


def logits(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return net.eval()(x)


@pytest.mark.parametrize("name", [f"torchvision/{n}" for n in TORCHVISION] + [f"timm/{n}" for n in TIMM])
def test_logits_are_the_librarys(name: str, tmp_path: Path) -> None:
    library, arch = name.split("/")
    original = theirs(name)
    classes = original.num_classes if library == "timm" else 1000
    ours = classification.build(name, classes, weights=saved(original, tmp_path / "net.pth"))
    side = (TIMM if library == "timm" else TORCHVISION)[arch]
    x = torch.randn(2, 3, side, side)
    assert torch.equal(logits(ours, x), logits(original, x))
    report = ours.load_report
    assert not report.missing and not report.unexpected and not report.reshaped
    auxiliary = {"aux1", "aux2", "AuxLogits"}
    assert {key.split(".")[0] for key in report.ignored} <= auxiliary and bool(report.ignored) is (arch in INCEPTION)


def test_bytes_are_normalised_as_the_weights_want(tmp_path: Path) -> None:
    """torchvision's published GoogLeNet converts ImageNet's normalisation to -1..1 inside; ours normalises once."""
    original = theirs("torchvision/googlenet")
    ours = classification.build("torchvision/googlenet", 1000, weights=saved(original, tmp_path / "net.pth"))
    assert ours.backbone.mean == ours.backbone.std == (0.5, 0.5, 0.5)
    original.transform_input = True
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    preset = torchvision.models.GoogLeNet_Weights.IMAGENET1K_V1.transforms()
    x = torchvision.transforms.functional.normalize(images / 255, preset.mean, preset.std)
    # The two ways round differently; 58 layers, the widest sums are of 1024 values.
    assert_rounded(logits(ours, images), logits(original, x), terms=1024, layers=58)


@pytest.mark.parametrize("name", ["torchvision/alexnet", "torchvision/googlenet", "timm/test_convnext"])
def test_other_classes_make_the_last_layer_new(name: str, tmp_path: Path) -> None:
    original = theirs(name)
    ours = classification.build(name, 7, weights=saved(original, tmp_path / "net.pth"))
    last = {"torchvision/alexnet": "classifier.6", "torchvision/googlenet": "fc", "timm/test_convnext": "head.fc"}[name]
    assert set(ours.load_report.missing) == {f"net.{last}.weight", f"net.{last}.bias"}
    assert {f"{last}.weight", f"{last}.bias"} <= set(ours.load_report.ignored)
    assert ours.backbone.net.get_submodule(last).out_features == 7
    body = {key: value for key, value in original.state_dict().items() if not key.startswith(last)}
    own = ours.backbone.net.state_dict()
    kept = [key for key in body if key in own]
    assert len(kept) == len(own) - 2 and all(torch.equal(own[key], body[key]) for key in kept)


@pytest.mark.parametrize("name", ["torchvision/mobilenet_v3_small", "timm/test_resnet"])
@pytest.mark.parametrize("channels", [1, 5])
def test_other_channels_adapt_the_first_convolution(name: str, channels: int, tmp_path: Path) -> None:
    file = saved(theirs(name), tmp_path / "net.pth")
    ours = classification.build(name, 3, weights=file, in_channels=channels).backbone
    assert len(ours.load_report.reshaped) == 1 and len(ours.mean) == channels
    first = ours.state_dict()[ours.load_report.reshaped[0]]
    published = torch.load(file)[ours.load_report.reshaped[0].removeprefix("net.")]
    # One channel gets the sum over the three; five repeat them at 3/5 of their size.
    wanted = published.sum(1, keepdim=True) if channels == 1 else published[:, [0, 1, 2, 0, 1]] * (3 / 5)
    torch.testing.assert_close(first, wanted)
    assert ours(torch.randn(2, channels, 64, 64))["logits"].shape == (2, 3)


@pytest.mark.parametrize("name", ["torchvision/googlenet", "timm/test_convnext", "torchvision/squeezenet1_1"])
def test_training_reaches_every_parameter(name: str) -> None:
    net = classification.build(name, 4)
    loss = net(torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8), {"label": torch.tensor([1, 3])})
    assert list(loss) == ["loss_cls"]
    loss["loss_cls"].backward()
    assert all(p.grad is not None for p in net.parameters())


def test_label_smoothing_counts() -> None:
    net = classification.build("torchvision/squeezenet1_1", 4).eval()
    net.label_smoothing = 0.1
    label = {"label": torch.tensor([1])}
    x = torch.zeros(1, 3, 64, 64)
    scores = logits(net, x)[0].log_softmax(0)
    # 0.9 of the weight on the true class, 0.1 spread over all four.
    wanted = -(0.9 * scores[1] + 0.1 * scores.mean())
    torch.testing.assert_close(net(x, label)["loss_cls"], wanted)


@pytest.mark.parametrize("name", ["torchvision/mobilenet_v3_small", "timm/test_resnet", "timm/test_convnext"])
def test_our_file_comes_back_whole_and_as_a_trunk(name: str, tmp_path: Path) -> None:
    first = classification.build(name, 6)
    save_file(first.state_dict(), tmp_path / "model.safetensors")
    again = classification.build(name, 6, weights=tmp_path / "model.safetensors")
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(logits(again, x), logits(first, x)) and not again.load_report.missing
    trunk = backbones.build(name, weights=tmp_path / "model.safetensors")
    assert not trunk.load_report.missing
    stem = next(key for key in trunk.state_dict() if key.endswith("weight"))
    assert torch.equal(trunk.state_dict()[stem], next(p for k, p in first.named_parameters() if k.endswith("weight")))


def test_detection_takes_our_file(tmp_path: Path) -> None:
    import detection

    first = classification.build("timm/test_resnet", 6)
    save_file(first.state_dict(), tmp_path / "model.safetensors")
    net = detection.build("timm/test_resnet", 2, weights=tmp_path / "model.safetensors")
    assert any(torch.equal(p, next(first.parameters())) for p in net.parameters())


@pytest.mark.parametrize("name", ["torchvision/mobilenet_v3_small", "timm/test_resnet", "timm/test_convnext"])
def test_freezing_stops_the_first_stages_alone(name: str) -> None:
    net = classification.build(name, 4)
    net.backbone.freeze_stages(2)
    trunk = backbones.build(name, weights=None)
    trunk.freeze_stages(2)
    count = [sum(p.numel() for p in n.parameters() if not p.requires_grad) for n in (net, trunk)]
    assert count[0] == count[1] > 0
    assert norm_table(net).get("frozen") == norm_table(trunk).get("frozen")


def test_frozen_norm_gives_the_same_logits(tmp_path: Path) -> None:
    original = theirs("torchvision/inception_v3")
    file = saved(original, tmp_path / "net.pth")
    ours = classification.build("torchvision/inception_v3", 1000, weights=file, norm="frozen").double()
    assert set(norm_table(ours)) == {"frozen"}
    x = torch.randn(1, 3, 75, 75, dtype=torch.double)
    torch.testing.assert_close(logits(ours, x), logits(original.double(), x))


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("torchvision/alexnet", {"norm": "group"}, "norm='group' is not available"),
        ("torchvision/alexnet", {"norm": "no"}, "expected 'batch', 'sync' or 'frozen'"),
        ("torchvision/alexnet", {"norm": "frozen"}, "random statistics"),
        ("timm/resnet18", {"shortcut": "A"}, "shortcut='A' is not available"),
        ("timm/resnet18", {"stride_style": "v1"}, "stride_style='v1' is not available"),
        ("timm/resnet18", {"output_stride": 16}, "output_stride=16 applies to backbones"),
        ("timm/resnet18", {"features": ("c5",)}, "features=('c5',) applies to backbones"),
        ("timm/resnet18", {"in_channels": 0}, "in_channels=0: expected"),
        ("timm/resnet18.nonsense", {}, "nonsense"),
        ("torchvision/alexnett", {}, "did you mean torchvision/alexnet"),
        ("nowhere/alexnet", {}, "unknown backbone"),
        ("timm/resnet18", {"weights": "v9"}, "timm has no weights 'v9'; choose among"),
        ("torchvision/alexnet", {"weights": "V9"}, "torchvision has no weights 'V9'; choose among IMAGENET1K_V1"),
        ("torchvision/alexnet", {"weights": "absent.pth"}, "absent.pth: no such weights file"),
    ],
)
def test_refusals_are_one_line(name: str, options: dict, said: str) -> None:
    with pytest.raises(UserError) as caught:
        classification.build(name, 4, **options)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_of_another_net_and_a_bare_trunk_are_refused(tmp_path: Path) -> None:
    other = saved(theirs("torchvision/resnet18"), tmp_path / "resnet.pth")
    with pytest.raises(UserError, match=r"matched 0 of 52 entries.*give a file of this model"):
        classification.build("torchvision/squeezenet1_1", 4, weights=other)
    state = theirs("torchvision/mobilenet_v3_small").state_dict()
    torch.save({k: v for k, v in state.items() if not k.startswith("classifier")}, tmp_path / "trunk.pth")
    with pytest.raises(
        UserError, match=r"trunk.pth lacks the entry net.classifier.0.weight; give a file of the whole model"
    ):
        classification.build("torchvision/mobilenet_v3_small", 4, weights=tmp_path / "trunk.pth")


def test_images_of_a_size_that_the_net_refuses_are_one_line() -> None:
    for name in ("torchvision/vit_b_32", "timm/vit_tiny_patch16_224", "timm/mixer_s16_224"):
        with torch.device("meta"):
            net = classification.build(name, 4)
        with pytest.raises(UserError, match=rf"{name}: .*[^.]; use images of the size that the model needs"):
            net(torch.zeros(1, 3, 70, 64, device="meta"))
    with pytest.raises(UserError, match="cannot be recomputed"):
        net.backbone.recompute_activations()


def test_a_plain_transformer_classifies_images_of_any_number_of_patches_and_recomputes_its_blocks() -> None:
    torch.manual_seed(0)
    net = classification.build("timm/test_vit", 4).train()
    own = timm.create_model("test_vit", num_classes=4)
    own.load_state_dict(net.backbone.library_state())
    side = own.patch_embed.img_size[0]
    images = torch.rand(2, 3, side, side)
    assert torch.equal(net.eval().backbone(images)["logits"], own.eval()(images))
    wide = torch.rand(2, 3, 64, 96)
    gradients = []
    for recomputed in (False, True):
        if recomputed:
            net.backbone.recompute_activations()
        net.train().zero_grad()
        net(wide).square().sum().backward()
        gradients.append([p.grad.clone() for p in net.parameters()])
        assert net.backbone.net.grad_checkpointing == recomputed
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))
    assert not net.eval().backbone.net.grad_checkpointing


def test_torchvisions_published_file_is_read_from_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    original = theirs("torchvision/squeezenet1_1")
    plain = saved(original, cache / "plain.pth")
    digest = hashlib.sha256(plain.read_bytes()).hexdigest()[:8]
    plain.rename(cache / f"squeezenet1_1-{digest}.pth")
    value = torchvision.models.SqueezeNet1_1_Weights.IMAGENET1K_V1.value
    monkeypatch.setattr(value, "url", f"http://127.0.0.1:9/squeezenet1_1-{digest}.pth")
    ours = classification.build("torchvision/squeezenet1_1", 1000, weights="imagenet")
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(logits(ours, x), logits(original, x))


def facebooks(key: str) -> str:
    """The name of an entry of ConvNeXt in the layout of its authors, which timm converts on loading."""
    for pattern, name in (
        (r"^stem\.", "downsample_layers.0."),
        (r"^stages\.(\d)\.blocks\.", r"stages.\1."),
        (r"^stages\.(\d)\.downsample\.", r"downsample_layers.\1."),
        (r"conv_dw", "dwconv"),
        (r"mlp\.fc", "pwconv"),
        (r"^head\.norm", "norm"),
        (r"^head\.fc", "head"),
    ):
        key = re.sub(pattern, name, key)
    return key


@pytest.fixture
def timms_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """Fill timm's cache with a model in another layout, block the network, and return the model."""
    from huggingface_hub import constants

    original = theirs("timm/test_convnext")
    cache, commit = tmp_path / "models--timm--test_convnext.r160_in1k", "0" * 40
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text(commit)
    (cache / "snapshots" / commit).mkdir(parents=True)
    state = {facebooks(key): value for key, value in original.state_dict().items()}
    assert len(state.keys() - original.state_dict().keys()) == len(state)  # no name is the same
    save_file(state, cache / "snapshots" / commit / "model.safetensors")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    return original


@pytest.mark.parametrize(
    ("name", "weights"),
    [("test_convnext", "imagenet"), ("test_convnext", "r160_in1k"), ("test_convnext.r160_in1k", "imagenet")],
)
def test_timms_published_file_goes_through_timms_conversion(timms_cache: nn.Module, name: str, weights: str) -> None:
    ours = classification.build(f"timm/{name}", 1000, weights=weights)
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(logits(ours, x), logits(timms_cache, x))
    assert ours.backbone.mean == (0.5, 0.5, 0.5) and not ours.load_report.missing
    few = classification.build(f"timm/{name}", 3, weights=weights, in_channels=1)
    assert set(few.load_report.missing) == {"net.head.fc.weight", "net.head.fc.bias"}
    assert few.load_report.reshaped == ("net.stem.0.weight",)


def test_timms_published_file_cannot_be_had(timms_cache: nn.Module) -> None:
    with pytest.raises(UserError, match=r"timm/resnet10t: cannot download timm/resnet10t.c3_in1k") as caught:
        classification.build("timm/resnet10t", 3, weights="imagenet")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "weights", "wanted"),
    [
        ("resnet50", "imagenet", (224, 256, "bilinear")),
        ("resnet50", "IMAGENET1K_V2", (224, 232, "bilinear")),
        ("torchvision/inception_v3", "imagenet", (299, 342, "bilinear")),
        ("torchvision/alexnet", "imagenet", (224, 256, "bilinear")),
        ("torchvision/efficientnet_b1", "imagenet", (240, 256, "bicubic")),
        ("torchvision/vit_h_14", "imagenet", (518, 518, "bicubic")),  # no V1: the default tag counts
        # 299 / 0.8975 = 333.1
        ("timm/inception_resnet_v2", "imagenet", (299, 333, "bicubic")),
        # tested at 288 of 288 pixels, trained at 224
        ("timm/resnet50", "a1_in1k", (288, 288, "bicubic")),
        ("timm/resnet50.a1_in1k", "imagenet", (288, 288, "bicubic")),
        ("resnet50", "none", None),
        ("resnet50", "some/file.pth", None),
        ("resnet20", "imagenet", None),
        ("timm/resnet50", "nonsense", None),
    ],
)
def test_sizes_that_published_weights_were_measured_with(name: str, weights: str, wanted: tuple | None) -> None:
    assert published_sizes(name, weights) == wanted


def test_our_own_files_say_how_they_were_measured(tmp_path: Path) -> None:
    path = tmp_path / "ours.safetensors"
    seen = {"crop_size": 96, "resize_size": 110, "interpolation": "bicubic", "mean": [0.5], "std": [0.2]}
    save_file({"fc.weight": torch.zeros(1)}, path, {"meta": json.dumps({"input": seen})})
    assert published_sizes("resnet18", str(path)) == (96, 110, "bicubic")
