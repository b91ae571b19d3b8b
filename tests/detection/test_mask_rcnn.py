"""Mask R-CNN: equal to torchvision's, loads its files, and trains with every neck."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor
from torchvision.models.detection.roi_heads import paste_masks_in_image

import detection
from backbones.errors import UserError
from detection.data.annotations import CategoryMap
from detection.mask_head import mask_loss
from detection.masks import decode, encode, paste
from detection.predict import Predictor, View, flip_boxes
from detection.preprocess import Preprocessor
from detection.strips import mask_targets, scaled, strips_of_bitmaps

SIZES = {"min_size": 96, "max_size": 160}  # smaller than the default, to be fast
FEW = {"proposals": 12, "rois_per_image": 16, "max_detections": 15}
SMALL = {"min_size": 64, "max_size": 96, "head_channels": 32, "fpn_channels": 32, "rois_per_image": 16, "proposals": 50}


def images_of(*sizes: tuple[int, int]) -> list[Tensor]:
    random = torch.Generator().manual_seed(0)
    return [torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=random) for size in sizes]


def targets_of(*sizes: tuple[int, int]) -> list[dict[str, Tensor]]:
    """Return targets with two objects per image: an ellipse, and a triangle in a wide box."""
    targets = []
    for height, width in sizes:
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        ellipse = ((x - 40) / 25) ** 2 + ((y - 50) / 35) ** 2 < 1
        triangle = (y > 20) & (y < 60) & (x >= 30 + y / 2) & (x < 130 - y)
        boxes = torch.tensor([[15.0, 15, 65, 85], [40, 21, 110, 60]])
        masks = torch.stack([ellipse, triangle]).byte()
        targets.append({"boxes": boxes, "labels": torch.tensor([1, 3]), "masks": masks})
    return targets


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> tuple[torch.nn.Module, detection.FasterRCNN, Path]:
    """Return torchvision's Mask R-CNN, ours loaded from its file, and the file."""
    torch.manual_seed(0)
    theirs = torchvision.models.detection.maskrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=91,
        rpn_pre_nms_top_n_train=24,
        rpn_pre_nms_top_n_test=12,
        rpn_post_nms_top_n_train=24,
        rpn_post_nms_top_n_test=12,
        box_batch_size_per_image=16,
        box_detections_per_img=15,
        **SIZES,
    )
    with torch.no_grad():
        # Spread the scores enough to detect objects, and the masks enough to have pixels of both kinds.
        theirs.roi_heads.box_predictor.cls_score.weight.mul_(30)
        theirs.roi_heads.mask_predictor.mask_fcn_logits.weight.mul_(30)
    path = tmp_path_factory.mktemp("weights") / "masks.pth"
    torch.save(theirs.state_dict(), path)
    # In double precision, so that neither limits of scores nor NMS depend on rounding.
    ours = detection.build("resnet50", 90, weights=path, norm="batch", masks=True, **FEW, **SIZES)
    return theirs.double(), ours.double(), path


def test_equals_torchvision(twins):
    """Losses, boxes, scores and pasted masks are those of torchvision's model with the same weights."""
    theirs, ours, _ = twins
    sizes = ((120, 160), (200, 150))
    images = [image.double() / 255 for image in images_of(*sizes)]
    with torch.no_grad():
        expected, found = theirs.eval()(images), ours.eval()(images)
    for one, other, size in zip(expected, found, sizes, strict=True):
        assert len(one["boxes"]) > 10
        for name in ("boxes", "scores", "labels"):
            torch.testing.assert_close(other[name], one[name])
        pasted = paste_masks_in_image(other["masks"][:, None], other["boxes"], size)
        torch.testing.assert_close(pasted, one["masks"])
        inside = paste(other["masks"], other["boxes"], size).sum()
        assert 0 < inside < paste(torch.ones_like(other["masks"]), other["boxes"], size).sum()
    targets = [{**target, "boxes": target["boxes"].double()} for target in targets_of(*sizes)]
    losses = []
    for model in (theirs, ours):
        torch.manual_seed(1)  # both sample anchors and proposals
        with torch.no_grad():
            losses.append(model.train()(images, targets))
    assert losses[1]["loss_mask"] > 0
    torch.testing.assert_close(losses[1], losses[0])


