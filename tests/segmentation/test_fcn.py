"""Segmentation models: any backbone, torchvision's outputs, weights that fit or are refused, losses."""

from __future__ import annotations

import copy
import math
import shutil
from hashlib import sha256
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torchvision
from tolerances import rounding
from torch import nn

import backbones
import segmentation
from backbones.errors import UserError
from segmentation.data.classes import IGNORE
from segmentation.losses import PixelLoss
from segmentation.weights import COCO_FILES

HEADS = ("dilated", "fcn32s", "fcn16s", "fcn8s")
NAMES = ("resnet18", "resnet34", "resnet50", "plain18", "resnet20", "timm/resnet18", "timm/convnext_atto")


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("head", HEADS)
def test_any_backbone_takes_a_step_on_odd_sizes(name: str, head: str) -> None:
    torch.manual_seed(0)
    model = segmentation.build(name, 5, head=head).train()
    images = torch.randint(0, 256, (2, 3, 70, 93), dtype=torch.uint8)
    losses = model(images, {"mask": torch.randint(0, 5, (2, 70, 93), dtype=torch.uint8)})
    assert set(losses) == {"loss_seg", "loss_aux"}
    sum(losses.values()).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    model.eval()
    with torch.no_grad():
        out = model(images)
    assert set(out) == {"out"}
    assert out["out"].shape == (2, 5, 70, 93)


@pytest.mark.parametrize("name", ["torchvision/vgg16", "torchvision/densenet121"])
def test_strides_that_round_down_fit_as_well(name: str) -> None:
    model = segmentation.build(name, 3, head="fcn8s", aux=False).eval()
    with torch.no_grad():
        assert model(torch.rand(1, 3, 70, 93))["out"].shape == (1, 3, 70, 93)


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> tuple[str, nn.Module, Path]:
    """A name, a seeded model of torchvision and its file."""
    torch.manual_seed(1)
    net = torchvision.models.segmentation.fcn_resnet50(
        weights=None, weights_backbone=None, num_classes=21, aux_loss=True
    )
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.normal_(module.running_mean, std=0.1)
    net.double().eval()  # two orders of summation stay within the 1e-7 of `assert_close`
    path = tmp_path_factory.mktemp("weights") / "fcn.pth"
    torch.save(net.state_dict(), path)
    return "resnet50", net, path


def test_a_torchvision_file_gives_its_outputs(published) -> None:
    name, net, path = published
    model = segmentation.build(name, 21, weights=path).double()
    assert not model.load_report.missing and not model.load_report.unexpected
    images = torch.randn(1, 3, 65, 97, dtype=torch.double)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(images)["out"], net(images)["out"])
    # In training, dropout draws the same numbers from the same seed.
    outputs = []
    for each in (model, copy.deepcopy(net)):
        torch.manual_seed(2)
        with torch.no_grad():
            outputs.append(each.train()(images.repeat(2, 1, 1, 1)))
    for part in ("out", "aux"):
        torch.testing.assert_close(outputs[0][part], outputs[1][part])


def test_the_coco_file_is_taken_from_the_cache(published, tmp_path: Path, monkeypatch) -> None:
    name, net, path = published
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    shutil.copy(path, cache / COCO_FILES[name])
    with pytest.raises(UserError, match="not the published one"):  # its name says another digest
        segmentation.build(name, 21, weights="coco")
    file = f"fcn_resnet50_coco-{sha256(path.read_bytes()).hexdigest()[:8]}.pth"
    shutil.copy(path, cache / file)
    monkeypatch.setitem(COCO_FILES, name, file)
    model = segmentation.build(name, 21, weights="coco").double().eval()
    images = torch.randn(1, 3, 33, 47, dtype=torch.double)
    with torch.no_grad():
        torch.testing.assert_close(model(images)["out"], net(images)["out"])
    if name != "resnet50":
        return
    # The same file by the name of the published model, with nothing else.
    loaded = segmentation.load("fcn_resnet50", device="cpu", precision="fp32")
    assert loaded.classes.names[:2] == ("__background__", "aeroplane") and loaded.predictor.min_size == 520
    with torch.no_grad():
        torch.testing.assert_close(loaded.model.double()(images)["out"], net(images)["out"])


