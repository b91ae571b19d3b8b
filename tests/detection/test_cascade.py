"""Cascade heads, box losses, class-agnostic boxes and soft-NMS against their equations, and recomputed activations."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_mask_rcnn import SMALL, images_of, targets_of
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import box_iou, nms

import detection
from backbones.errors import UserError
from detection.box_predictor import IOU_WEIGHT, BoxPredictor, box_losses
from detection.cascade import CascadeHeads
from detection.data.annotations import CategoryMap
from detection.necks import BoxHead
from detection.predict import Predictor
from detection.soft_nms import soft_nms
from tools.engine.checkpoint import write_safetensors

SIZE = (40, 60)


class Corners(nn.Module):
    """Stands for RoIAlign: the features of a RoI are its corners, scaled by the features' only value."""

    def forward(self, features: dict[str, Tensor], boxes: list[Tensor], _: object) -> Tensor:
        return torch.cat(boxes) / 50 * features["p2"]


class Layer(BoxHead):
    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layer, self.out_channels = nn.Linear(4, 6), 6

    def forward(self, rois: Tensor) -> Tensor:
        return self.layer(rois)


def cascade() -> CascadeHeads:
    options = {"context": False, "rois_per_image": 24, "score_threshold": 0.05, "max_detections": 10}
    heads = CascadeHeads(Corners(), [Layer(seed) for seed in range(3)], 3, **options).double()
    torch.manual_seed(9)
    for _, predictor, _ in heads.stages:
        nn.init.normal_(predictor.bbox_pred.weight, std=0.4)
    return heads


def decoded(deltas: Tensor, box: Tensor, weights: tuple[float, ...]) -> Tensor:
    """Return one box moved by one set of deltas: R-CNN's equations, and clipped to the image."""
    deltas = deltas.detach()
    width, height = float(box[2] - box[0]), float(box[3] - box[1])
    x, y = float(box[0]) + width / 2, float(box[1]) + height / 2
    dx, dy, dw, dh = (float(delta) / weight for delta, weight in zip(deltas, weights, strict=True))
    x, y = x + dx * width, y + dy * height
    width, height = width * math.exp(min(dw, math.log(62.5))), height * math.exp(min(dh, math.log(62.5)))
    corners = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
    limits = [SIZE[1], SIZE[0], SIZE[1], SIZE[0]]
    return torch.tensor(
        [min(max(side, 0), limit) for side, limit in zip(corners, limits, strict=True)], dtype=torch.double
    )


@torch.no_grad()
def test_predictions_pass_three_stages_and_average_their_scores():
    heads, value = cascade().eval(), torch.ones((), dtype=torch.double)
    boxes = torch.tensor([[3.0, 4, 30, 25], [20, 10, 50, 38]], dtype=torch.double)
    found = heads.score({"p2": value}, [boxes], [SIZE])
    for row, box in enumerate(boxes):
        probabilities = []
        for number, (head, predictor, _) in enumerate(heads.stages):
            logits, deltas = predictor(head(box[None] / 50))
            probabilities.append(logits[0].softmax(-1))
            if number < 2:
                scale = 10 * (number + 1)
                box = decoded(deltas[0, :4], box, (scale, scale, scale / 2, scale / 2))
        torch.testing.assert_close(found.logits[row].exp(), sum(probabilities) / 3)
        torch.testing.assert_close(found.boxes[0][row], box)
        torch.testing.assert_close(found.deltas[row], deltas[0])
    # The last step: deltas of weight 30 and 15.
    last = heads.box_coder.decode_single(found.deltas, found.boxes[0])
    expected = decoded(found.deltas[1, :4], found.boxes[0][1], (30, 30, 15, 15))
    torch.testing.assert_close(
        last.reshape(2, -1, 4)[1, 0].clamp(min=0).minimum(torch.tensor([60.0, 40, 60, 40])), expected.double()
    )


