"""The mask branch of a Mask R-CNN (He et al. 2017): a small convolutional network on each RoI, and its loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor

from backbones.common.precision import at_least_fp32
from backbones.common.processes import weighted
from detection.necks import HEAD_NORMS, BoxHead, MapHead, Neck
from detection.roi_align import PyramidRoIAlign
from detection.settings import DetectorSettings
from detection.strips import MaskedRois, targets_of_images

CONVOLUTIONS = 4  # Mask R-CNN, figure 4: 3x3 convolutions before the deconvolution


class MaskPredictor(MaskRCNNPredictor):
    """Last layers of a mask branch: a deconvolution, ReLU and a 1x1 convolution with a row for each class.

    Weights and state-dict keys are torchvision's.
    """

    def of_class(self, maps: Tensor, labels: Tensor) -> Tensor:
        """Return the mask logits of each RoI's class `[R, M, M]`. The masks of the other classes are not computed.

        Args:
            maps: features of RoIs `[R, C, M / 2, M / 2]`.
            labels: class of each RoI `[R]`. With one mask for all classes, it is not read.
        """
        spread, last = self.conv5_mask, self.mask_fcn_logits
        rows = torch.zeros_like(labels) if last.out_channels == 1 else labels
        count, size = maps.shape[0], maps.shape[-1]
        # A deconvolution with stride 2 and kernel 2 is a matrix product: each cell becomes 2x2 cells, unmixed.
        kernel = spread.weight.permute(0, 2, 3, 1).flatten(1)
        cells = F.linear(maps.permute(0, 2, 3, 1).flatten(0, 2), kernel.T, spread.bias.repeat(4)).relu_()
        # Apply only the row of the RoI's class.
        row = last.weight[rows].flatten(1)[:, :, None]
        logits = cells.view(count, 4 * size**2, last.in_channels) @ row
        grid = at_least_fp32(logits + last.bias[rows][:, None, None]).view(count, size, size, 2, 2)
        return grid.transpose(2, 3).reshape(count, 2 * size, 2 * size)


class MaskParts(NamedTuple):
    """Layers of a mask branch. Their state-dict keys are torchvision's.

    Attributes:
        pool: maps features, boxes and image sizes to RoI features.
        head: maps RoI features `[R, C, size, size]` to features for the predictor.
        predictor: maps these features to mask logits of twice their side.
        side: number of cells along a side of a mask.
        pasting: rule by which masks are pasted into the image: aligned or torchvision.
    """

    pool: nn.Module
    head: nn.Module
    predictor: MaskPredictor
    side: int
    pasting: str = "aligned"


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
        predictor = MaskPredictor(box_head.out_channels, width, maps)
        return MaskParts(pool, nn.Identity(), predictor, neck.roi_size, settings.mask_pasting)
    roi_align = PyramidRoIAlign(neck.roi_features, settings.mask_size // 2, settings.roi_samples)
    norm = HEAD_NORMS[settings.head_norm]
    head = MaskRCNNHeads(neck.roi_features[0].channels, [width] * CONVOLUTIONS, 1, norm_layer=norm)
    predictor = MaskPredictor(width, width, maps)
    return MaskParts(roi_align, head, predictor, settings.mask_size, settings.mask_pasting)


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
        logits: those of each RoI's class `[R, M, M]`.
        boxes: for each image its positive RoIs `[P, 4]`. R is their number in all images.
        objects: for each image, the index of the true object of each RoI `[P]`.
        targets: `strips` `[S, 5]` of each image.
        image_shapes: height and width of each resized image.
    """
    loss = logits.sum() * 0  # torch's mean over nothing is NaN
    if len(logits):
        images = [
            MaskedRois(target["strips"], box, at, len(target["boxes"]), size)
            for target, box, at, size in zip(targets, boxes, objects, image_shapes, strict=True)
        ]
        masks = targets_of_images(images, logits.shape[-1])
        loss = F.binary_cross_entropy_with_logits(logits, masks.to(logits.dtype))
    return weighted({"loss_mask": loss}, logits.new_full((), len(logits)))["loss_mask"] if training else loss
