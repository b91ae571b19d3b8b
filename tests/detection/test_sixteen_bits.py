"""Detectors under autocast, the default on GPUs and on CPUs with bf16: every branch trains and predicts with masks."""

from __future__ import annotations

import pytest
import torch
from test_mask_rcnn import SMALL, images_of, targets_of

import detection

SIZES = ((100, 140), (90, 120))
EMPTY = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "masks": torch.zeros(0, *SIZES[1])}
GROUP = {"norm": "group", "fpn_norm": "group", "head_norm": "group", "box_head": "conv"}
BRANCHES: dict[str, dict[str, object]] = {
    "fpn": {},
    "dc5": {"neck": "dc5"},
    "c4": {"neck": "c4", "head_norm": "batch"},
    "v2": {"version": "v2"},
    "cascade": {"cascade": True, "box_loss": "giou", "class_agnostic_masks": True},
    "agnostic": {"box_loss": "ciou", "class_agnostic_boxes": True, "context": True},
    "recompute": {"recompute": True, **GROUP},
}


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("branch", BRANCHES)
def test_every_branch_trains_and_predicts_in_16_bits(branch: str):
    torch.manual_seed(0)
    model = detection.build("resnet18", 3, masks=True, mask_channels=16, **SMALL, **BRANCHES[branch])
    images = images_of(*SIZES)
    with torch.autocast("cpu", torch.bfloat16):
        losses = model.train()(images, [targets_of(*SIZES)[0], EMPTY])
    assert "loss_mask" in losses
    for name, loss in losses.items():
        assert loss.dtype == torch.float32 and torch.isfinite(loss), name
    sum(losses.values()).backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None and torch.isfinite(weight.grad).all(), name
    model.eval().roi_heads.score_thresh = 0.0
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        found = model(images)
    for each in found:
        assert len(each["boxes"]) > 0
        assert {each[name].dtype for name in ("boxes", "scores", "masks")} == {torch.float32}
        assert ((each["masks"] >= 0) & (each["masks"] <= 1)).all()