def test_losses_of_the_stages_follow_their_iou_thresholds():
    heads = cascade().train()
    value = torch.ones((), dtype=torch.double, requires_grad=True)
    truth = torch.tensor([[5.0, 5, 30, 30], [35, 10, 55, 30]], dtype=torch.double)
    shifts = torch.arange(10, dtype=torch.double)[:, None]
    proposals = torch.cat([truth[:1] + shifts, truth[1:] - shifts / 2])
    target = {"boxes": truth, "labels": torch.tensor([2, 3])}
    torch.manual_seed(4)
    losses = heads({"p2": value}, [proposals], [SIZE], [target])[1]
    torch.manual_seed(4)  # the same sample
    boxes = heads.sample([proposals], [target]).boxes[0]
    gradient = torch.zeros((), dtype=torch.double)
    for number, (head, predictor, _) in enumerate(heads.stages):
        logits, deltas = predictor(head(boxes / 50 * value))
        overlap, match = box_iou(truth, boxes).max(dim=0)
        labels = torch.where(overlap >= (0.5, 0.6, 0.7)[number], target["labels"][match], 0)
        scale = 10.0 * (number + 1)
        weights = torch.tensor([scale, scale, scale / 2, scale / 2])
        own, true = boxes[labels > 0], truth[match][labels > 0]
        size, true_size = own[:, 2:] - own[:, :2], true[:, 2:] - true[:, :2]
        centre = (true[:, :2] + true[:, 2:] - own[:, :2] - own[:, 2:]) / 2 / size
        expected = torch.cat([centre, (true_size / size).log()], dim=1) * weights
        regression = F.smooth_l1_loss(deltas[labels > 0, :4], expected, beta=1 / 9, reduction="sum") / len(boxes)
        suffix = f"_{number + 1}" if number else ""
        torch.testing.assert_close(losses[f"loss_classifier{suffix}"], F.cross_entropy(logits, labels))
        torch.testing.assert_close(losses[f"loss_box_reg{suffix}"], regression)
        assert (labels > 0).any()
        stage = F.cross_entropy(logits, labels) + regression
        gradient += torch.autograd.grad(stage, value, retain_graph=True)[0] / 3
        weight = (scale, scale, scale / 2, scale / 2)
        boxes = torch.stack(
            [decoded(each, box, weight).double() for each, box in zip(deltas[:, :4], boxes, strict=True)]
        )
    # Each stage passes a third of its gradient on to the shared features.
    torch.testing.assert_close(torch.autograd.grad(sum(losses.values()), value)[0], gradient)


def test_later_stages_ignore_negatives_in_crowds():
    heads = cascade().train()
    target = {
        "boxes": torch.tensor([[5.0, 5, 30, 30]], dtype=torch.double),
        "labels": torch.tensor([1]),
        "ignore": torch.tensor([[30.0, 0, 60, 40]], dtype=torch.double),
    }
    found = heads._labelled(
        [torch.tensor([[40.0, 5, 55, 30], [0, 30, 9, 40], [5, 5, 30, 29]]).double()], [target], heads.matchers[1]
    )
    assert found.labels[0].tolist() == [-1, 0, 1]


@pytest.mark.parametrize("kind", ["smooth_l1", "giou", "ciou"])
def test_box_losses_follow_their_equations(kind: str):
    coder = BoxCoder((10.0, 10.0, 5.0, 5.0))
    boxes = torch.tensor([[10.0, 10, 30, 30], [0, 0, 20, 10], [5, 5, 9, 9]], dtype=torch.double)
    truth = torch.tensor([[12.0, 9, 34, 33], [30, 20, 44, 41], [0, 0, 0, 0]], dtype=torch.double)
    labels = torch.tensor([2, 1, 0])
    torch.manual_seed(0)
    logits, deltas = torch.randn(3, 3, dtype=torch.double), torch.randn(3, 12, dtype=torch.double)
    classifier, regression = box_losses(logits, deltas, labels, boxes, truth, coder=coder, kind=kind)
    torch.testing.assert_close(classifier, F.cross_entropy(logits, labels))
    total = 0.0
    for row in (0, 1):
        own = deltas[row, 4 * labels[row] : 4 * labels[row] + 4]
        a = coder.decode_single(own[None], boxes[row : row + 1])[0].tolist()
        b = truth[row].tolist()
        if kind == "smooth_l1":
            gap = (own - coder.encode_single(truth[row : row + 1], boxes[row : row + 1])[0]).abs()
            total += sum(4.5 * d * d if d < 1 / 9 else d - 1 / 18 for d in gap.tolist())
            continue
        shared = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
        (w, h), (v, g) = ((each[2] - each[0], each[3] - each[1]) for each in (a, b))
        union = w * h + v * g - shared
        wide, high = max(a[2], b[2]) - min(a[0], b[0]), max(a[3], b[3]) - min(a[1], b[1])
        if kind == "giou":
            total += IOU_WEIGHT * (1 - shared / union + (wide * high - union) / (wide * high))
        else:
            apart = ((a[0] + a[2] - b[0] - b[2]) ** 2 + (a[1] + a[3] - b[1] - b[3]) ** 2) / 4
            aspect = 4 / math.pi**2 * (math.atan(v / g) - math.atan(w / h)) ** 2
            alpha = aspect / (1 - shared / union + aspect)
            total += IOU_WEIGHT * (1 - shared / union + apart / (wide**2 + high**2) + alpha * aspect)
    assert float(regression) == pytest.approx(total / 3, rel=1e-6)  # torchvision adds 1e-7 to the denominators


