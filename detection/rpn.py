"""Region proposal network (Faster R-CNN, section 3.1) whose loss is computed at sampled anchors only.

Proposals come from the head's output maps, which are computed without a gradient. For the loss, the head is
computed again at the sampled anchors, a few hundred positions per image. So the maps need not be stored, and the
gradient is not computed over whole images.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import AnchorGenerator, RegionProposalNetwork, RPNHead
from torchvision.ops import clip_boxes_to_image

from backbones import FeatureInfo
from backbones.blocks import recomputed
from backbones.common import devices
from backbones.common.precision import at_least_fp32
from backbones.common.processes import weighted
from detection.box_coder import CachedBoxCoder
from detection.matching import IGNORE, ignore_negatives, match_boxes
from detection.sampling import sample_of_images
from detection.suppression import Candidates, best_of_images

ASPECT_RATIOS = (0.5, 1.0, 2.0)
# Relative sides of the anchors of a single level, which must carry all sizes: 32..512 pixels at stride 16.
SINGLE_LEVEL_SCALES = (2, 4, 8, 16, 32)
Outputs = tuple[list[Tensor], list[Tensor]]  # scores and deltas of each level
BETA = 1 / 9  # the smooth L1 loss is quadratic below; torchvision's value


class Anchors(AnchorGenerator):
    """Generates anchor boxes, in float32 for features of 16 bits.

    bf16 would round coordinates above 256 to even numbers.

    With several levels (FPN), the anchors of a level have one size, `scale` times its stride (Lin et al. 2017, section
    4.1). With a single level, they have five sizes.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._made: dict[tuple[object, ...], Tensor] = {}

    @classmethod
    def for_features(cls, features: Sequence[FeatureInfo], scale: float) -> Anchors:
        """Return the anchor generator for features of given strides.

        Args:
            scale: side of an anchor divided by the stride of its level.
        """
        sizes: list[tuple[int, ...]]
        if len(features) > 1:
            sizes = [(int(scale * info.stride),) for info in features]
        else:
            sizes = [tuple(int(scale / 8 * each * features[0].stride) for each in SINGLE_LEVEL_SCALES)]
        return cls(tuple(sizes), (ASPECT_RATIOS,) * len(sizes))

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """Return the anchors `[A, 4]` xyxy of each image. They are computed once for each size of the batch."""
        first = [at_least_fp32(features[:1, :1]) for features in feature_maps]
        if torch.jit.is_tracing() or torch.compiler.is_compiling():
            return super().forward(image_list, first)
        shapes = tuple(features.shape for features in (image_list.tensors[:1], *first))
        key = (*shapes, first[0].dtype, first[0].device, torch.is_inference_mode_enabled())
        made = self._made.get(key)
        if made is None:
            made = super().forward(ImageList(image_list.tensors, image_list.image_sizes[:1]), first)[0]
            # Forget the sizes of earlier batches: multi-scale training has many. Another thread may do the same.
            self._made = {key: made}
        return [made] * len(image_list.image_sizes)


