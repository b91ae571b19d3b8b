"""torchvision's proposal net and RoI heads, taught to leave ignored regions alone.

A crowd or ignore region is neither object nor background: an anchor or proposal that would be a negative, but lies
mostly inside such a region, takes no loss.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads as TorchvisionRoIHeads
from torchvision.models.detection.roi_heads import fastrcnn_loss
from torchvision.models.detection.rpn import RegionProposalNetwork, concat_box_prediction_layers

IGNORED_SHARE = 0.5  # of a box's own area inside one ignored region
IGNORE = -1  # a label that torchvision's samplers pass over


class RegionProposals(RegionProposalNetwork):
    """The RPN; targets may hold `ignore`, boxes `[K, 4]` xyxy."""

    def predict_with_losses(
        self, images: ImageList, features: dict[str, Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """The proposals of evaluation mode, and the losses that torchvision computes in training mode alone."""
        maps = list(features.values())
        scores, deltas = self.head(maps)
        anchors = self.anchor_generator(images, maps)
        counts = [level[0].numel() for level in scores]
        scores, deltas = concat_box_prediction_layers(scores, deltas)
        boxes = self.box_coder.decode(deltas.detach(), anchors).view(len(anchors), -1, 4)
        proposals, _ = self.filter_proposals(boxes, scores, images.image_sizes, counts)
        labels, matched = self.assign_targets_to_anchors(anchors, targets)
        objectness, regression = self.compute_loss(scores, deltas, labels, self.box_coder.encode(matched, anchors))
        return proposals, {"loss_objectness": objectness, "loss_rpn_box_reg": regression}

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        labels, boxes = super().assign_targets_to_anchors(anchors, targets)
        return pass_over_ignored(labels, anchors, targets), boxes


class RoIHeads(TorchvisionRoIHeads):
    """The box heads; targets may hold `ignore`, boxes `[K, 4]` xyxy."""

    def predict_with_losses(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]],
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """The detections of evaluation mode, and the losses of a sample of the same proposals."""
        detections, _ = self(features, proposals, image_shapes)
        sampled, _, labels, offsets = self.select_training_samples(proposals, targets)
        logits, deltas = self.box_predictor(self.box_head(self.box_roi_pool(features, sampled, image_shapes)))
        classifier, regression = fastrcnn_loss(logits, deltas, labels, offsets)
        return detections, {"loss_classifier": classifier, "loss_box_reg": regression}

    def select_training_samples(
        self, proposals: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
        # torchvision's own assignment does not see the targets' other entries: it finds them here.
        self._targets = targets
        try:
            return super().select_training_samples(proposals, targets)
        finally:
            del self._targets

    def assign_targets_to_proposals(
        self, proposals: list[Tensor], gt_boxes: list[Tensor], gt_labels: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        matches, labels = super().assign_targets_to_proposals(proposals, gt_boxes, gt_labels)
        return matches, pass_over_ignored(labels, proposals, self._targets)


def pass_over_ignored(labels: list[Tensor], boxes: list[Tensor], targets: list[dict[str, Tensor]]) -> list[Tensor]:
    """Turn negatives (label 0) that lie mostly inside an image's ignored regions into `IGNORE`.

    Where that would leave nothing to sample in the whole batch, the labels stay: a mean over nothing is no number.
    """
    passed = [_passed_over(*image) for image in zip(labels, boxes, targets, strict=True)]
    return passed if any((label >= 0).any() for label in passed) else labels


def _passed_over(labels: Tensor, boxes: Tensor, target: dict[str, Tensor]) -> Tensor:
    regions = target.get("ignore")
    if regions is None or not len(regions):
        return labels
    inside = largest_share(boxes, regions) >= IGNORED_SHARE
    return torch.where((labels == 0) & inside, IGNORE, labels)


def largest_share(boxes: Tensor, regions: Tensor) -> Tensor:
    """For each box `[N, 4]` the largest share of its area that lies inside one of the regions `[K, 4]`: `[N]`."""
    shares = torch.zeros(len(boxes), device=boxes.device)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1).clamp(min=1e-6)
    for region in regions:  # few regions: a loop keeps memory at one value a box
        corner = torch.maximum(boxes[:, :2], region[:2])
        overlap = (torch.minimum(boxes[:, 2:], region[2:]) - corner).clamp(min=0).prod(dim=1)
        shares = torch.maximum(shares, overlap / area)
    return shares
