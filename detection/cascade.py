"""Cascade heads (Cai and Vasconcelos 2018): three box heads, each trained on the boxes of the one before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.ops import clip_boxes_to_image

from backbones.common.precision import at_least_fp32
from detection.box_coder import CachedBoxCoder
from detection.box_predictor import BoxPredictor
from detection.matching import has_regions, ignore_negatives
from detection.necks import BoxHead
from detection.roi_heads import RoIHeads
from detection.rois import Sampled, Scored

IOUS = (0.5, 0.6, 0.7)  # section 4.1: a box is an object from this IoU
# Weights of the deltas, the inverse of their std, which falls from stage to stage. detectron2's values.
DELTA_WEIGHTS = ((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0))


class CascadeHeads(RoIHeads):
    """RoI heads of three stages, which regress boxes without regard to the class.

    Stage 1 is trained on sampled proposals; stages 2 and 3 on all boxes that the stage before made of them. In
    prediction, a box passes all stages, and its class probabilities are the mean of the stages' probabilities.

    Args:
        box_heads: one per stage.
    """

    def __init__(self, pool: nn.Module, box_heads: Sequence[BoxHead], num_classes: int, **options: Any) -> None:
        super().__init__(pool, box_heads[0], num_classes, class_agnostic_boxes=True, **options)
        width = self.box_predictor.cls_score.in_features
        self.later_heads = nn.ModuleList(box_heads[1:])
        self.later_predictors = nn.ModuleList(
            BoxPredictor(width, num_classes + 1, class_agnostic=True) for _ in box_heads[1:]
        )
        self.coders = [CachedBoxCoder(weights) for weights in DELTA_WEIGHTS[: len(box_heads)]]
        self.matchers = [Matcher(iou, iou, allow_low_quality_matches=False) for iou in IOUS[: len(box_heads)]]
        # Predictions are relative to the boxes of the stage before the last.
        self.box_coder = self.coders[-1]

    @property
    def stages(self) -> list[tuple[BoxHead, BoxPredictor, BoxCoder]]:
        """Return head, predictor and coder of each stage."""
        heads, predictors = [self.box_head, *self.later_heads], [self.box_predictor, *self.later_predictors]
        return list(zip(heads, predictors, self.coders, strict=True))

    def compilable(self) -> dict[str, nn.Module]:
        found = super().compilable()
        for number, (head, predictor, _) in enumerate(self.stages[1:], start=2):
            found |= {f"box head {number}": head, f"box predictor {number}": predictor}
        return found

    def score(self, features: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Scored:
        """Return the logarithms of the mean class probabilities `[R, K + 1]`, and the deltas of the last stage."""
        probabilities: list[Tensor] = []
        deltas = boxes[0].new_zeros(0)
        for number, (head, predictor, _) in enumerate(self.stages):
            if number:
                boxes = _moved(deltas, boxes, self.coders[number - 1], image_shapes)
            logits, deltas = predictor(self._vectors(features, boxes, image_shapes, head)[0])
            probabilities.append(at_least_fp32(logits).softmax(-1))
        return Scored(torch.stack(probabilities).mean(0).log(), deltas, boxes)

    def _losses(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]],
    ) -> dict[str, Tensor]:
        """Return the losses of all stages, and the mask loss on the positives of stage 1."""
        first = sampled = self.sample(proposals, targets)
        # The stages share the features, so each passes a third of its gradient on to them (as detectron2 does).
        shared = {name: _scaled_gradient(each, 1 / len(self.stages)) for name, each in features.items()}
        losses: dict[str, Tensor] = {}
        deltas = proposals[0].new_zeros(0)
        for number, (head, predictor, coder) in enumerate(self.stages):
            if number:
                boxes = _moved(deltas.detach(), sampled.boxes, self.coders[number - 1], image_shapes)
                sampled = self._labelled(boxes, targets, self.matchers[number])
            logits, deltas = predictor(self._vectors(shared, sampled.boxes, image_shapes, head)[0])
            losses |= self._weighted_losses(logits, deltas, sampled, coder, f"_{number + 1}" if number else "")
        if self.has_mask():
            losses["loss_mask"] = self._mask_loss(features, first, None, image_shapes, targets)
        return losses

    def _labelled(self, boxes: list[Tensor], targets: list[dict[str, Tensor]], matcher: Matcher) -> Sampled:
        """Return all boxes with their classes and true boxes by the IoU of a later stage."""
        truth = [target["boxes"].to(boxes[0].dtype) for target in targets]
        classes = [target["labels"] for target in targets]
        found = [self._assign(*image, matcher) for image in zip(boxes, truth, classes, strict=True)]
        matches, labels = map(list, zip(*found, strict=True))
        labels = ignore_negatives(labels, boxes, targets)
        return Sampled(boxes, matches, labels, self._matched(truth, matches), has_regions(targets))


def _moved(deltas: Tensor, boxes: list[Tensor], coder: BoxCoder, image_shapes: list[tuple[int, int]]) -> list[Tensor]:
    """Return the boxes of each image moved by class-agnostic deltas, and clipped to the image.

    NaN becomes 0, because such a box has no level of the pyramid. The losses and scores stay NaN.
    """
    found = coder.decode_single(at_least_fp32(deltas[:, :4]), torch.cat(boxes)).reshape(-1, 4)
    parts = found.nan_to_num(nan=0.0).split([len(each) for each in boxes])
    return [clip_boxes_to_image(each, size) for each, size in zip(parts, image_shapes, strict=True)]


def _scaled_gradient(x: Tensor, factor: float) -> Tensor:
    """Return `x`, whose gradient is multiplied by a factor."""
    return x.detach() + (x - x.detach()) * factor if x.requires_grad else x