def test_class_agnostic_boxes_are_those_of_all_classes():
    predictor = BoxPredictor(5, 4, class_agnostic=True)
    _, deltas = predictor(torch.randn(3, 5))
    assert predictor.bbox_pred.out_features == 4 and deltas.shape == (3, 16)
    assert all(torch.equal(deltas[:, :4], deltas[:, at : at + 4]) for at in (4, 8, 12))


def test_soft_nms_follows_the_papers_pseudo_code():
    random = torch.Generator().manual_seed(0)
    corner = torch.rand(40, 2, generator=random).double() * 30
    boxes = torch.cat([corner, corner + 8 + torch.rand(40, 2, generator=random).double() * 15], dim=1)
    scores, labels = torch.rand(40, generator=random).double(), torch.randint(1, 4, (40,), generator=random)
    expected = []
    for label in (1, 2, 3):
        left = {n: float(scores[n]) for n in torch.where(labels == label)[0].tolist()}
        while left:
            best = max(left, key=lambda n: left[n])
            expected.append((left.pop(best), best))
            for n in left:
                left[n] *= math.exp(-(float(box_iou(boxes[best][None], boxes[n][None])) ** 2) / 0.5)
    expected = sorted((each for each in expected if each[0] > 0.2), reverse=True)[:15]
    kept, lowered = soft_nms(boxes, scores, labels, most=15, least_score=0.2)
    assert kept.tolist() == [n for _, n in expected]
    torch.testing.assert_close(lowered, torch.tensor([score for score, _ in expected]).double())
    assert len(kept) > len(set(nms(boxes, scores, 0.5).tolist()) & set(kept.tolist()))  # it keeps what NMS removes
    nothing = soft_nms(boxes[:0], scores[:0], labels[:0], most=5, least_score=0.1)
    assert [len(each) for each in nothing] == [0, 0]


def spread(model: detection.FasterRCNN) -> detection.FasterRCNN:
    """Return the model with scores that are spread enough to detect objects."""
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith("cls_score.weight"):
                value.mul_(30)
    return model.eval()


