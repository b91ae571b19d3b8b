"""Faster R-CNN as one graph of tensor operations for a batch of images, without branches of Python."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import nms, roi_align

import detection
from detection.cascade import CascadeHeads
from detection.necks import BoxHead, MapHead
from detection.roi_align import PyramidRoIAlign

# Shortest sides of proposals and of detections in pixels, as in torchvision.
LEAST_PROPOSAL, LEAST_DETECTION = 1e-3, 1e-2
MOST_ROIS = 1 << 31


class DetectorGraph(nn.Module):
    """Faster R-CNN for a batch of images `[N, 3, H, W]` of any size.

    It computes what `detection.FasterRCNN` computes in evaluation mode. A RoI `[5]` is the index of its image in the
    batch and a box xyxy. One suppression serves all images, levels and classes: the boxes of each group are shifted far
    apart.

    Args:
        model: the detector, in evaluation mode.
        nms_threshold: IoU above which the weaker of two detections of a class is removed.
        suppress: whether to leave out low scores and overlapping boxes. Otherwise the graph returns the scores and
            boxes of all proposals.
    """

    def __init__(self, model: detection.FasterRCNN, nms_threshold: float, *, suppress: bool = True) -> None:
        super().__init__()
        self.backbone, self.rpn, self.heads = model.backbone, model.rpn, model.roi_heads
        self.nms_threshold, self.suppress = nms_threshold, suppress

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        """Return the detections of all images, the highest scores first.

        Args:
            images: `[N, 3, H, W]`, normalised, with zeros right of the content and below it.
            sizes: height and width of the content of each image `[N, 2]`, in pixels.

        Returns:
            Boxes `[D, 4]` xyxy in pixels of the content, scores `[D]` in 0..1, labels `[D]` from 1, and the index of
                the image of each detection `[D]`; with a mask branch also masks `[D, M, M]`: probabilities in the cells
                of a grid over each box. Without suppression, boxes `[R, K, 4]` and scores `[R, K]` of each class, and
                the index of the image of each proposal `[R]`.
        """
        features = self.backbone(images)
        anchors = self._anchors(list(features.values()), images.shape[-2], images.shape[-1])
        rois = self._proposals(list(features.values()), anchors, sizes)
        logits, deltas, rois = self._scored(features, rois, sizes)
        owners = rois[:, 0].long()
        boxes = self.heads.box_coder.decode_single(deltas, rois[:, 1:]).unflatten(1, (-1, 4))
        boxes, scores = _clip(boxes, sizes[owners][:, None])[:, 1:], logits.softmax(-1)[:, 1:]
        if not self.suppress:
            return boxes, scores, owners
        boxes, scores, labels, owners = self.suppressed(boxes, scores, owners, sizes.shape[0])
        if not self.heads.has_mask():
            return boxes, scores, labels, owners
        return boxes, scores, labels, owners, self._masks(features, _rois(owners, boxes), labels)

    def _masks(self, features: dict[str, Tensor], rois: Tensor, labels: Tensor) -> Tensor:
        """Return the masks `[D, M, M]` of RoIs `[D, 5]` of the classes `labels` `[D]`."""
        pooled, head = self._pooled(features, rois, self.heads.mask_roi_pool), self.heads.box_head
        maps = head.maps(pooled) if isinstance(head, MapHead) else self.heads.mask_head(pooled)
        return self.heads.mask_predictor.of_class(maps, labels).sigmoid()

    def _anchors(self, maps: list[Tensor], height: int, width: int) -> list[Tensor]:
        """Return the anchors `[A, 4]` of each level, in the order of its cells, for padded images of this size."""
        found = []
        for features, cell in zip(maps, self.rpn.anchor_generator.cell_anchors, strict=True):
            rows, columns = features.shape[-2:]
            tops, lefts = torch.arange(rows) * (height // rows), torch.arange(columns) * (width // columns)
            y, x = torch.meshgrid(tops, lefts, indexing="ij")
            found.append((torch.stack([x, y, x, y], dim=-1).reshape(-1, 1, 4) + cell).reshape(-1, 4))
        return found

    def _proposals(self, maps: list[Tensor], anchors: list[Tensor], sizes: Tensor) -> Tensor:
        """Return the proposals of all images as RoIs `[R, 5]`, from the feature maps and the anchors of all levels."""
        boxes, scores, levels = [], [], []
        for level, (logits, deltas, own) in enumerate(zip(*self.rpn.head(maps), anchors, strict=True)):
            # Decode the best anchors of the level.
            flat = logits.permute(0, 2, 3, 1).flatten(1)
            best, indices = flat.topk(torch.sym_min(self.rpn.pre_nms_top_n(), flat.shape[1]), dim=1)
            moves = deltas.permute(0, 2, 3, 1).reshape(flat.shape[0], -1, 4)
            moves = moves.gather(1, indices[..., None].expand(-1, -1, 4))
            decoded = self.rpn.box_coder.decode_single(moves.reshape(-1, 4), own[indices].reshape(-1, 4))
            boxes.append(decoded.reshape(flat.shape[0], -1, 4))
            scores.append(best.sigmoid())
            levels.append(torch.full_like(best, level))
        # Drop empty boxes, then suppress overlapping boxes within each level of each image.
        joined = _clip(torch.cat(boxes, 1), sizes[:, None])
        owners = torch.arange(joined.shape[0])[:, None] + 0 * joined[..., 0].long()
        groups = torch.cat(levels, 1) + len(maps) * owners
        kept = torch.where(_shorter_sides(joined).flatten() >= LEAST_PROPOSAL)[0]
        flat_boxes, flat_owners = joined.flatten(0, 1)[kept], owners.flatten()[kept]
        flat_scores, flat_groups = torch.cat(scores, 1).flatten()[kept], groups.flatten()[kept]
        chosen = _suppress(flat_boxes, flat_scores, flat_groups, self.rpn.nms_thresh)
        chosen = chosen[_ranks(flat_owners[chosen], sizes.shape[0]) < self.rpn.post_nms_top_n()]
        torch._check(chosen.shape[0] < MOST_ROIS)  # without a bound, torch writes numbers of 65 bits into the graph
        return _rois(flat_owners[chosen], flat_boxes[chosen])

    def _scored(self, features: dict[str, Tensor], rois: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return class logits `[R, K + 1]`, deltas `[R, 4 * (K + 1)]`, and the RoIs `[R, 5]` that the deltas move."""
        heads = self.heads
        if not isinstance(heads, CascadeHeads):
            return *heads.box_predictor(self._vectors(features, rois, sizes, heads.box_head)), rois
        probabilities = []
        deltas = rois[:, 1:]
        for number, (head, predictor, _) in enumerate(heads.stages):
            if number:
                moved = heads.coders[number - 1].decode_single(deltas[:, :4], rois[:, 1:]).reshape(-1, 4)
                owners = rois[:, 0].long()
                rois = _rois(owners, _clip(moved, sizes[owners]))
            logits, deltas = predictor(self._vectors(features, rois, sizes, head))
            probabilities.append(logits.softmax(-1))
        return torch.stack(probabilities).mean(0).log(), deltas, rois

    def _vectors(self, features: dict[str, Tensor], rois: Tensor, sizes: Tensor, head: BoxHead) -> Tensor:
        """Return the vectors `[R, D]` of RoIs `[R, 5]`, with the vector of their image appended if heads need it."""
        if not self.heads.context:
            return head(self._pooled(features, rois, self.heads.box_roi_pool))
        count = sizes.shape[0]
        whole = _rois(torch.arange(count), F.pad(sizes.flip(1), (2, 0)))
        found = head(self._pooled(features, torch.cat([whole, rois]), self.heads.box_roi_pool))
        return torch.cat([found[count:], found[:count][rois[:, 0].long()]], dim=1)

    def _pooled(self, features: dict[str, Tensor], rois: Tensor, pool: PyramidRoIAlign) -> Tensor:
        """Return the features `[R, C, size, size]` of RoIs `[R, 5]`. The size of a box determines its level."""
        levels = pool.map_levels([rois[:, 1:]])
        names = list(zip(pool.featmap_names, pool.scales, strict=True))
        if len(names) == 1:
            return roi_align(features[names[0][0]], rois, pool.output_size, names[0][1], pool.sampling_ratio)
        # Pool the RoIs of each level, and put the results into the order of the RoIs.
        pooled = rois.new_zeros(rois.shape[0], features[names[0][0]].shape[1], *pool.output_size)
        for level, (name, scale) in enumerate(names):
            own = torch.where(levels == level)[0]
            found = roi_align(features[name], rois[own], pool.output_size, scale, pool.sampling_ratio)
            pooled = pooled.index_put((own,), found)
        return pooled

    def suppressed(
        self, boxes: Tensor, scores: Tensor, owners: Tensor, count: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the final boxes, scores, labels and indices of images.

        Args:
            boxes: of each RoI and class `[R, K, 4]`.
            scores: of each RoI and class `[R, K]`.
            owners: index of the image of each RoI `[R]`.
            count: number of images.
        """
        classes = scores.shape[1]
        labels = (torch.arange(1, classes + 1) + 0 * owners[:, None]).flatten()
        images = (owners[:, None] + 0 * torch.arange(classes)).flatten()
        flat, all_scores = boxes.flatten(0, 1), scores.flatten()
        # Drop low scores and empty boxes, then suppress overlapping boxes of a class in an image.
        good = (all_scores > self.heads.score_thresh) & (_shorter_sides(flat) >= LEAST_DETECTION)
        kept = torch.where(good)[0]
        flat, all_scores, labels, images = flat[kept], all_scores[kept], labels[kept], images[kept]
        best = _suppress(flat, all_scores, (labels + classes * images).float(), self.nms_threshold)
        best = best[_ranks(images[best], count) < self.heads.detections_per_img]
        return flat[best], all_scores[best], labels[best], images[best]


def _rois(owners: Tensor, boxes: Tensor) -> Tensor:
    """Join indices of images `[R]` and boxes `[R, 4]` to RoIs `[R, 5]`."""
    return torch.cat([owners[:, None].to(boxes.dtype), boxes], dim=1)


def _ranks(groups: Tensor, count: int) -> Tensor:
    """Return for each entry `[R]` how many entries before it have the same group, of `count` groups from 0."""
    same = (groups[:, None] == torch.arange(count)).long()
    return (same.cumsum(0) * same).sum(1) - 1


def _clip(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Clip boxes `[..., 4]` to images of height and width `sizes` `[..., 2]`."""
    return torch.minimum(boxes.clamp(min=0), sizes[..., [1, 0, 1, 0]])


def _shorter_sides(boxes: Tensor) -> Tensor:
    """Return the shorter side `[...]` of each box `[..., 4]`."""
    return torch.minimum(boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1])


def _suppress(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> Tensor:
    """Return the indices that non-maximum suppression within groups keeps, the highest scores first.

    The boxes of each group are shifted so far that boxes of different groups do not overlap. The groups, whole numbers
    from 0, are laid out as a square, because a long row would have coordinates that round coarsely.
    """
    side = (F.pad(groups, (0, 1)).max() + 1).sqrt().floor() + 1
    far = F.pad(boxes.flatten(), (0, 1)).max() + 1
    rows = (groups / side).floor()
    columns = groups - rows * side
    return nms(boxes + far * torch.stack([columns, rows, columns, rows], dim=1), scores, threshold)