def test_masks_pasted_by_torchvisions_rule_equal_its_own_to_the_last_pixel():
    random = torch.Generator().manual_seed(3)
    size, count = (90, 130), 60
    corners = torch.rand(count, 2, 2, generator=random) * torch.tensor([130.0, 90.0])
    boxes = torch.cat([corners.amin(1), corners.amax(1)], dim=1)
    boxes[0], boxes[1] = torch.tensor([0.0, 0, 130, 90]), torch.tensor([129.9, 89.9, 130, 90])
    masks = torch.rand(count, 28, 28, generator=random)
    expected = paste_masks_in_image(masks[:, None], boxes, size)[:, 0] >= 0.5
    assert torch.equal(paste(masks, boxes, size, offset=None), expected)
    # The run lengths are those that pycocotools makes of the bitmaps.
    from pycocotools import mask as coco

    for code, bitmap in zip(encode(masks, boxes, size, offset=None), expected.numpy(), strict=True):
        assert code == coco.encode(np.asfortranarray(bitmap.astype(np.uint8)))


@pytest.mark.parametrize(("scale", "offset"), [(0.5, 0.5), (1, 0.5), (1.375, 10 / 220), (2, 0.25)])
def test_pasting_undoes_the_cutting_of_targets(scale: float, offset: float):
    """Rectangles come back to the last pixel if the image is enlarged by a whole factor; all shapes nearly so."""
    random, size = torch.Generator().manual_seed(4), (80, 120)
    transform = Preprocessor([0] * 3, [1] * 3, min_size=int(80 * scale), max_size=1000)
    grid_offset = transform.grid_offset(size)
    assert grid_offset[1] == offset
    corners = torch.randint(0, 58, (40, 2), generator=random)
    boxes = torch.cat([corners, corners + torch.randint(4, 22, (40, 1), generator=random)], dim=1).float()
    at = torch.arange(120) + 0.5
    across, down = at[None, :], at[:80, None]
    for name in ("rectangles", "disks"):
        radius = 1e3 if name == "rectangles" else (boxes[:, 2] - boxes[:, 0])[:, None, None] / 2
        left, top, right, bottom = boxes.T[:, :, None, None]
        inside = (left < across) & (across < right) & (top < down) & (down < bottom)
        middle = (across - (left + right) / 2) ** 2 + (down - (top + bottom) / 2) ** 2 < radius**2
        truth = inside & middle
        resized = (int(80 * scale), int(120 * scale))
        strips = scaled(strips_of_bitmaps(truth), size, resized)
        masks = mask_targets(strips, boxes * scale, torch.arange(40), 28, resized)
        pasted = paste(masks, boxes, size, offset=grid_offset)
        assert torch.equal(pasted, truth) or scale not in (1, 2) or name == "disks"
        assert iou(pasted, truth) > iou(paste(masks, boxes, size, offset=None), truth)
        assert iou(pasted, truth) > (0.95 if scale >= 1 else 0.85)
        assert encode(masks, boxes, size, offset=grid_offset)[0]["size"] == [80, 120]


def iou(masks: torch.Tensor, others: torch.Tensor) -> float:
    """Return the mean IoU of two sets of bitmaps `[N, H, W]`."""
    return float(((masks & others).sum((1, 2)) / (masks | others).sum((1, 2))).mean())