OPTIONS: dict[str, dict[str, Any]] = {
    "cascade": {"cascade": True, "masks": True, "mask_channels": 16},
    "cascade of v2": {"cascade": True, "version": "v2", "context": True},
    "agnostic": {"class_agnostic_boxes": True, "box_loss": "giou"},
    "c4": {"class_agnostic_boxes": True, "box_loss": "ciou", "neck": "c4"},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_detectors_train_predict_and_load_row_by_row(tmp_path: Path, options: dict[str, Any]):
    torch.manual_seed(0)
    names = CategoryMap((1, 2, 3), ("a", "b", "c"))
    model = detection.build("resnet18", 3, **options, **SMALL)
    sizes = ((100, 140), (90, 120))
    images, targets = images_of(*sizes), targets_of(*sizes)
    losses = model.train()(images, targets)
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    assert {name for name in losses if name.endswith("_3")} == (
        {"loss_classifier_3", "loss_box_reg_3"} if options.get("cascade") else set()
    )
    spread(model)
    with torch.no_grad():
        plain = model(images)
        # The same view by the code of several views; and a second pass over the boxes found.
        again = Predictor(model, sizes=[64]).eval()(images)
        refined = Predictor(model, refine=True, flip=True, soft_nms=True).eval()(images)
    assert len(plain[0]["boxes"]) > 3 and len(refined[0]["boxes"]) > 3
    torch.testing.assert_close(again[0]["scores"], plain[0]["scores"], atol=1e-4, rtol=1e-4)
    # Rows of the classes move with their names; boxes of all classes stay.
    torch.save(model.state_dict(), tmp_path / "model.pth")
    meta = {"category_ids": list(names.ids), "category_names": list(names.names)}

    write_safetensors(tmp_path / "model.safetensors", model.state_dict(), {"meta": json.dumps(meta)})
    turned, file = CategoryMap((1, 2, 3), ("c", "a", "x")), tmp_path / "model.safetensors"
    other = detection.build("resnet18", 3, weights=file, categories=turned, **options, **SMALL)
    for name, value in model.named_parameters():
        moved = other.get_parameter(name)
        if "cls_score" in name:
            assert torch.equal(moved[:3], value[[0, 3, 1]])
        elif "predictor" in name and "bbox_pred" in name:
            assert torch.equal(moved, value) and len(value) == 4
    assert len([name for name in other.load_report.missing if "row of x" in name]) == 1
    with pytest.raises(UserError, match=r"does not fit this detector .*--cascade, --class-agnostic-boxes"):
        neck = {"neck": options.get("neck", "fpn")}
        detection.build("resnet18", 3, weights=file, **neck, **SMALL)


@pytest.mark.usefixtures("narrow")
def test_broken_weights_give_losses_that_are_not_finite_and_no_detections():
    """NaN boxes have no level of the pyramid, but the training must reach its check of the losses."""
    model = detection.build("resnet18", 3, cascade=True, **SMALL)
    with torch.no_grad():
        model.roi_heads.box_predictor.bbox_pred.weight.fill_(float("nan"))
    images = [torch.rand(3, 64, 64)]
    losses = model(images, [{"boxes": torch.tensor([[8.0, 8, 40, 40]]), "labels": torch.tensor([1])}])
    assert losses["loss_box_reg"].isnan() and losses["loss_classifier"].isfinite()
    assert len(model.eval()(images)[0]["boxes"]) == 0


@pytest.mark.usefixtures("narrow")
def test_cascades_need_heads_of_their_own():
    with pytest.raises(UserError, match="cascade: needs box heads of its own, but neck c4 brings one"):
        detection.build("resnet18", 3, cascade=True, neck="c4", **SMALL)
    model = detection.build("resnet18", 3, **SMALL)
    with pytest.raises(UserError, match=r"nms=0\.4: has no effect with soft_nms"):
        Predictor(model, nms=0.4, soft_nms=True)


RECOMPUTED: dict[str, dict[str, Any]] = {
    "v2 with masks": {"version": "v2", "masks": True, "mask_channels": 16},
    "cascade of v2": {"cascade": True, "version": "v2"},
    "c4 with masks": {"neck": "c4", "masks": True},
}


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("options", RECOMPUTED.values(), ids=RECOMPUTED)
def test_recomputation_changes_no_bit(options: dict[str, Any]):
    """Losses, gradients and running statistics are those of a step that stores its activations."""
    states = []
    for recompute in (False, True):
        torch.manual_seed(0)
        model = detection.build("resnet18", 3, recompute=recompute, **options, **SMALL).train()
        losses = model(images_of((100, 140)), targets_of((100, 140)))
        sum(losses.values()).backward()
        gradients = {name: value.grad for name, value in model.named_parameters()}
        states.append({**losses, **gradients, **{f"buffer {name}": value for name, value in model.named_buffers()}})
    assert states[0].keys() == states[1].keys()
    assert [name for name, value in states[0].items() if not torch.equal(value, states[1][name])] == []
    assert any("num_batches_tracked" in name and int(value) == 1 for name, value in states[1].items())


def test_recomputation_stores_less():
    """The tensors that autograd keeps for the backward pass take at most 0.6 of the bytes."""
    kept = []
    for recompute in (False, True):
        torch.manual_seed(0)
        model = detection.build("resnet50", 3, recompute=recompute, min_size=256, max_size=256).train()
        model.freeze_stages(0)
        seen: dict[int, int] = {}

        def note(tensor: Tensor, seen: dict[int, int] = seen) -> Tensor:
            storage = tensor.untyped_storage()
            seen[storage.data_ptr()] = storage.nbytes()
            return tensor

        parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            sum(model(images_of((256, 256)), targets_of((256, 256))).values())
        kept.append(sum(size for at, size in seen.items() if at not in parameters))
    assert kept[1] <= 0.6 * kept[0], kept