def test_other_classes_keep_all_but_the_last_layers(published) -> None:
    name, _, path = published
    model = segmentation.build(name, 4, weights=path)
    assert set(model.load_report.missing) == {
        f"{part}.4.{kind}" for part in ("classifier", "aux_classifier") for kind in ("weight", "bias")
    }
    assert segmentation.build(name, 21, weights=path, aux=False).load_report.missing == ()
    with pytest.raises(UserError, match="does not fit this model"):
        segmentation.build("resnet18", 21, weights=path)
    with pytest.raises(UserError, match="does not fit this model"):
        segmentation.build(name, 21, head="fcn8s", weights=path)


@pytest.mark.usefixtures("narrow")
def test_a_whole_model_is_found_under_a_prefix(tmp_path: Path) -> None:
    torch.manual_seed(0)
    trained = segmentation.build("resnet18", 3, head="fcn32s")
    state = {f"net.{name}": value for name, value in trained.state_dict().items()}
    torch.save({"net": {**state, "criterion.weight": torch.ones(3)}}, tmp_path / "net.pth")
    model = segmentation.build("resnet18", 3, head="fcn32s", weights=tmp_path / "net.pth")
    assert all(torch.equal(value, trained.state_dict()[name]) for name, value in model.state_dict().items())
    assert model.load_report.missing == () and model.load_report.unexpected == ("criterion.weight",)
    model = segmentation.build("resnet18", 3, head="fcn32s", weights=f"{tmp_path}/net.pth::net.net")
    assert all(torch.equal(value, trained.state_dict()[name]) for name, value in model.state_dict().items())


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(
    ("made", "given"),
    [(("resnet18", "fcn32s"), ("plain18", "fcn32s")), (("resnet18", "fcn8s"), ("resnet18", "fcn32s"))],
)
def test_a_file_with_more_than_the_net_has_is_refused(made: tuple, given: tuple, tmp_path: Path) -> None:
    torch.save(segmentation.build(made[0], 3, head=made[1]).state_dict(), tmp_path / "net.pth")
    with pytest.raises(UserError, match=r"left over or of another shape, such as (backbone|fusion)"):
        segmentation.build(given[0], 3, head=given[1], weights=tmp_path / "net.pth")


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(
    ("words", "options"),
    [
        ("expected a whole number from 2 to 255", {"num_classes": 1}),
        ("unknown segmentation head 'fcn4s': did you mean fcn8s, fcn32s, fcn16s", {"head": "fcn4s"}),
        ("'coco': are published for resnet50 and resnet101, not for resnet18", {"weights": "coco"}),
        ("is not available for torchvision's models", {"backbone": "torchvision/vgg16"}),
    ],
)
def test_mistakes_are_named(words: str, options: dict) -> None:
    given = {"backbone": "resnet18", "num_classes": 5, **options}
    with pytest.raises(UserError, match=words):
        segmentation.build(given.pop("backbone"), given.pop("num_classes"), **given)


def test_a_backbone_without_enough_features_is_refused() -> None:
    trunk = backbones.build("resnet18", weights=None, features=("c4", "c5"))
    assert segmentation.build(trunk, 3, head="fcn16s").fusion is not None
    with pytest.raises(UserError, match="head 'fcn8s' needs 3 features, but the backbone returns c4, c5"):
        segmentation.build(trunk, 3, head="fcn8s")
    for options in ({"norm": "frozen"}, {"output_stride": 8}, {"in_channels": 7}, {"shortcut": "A"}):
        with pytest.raises(
            UserError,
            match=f"{next(iter(options))}: cannot be chosen here, because the backbone is built already; pass these",
        ):
            segmentation.build(trunk, 3, head="fcn16s", **options)
    with pytest.raises(UserError, match="the backbone is built already and has its own"):
        segmentation.build(trunk, 3, weights="imagenet")