class SparseRPNHead(RPNHead):
    """torchvision's RPN head. With one 3x3 convolution it can also be computed at single positions of the maps.

    Args:
        channels: number of channels of the maps.
        anchors: number of anchors at each position.
        depth: number of 3x3 convolutions.
    """

    def __init__(self, channels: int, anchors: int, depth: int) -> None:
        super().__init__(channels, anchors, conv_depth=depth)
        self.is_sparse = depth == 1

    def at(self, neighbours: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores `[K, A]` and box deltas `[K, A, 4]` of the A anchors at each of K positions.

        Args:
            neighbours: features in the 3x3 neighbourhood of each position, `[K, 9 * C]`, row by row.
        """
        conv = self.conv[0][0]
        # Reshape the weights and add the biases separately. Autocast caches its 16-bit copy of a parameter, and that
        # copy has no gradient if it was made while the proposals were computed; a view gets a copy of its own.
        hidden = F.relu(F.linear(neighbours, conv.weight.permute(0, 2, 3, 1).flatten(1)) + conv.bias)
        scores = F.linear(hidden, self.cls_logits.weight.flatten(1)) + self.cls_logits.bias
        deltas = F.linear(hidden, self.bbox_pred.weight.flatten(1)) + self.bbox_pred.bias
        return scores, deltas.unflatten(1, (-1, 4))


class RPN(RegionProposalNetwork):
    """Region proposal network. Targets may contain `ignore`: regions `[K, 4]` xyxy without negative loss.

    Args:
        features: the levels that proposals are read from, finest first, all with the same number of channels.
        anchor_scale: side of an anchor divided by the stride of its level.
        proposals: number of proposals per image after NMS in evaluation; training uses twice as many.
        depth: number of 3x3 convolutions in the head. With several, the loss is computed from the maps of the whole
            images, whose gradient takes more memory.
    """

    head: SparseRPNHead

    def __init__(self, features: Sequence[FeatureInfo], *, anchor_scale: float, proposals: int, depth: int = 1) -> None:
        anchors = Anchors.for_features(features, anchor_scale)
        top_n = {"training": 2 * proposals, "testing": proposals}
        super().__init__(
            anchors,
            SparseRPNHead(features[0].channels, anchors.num_anchors_per_location()[0], depth),
            fg_iou_thresh=0.7,  # section 3.1.2: an anchor is positive above this IoU, or if no other is closer
            bg_iou_thresh=0.3,  # section 3.1.2: an anchor is negative below this IoU
            batch_size_per_image=256,  # section 3.1.3: sample 256 anchors per image, at most half of them positive
            positive_fraction=0.5,
            pre_nms_top_n=top_n,
            post_nms_top_n=top_n,
            nms_thresh=0.7,  # section 3.3
        )
        self.box_coder = CachedBoxCoder((1.0, 1.0, 1.0, 1.0))
        self.recomputes = False  # compute the head again in the backward pass

    def forward(
        self, images: ImageList, features: dict[str, Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Return the proposals `[P, 4]` xyxy of each image, and in training mode the losses."""
        maps = list(features.values())
        anchors, outputs = self.anchor_generator(images, maps), self._outputs(maps)
        boxes = self._propose(outputs, anchors[0], images.image_sizes)
        return boxes, self._losses(maps, outputs, anchors, targets) if self.training and targets is not None else {}

    def predict_with_losses(
        self, images: ImageList, features: dict[str, Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Return proposals as in evaluation mode, and the training losses."""
        maps = list(features.values())
        anchors, outputs = self.anchor_generator(images, maps), self._outputs(maps)
        proposals = self._propose(outputs, anchors[0], images.image_sizes)
        return proposals, self._losses(maps, outputs, anchors, targets)

    def _outputs(self, maps: list[Tensor]) -> Outputs:
        """Return scores and deltas at all anchors, for each level one `[N, cells * A]` and one `[N, cells * A * 4]`.

        A sparse head computes them without a gradient, and is computed again at the sampled anchors.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.head.is_sparse):
            found = recomputed(self.head, maps) if self.recomputes and self.training else self.head(maps)
            scores, deltas = ([each.permute(0, 2, 3, 1).flatten(1) for each in of_levels] for of_levels in found)
        return scores, deltas

    @torch.no_grad()
    def _propose(self, outputs: Outputs, anchors: Tensor, image_sizes: list[tuple[int, int]]) -> list[Tensor]:
        """Return the proposals `[P, 4]` of each image. Only the best anchors of each level are decoded."""
        scores, deltas = outputs
        counts = [found.shape[1] for found in scores]
        objectness = torch.cat(scores, dim=1)
        # Choose the best anchors of each level.
        top = self._get_top_n_idx(objectness, counts)
        # Decode their boxes, in float32 or more.
        chosen = torch.cat(deltas, dim=1).unflatten(1, (-1, 4)).gather(1, top[..., None].expand(-1, -1, 4))
        decoded = self.box_coder.decode_single(at_least_fp32(chosen).flatten(0, 1), anchors[top].flatten(0, 1))
        # Clip to the image, remove tiny boxes, apply NMS on each level, and keep the best of all levels.
        kept = [min(self.pre_nms_top_n(), count) for count in counts]
        found = at_least_fp32(objectness.gather(1, top))
        boxes = decoded.view(*top.shape, 4)
        if devices.reading_waits(boxes.device):
            return self._filter_together(boxes, found.sigmoid(), image_sizes, kept)
        return self.filter_proposals(boxes, found, image_sizes, kept)[0]

    def _filter_together(
        self, boxes: Tensor, scores: Tensor, image_sizes: list[tuple[int, int]], counts: list[int]
    ) -> list[Tensor]:
        """Return the proposals `[P, 4]` of each image that `filter_proposals` keeps, with few calls for all images.

        Args:
            boxes: the best boxes of each image `[N, B, 4]`, level by level.
            scores: their scores in 0..1 `[N, B]`.
            counts: number of boxes of each level.
        """
        clipped = torch.cat([clip_boxes_to_image(own, size) for own, size in zip(boxes, image_sizes, strict=True)])
        levels = torch.cat([torch.full((count,), n, device=boxes.device) for n, count in enumerate(counts)])
        sides, flat = clipped[:, 2:] - clipped[:, :2], scores.flatten()
        candidates = Candidates(
            clipped,
            flat,
            levels.repeat(len(boxes)),
            (sides >= self.min_size).all(1) & (flat >= self.score_thresh),
            sizes=[sum(counts)] * len(boxes),
            count=len(counts),
        )
        found = best_of_images(candidates, threshold=self.nms_thresh, most=self.post_nms_top_n())
        return [clipped[each] for each in found]

    def _losses(
        self, maps: list[Tensor], outputs: Outputs, anchors: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Return the objectness and box losses of Faster R-CNN (equation 1), both averaged over the sampled anchors."""
        # Label all anchors, then sample positives and negatives. Indices count the anchors of all images.
        labels, truth = self.assign_targets_to_anchors(anchors, targets)
        positive, negative = self._sample(labels)
        sampled = torch.cat([positive, negative])
        # Compute a sparse head at the sampled anchors, now with a gradient; pick them from the outputs of another one.
        scores, deltas = self._predict(maps, sampled) if self.head.is_sparse else _picked(outputs, sampled)
        # Box loss: smooth L1 between predicted and true deltas (equation 2) of the positives.
        true_deltas = self.box_coder.encode_single(torch.cat(truth)[positive], torch.cat(anchors)[positive])
        box_loss = F.smooth_l1_loss(deltas[: len(positive)], true_deltas, beta=BETA, reduction="sum") / len(sampled)
        # Score loss: binary cross-entropy of object against background.
        score_loss = F.binary_cross_entropy_with_logits(scores, torch.cat(labels)[sampled])
        # Turn the means over this process's samples into means over the samples of all processes.
        losses = {"loss_objectness": score_loss, "loss_rpn_box_reg": box_loss}
        return weighted(losses, scores.new_full((), len(sampled))) if self.training else losses

    def _sample(self, labels: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the indices, over all images, of the sampled positives and of the sampled negatives."""
        if not devices.reading_waits(labels[0].device):
            positive, negative = (torch.where(torch.cat(part))[0] for part in self.fg_bg_sampler(labels))
            return positive, negative
        found = sample_of_images(labels, self.fg_bg_sampler)
        begins = [0, *accumulate(len(label) for label in labels)]
        positive, negative = (
            torch.cat([own + begin for own, begin in zip(part, begins, strict=False)])
            for part in zip(*found, strict=True)
        )
        return positive, negative

    def _predict(self, maps: list[Tensor], sampled: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores `[S]` and box deltas `[S, 4]` of S anchors, given by their indices over all images."""
        count = self.anchor_generator.num_anchors_per_location()[0]  # the same on every level, as the head is
        if devices.reading_waits(sampled.device):
            scores, deltas = self.head.at(_neighbours_by_masks(maps, sampled // count))
            each = torch.arange(len(sampled), device=sampled.device)
            return scores[each, sampled % count], deltas[each, sampled % count]
        # Find the cells of the anchors; a cell is computed once, however many of its anchors are sampled.
        cells, which = torch.unique(sampled // count, return_inverse=True)
        ends = list(accumulate(features[0, 0].numel() for features in maps))
        image, within = cells // ends[-1], cells % ends[-1]
        # Collect the 3x3 neighbourhoods level by level.
        neighbours, order = [], []
        for features, begin, end in zip(maps, [0, *ends], ends, strict=False):
            here = torch.where((within >= begin) & (within < end))[0]
            neighbours.append(_neighbours(features, image[here], within[here] - begin))
            order.append(here)
        # Restore the order of the cells, compute the head, and pick the sampled anchors of each cell.
        scores, deltas = self.head.at(torch.cat(neighbours)[torch.cat(order).argsort()])
        return scores[which, sampled % count], deltas[which, sampled % count]

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return labels `[A]` (1 object, 0 background, -1 unused) and true boxes `[A, 4]` of each image's anchors."""
        found = [self._assign(*image) for image in zip(anchors, targets, strict=True)]
        labels, boxes = map(list, zip(*found, strict=True))
        return ignore_negatives(labels, anchors, targets), boxes

    def _assign(self, anchors: Tensor, target: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return labels `[A]` and true boxes `[A, 4]` of one image's anchors."""
        if not len(target["boxes"]):
            return anchors.new_zeros(len(anchors), dtype=torch.float32), torch.zeros_like(anchors)
        matches = match_boxes(target["boxes"], anchors, self.proposal_matcher)
        labels = (matches >= 0).float()
        labels[matches == self.proposal_matcher.BETWEEN_THRESHOLDS] = IGNORE
        return labels, target["boxes"][matches.clamp(min=0)]


def _picked(outputs: Outputs, sampled: Tensor) -> tuple[Tensor, Tensor]:
    """Return scores `[S]` and box deltas `[S, 4]` of S anchors, given by their indices over all images."""
    scores, deltas = (torch.cat(of_levels, dim=1) for of_levels in outputs)
    return scores.flatten()[sampled], deltas.reshape(-1, 4)[sampled]


def _neighbours_by_masks(maps: list[Tensor], cells: Tensor) -> Tensor:
    """Return the features in the 3x3 neighbourhoods of S cells, given by their indices over all images and levels.

    Every cell is looked up on every level, so that no number of cells must be known.
    """
    ends = list(accumulate(features[0, 0].numel() for features in maps))
    image, within = cells // ends[-1], cells % ends[-1]
    found = []
    for features, begin, end in zip(maps, [0, *ends], ends, strict=False):
        here = (within >= begin) & (within < end)
        found.append(
            torch.where(here[:, None], _neighbours(features, image, (within - begin).clamp(0, end - begin - 1)), 0)
        )
    return torch.stack(found).sum(0)


def _neighbours(features: Tensor, image: Tensor, cell: Tensor) -> Tensor:
    """Return the features in the 3x3 neighbourhoods of S positions, `[S, 9 * C]`. Values outside the map are 0.

    Args:
        features: `[N, C, H, W]`.
        image: index of the image of each cell `[S]`.
        cell: index of each cell in its map, row by row `[S]`.
    """
    channels, height, width = features.shape[1:]
    steps = torch.arange(-1, 2, device=cell.device)
    rows, columns = (cell // width)[:, None] + steps, (cell % width)[:, None] + steps
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    lines = image[:, None] * height + rows.clamp(0, height - 1)
    indices = lines[:, :, None] * width + columns.clamp(0, width - 1)[:, None, :]
    table = features.permute(0, 2, 3, 1).reshape(-1, channels)
    # Look the cells up as an embedding: the gradient of indexing is summed value by value on one thread.
    return (F.embedding(indices, table) * inside[..., None]).flatten(1)
