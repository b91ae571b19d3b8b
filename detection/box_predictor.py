"""The last layer of a box head, and its losses."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.ops import complete_box_iou_loss, generalized_box_iou_loss

from backbones.common.precision import at_least_fp32

BETA = 1 / 9  # the smooth L1 loss is quadratic below; torchvision's value
IOU_LOSSES = {"giou": generalized_box_iou_loss, "ciou": complete_box_iou_loss}
IOU_WEIGHT = 10.0  # MMDetection's weight of the GIoU loss, about as large as the smooth L1 loss of deltas


class BoxPredictor(FastRCNNPredictor):
    """Linear layers that map vectors `[R, in_channels]` to class logits `[R, K + 1]` and box deltas `[R, 4 * (K + 1)]`.

    Args:
        classes: number of classes with the background.
        class_agnostic: compute the same four deltas for all classes.
    """

    def __init__(self, in_channels: int, classes: int, *, class_agnostic: bool = False) -> None:
        super().__init__(in_channels, classes)
        self.repeats = classes if class_agnostic else 1
        if class_agnostic:
            self.bbox_pred = torch.nn.Linear(in_channels, 4)

    def forward(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Return class logits, background first, and the deltas of each class."""
        scores, deltas = super().forward(vectors)
        return scores, deltas.repeat(1, self.repeats) if self.repeats > 1 else deltas


def box_losses(
    logits: Tensor, deltas: Tensor, labels: Tensor, boxes: Tensor, truth: Tensor, *, coder: BoxCoder, kind: str
) -> tuple[Tensor, Tensor]:
    """Return the classification and box losses of Fast R-CNN (equation 1), both averaged over the RoIs.

    Args:
        logits: `[R, K + 1]`.
        deltas: `[R, 4 * (K + 1)]`, relative to the boxes.
        labels: class of each RoI `[R]`; 0 is the background.
        boxes: RoIs `[R, 4]` xyxy.
        truth: true boxes `[R, 4]` xyxy; those of the background are not read.
        coder: encodes and decodes deltas.
        kind: "smooth_l1" compares deltas; "giou" (Rezatofighi et al. 2019) and "ciou" (Zheng et al. 2020) compare
            boxes.
    """
    classifier = F.cross_entropy(logits, labels)
    # Compute the box loss of every RoI and mask the background: the number of positives would have to be read.
    positive = (labels > 0)[:, None]
    own = deltas.unflatten(1, (-1, 4)).gather(1, labels[:, None, None].expand(-1, 1, 4))[:, 0]
    if kind == "smooth_l1":
        true_deltas = torch.where(positive, coder.encode_single(truth, boxes), 0)
        each = F.smooth_l1_loss(own, true_deltas, beta=BETA, reduction="none")
    else:
        # Every background RoI is compared with itself, so that the values it is masked by are finite.
        moved = coder.decode_single(at_least_fp32(own), boxes).reshape(-1, 4)
        pair = torch.where(positive, moved, boxes), torch.where(positive, truth, boxes)
        each = IOU_WEIGHT * IOU_LOSSES[kind](*pair, reduction="none")[:, None]
    return classifier, torch.where(positive, each, 0).sum() / labels.numel()
