"""Prepares detectors for export: one image of a fixed size, and no Python branches in the graph.

The exported file holds backbone, proposals, RoI heads, clipping, score threshold and suppression. Resizing,
normalising, padding, scaling boxes back to the original image, and category ids are left to the program that runs it.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import concat_box_prediction_layers
from torchvision.ops import nms, roi_align

import detection
from backbones.errors import UserError
from backbones.trained import TrainedFile
from tools.exports.exportable import Exportable, Inputs, common_metadata, prepare

# Shortest sides of proposals and of detections in pixels, as in torchvision.
LEAST_PROPOSAL, LEAST_DETECTION = 1e-3, 1e-2


class FixedDetector(nn.Module):
    """Faster R-CNN that takes one image `[1, 3, H, W]` of a fixed size.

    It computes what `detection.FasterRCNN` computes in evaluation mode, with three changes that keep branches out of
    the graph: anchors are constants; RoI features are pooled from all levels, and each box keeps those of its own
    level; suppression by class shifts the boxes of each class far apart.

    Args:
        model: the detector, in evaluation mode.
        height: height of the padded images in pixels.
        width: width of the padded images in pixels.
    """

    anchors: Tensor
    levels: Tensor

    def __init__(self, model: detection.FasterRCNN, height: int, width: int) -> None:
        super().__init__()
        self.backbone, self.rpn, self.heads = model.backbone, model.rpn, model.roi_heads
        # Compute the anchors of all levels once, and the number of boxes that each level may propose.
        images = torch.zeros(1, 3, height, width)
        with torch.no_grad():
            maps = list(self.backbone(images).values())
            (anchors,) = self.rpn.anchor_generator(ImageList(images, [(height, width)]), maps)
        each = self.rpn.anchor_generator.num_anchors_per_location()
        self.counts = [n * m.shape[-2] * m.shape[-1] for n, m in zip(each, maps, strict=True)]
        self.best = [min(self.rpn.pre_nms_top_n(), count) for count in self.counts]
        self.register_buffer("anchors", anchors)
        self.register_buffer("levels", torch.cat([torch.full((n,), float(i)) for i, n in enumerate(self.best)]))

    def forward(self, images: Tensor, size: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the detections of an image, the highest scores first.

        Args:
            images: `[1, 3, H, W]`, normalised, with zeros right of the content and below it.
            size: height and width of the content `[2]`, in pixels.

        Returns:
            Boxes `[N, 4]` xyxy in pixels of the content, scores `[N]` in 0..1, labels `[N]` from 1.
        """
        features = self.backbone(images)
        proposals = self._proposals(list(features.values()), size)
        pooled = self._pooled(features, proposals)
        logits, deltas = self.heads.box_predictor(self.heads.box_head(pooled))
        return self._detections(logits, deltas, proposals, size)

    def _proposals(self, maps: list[Tensor], size: Tensor) -> Tensor:
        """Return the proposals `[R, 4]` from the feature maps."""
        objectness, deltas = concat_box_prediction_layers(*self.rpn.head(maps))
        boxes = self.rpn.box_coder.decode_single(deltas, self.anchors).reshape(-1, 4)
        # Keep the best anchors of each level.
        chosen, start = [], 0
        for scores, best in zip(objectness.flatten().split(self.counts), self.best, strict=True):
            chosen.append(scores.topk(best).indices + start)
            start += len(scores)
        indices = torch.cat(chosen)
        boxes, scores = _clip(boxes[indices], size), objectness.flatten()[indices].sigmoid()
        # Drop empty boxes, then suppress overlapping boxes within each level.
        kept = torch.where(_shorter_sides(boxes) >= LEAST_PROPOSAL)[0]
        boxes, scores, levels = boxes[kept], scores[kept], self.levels[kept]
        return boxes[_suppress(boxes, scores, levels, self.rpn.nms_thresh)[: self.rpn.post_nms_top_n()]]

    def _pooled(self, features: dict[str, Tensor], boxes: Tensor) -> Tensor:
        """Return the RoI features `[R, C, size, size]` of boxes `[R, 4]`. A box's size determines its feature level."""
        pool = self.heads.box_roi_pool
        rois = F.pad(boxes, (1, 0))  # the first column is the index of the image
        found = [
            roi_align(features[name], rois, pool.output_size, scale, pool.sampling_ratio)
            for name, scale in zip(pool.featmap_names, pool.scales, strict=True)
        ]
        if len(found) == 1:
            return found[0]
        levels = pool.map_levels([boxes])[:, None, None, None]
        return torch.stack([torch.where(levels == i, each, 0.0) for i, each in enumerate(found)]).sum(0)

    def _detections(
        self, logits: Tensor, deltas: Tensor, proposals: Tensor, size: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the final boxes, scores and labels, from class logits `[R, K + 1]` and deltas `[R, 4 * (K + 1)]`."""
        classes = logits.shape[-1]
        boxes = _clip(self.heads.box_coder.decode_single(deltas, proposals).reshape(-1, 4), size)
        scores = logits.softmax(-1).flatten()
        labels = (torch.arange(classes) + 0 * logits[:, :1].long()).flatten()
        # Drop background, low scores and empty boxes, then suppress overlapping boxes within each class.
        good = (labels > 0) & (scores > self.heads.score_thresh) & (_shorter_sides(boxes) >= LEAST_DETECTION)
        kept = torch.where(good)[0]
        boxes, scores, labels = boxes[kept], scores[kept], labels[kept]
        best = _suppress(boxes, scores, labels.float(), self.heads.nms_thresh)[: self.heads.detections_per_img]
        return boxes[best], scores[best], labels[best]


def exportable_detector(trained: TrainedFile, side: int | None) -> Exportable:
    """Load a detector for export: from an image `[1, 3, side, side]` and its size to boxes, scores and labels.

    Args:
        side: side of the square input in pixels; None: the longest side of the detector's images, rounded up to a
            multiple of 32.

    Raises:
        UserError: the detector's images are larger than `side`.
    """
    loaded = detection.load(trained.path, device="cpu", precision="fp32")
    model = prepare(loaded.model)
    longest = model.transform.max_size
    side = side or -(-longest // 32) * 32
    if side < longest:
        raise UserError(f"--size {side}: this detector's images are up to {longest} pixels long; use a larger size")

    def read(path: Path) -> Inputs:
        batch, _ = model.transform([loaded.read(path)])
        height, width = batch.image_sizes[0]
        image = batch.tensors[..., :height, :width]
        return (
            F.pad(image, (0, side - width, 0, side - height)).contiguous(),
            torch.tensor([height, width], dtype=torch.float32),
        )

    def reference(images: Tensor, size: Tensor) -> tuple[Tensor, ...]:
        listed = ImageList(images, [(int(size[0]), int(size[1]))])
        features = model.backbone(images)
        proposals, _ = model.rpn(listed, features)
        (found,), _ = model.roi_heads(features, proposals, listed.image_sizes)
        return found["boxes"], found["scores"], found["labels"]

    metadata = common_metadata(trained) | {
        "category_ids": list(loaded.categories.ids),
        "category_names": list(loaded.categories.names),
        "images": f"float32 [1, 3, {side}, {side}]: one image resized by `input.min_size` and `input.max_size`, minus "
        "`input.mean`, over `input.std`, zeros right of it and below",
        "size": "float32 [2]: its height and width in pixels, before the zeros",
        "boxes": "float32 [N, 4], xyxy in pixels of the resized image",
        "labels": "int64 [N], from 1: positions in `category_ids`",
    }
    return Exportable(
        FixedDetector(model, side, side).eval(),
        ("images", "size"),
        ("boxes", "scores", "labels"),
        metadata,
        stride=32,
        multiple=0,
        batches=False,
        read=read,
        reference=reference,
    )


def _clip(boxes: Tensor, size: Tensor) -> Tensor:
    """Clip boxes `[N, 4]` to an image of height and width `size` `[2]`."""
    return torch.minimum(boxes.clamp(min=0), size[[1, 0, 1, 0]])


def _shorter_sides(boxes: Tensor) -> Tensor:
    """Return the shorter side `[N]` of each box `[N, 4]`."""
    return torch.minimum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])


def _suppress(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> Tensor:
    """Apply non-maximum suppression within each group; return the indices of the boxes kept, highest scores first.

    The boxes of each group are shifted so far that boxes of different groups do not overlap.
    """
    far = F.pad(boxes.flatten(), (0, 1)).max() + 1
    return nms(boxes + (groups * far)[:, None], scores, threshold)
