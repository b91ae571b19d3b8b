"""Facts that files of other programs do not state: channel order, normalisation, stride style; parts of a file."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import backbones
import classification
import detection
from backbones.base import Backbone
from backbones.errors import UserError
from backbones.norm import norm_eps
from detection.necks import HeadNorm

CAFFE_MEAN = torch.tensor([123.675, 116.28, 103.53])[:, None, None]


def small(**options) -> Backbone:
    """Return a ResNet-50 without its last two stages, with random weights and statistics."""
    torch.manual_seed(0)
    backbone = backbones.build("resnet50", weights=None, features=("c3",), **options).eval()
    for module in backbone.modules():
        if hasattr(module, "running_var"):
            module.running_var.uniform_(0.5, 2)
            module.running_mean.normal_()
    return backbone


V1 = small(stride_style="v1")
IMAGE = torch.randint(0, 256, (1, 3, 40, 56), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def caffe2(state: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """Return entries as Caffe2 names them, with the statistics of batch norm inside scale and shift, for B, G, R."""
    layers = {"conv1": "2a", "conv2": "2b", "conv3": "2c", "bn1": "2a", "bn2": "2b", "bn3": "2c"}
    layers |= {"downsample.0": "1", "downsample.1": "1"}
    found = {}
    for name, value in state.items():
        layer, entry = name.rsplit(".", 1)
        stage, _, inside = layer.partition(".")
        block, _, part = inside.partition(".")
        base = (
            f"res{int(stage[5:]) + 1}_{block}_branch{layers[part]}" if part else {"bn1": "res_conv1"}.get(layer, layer)
        )
        if value.ndim == 4:
            found[f"{base}_w"] = value.flip(1).numpy() if layer == "conv1" else value.numpy()
        elif entry == "weight":
            scale = value / (state[f"{layer}.running_var"] + 1e-5).sqrt()
            found[f"{base}_bn_s"] = scale.numpy()
            found[f"{base}_bn_b"] = (state[f"{layer}.bias"] - state[f"{layer}.running_mean"] * scale).numpy()
    return found


def test_msras_file_gives_on_rgb_images_the_features_of_caffe_on_bgr_images(tmp_path: Path):
    path = tmp_path / "R-50.pkl"
    path.write_bytes(pickle.dumps(caffe2(V1.state_dict()), 2))
    found = backbones.build("resnet50", weights=path, features=("c3",), weights_from="detectron2").eval()
    expected = V1(IMAGE.float() - CAFFE_MEAN)["c3"].detach()
    # Folding rounds scale and shift of 23 norm layers to 2^-24 of their size; sums of up to 1,152 terms round as much
    # each: 23 * 2 * sqrt(1152) * 2^-24 is 1e-4 of the largest value, and a channel may grow by a factor of ten.
    torch.testing.assert_close(
        found(found.normalise(IMAGE))["c3"], expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max())
    )
    assert str(found.load_report).endswith("flipped to R, G, B, its own mean and std, stride v1")
    for options, error in (
        ({}, "has Caffe2's names, so its images are BGR; add weights_from='detectron2'"),
        ({"weights_from": "moco"}, "has Caffe2's names"),
        (
            {"weights_from": "detectron2", "stride_style": "v1.5"},
            "stride_style='v1.5': weights_from='detectron2' has str",
        ),
        ({"weights_from": "detectron"}, "unknown weights_from 'detectron': did you mean detectron2"),
    ):
        with pytest.raises(UserError, match=re.escape(error)):
            backbones.build("resnet50", weights=path, features=("c3",), **options)


def test_detectrons_file_of_a_detector_has_blobs_and_momenta(tmp_path: Path):
    blobs = caffe2(V1.state_dict())
    blobs |= {f"{name}_momentum": value for name, value in blobs.items()} | {"fc6_w": np.ones(3, np.float32)}
    (tmp_path / "model_final.pkl").write_bytes(pickle.dumps({"blobs": blobs, "cfg": "MODEL:"}, 2))
    file = tmp_path / "model_final.pkl"
    report = backbones.build("resnet50", weights=file, features=("c3",), weights_from="detectron2").load_report
    assert report is not None and (report.missing, report.unexpected) == ((), ())
    assert set(report.left_out) == {"fc6_w"}  # and no momentum


def test_the_author_that_a_file_names_decides_which_sources_fit(tmp_path: Path):
    """Values that detectron2 and MoCo's converter write; other authors are not known."""
    path, state = tmp_path / "R.pkl", {name: value.numpy() for name, value in V1.state_dict().items()}
    for author, fits, refused in (
        ("Detectron2 Model Zoo", "detectron2", ("moco", "simclr", None)),
        ("MOCO", "moco", ("detectron2", "caffe", "simclr")),
        ("torchvision", None, ("detectron2", "simclr")),
        ("Karan Desai", "detectron2", ()),
    ):
        path.write_bytes(pickle.dumps({"model": state, "__author__": author, "matching_heuristics": True}, 4))
        backbones.build("resnet50", weights=path, features=("c3",), weights_from=fits)
        for source in refused:
            with pytest.raises(UserError, match=rf"R.pkl: names {author} as its author, .*; use weights_from='"):
                backbones.build("resnet50", weights=path, features=("c3",), weights_from=source)


def test_a_backbone_without_stride_styles_and_published_weights_refuse_a_source(tmp_path: Path):
    with pytest.raises(UserError, match=r"timm/test_resnet: stride_style='v1' is not available"):
        backbones.build("timm/test_resnet", weights=tmp_path / "x.pth", weights_from="detectron2")
    with pytest.raises(UserError, match=r"weights_from='moco': is for files, not for weights='imagenet'"):
        backbones.build("resnet18", weights="imagenet", weights_from="moco")


