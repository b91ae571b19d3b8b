"""The region proposal network: torchvision's, with a loss that costs only what is sampled for it.

Proposals are read from the head's maps without a gradient; the loss computes the head again at the sampled anchors, a
few hundred cells an image, so that its maps are not kept and no gradient runs over whole images.
"""

from __future__ import annotations

from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import AnchorGenerator, RegionProposalNetwork, RPNHead

from backbones.common.processes import share
from detection.matching import match_boxes
from detection.roi_heads import pass_over_ignored

BETA = 1 / 9  # where the box loss turns from square to linear, as torchvision has it


class Anchors(AnchorGenerator):
    """Anchors in float32, whatever the features are: 16 bits place those beyond 256 pixels on even ones only."""

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        return super().forward(image_list, [features[:1, :1].float() for features in feature_maps])


class ProposalHead(RPNHead):
    """torchvision's head of one 3x3 convolution, which can also be asked at single cells."""

    def at(self, neighbours: Tensor) -> tuple[Tensor, Tensor]:
        """Scores `[K, A]` and box deltas `[K, A, 4]` of the anchors of some cells.

        Args:
            neighbours: features of the cells' 3x3 neighbourhoods `[K, 9 * C]`, row by row.
        """
        conv = self.conv[0][0]
        # Weights as views, biases added apart: autocast keeps a parameter's copy, and the head's were made without a
        # gradient when it ran over the maps.
        hidden = F.relu(F.linear(neighbours, conv.weight.permute(0, 2, 3, 1).flatten(1)) + conv.bias)
        scores = F.linear(hidden, self.cls_logits.weight.flatten(1)) + self.cls_logits.bias
        deltas = F.linear(hidden, self.bbox_pred.weight.flatten(1)) + self.bbox_pred.bias
        return scores, deltas.unflatten(1, (-1, 4))


class RegionProposals(RegionProposalNetwork):
    """The RPN; targets may hold `ignore`, boxes `[K, 4]` xyxy."""

    head: ProposalHead

    def forward(
        self, images: ImageList, features: dict[str, Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        maps = list(features.values())
        anchors = self.anchor_generator(images, maps)
        boxes = self._propose(maps, anchors[0], images.image_sizes)
        return boxes, self._losses(maps, anchors, targets) if self.training and targets is not None else {}

    def predict_with_losses(
        self, images: ImageList, features: dict[str, Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """The proposals of evaluation mode, and the losses that training mode alone computes."""
        maps = list(features.values())
        anchors = self.anchor_generator(images, maps)
        return self._propose(maps, anchors[0], images.image_sizes), self._losses(maps, anchors, targets)

    @torch.no_grad()
    def _propose(self, maps: list[Tensor], anchors: Tensor, image_sizes: list[tuple[int, int]]) -> list[Tensor]:
        """Boxes `[P, 4]` for each image; only the best of each level are decoded."""
        scores, deltas = (
            [found.permute(0, 2, 3, 1).flatten(1) for found in of_levels] for of_levels in self.head(maps)
        )
        counts = [found.shape[1] for found in scores]
        objectness = torch.cat(scores, dim=1)
        top = self._get_top_n_idx(objectness, counts)
        chosen = torch.cat(deltas, dim=1).unflatten(1, (-1, 4)).gather(1, top[..., None].expand(-1, -1, 4))
        decoded = self.box_coder.decode_single(chosen.float().flatten(0, 1), anchors[top].flatten(0, 1))
        kept = [min(self.pre_nms_top_n(), count) for count in counts]
        found = objectness.gather(1, top).float()
        return self.filter_proposals(decoded.view(*top.shape, 4), found, image_sizes, kept)[0]

    def _losses(self, maps: list[Tensor], anchors: list[Tensor], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        labels, truth = self.assign_targets_to_anchors(anchors, targets)
        positive, negative = (torch.where(torch.cat(part))[0] for part in self.fg_bg_sampler(labels))
        sampled = torch.cat([positive, negative])
        scores, deltas = self._predict(maps, sampled)
        wanted = self.box_coder.encode_single(torch.cat(truth)[positive], torch.cat(anchors)[positive])
        box_loss = F.smooth_l1_loss(deltas[: len(positive)], wanted, beta=BETA, reduction="sum") / len(sampled)
        score_loss = F.binary_cross_entropy_with_logits(scores, torch.cat(labels)[sampled])
        # Means over the samples of all processes that train together.
        weight = share(torch.tensor(float(len(sampled)), device=scores.device)) if self.training else 1
        return {"loss_objectness": score_loss * weight, "loss_rpn_box_reg": box_loss * weight}

    def _predict(self, maps: list[Tensor], sampled: Tensor) -> tuple[Tensor, Tensor]:
        """The head at anchors given by their places among those of all images `[S]`: scores `[S]`, deltas `[S, 4]`."""
        count = self.anchor_generator.num_anchors_per_location()[0]  # one head: as many on every level
        cells, which = torch.unique(sampled // count, return_inverse=True)
        ends = list(accumulate(features[0, 0].numel() for features in maps))
        image, within = cells // ends[-1], cells % ends[-1]
        neighbours, order = [], []
        for features, begin, end in zip(maps, [0, *ends], ends, strict=False):
            here = torch.where((within >= begin) & (within < end))[0]
            neighbours.append(_neighbours(features, image[here], within[here] - begin))
            order.append(here)
        scores, deltas = self.head.at(torch.cat(neighbours)[torch.cat(order).argsort()])
        return scores[which, sampled % count], deltas[which, sampled % count]

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Labels `[A]` (1 object, 0 background, -1 neither) and true boxes `[A, 4]` of each image's anchors."""
        found = [self._assign(*image) for image in zip(anchors, targets, strict=True)]
        labels, boxes = map(list, zip(*found, strict=True))
        return pass_over_ignored(labels, anchors, targets), boxes

    def _assign(self, anchors: Tensor, target: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        if not len(target["boxes"]):
            return anchors.new_zeros(len(anchors)), torch.zeros_like(anchors)
        matches = match_boxes(target["boxes"], anchors, self.proposal_matcher)
        labels = (matches >= 0).float()
        labels[matches == self.proposal_matcher.BETWEEN_THRESHOLDS] = -1
        return labels, target["boxes"][matches.clamp(min=0)]


def _neighbours(features: Tensor, image: Tensor, cell: Tensor) -> Tensor:
    """3x3 neighbourhoods of cells `[S]` (row by row) of images `[S]` in `[N, C, H, W]`: `[S, 9 * C]`, 0 outside."""
    channels, height, width = features.shape[1:]
    steps = torch.arange(-1, 2, device=cell.device)
    rows, columns = (cell // width)[:, None] + steps, (cell % width)[:, None] + steps
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    lines = image[:, None] * height + rows.clamp(0, height - 1)
    places = lines[:, :, None] * width + columns.clamp(0, width - 1)[:, None, :]
    table = features.permute(0, 2, 3, 1).reshape(-1, channels)
    # An embedding, because indexing adds its gradients value by value on one thread.
    return (F.embedding(places, table) * inside[..., None]).flatten(1)
