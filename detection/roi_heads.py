"""torchvision's RoI heads, taught to leave ignored regions alone, to share their means, and to see the whole image.

A crowd or ignore region is neither object nor background: an anchor or proposal that would be a negative, but lies
mostly inside such a region, takes no loss.

torchvision's losses are means over the sampled boxes of a process. Processes that train together weigh them by their
numbers of samples, so that their mean is that over the samples of all.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.models.detection.roi_heads import RoIHeads as TorchvisionRoIHeads
from torchvision.models.detection.roi_heads import fastrcnn_loss

from backbones.common.processes import share
from detection.matching import match_boxes

IGNORED_SHARE = 0.5  # of a box's own area inside one ignored region
IGNORE = -1  # a label that torchvision's samplers pass over


class RoIHeads(TorchvisionRoIHeads):
    """The box heads; targets may hold `ignore`, boxes `[K, 4]` xyxy.

    Attributes:
        context: join to each box's feature that of its whole image, pooled and passed through the same layers (He et
            al. 2016, appendix B); the predictor is then twice as wide.
    """

    context: bool = False

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        if self.training and targets is not None:
            return [], self._losses(features, proposals, image_shapes, targets)
        found = self.postprocess_detections(*self.score(features, proposals, image_shapes), proposals, image_shapes)
        return [
            {"boxes": boxes, "labels": labels, "scores": scores} for boxes, scores, labels in zip(*found, strict=True)
        ], {}

    def predict_with_losses(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]],
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """The detections of evaluation mode, and the losses of a sample of the same proposals."""
        detections, _ = self(features, proposals, image_shapes)
        return detections, self._losses(features, proposals, image_shapes, targets)

    def score(
        self, features: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> tuple[Tensor, Tensor]:
        """Class logits `[R, K + 1]`, background first, and deltas `[R, 4 * (K + 1)]` of each image's boxes `[B, 4]`."""
        if not self.context:
            return self.box_predictor(self.box_head(self.box_roi_pool(features, boxes, image_shapes)))
        whole = [b.new_tensor([[0, 0, width, height]]) for b, (height, width) in zip(boxes, image_shapes, strict=True)]
        seen = [torch.cat(pair) for pair in zip(whole, boxes, strict=True)]
        found = self.box_head(self.box_roi_pool(features, seen, image_shapes)).split([len(b) for b in seen])
        joined = [torch.cat([own[1:], own[:1].expand(len(own) - 1, -1)], dim=1) for own in found]
        return self.box_predictor(torch.cat(joined))

    def _losses(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]],
    ) -> dict[str, Tensor]:
        sampled, _, labels, offsets = self.select_training_samples(proposals, targets)
        logits, deltas = self.score(features, sampled, image_shapes)
        classifier, regression = fastrcnn_loss(logits, deltas, labels, offsets)
        weight = share(labels[0].new_full((), len(logits))) if self.training else 1
        return {"loss_classifier": classifier * weight, "loss_box_reg": regression * weight}

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
        found = [self._assign(*image) for image in zip(proposals, gt_boxes, gt_labels, strict=True)]
        matches, labels = map(list, zip(*found, strict=True))
        return matches, pass_over_ignored(labels, proposals, self._targets)

    def _assign(self, proposals: Tensor, truth: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        if not len(truth):
            nothing = torch.zeros(len(proposals), dtype=torch.int64, device=proposals.device)
            return nothing, nothing.clone()
        matches = match_boxes(truth, proposals, self.proposal_matcher)
        labels = torch.where(matches >= 0, classes[matches.clamp(min=0)], 0)
        labels[matches == self.proposal_matcher.BETWEEN_THRESHOLDS] = IGNORE
        return matches.clamp(min=0), labels

    def postprocess_detections(
        self,
        class_logits: Tensor,
        box_regression: Tensor,
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        # 16 bits would place boxes beyond 256 pixels on even ones only.
        return super().postprocess_detections(class_logits.float(), box_regression.float(), proposals, image_shapes)


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
