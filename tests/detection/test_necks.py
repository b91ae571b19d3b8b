"""A neck of a user: registered under a name, built by that name, saved and loaded again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tolerances import assert_same_detections, rounding
from torch import Tensor, nn

import detection
from backbones import Backbone, FeatureInfo
from backbones.errors import UserError
from detection.necks import NECKS, BackboneBuilder, NeckParts
from detection.settings import DetectorSettings
from tools import train_det

SIZES = {"min_size": 48, "max_size": 80, "rois_per_image": 16, "proposals": 50, "head_channels": 16}
META = {"task": "detection", "category_ids": [3, 7], "category_names": ["cat", "dog"], "norm_eps": 1e-5}


class SumNeck(detection.Neck):
    """c5, enlarged, is added to c4: one level of stride 16."""

    def __init__(self, body: Backbone, channels: int) -> None:
        super().__init__(body, feature_info=[FeatureInfo("sum", channels, 16)], roi_size=5)
        self.laterals = nn.ModuleList(nn.Conv2d(info.channels, channels, 1) for info in body.feature_info)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        c4, c5 = (conv(x) for conv, x in zip(self.laterals, self.body(images).values(), strict=True))
        return {"sum": c4 + nn.functional.interpolate(c5, c4.shape[-2:])}


@pytest.fixture
def registered() -> None:
    if "sum" not in NECKS:

        @detection.register_neck("sum")
        def sum_neck(backbone: BackboneBuilder, settings: DetectorSettings) -> NeckParts:
            return NeckParts(SumNeck(backbone(features=("c4", "c5")), settings.fpn_channels))


@pytest.mark.usefixtures("narrow")
def test_a_users_neck_trains_and_predicts(registered: None):
    model = detection.build("resnet18", 2, neck="sum", fpn_channels=8, **SIZES)
    assert model.rpn.anchor_generator.sizes == ((32, 64, 128, 256, 512),)
    assert model.roi_heads.box_predictor.cls_score.in_features == 16
    target = {"boxes": torch.tensor([[4.0, 6, 40, 50]]), "labels": torch.tensor([1])}
    losses = model.train()([torch.zeros(3, 64, 80, dtype=torch.uint8)], [target])
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters())
    with torch.inference_mode():
        (found,) = model.eval()([torch.zeros(3, 50, 70, dtype=torch.uint8)])
    assert found["boxes"].shape[1] == 4


@pytest.mark.usefixtures("narrow")
def test_a_users_neck_passes_through_a_file(registered: None, tmp_path: Path):
    model = detection.build("resnet18", 2, neck="sum", fpn_channels=8, score_threshold=0.0, **SIZES).eval()
    model.transform.image_mean = [0.1, 0.2, 0.3]  # which loading the file must restore
    options = {"backbone": "resnet18", "weights": "none", "freeze": None, "neck": "sum", "norm": "auto"}
    meta = {**META, "input": model.transform.describe(), "model": {**options, "fpn_channels": 8, **SIZES}}
    path = tmp_path / "model.safetensors"
    save_file(model.state_dict(), path, metadata={"meta": json.dumps(meta)})
    loaded = detection.load(path, device="cpu", precision="fp32")
    assert isinstance(loaded.model.backbone, SumNeck) and loaded.model.transform.image_mean == [0.1, 0.2, 0.3]
    loaded.model.roi_heads.score_thresh = 0.0
    image = torch.randint(0, 256, (3, 64, 80), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        (expected,) = model([image])
    assert len(expected["boxes"]) > 0
    found, near = loaded(image), rounding(512 * 9, layers=25)
    same = {"labels": torch.zeros(len(found))}  # the file names categories, the model numbers them
    assert_same_detections(
        {"boxes": found.boxes, "scores": found.scores, **same}, {**expected, **same}, boxes=80 * near, scores=near
    )


@pytest.mark.usefixtures("narrow")
def test_rebuilding_without_weights_keeps_everything_else(registered: None):
    options = {"backbone": "resnet18", "weights": "imagenet", "freeze": 2, "neck": "sum", "norm": "auto", **SIZES}
    described = {"min_size": 48, "max_size": 80, "mean": [0.1, 0.2, 0.3], "std": [1.0, 1.0, 1.0]}
    model = detection.rebuild({**META, "norm_eps": 0.5, "input": described, "model": options}, None)
    assert model.transform.describe() == described
    assert {module.eps for module in model.modules() if isinstance(module, nn.BatchNorm2d)} == {0.5}


def test_an_unknown_neck_of_the_command_line_is_refused_before_the_data_are_read(tmp_path: Path):
    with pytest.raises(UserError, match="unknown neck 'fpm': did you mean fpn"):
        train_det.main(["--neck", "fpm", "--data", "no such folder", "--output", str(tmp_path / "run")])


def test_a_name_can_be_registered_once():
    with pytest.raises(ValueError, match="neck 'fpn' is registered already"):
        detection.register_neck("fpn")


def test_a_file_of_an_unknown_neck_is_refused(tmp_path: Path):
    meta = {**META, "input": {"mean": [0] * 3, "std": [1] * 3}, "model": {"backbone": "resnet18", "neck": "nowhere"}}
    path = tmp_path / "model.safetensors"
    save_file({"roi_heads.x": torch.zeros(1)}, path, metadata={"meta": json.dumps(meta)})
    with pytest.raises(UserError, match=f"{path}: unknown neck 'nowhere'"):
        detection.load(path)