def test_finer_scores_begin_as_bilinear_enlargement() -> None:
    """Section 4.2 of the FCN paper: training of FCN-16s starts from the outputs of FCN-32s."""
    from segmentation.heads import Fusion

    infos = (backbones.FeatureInfo("c4", 8, 16), backbones.FeatureInfo("c5", 16, 32))
    scores = torch.randn(1, 3, 5, 4)
    out = Fusion(infos, 3)(scores, {"c4": torch.randn(1, 8, 10, 8)})
    inside = F.interpolate(scores, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(out[..., 1:-1, 1:-1], inside[..., 1:-1, 1:-1])  # the border sees zeros beyond it


@pytest.mark.usefixtures("narrow")
def test_output_strides_are_declared_and_real() -> None:
    for stride in (8, 16, 32):
        net = segmentation.build("resnet18", 3, head="dilated", output_stride=stride)
        assert net.backbone.feature_info[-1].stride == stride
        with torch.no_grad():
            assert net.backbone(torch.zeros(1, 3, 64, 64))["c5"].shape[-1] == 64 // stride


@pytest.mark.usefixtures("narrow")
def test_frozen_norm_and_stages() -> None:
    with pytest.raises(UserError, match="frozen"):
        segmentation.build("resnet18", 3, norm="frozen")
    model = segmentation.build("resnet18", 3)
    model.freeze_stages(2)
    assert not any(p.requires_grad for p in model.backbone.layer1.parameters())
    assert all(p.requires_grad for p in model.classifier.parameters())


def test_cross_entropy_is_the_mean_over_labelled_pixels() -> None:
    scores, labels = torch.randn(2, 4, 6, 5), torch.randint(0, 4, (2, 6, 5))
    labels[0, :3] = IGNORE
    expected = F.cross_entropy(scores, labels, ignore_index=IGNORE)
    torch.testing.assert_close(PixelLoss()(scores, labels.to(torch.uint8)), expected)
    weights = torch.tensor([0.5, 1.0, 2.0, 4.0])
    weighted = F.cross_entropy(scores, labels, weights, ignore_index=IGNORE)
    torch.testing.assert_close(PixelLoss("ce", weights)(scores, labels), weighted)


@pytest.mark.parametrize("kind", ["ce", "ohem", "dice"])
def test_nothing_labelled_costs_nothing_and_still_reaches_every_parameter(kind: str) -> None:
    scores = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = PixelLoss(kind)(scores, torch.full((1, 4, 4), IGNORE))
    loss.backward()
    assert loss.item() == 0
    assert scores.grad is not None and scores.grad.isfinite().all()


def test_ohem_takes_the_hardest_quarter() -> None:
    # Losses of class 0 against a score s of class 1: log(1 + e^s), rising in s; four pixels, so the hardest one counts.
    scores = torch.stack([torch.zeros(1, 1, 4), torch.tensor([[[-2.0, 0.0, 1.0, 3.0]]])], dim=1)
    assert PixelLoss("ohem")(scores, torch.zeros(1, 1, 4)).item() == pytest.approx(math.log1p(math.exp(3)))


def test_ohem_counts_labelled_pixels_alone() -> None:
    """The hardest two of nine pixels with scores -4 to 4: log(1 + e^4) = 4.018150 and log(1 + e^3) = 3.048587.

    Three pixels make no whole quarter, so the hardest one counts: log(1 + e) = 1.313262.
    """
    for values, expected in ((range(-4, 5), (4.018150 + 3.048587) / 2), ((-1, 0, 1), 1.313262)):
        other = torch.tensor([[[*values, 9.0, 9.0, 9.0]]])  # the last three pixels are not labelled
        labels = torch.zeros(1, *other.shape[1:], dtype=torch.long)
        labels[..., -3:] = IGNORE
        scores = torch.stack([torch.zeros_like(other), other], dim=1)
        assert PixelLoss("ohem")(scores, labels).item() == pytest.approx(expected, abs=1e-5)


def test_deterministic_losses_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, labels = torch.randn(2, 4, 6, 5), torch.randint(0, 4, (2, 6, 5))
    labels[0, :3] = IGNORE
    losses = [PixelLoss(kind, weights) for kind in ("ce", "ohem") for weights in (None, torch.tensor([1.0, 2, 3, 4]))]
    plain = [loss(scores, labels) for loss in losses]
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    torch.testing.assert_close([loss(scores, labels) for loss in losses], plain)


def test_dice_adds_its_share() -> None:
    labels, scores = torch.tensor([[[0, 1]]]), torch.randn(1, 2, 1, 2, generator=torch.Generator().manual_seed(0))
    terms = PixelLoss("dice").terms("loss_seg", scores, labels)
    assert list(terms) == ["loss_seg", "loss_seg_dice"] and terms["loss_seg"] == PixelLoss()(scores, labels)
    # Equal scores of two classes with four pixels each: log 2, and 1 - 2 * (4 / 2) / (8 / 2 + 4) = 1 / 2 of both.
    halves = torch.tensor([[[0, 0, 0, 0], [1, 1, 1, 1], [IGNORE] * 4]])
    assert PixelLoss("dice")(torch.zeros(1, 2, 3, 4), halves).item() == pytest.approx(0.693147 + 0.5, abs=1e-5)
    scores, labels = torch.randn(2, 3, 5, 5), torch.randint(0, 3, (2, 5, 5))
    assert PixelLoss("dice")(scores, labels) > PixelLoss()(scores, labels)
    certain = F.one_hot(labels, 3).permute(0, 3, 1, 2) * 50.0
    assert PixelLoss("dice")(certain, labels).item() == pytest.approx(0, abs=rounding(labels.numel()))


def test_a_largest_stride_ends_the_trunk_early_and_scores_finer_maps():
    net = segmentation.build("resnet18", 5, head="fcn8s", aux=False, weights=None, max_stride=16).eval()
    assert [info.stride for info in net.backbone.feature_info] == [4, 8, 16]
    assert not [name for name in net.state_dict() if name.startswith("backbone.layer4.")]
    assert net(torch.rand(1, 3, 70, 50))["out"].shape == (1, 5, 70, 50)
    with pytest.raises(
        UserError,
        match="max_stride: cannot be chosen here, because the backbone is built already; pass these options to",
    ):
        segmentation.build(net.backbone, 5, head="fcn8s", aux=False, max_stride=8)
    with pytest.raises(UserError, match="max_stride=8: leaves resnet18 with fewer features than the 3"):
        segmentation.build("resnet18", 5, head="fcn8s", aux=False, weights=None, max_stride=8)


def test_a_backbone_of_a_plugin_keeps_the_stages_that_the_head_reads(tiny_backbone: str) -> None:
    model = segmentation.build(tiny_backbone, 4, head="fcn16s", aux=False).train()
    assert [info.name for info in model.backbone.feature_info] == ["c3", "c4"]
    losses = model(torch.rand(2, 3, 40, 56), {"mask": torch.randint(0, 4, (2, 40, 56))})
    sum(losses.values()).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    early = segmentation.build(tiny_backbone, 4, head="fcn16s", aux=False, max_stride=8)
    assert [info.name for info in early.backbone.feature_info] == ["c2", "c3"]
    assert not [name for name in early.state_dict() if name.startswith("backbone.layers.c4.")]


@pytest.mark.usefixtures("narrow")
def test_recomputation_changes_no_bit():
    """Losses, gradients and running statistics are those of a step that stores the activations of the backbone."""
    states = []
    for recompute in (False, True):
        torch.manual_seed(0)
        model = segmentation.build("resnet18", 3, recompute=recompute).train()
        targets = {"mask": torch.arange(2 * 32 * 32).view(2, 32, 32) % 3}
        losses = model(torch.rand(2, 3, 32, 32), targets)
        sum(losses.values()).backward()
        gradients = {name: value.grad for name, value in model.named_parameters()}
        states.append({**losses, **gradients, **{f"buffer {name}": value for name, value in model.named_buffers()}})
    assert [name for name, value in states[0].items() if not torch.equal(value, states[1][name])] == []
    assert int(states[1]["buffer backbone.bn1.num_batches_tracked"]) == 1
