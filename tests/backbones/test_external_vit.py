"""Plain vision transformers as backbones: pyramid, sizes of images, weights, frozen stages."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch

import backbones
import detection
from backbones.errors import UserError

NAMES = ["timm/test_vit", "timm/test_vit2"]


@pytest.mark.parametrize("name", [*NAMES, "timm/vit_tiny_patch16_224"])
def test_declared_channels_and_strides_are_actual_and_every_parameter_gets_a_gradient(name: str):
    backbone = backbones.build(name, weights=None).train()
    maps = backbone(torch.randn(1, 3, 100, 333))
    assert list(maps) == ["c2", "c3", "c4", "c5"]
    for info in backbone.feature_info:
        expected = (1, info.channels, -(-100 // info.stride), -(-333 // info.stride))
        assert (info.stride, tuple(maps[info.name].shape)) == (2 ** int(info.name[1:]), expected)
    sum(each.mean() for each in maps.values()).backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("vit_small_patch14_dinov2", (96, 192, 384, 384)),
        ("vit_small_patch16_dinov3", (96, 192, 384, 384)),
        ("vit_base_patch8_224", (384, 768, 768, 768)),
        ("vit_base_patch32_224", (96, 192, 384, 768)),
        ("eva02_tiny_patch14_224", (48, 96, 192, 192)),
    ],
)
def test_patches_of_other_sizes_have_the_same_strides(name: str, channels: tuple[int, ...]):
    with torch.no_grad():
        maps = backbones.build(f"timm/{name}", weights=None)(torch.zeros(1, 3, 64, 96))
    sizes = [(16, 24), (8, 12), (4, 6), (2, 3)]
    assert [tuple(each.shape[1:]) for each in maps.values()] == [(c, *s) for c, s in zip(channels, sizes, strict=True)]


def test_the_map_of_a_patch_is_timms_and_its_file_loads(tmp_path: Path):
    torch.manual_seed(0)
    own = timm.create_model("test_vit", num_classes=5).eval()
    torch.save(own.state_dict(), tmp_path / "vit.pth")
    backbone = backbones.build("timm/test_vit", weights=tmp_path / "vit.pth", features=("c4", "c5")).eval()
    report = backbone.load_report
    assert report is not None and report.missing == ()
    side = own.patch_embed.img_size[0]
    images = torch.randn(1, 3, side, side)
    (expected,) = own.forward_intermediates(images, indices=1, intermediates_only=True, norm=True)
    found = backbone(images)
    assert torch.equal(found["c4"], expected)
    # Stride 32 is the maximum over two by two patches.
    assert torch.equal(found["c5"], torch.nn.functional.max_pool2d(expected, 2, ceil_mode=True))
    whole = backbones.build("timm/test_vit", weights=tmp_path / "vit.pth")
    assert whole.load_report is not None
    assert all(name.startswith("pyramid.") for name in whole.load_report.missing)


@pytest.mark.parametrize("name", NAMES)
def test_frozen_stages_are_the_embeddings_and_the_groups_of_blocks(name: str):
    backbone = backbones.build(name, weights=None)
    stages = backbone.stages()
    assert len(stages) == 5 and [m for stage in stages[1:] for m in stage if m in set(backbone.net.blocks)] == [
        *backbone.net.blocks
    ]
    inside = {id(p) for stage in stages for m in stage for p in m.parameters()}
    outside = {id(p) for p in backbone.net.parameters(recurse=False)}
    assert inside | outside == {id(p) for p in backbone.parameters()} and not inside & outside
    backbone.freeze_stages(2)
    assert not backbone.net.pos_embed.requires_grad and not any(
        p.requires_grad for m in (*stages[0], *stages[1]) for p in m.parameters()
    )
    assert all(p.requires_grad for m in stages[2] for p in m.parameters())
    backbone.freeze_stages(0)
    assert all(p.requires_grad for p in backbone.parameters())


@pytest.mark.parametrize("name", ["timm/test_vit", "timm/eva02_tiny_patch14_224"])
def test_recomputed_blocks_have_the_same_gradients_and_store_less(name: str):
    torch.manual_seed(0)
    backbone = backbones.build(name, weights=None).train()
    images, found = torch.randn(1, 3, 64, 64), []
    for _ in range(2):
        stored: list[int] = []
        backbone.zero_grad()
        with torch.autograd.graph.saved_tensors_hooks(lambda x, to=stored: (to.append(x.numel()), x)[1], lambda x: x):
            loss = sum(each.square().sum() for each in backbone(images).values())
        loss.backward()
        found.append((sum(stored), [p.grad.clone() for p in backbone.parameters()]))
        backbone.recompute_activations()
    assert found[1][0] < found[0][0] / 2
    assert all(torch.equal(*pair) for pair in zip(found[0][1], found[1][1], strict=True))
    assert not backbone.eval().net.grad_checkpointing and backbone.train().net.grad_checkpointing


def test_a_detector_trains_on_images_of_any_size():
    torch.manual_seed(0)
    model = detection.build(
        "timm/test_vit", 2, weights=None, min_size=50, max_size=170, fpn_channels=16, head_channels=16, rois_per_image=8
    )
    images = [torch.randint(0, 256, (3, 100, 333), dtype=torch.uint8)]
    target = {"boxes": torch.tensor([[4.0, 4, 80, 90]]), "labels": torch.tensor([1])}
    sum(model.train()(images, [target]).values()).backward()
    assert model.backbone.body.net.pos_embed.grad is not None
    assert set(model.eval()(images)[0]) == {"boxes", "labels", "scores"}


def test_transformers_without_a_map_or_with_dilation_are_refused_in_one_line():
    with pytest.raises(UserError, match="cait_s24_224: is a transformer whose features cannot be read at any"):
        backbones.build("timm/cait_s24_224", weights=None)
    for neck, said in {"dc5": r"no dilated last stage \(output_stride=16\)", "c4": "no last stage for a C4"}.items():
        with pytest.raises(UserError, match=f"test_vit: a transformer has {said}.* neck fpn"):
            detection.build("timm/test_vit", 2, weights=None, neck=neck)
    with pytest.raises(UserError, match=r"cannot be compiled by torch\.jit\.script"):
        torch.jit.script(backbones.build("timm/test_vit", weights=None))
