"""A detector for export: one image of a fixed size, and nothing in the graph that depends on Python's own branches.

The arithmetic is `detection.FasterRCNN`'s in evaluation mode; what changes is that anchors are constants, that boxes
are read from all levels and the right ones kept, and that suppression by class shifts boxes apart.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import concat_box_prediction_layers
from torchvision.ops import nms, roi_align

from backbones.errors import UserError
from backbones.trained import Trained
from tools.exports.exportable import Exportable, Inputs, common_metadata, plain_layout

SMALLEST = (1e-3, 1e-2)  # pixels of a proposal's and of a detection's sides, as in torchvision


class FixedDetector(nn.Module):
    """Faster R-CNN for images `[1, 3, H, W]` of one size.

    Args:
        model: the detector, in evaluation mode.
        height, width: of the padded images.
    """

    anchors: Tensor
    levels: Tensor

    def __init__(self, model: Any, height: int, width: int) -> None:
        super().__init__()
        self.backbone, self.rpn, self.heads = model.backbone, model.rpn, model.roi_heads
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
        """Detections, the best first.

        Args:
            images: `[1, 3, H, W]`, normalised, zeros beyond their contents.
            size: height and width of the contents `[2]`, in pixels.

        Returns:
            Boxes `[N, 4]` xyxy in pixels of the contents, scores `[N]` in 0..1, labels `[N]` from 1.
        """
        features = self.backbone(images)
        proposals = self._proposals(list(features.values()), size)
        pooled = self._pooled(features, proposals)
        logits, deltas = self.heads.box_predictor(self.heads.box_head(pooled))
        return self._detections(logits, deltas, proposals, size)

    def _proposals(self, maps: list[Tensor], size: Tensor) -> Tensor:
        objectness, deltas = concat_box_prediction_layers(*self.rpn.head(maps))
        boxes = self.rpn.box_coder.decode_single(deltas, self.anchors).reshape(-1, 4)
        chosen, start = [], 0
        for scores, best in zip(objectness.flatten().split(self.counts), self.best, strict=True):
            chosen.append(scores.topk(best).indices + start)
            start += len(scores)
        places = torch.cat(chosen)
        boxes, scores = _clipped(boxes[places], size), objectness.flatten()[places].sigmoid()
        kept = torch.where(_sides(boxes) >= SMALLEST[0])[0]
        boxes, scores, levels = boxes[kept], scores[kept], self.levels[kept]
        return boxes[_suppressed(boxes, scores, levels, self.rpn.nms_thresh)[: self.rpn.post_nms_top_n()]]

    def _pooled(self, features: dict[str, Tensor], boxes: Tensor) -> Tensor:
        """Features of boxes `[R, C, size, size]`, each from the level of its size."""
        pool = self.heads.box_roi_pool
        rois = F.pad(boxes, (1, 0))  # the first column is the image's number
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
        classes = logits.shape[-1]
        boxes = _clipped(self.heads.box_coder.decode_single(deltas, proposals).reshape(-1, 4), size)
        scores = logits.softmax(-1).flatten()
        labels = (torch.arange(classes) + 0 * logits[:, :1].long()).flatten()
        good = (labels > 0) & (scores > self.heads.score_thresh) & (_sides(boxes) >= SMALLEST[1])
        kept = torch.where(good)[0]
        boxes, scores, labels = boxes[kept], scores[kept], labels[kept]
        best = _suppressed(boxes, scores, labels.float(), self.heads.nms_thresh)[: self.heads.detections_per_img]
        return boxes[best], scores[best], labels[best]


def detector(trained: Trained, side: int | None) -> Exportable:
    """The detector of a run.

    Args:
        side: of its square input in pixels; absent: its longest side, rounded up to a multiple of 32.

    Raises:
        UserError: where its images do not fit into that.
    """
    import detection

    loaded = detection.load(trained.path, device="cpu", precision="fp32")
    model = plain_layout(loaded.model)
    longest = model.transform.max_size
    side = side or -(-longest // 32) * 32
    if side < longest:
        raise UserError(f"--size {side}: this net's images are up to {longest} pixels long; take a larger size")

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
        "labels": "int64 [N], from 1: places in `category_ids`",
    }
    return Exportable(
        FixedDetector(model, side, side).eval(),
        ("images", "size"),
        ("boxes", "scores", "labels"),
        metadata,
        stride=32,
        multiple=0,
        batches=False,
        reader=read,
        reference=reference,
    )


def _clipped(boxes: Tensor, size: Tensor) -> Tensor:
    """Boxes `[N, 4]` inside an image of height and width `size`."""
    return torch.minimum(boxes.clamp(min=0), size[[1, 0, 1, 0]])


def _sides(boxes: Tensor) -> Tensor:
    """The smaller side of boxes `[N, 4]`."""
    return torch.minimum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])


def _suppressed(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> Tensor:
    """Places that are left by non-maximum suppression within groups, the best first; groups lie far apart."""
    far = F.pad(boxes.flatten(), (0, 1)).max() + 1
    return nms(boxes + (groups * far)[:, None], scores, threshold)