def test_published_mask_file_loads_with_rows_of_the_datas_categories(twins, monkeypatch, tmp_path: Path):
    """`weights="coco"` loads torchvision's file, whose older names are translated."""
    theirs, _, _ = twins
    old = {}
    for name, value in theirs.state_dict().items():
        for index in range(4):
            name = name.replace(f"mask_head.{index}.0.", f"mask_head.mask_fcn{index + 1}.")
        old[name] = value.float()
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(old, folder / "file.pth")
    digest = hashlib.sha256((folder / "file.pth").read_bytes()).hexdigest()[:8]
    (folder / "file.pth").rename(folder / f"maskrcnn-{digest}.pth")
    monkeypatch.setattr(
        "detection.weights.COCO_MASKS_URL", f"https://download.pytorch.org/models/maskrcnn-{digest}.pth"
    )
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    categories = CategoryMap((3, 18, 91), ("car", "dog", "unicorn"))
    ours = detection.build("resnet50", 3, weights="coco", categories=categories, masks=True)
    assert ours.load_report.missing == ("roi_heads.box_predictor.row of unicorn",)
    given = theirs.roi_heads.mask_predictor.mask_fcn_logits
    own = ours.roi_heads.mask_predictor.mask_fcn_logits
    assert torch.equal(own.weight[:3], given.weight[[0, 3, 18]].float())
    assert torch.equal(own.bias[:3], given.bias[[0, 3, 18]].float())
    first = theirs.roi_heads.mask_head[0][0].weight.float()
    assert torch.equal(ours.roi_heads.mask_head[0][0].weight, first)


def test_files_of_boxes_and_masks_start_each_other(twins, tmp_path: Path):
    theirs, _, path = twins
    boxes = detection.build("resnet50", 90, weights=path)
    assert all(
        name.startswith(("roi_heads.mask_head.", "roi_heads.mask_pred")) for name in boxes.load_report.unexpected
    )
    assert len(boxes.load_report.unexpected) == 12  # weight and bias of 4 convolutions, deconvolution and last layer
    torch.save(boxes.state_dict(), tmp_path / "boxes.pth")
    masks = detection.build("resnet50", 90, weights=tmp_path / "boxes.pth", masks=True)
    assert len(masks.load_report.missing) == 12
    given = theirs.roi_heads.box_predictor.cls_score.weight.float()
    assert torch.equal(masks.roi_heads.box_predictor.cls_score.weight, given)


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("neck", ["fpn", "c4", "dc5"])
@pytest.mark.parametrize("agnostic", [False, True])
def test_every_neck_trains_and_predicts_masks(neck: str, agnostic: bool):
    torch.manual_seed(0)
    model = detection.build(
        "resnet18", 3, neck=neck, masks=True, mask_channels=16, class_agnostic_masks=agnostic, context=agnostic, **SMALL
    )
    sizes = ((100, 140), (90, 120))
    images, targets = images_of(*sizes), targets_of(*sizes)
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "masks": torch.zeros(0, 90, 120)}
    losses = model.train()(images, [targets[0], empty])
    assert set(losses) >= {"loss_mask", "loss_classifier"} and losses["loss_mask"] > 0
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    # Without any object, all parameters still have gradients, as DistributedDataParallel needs them.
    model.zero_grad()
    none = [{**empty, "masks": torch.zeros(0, *size)} for size in sizes]
    losses = model(images, none)
    assert losses["loss_mask"] == 0
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.roi_heads.mask_predictor.parameters())
    model.eval().roi_heads.score_thresh = 0.0
    with torch.no_grad():
        found = model(images)
        model.roi_heads.score_thresh = 1.0
        nothing = model(images)
    side = 14 if neck == "c4" else 28
    for each in found:
        assert len(each["boxes"]) and each["masks"].shape == (len(each["boxes"]), side, side)
        assert ((each["masks"] >= 0) & (each["masks"] <= 1)).all()
    assert [each["masks"].shape for each in nothing] == [(0, side, side)] * 2


@pytest.mark.usefixtures("narrow")
def test_wrong_masks_in_targets_are_refused_by_image():
    model = detection.build("resnet18", 3, masks=True, **SMALL)
    images, targets = images_of((100, 140)), targets_of((100, 140))
    for wrong, text in ((targets[0]["masks"][:1], r"\[1, 100, 140\]"), (None, "missing")):
        with pytest.raises(UserError, match=rf"targets\[0\]: `masks` is .*{text}.*; expected a tensor \[2, 100, 140\]"):
            model(images, [{**targets[0], "masks": wrong}])
    with pytest.raises(UserError, match="--mask-size 15: must be even"):
        detection.build("resnet18", 3, masks=True, mask_size=15)


