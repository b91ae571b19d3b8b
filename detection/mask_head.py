"""The mask branch of a Mask R-CNN (He et al. 2017): a small convolutional network on each RoI, and its loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor

from backbones.common.precision import at_least_fp32
from backbones.common.processes import relative_count
from detection.necks import BoxHead, MapHead, Neck
from detection.roi_align import PyramidRoIAlign
from detection.settings import DetectorSettings
from detection.strips import mask_targets

CONVOLUTIONS = 4  # Mask R-CNN, figure 4: 3x3 convolutions before the deconvolution


class MaskParts(NamedTuple):
    """Layers of a mask branch. Their state-dict keys are torchvision's.

    Attributes:
        pool: maps features, boxes and image sizes to RoI features.
        head: maps RoI features `[R, C, size, size]` to features for the predictor.
        predictor: maps these features to mask logits of twice their side, one map per class, background first; or one
            map for all classes.
        side: number of cells along a side of a mask.
    """

    pool: nn.Module
    head: nn.Module
    predictor: nn.Module
    side: int


def build_mask_parts(
    neck: Neck, pool: nn.Module, box_head: BoxHead, num_classes: int, settings: DetectorSettings
) -> MaskParts:
    """Build the mask branch.

    If the box head is a backbone's last stage, the branch reads the maps of that stage (figure 4, left). Otherwise it
    has four convolutions of its own (figure 4, right).

    Args:
        pool: the box head's RoIAlign.
        num_classes: number of object classes, not counting the background.
    """
    maps = 1 if settings.class_agnostic_masks else num_classes + 1
    width = settings.mask_channels
    if isinstance(box_head, MapHead):
        return MaskParts(pool, nn.Identity(), MaskRCNNPredictor(box_head.out_channels, width, maps), neck.roi_size)
    roi_align = PyramidRoIAlign(neck.roi_features, settings.mask_size // 2, settings.roi_samples)
    head = MaskRCNNHeads(neck.roi_features[0].channels, [width] * CONVOLUTIONS, 1)
    return MaskParts(roi_align, head, MaskRCNNPredictor(width, width, maps), settings.mask_size)


def of_class(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mask logits `[R, M, M]` of each RoI's class, out of `[R, K + 1, M, M]` or `[R, 1, M, M]`."""
    row = torch.zeros_like(labels) if logits.shape[1] == 1 else labels
    return at_least_fp32(logits[torch.arange(len(labels), device=labels.device), row])


def mask_loss(
    logits: Tensor,
    boxes: Sequence[Tensor],
    objects: Sequence[Tensor],
    targets: Sequence[dict[str, Tensor]],
    image_shapes: Sequence[tuple[int, int]],
    *,
    training: bool,
) -> Tensor:
    """Return the mean binary cross-entropy of the masks of positive RoIs (section 3), over all processes in training.

    Args:
        logits: `[R, K + 1, M, M]` or, if one mask serves all classes, `[R, 1, M, M]`.
        boxes: for each image its positive RoIs `[P, 4]`. R is their number in all images.
        objects: for each image, the index of the true object of each RoI `[P]`.
        targets: `labels` `[N]` and `strips` `[S, 5]` of each image.
        image_shapes: height and width of each resized image.
    """
    images = zip(targets, boxes, objects, image_shapes, strict=True)
    cut = [mask_targets(target["strips"], box, at, logits.shape[-1], size) for target, box, at, size in images]
    labels = torch.cat([target["labels"][at] for target, at in zip(targets, objects, strict=True)])
    weight = relative_count(labels.new_full((), len(labels))) if training else 1
    if not len(labels):
        return logits.sum() * 0  # torch's mean over nothing is NaN
    own = of_class(logits, labels)
    return F.binary_cross_entropy_with_logits(own, torch.cat(cut).to(own.dtype)) * weight
