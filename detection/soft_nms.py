"""Soft-NMS: lowers the scores of overlapping boxes instead of removing them (Bodla et al. 2017)."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import box_iou

SIGMA = 0.5  # the paper's value for the Gaussian penalty (section 5)


def soft_nms(boxes: Tensor, scores: Tensor, labels: Tensor, *, most: int, least_score: float) -> tuple[Tensor, Tensor]:
    """Return the indices of the kept boxes, the best first, and their lowered scores.

    The box with the largest score is kept, and the scores of the other boxes of its class are multiplied by
    exp(-IoU^2 / SIGMA) (equation 3); this is repeated.

    Args:
        boxes: `[N, 4]` xyxy.
        scores: `[N]`, 0 or above.
        labels: class of each box `[N]`.
        most: largest number of boxes to keep.
        least_score: boxes whose score falls to this value or below are left out.
    """
    left, kept, found = scores.clone(), [], []
    for _ in range(min(most, len(boxes))):
        best = left.argmax()
        kept.append(best)
        found.append(left[best])
        overlap = box_iou(boxes[best][None], boxes)[0] * (labels == labels[best])
        left = left * torch.exp(-overlap.square() / SIGMA)
        left[best] = -1
    if not kept:
        return torch.zeros(0, dtype=torch.int64, device=boxes.device), scores
    lowered = torch.stack(found)
    good = lowered > least_score
    return torch.stack(kept)[good], lowered[good]