def detector(seed: int, **options: object) -> detection.FasterRCNN:
    """Return a model in double precision whose scores and masks are spread enough to detect objects."""
    torch.manual_seed(seed)
    chosen = {"masks": True, "mask_channels": 16, "score_threshold": 0.2, **SMALL, **options}
    model = detection.build("resnet18", 3, **chosen)
    with torch.no_grad():
        model.roi_heads.box_predictor.cls_score.weight.mul_(30)
        if model.has_masks:
            model.roi_heads.mask_predictor.mask_fcn_logits.weight.mul_(30)
    return model.double().eval()


@torch.inference_mode()
def test_views_average_masks_and_return_run_lengths():
    model, sizes = detector(1), ((64, 80), (64, 72))  # at the model's size, so that no ratio of sizes is rounded
    images = [image.double() / 255 for image in images_of(*sizes)]
    plain = Predictor(model, outlines=True).eval()(images)
    again = Predictor(model, sizes=[64], outlines=True).eval()(images)  # the same view by the code of several views
    both = Predictor(model, flip=True, refine=True).eval()(images)
    for one, other, double, size in zip(plain, again, both, sizes, strict=True):
        assert len(one["boxes"]) > 3 and len(double["boxes"])
        torch.testing.assert_close(other["masks"], one["masks"])
        assert one["rles"] == encode(one["masks"], one["boxes"], size) and "rles" not in double
        assert torch.equal(decode(one["rles"], size), paste(one["masks"], one["boxes"], size))
    # What lies right of a box in an image lies left of it in the mirror image.
    assert Predictor(model, flip=True).grid_offset(sizes[0]) == (0, 0.5)
    model.roi_heads.mask_pasting = "torchvision"
    theirs = Predictor(model, outlines=True).eval()(images)[0]["rles"]
    assert theirs == encode(plain[0]["masks"], plain[0]["boxes"], sizes[0], offset=None) != plain[0]["rles"]
    # The masks of the last predictor are the means of its views' masks of its boxes.
    views = [View.of(images, *view) for view in Predictor(model, flip=True).views]
    boxes, labels = ([each[name] for each in both] for name in ("boxes", "labels"))
    left, right = (view.masks(boxes, labels) for view in views)
    for a, b, double in zip(left, right, both, strict=True):
        torch.testing.assert_close(double["masks"], (a + b) / 2)
        assert not torch.equal(a, b)


@torch.inference_mode()
def test_a_flipped_view_of_a_flipped_image_has_the_flipped_masks():
    model = detector(1)
    image, boxes, labels = images_of((50, 70))[0].double() / 255, torch.tensor([[5.0, 5, 40, 40]]), torch.tensor([2])
    plain, turned = Predictor(model, flip=True).views
    first = View.of([image], *plain).masks([boxes.double()], [labels])[0]
    second = View.of([image.flip(-1)], *turned).masks([flip_boxes(boxes.double(), 70)], [labels])[0]
    torch.testing.assert_close(second, first.flip(-1))


def test_models_whose_masks_differ_are_refused_before_anything_runs():
    for other in ({"neck": "c4"}, {"masks": False}):
        with pytest.raises(
            UserError, match=r"models: their masks differ in size \(cells along a side: 28, (14|none)\)"
        ):
            Predictor([detector(0), detector(1, **other)])


def test_the_mask_loss_weighs_every_positive_alike_over_processes(monkeypatch):
    """Two processes have 2 and 3 positives. The mean of their losses is the loss of all 5 on one process."""
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 14, 14, generator=random, dtype=torch.double)
    target = targets_of((100, 140))[0]
    target["strips"] = strips_of_bitmaps(target.pop("masks"))
    objects = torch.tensor([0, 1, 1, 0, 1])
    boxes = target["boxes"][objects].double() + torch.arange(5)[:, None]

    def loss(part: slice) -> Tensor:
        return mask_loss(logits[part], [boxes[part]], [objects[part]], [target], [(100, 140)], training=True)

    whole = loss(slice(None))
    monkeypatch.setattr("backbones.common.processes.relative_count", lambda count: count / 2.5)
    torch.testing.assert_close((loss(slice(0, 2)) + loss(slice(2, 5))) / 2, whole)
    assert loss(slice(0, 0)) == 0