def test_our_files_record_stride_and_epsilon_and_are_not_flipped_again(tmp_path: Path):
    """A file of a run from detectron2's weights is RGB already; its header names the source."""
    path = tmp_path / "model.safetensors"
    meta = {
        "task": "classification",
        "input": {"mean": [0.1, 0.2, 0.3], "std": [1, 1, 1]},
        "norm_eps": 0.5,
        "model": {"backbone": "resnet50", "weights_from": "detectron2", "stride_style": None},
    }
    save_file(dict(V1.state_dict()), path, {"meta": json.dumps(meta)})
    for options in ({}, {"weights_from": "detectron2"}, {"stride_style": "v1"}):
        found = backbones.build("resnet50", weights=path, features=("c3",), **options).eval()
        assert norm_eps(found) == 0.5 and found.mean == (0.1, 0.2, 0.3)
        assert torch.equal(found.state_dict()["conv1.weight"], V1.state_dict()["conv1.weight"])
        assert {m.stride for n, m in found.named_modules() if re.fullmatch(r"layer2\.0\.conv1", n)} == {(2, 2)}
    with pytest.raises(UserError, match=r"stride_style='v1.5': the weights file has stride style v1, which computes"):
        backbones.build("resnet50", weights=path, features=("c3",), stride_style="v1.5")


def test_a_part_of_a_file_is_named_after_two_colons(tmp_path: Path):
    first = backbones.build("resnet20", weights=None).state_dict()
    second = {name: value + 1 for name, value in first.items()}
    both = {f"module.encoder_{e}.{k}": v for e, state in (("q", first), ("k", second)) for k, v in state.items()}
    torch.save({"state_dict": both}, tmp_path / "moco.pth")
    torch.save({"student": second, "teacher": first}, tmp_path / "dino.pth")
    for text, state in (
        ("moco.pth", first),
        ("moco.pth::module.encoder_k", second),
        ("moco.pth::state_dict.module.encoder_k.", second),
        ("dino.pth", first),
        ("dino.pth::student", second),
    ):
        found = backbones.build("resnet20", weights=f"{tmp_path / text}").state_dict()
        assert all(torch.equal(found[name], value) for name, value in state.items()), text
    model = classification.build("resnet20", 3, weights=f"{tmp_path}/dino.pth::student")
    assert torch.equal(model.state_dict()["backbone.conv1.weight"], second["conv1.weight"])
    with pytest.raises(UserError, match=r"no entries below encoder; its parts are module\.encoder_q, module"):
        backbones.build("resnet20", weights=f"{tmp_path}/moco.pth::encoder")


def test_another_stem_is_named(tmp_path: Path):
    state = dict(V1.state_dict())
    state["conv1.weight"] = torch.zeros(64, 3, 3, 3)
    torch.save(state, tmp_path / "simclr.pth")
    with pytest.raises(UserError, match=r"the file's network has another stem, such as that for CIFAR or a deep one"):
        backbones.build("resnet50", weights=tmp_path / "simclr.pth", features=("c3",), weights_from="simclr")


def test_detectors_of_other_programs_need_a_source_and_give_their_backbone(tmp_path: Path):
    torch.manual_seed(0)
    state = backbones.build("resnet18", weights=None).state_dict()
    rest = {"rpn_head.rpn_cls.weight": torch.ones(2, 2), "roi_head.bbox_head.fc_cls.weight": torch.ones(2, 2)}
    torch.save({"state_dict": {**{f"backbone.{k}": v for k, v in state.items()}, **rest}}, tmp_path / "mmdet.pth")
    with pytest.raises(UserError, match=r"whole detector of detectron2 or MMDetection, .* add --weights-from d"):
        detection.build("resnet18", 2, weights=tmp_path / "mmdet.pth")
    model = detection.build("resnet18", 2, weights=tmp_path / "mmdet.pth", weights_from="mmdetection")
    assert torch.equal(model.backbone.body.state_dict()["conv1.weight"], state["conv1.weight"])


def test_mocos_protocol_adds_live_batch_norm_after_conv5():
    torch.manual_seed(0)
    body = backbones.build("resnet18", weights=None, features=("c4", "c5"), norm="batch")
    model = detection.build(body, 2, neck="c4", head_norm="batch", norm="frozen", min_size=64, rois_per_image=8)
    heads = [part for part in model.modules() if isinstance(part, HeadNorm)]
    assert [type(head.bn) for head in heads] == [torch.nn.BatchNorm2d]  # not frozen, unlike the backbone's
    assert sum(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules()) == 1
    images = [torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8) for _ in range(2)]
    target = {"boxes": torch.tensor([[4.0, 4, 40, 40]]), "labels": torch.tensor([1])}
    sum(model.train()(images, [target, target]).values()).backward()
    assert heads[0].bn.weight.grad is not None and int(heads[0].bn.num_batches_tracked) == 1
    with pytest.raises(UserError, match="head_norm 'batch': has no effect with neck fpn, box_head 'linear'"):
        detection.build("resnet18", 2, head_norm="batch")


def test_a_librarys_whole_classifier_takes_a_source_too():
    model = classification.build("timm/test_resnet", 3, weights=None, weights_from="simclr", stride_style=None)
    assert (model.backbone.mean, model.backbone.std) == ((0, 0, 0), (1, 1, 1))
    with pytest.raises(UserError, match=r"timm/test_resnet: stride_style='v1' is not available"):
        classification.build("timm/test_resnet", 3, weights=None, weights_from="caffe")
