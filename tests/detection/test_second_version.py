"""`version="v2"`: torchvision's nets of the second version, equal in losses, detections and masks."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
import torchvision
from test_mask_rcnn import FEW, SMALL, images_of, targets_of
from torchvision.models.detection.roi_heads import paste_masks_in_image

import backbones
import detection
from backbones.errors import UserError
from backbones.norm import norm_table
from detection.data.annotations import CategoryMap

SIZES = {"min_size": 64, "max_size": 96}
RPN = {
    "rpn_pre_nms_top_n_train": 24,
    "rpn_pre_nms_top_n_test": 12,
    "rpn_post_nms_top_n_train": 24,
    "rpn_post_nms_top_n_test": 12,
    "box_batch_size_per_image": 16,
    "box_detections_per_img": 15,
}
Twins = tuple[torch.nn.Module, torch.nn.Module, Path]


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Twins:
    """Return torchvision's Mask R-CNN and Faster R-CNN of version 2 with equal weights, and the file of the first."""
    torch.manual_seed(0)
    models = torchvision.models.detection
    none = {"weights": None, "weights_backbone": None, "num_classes": 91}
    masks = models.maskrcnn_resnet50_fpn_v2(**none, **RPN, **SIZES)
    with torch.no_grad():
        # Give the norm layers statistics of images, and spread the scores and masks enough to detect objects.
        norms = [part for part in masks.modules() if isinstance(part, torch.nn.BatchNorm2d)]
        for part in norms:
            part.momentum = 1.0
        images = [image / 255 for image in images_of((120, 160), (200, 150))]
        masks(images, targets_of((120, 160), (200, 150)))
        for part in norms:
            part.momentum = 0.1
        masks.roi_heads.box_predictor.cls_score.weight.mul_(30)
        masks.roi_heads.mask_predictor.mask_fcn_logits.weight.mul_(30)
    boxes = models.fasterrcnn_resnet50_fpn_v2(**none, **RPN, **SIZES)
    boxes.load_state_dict({name: value for name, value in masks.state_dict().items() if "heads.mask" not in name})
    path = tmp_path_factory.mktemp("weights") / "v2.pth"
    torch.save(masks.state_dict(), path)
    return masks.double(), boxes.double(), path


def test_equals_torchvision(twins: Twins):
    """Losses, boxes, scores and pasted masks are those of torchvision's models with the same weights."""
    with_masks, of_boxes, path = twins
    sizes = ((120, 160), (200, 150))
    images = [image.double() / 255 for image in images_of(*sizes)]
    targets = [{**target, "boxes": target["boxes"].double()} for target in targets_of(*sizes)]
    for theirs, masks in ((with_masks, True), (of_boxes, False)):
        # Live norm, as in the file.
        ours = detection.build("resnet50", 90, weights=path, version="v2", masks=masks, **FEW, **SIZES).double()
        assert norm_table(ours).keys() == {"live"}
        with torch.no_grad():
            expected, found = theirs.eval()(images), ours.eval()(images)
        for one, other, size in zip(expected, found, sizes, strict=True):
            assert len(one["boxes"]) > 10
            for name in ("boxes", "scores", "labels"):
                torch.testing.assert_close(other[name], one[name])
            if masks:
                pasted = paste_masks_in_image(other["masks"][:, None], other["boxes"], size)
                torch.testing.assert_close(pasted, one["masks"])
        losses = []
        for model in (theirs, ours):
            torch.manual_seed(1)  # both sample anchors and proposals
            losses.append(model.train()(images, targets))
        assert len(losses[0]) == (5 if masks else 4)
        torch.testing.assert_close(losses[1], losses[0])
        # The RPN's gradient comes from its maps; with v1 it is computed at the sampled anchors.
        gradients = []
        for model, own in zip((theirs, ours), losses, strict=True):
            first = model.rpn.head.conv[0][0].weight
            gradients.append(torch.autograd.grad(own["loss_objectness"] + own["loss_rpn_box_reg"], first)[0])
        torch.testing.assert_close(gradients[1], gradients[0])


@pytest.mark.parametrize("masks", [True, False])
def test_published_files_load_by_name(twins: Twins, monkeypatch, tmp_path: Path, masks: bool):
    theirs = twins[0 if masks else 1]
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save({name: value.float() for name, value in theirs.state_dict().items()}, folder / "file.pth")
    digest = hashlib.sha256((folder / "file.pth").read_bytes()).hexdigest()[:8]
    (folder / "file.pth").rename(folder / f"rcnn-{digest}.pth")
    name = "COCO_V2_MASKS_URL" if masks else "COCO_V2_URL"
    monkeypatch.setattr(f"detection.weights.{name}", f"https://download.pytorch.org/models/rcnn-{digest}.pth")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    categories = CategoryMap((3, 18), ("car", "dog"))
    ours = detection.build("resnet50", 2, weights="coco", version="v2", categories=categories, masks=masks)
    assert ours.load_report.missing == ()
    given = theirs.roi_heads.box_head[0][0].weight.float()
    assert torch.equal(ours.roi_heads.box_head[0][0].weight, given)
    # Unlike the file of version 1, it was trained with the usual epsilon.
    assert {part.eps for part in ours.modules() if hasattr(part, "running_var")} == {1e-5}


def test_a_file_of_one_version_does_not_fit_the_other(twins: Twins):
    with pytest.raises(UserError, match=r"does not fit this detector .*--version"):
        detection.build("resnet50", 90, weights=twins[2])


@pytest.mark.usefixtures("narrow")
def test_options_of_the_second_version_can_be_chosen_alone():
    second = detection.build("resnet18", 3, version="v2", **SMALL)
    alone = detection.build("resnet18", 3, fpn_norm="batch", rpn_depth=2, box_head="conv", head_norm="batch", **SMALL)
    assert second.state_dict().keys() == alone.state_dict().keys()
    grouped = detection.build("resnet18", 3, version="v2", norm="group", fpn_norm="group", head_norm="group", **SMALL)
    assert norm_table(grouped).keys() == {"group"}


@pytest.mark.usefixtures("narrow")
def test_pretrained_backbones_freeze_their_norm_and_leave_that_of_the_heads_live(tmp_path: Path):
    torch.save(backbones.build("resnet18", weights=None).state_dict(), tmp_path / "backbone.pth")
    model = detection.build("resnet18", 3, version="v2", weights=tmp_path / "backbone.pth", **SMALL)
    # 20 layers in the backbone; 8 in the pyramid (4 levels, twice), 4 in the box head.
    assert norm_table(model) == {"frozen": 20, "live": 12}
    torch.save(model.state_dict(), tmp_path / "whole.pth")
    again = detection.build("resnet18", 3, version="v2", weights=tmp_path / "whole.pth", **SMALL)
    assert norm_table(again) == norm_table(model)
    frozen = detection.build("resnet18", 3, version="v2", weights=tmp_path / "whole.pth", norm="frozen", **SMALL)
    assert norm_table(frozen) == {"frozen": 32}


@pytest.mark.usefixtures("narrow")
def test_images_without_objects_leave_the_mask_heads_statistics_as_they_are():
    torch.manual_seed(0)
    model = detection.build("resnet18", 3, version="v2", masks=True, mask_channels=16, **SMALL).train()
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "masks": torch.zeros(0, 90, 120)}
    before = {name: value.clone() for name, value in model.roi_heads.mask_head.state_dict().items()}
    losses = model(images_of((90, 120)), [empty])
    sum(losses.values()).backward()
    after = model.roi_heads.mask_head.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters() if p.requires_grad)
