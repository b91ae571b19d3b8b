"""Detectors for export: one image of any size, and no branch of Python in the graph.

The exported file holds backbone, proposals, RoI heads, clipping, score threshold and suppression. Resizing,
normalising, padding, scaling boxes back to the original image, pasting masks into it, and category ids are left to the
program that runs it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.transform import resize_boxes
from torchvision.ops import nms, roi_align

import detection
from backbones.errors import UserError
from backbones.trained import TrainedFile
from detection.cascade import CascadeHeads
from detection.masks import THRESHOLD, encode
from detection.necks import MapHead
from detection.results import Detections, Outlines
from detection.roi_align import PyramidRoIAlign
from detection.trained import TrainedDetector
from tools.exports.detections import compare_detections, various_shapes
from tools.exports.exportable import TOLERANCE, Exportable, FileCheck, Inputs, Runner, common_metadata, prepare

# Shortest sides of proposals and of detections in pixels, as in torchvision.
LEAST_PROPOSAL, LEAST_DETECTION = 1e-3, 1e-2
MASKS = (
    "float32 [N, M, M], 0..1: probabilities in the cells of a grid over each box of `boxes`. Scale the boxes to the "
    "image, pad each grid by a cell of zeros and enlarge its box to (M + 2) / M of its sides, resize the grid to the "
    "box (bilinear), and keep pixels from `mask_threshold`: detection.masks.paste(masks, boxes, (height, width))"
)


class OneImageDetector(nn.Module):
    """Faster R-CNN for one image `[1, 3, H, W]` of any size.

    It computes what `detection.FasterRCNN` computes in evaluation mode, with two changes that keep branches out of the
    graph: RoI features are pooled from all levels, and each box keeps those of its own level; suppression by class
    shifts the boxes of each class far apart.

    Args:
        model: the detector, in evaluation mode.
        nms_threshold: IoU above which the weaker of two detections of a class is removed.
    """

    def __init__(self, model: detection.FasterRCNN, nms_threshold: float) -> None:
        super().__init__()
        self.backbone, self.rpn, self.heads = model.backbone, model.rpn, model.roi_heads
        self.nms_threshold = nms_threshold

    def forward(self, images: Tensor, size: Tensor) -> tuple[Tensor, ...]:
        """Return the detections of an image, the highest scores first.

        Args:
            images: `[1, 3, H, W]`, normalised, with zeros right of the content and below it.
            size: height and width of the content `[2]`, in pixels.

        Returns:
            Boxes `[N, 4]` xyxy in pixels of the content, scores `[N]` in 0..1, labels `[N]` from 1; with a mask branch
                also masks `[N, M, M]`: probabilities in the cells of a grid over each box.
        """
        features = self.backbone(images)
        anchors = self._anchors(list(features.values()), images.shape[-2], images.shape[-1])
        proposals = self._proposals(list(features.values()), anchors, size)
        logits, deltas = self.heads.box_predictor(self._vectors(features, proposals, size))
        boxes, scores, labels = self._detections(logits, deltas, proposals, size)
        if not self.heads.has_mask():
            return boxes, scores, labels
        return boxes, scores, labels, self._masks(features, boxes, labels)

    def _masks(self, features: dict[str, Tensor], boxes: Tensor, labels: Tensor) -> Tensor:
        """Return the masks `[N, M, M]` of boxes `[N, 4]` of the classes `labels` `[N]`."""
        rois, head = self._pooled(features, boxes, self.heads.mask_roi_pool), self.heads.box_head
        maps = head.maps(rois) if isinstance(head, MapHead) else self.heads.mask_head(rois)
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

    def _proposals(self, maps: list[Tensor], anchors: list[Tensor], size: Tensor) -> Tensor:
        """Return the proposals `[R, 4]` from the feature maps and the anchors of all levels."""
        boxes, scores, levels = [], [], []
        for level, (logits, deltas, own) in enumerate(zip(*self.rpn.head(maps), anchors, strict=True)):
            # Decode the best anchors of the level.
            flat = logits.permute(0, 2, 3, 1).flatten()
            best, indices = flat.topk(torch.sym_min(self.rpn.pre_nms_top_n(), flat.shape[0]))
            moves = deltas.permute(0, 2, 3, 1).reshape(-1, 4)[indices]
            boxes.append(self.rpn.box_coder.decode_single(moves, own[indices]).reshape(-1, 4))
            scores.append(best.sigmoid())
            levels.append(torch.full_like(best, level))
        # Drop empty boxes, then suppress overlapping boxes within each level.
        joined = _clip(torch.cat(boxes), size)
        kept = torch.where(_shorter_sides(joined) >= LEAST_PROPOSAL)[0]
        joined, group = joined[kept], torch.cat(levels)[kept]
        chosen = _suppress(joined, torch.cat(scores)[kept], group, len(maps), self.rpn.nms_thresh)
        return joined[chosen[: self.rpn.post_nms_top_n()]]

    def _vectors(self, features: dict[str, Tensor], boxes: Tensor, size: Tensor) -> Tensor:
        """Return the vectors `[R, D]` of boxes `[R, 4]`, with the image's own vector appended if the heads want it."""
        if not self.heads.context:
            return self.heads.box_head(self._pooled(features, boxes, self.heads.box_roi_pool))
        whole = F.pad(size.flip(0), (2, 0))[None]
        found = self.heads.box_head(self._pooled(features, torch.cat([whole, boxes]), self.heads.box_roi_pool))
        return torch.cat([found[1:], found[:1].expand_as(found[1:])], dim=1)

    def _pooled(self, features: dict[str, Tensor], boxes: Tensor, pool: PyramidRoIAlign) -> Tensor:
        """Return the RoI features `[R, C, size, size]` of boxes `[R, 4]`. A box's size determines its feature level."""
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
        best = _suppress(boxes, scores, labels.float(), classes, self.nms_threshold)[: self.heads.detections_per_img]
        return boxes[best], scores[best], labels[best]


class DetectorFile:
    """The steps around an exported detector: what a program does before it runs the file, and after.

    Args:
        loaded: the detector, with one view of each image.
    """

    def __init__(self, loaded: TrainedDetector) -> None:
        self.loaded, self.transform = loaded, loaded.model.transform

    def read(self, path: Path) -> Inputs:
        """Return the inputs of an image file."""
        return self.inputs(self.loaded.read(path))

    def inputs(self, image: Tensor) -> Inputs:
        """Resize, normalise and pad an image `[3, H, W]`; return it and the size of its content."""
        batch, _ = self.transform([image])
        return batch.tensors.contiguous(), torch.tensor(batch.image_sizes[0], dtype=torch.float32)

    def detect(self, run: Runner, image: Tensor) -> Detections:
        """Run the file on an image `[3, H, W]`; return the detections in its own pixels, with category ids."""
        inputs = self.inputs(image)
        boxes, scores, labels, *masks = run(inputs)
        size = (image.shape[-2], image.shape[-1])
        boxes = resize_boxes(boxes, _content(inputs), size)
        found = self.loaded.named({"boxes": boxes, "scores": scores, "labels": labels})
        return replace(found, outlines=Outlines(tuple(encode(masks[0], boxes, size)), size)) if masks else found

    def check(self, run: Runner, paths: list[Path], where: str, accepts: Callable[[Inputs], bool]) -> FileCheck:
        """Compare the file with `detection.load(run)(image)` on image files; see `compare_detections`.

        Masks are compared with those that PyTorch predicts for the boxes of the file.

        Raises:
            UserError: detections or masks differ by more than rounding.
        """
        images = [self.loaded.read(path) for path in paths]
        check = compare_detections(self.loaded, lambda image: self.detect(run, image), images, where=where)
        if not self.loaded.model.has_masks:
            return check
        gaps = torch.cat([self._mask_gaps(run, self.inputs(image)) for image in various_shapes(images)])
        if not (gaps <= TOLERANCE).all():  # written this way because NaN must be refused too
            raise UserError(
                f"{where}: its masks differ from PyTorch by {gaps.max():.1e} (probabilities); no file was kept; export "
                "another model"
            )
        found = {"masks": f"{len(gaps)} compared, of the boxes that the file finds"}
        return FileCheck(max([check.difference, *gaps.tolist()]), check.found | found)

    @torch.inference_mode()
    def _mask_gaps(self, run: Runner, inputs: Inputs) -> Tensor:
        """Return the largest difference of each mask of the file from PyTorch's mask of the same box `[N]`."""
        boxes, _, labels, masks = run(inputs)
        model = self.loaded.model
        expected = model.roi_heads.masks(model.backbone(inputs[0]), [boxes], [labels], [_content(inputs)])[0]
        return (masks - expected).abs().flatten(1).amax(1) if len(masks) else masks.new_zeros(0)

    def blanks(self) -> tuple[Inputs, ...]:
        """Return inputs without objects: a grey image, and one without content, in which nothing can be proposed."""
        grey = torch.zeros(1, 3, 2 * self.transform.size_divisible, 3 * self.transform.size_divisible)
        return (grey, torch.tensor(grey.shape[-2:], dtype=torch.float32)), (grey, torch.zeros(2))


def exportable_detector(trained: TrainedFile) -> Exportable:
    """Load a detector: an image `[1, 3, H, W]` and the size of its content to boxes, scores and labels.

    The file views each image once, as `detection.load(run, sizes=(), flip=False, refine=False)` does.
    """
    loaded = detection.load(
        trained.path, device="cpu", precision="fp32", sizes=(), flip=False, refine=False, soft_nms=False
    )
    if isinstance(loaded.model.roi_heads, CascadeHeads):
        raise UserError(
            f"{trained.path}: has cascade heads, which cannot be exported yet; export a detector without --cascade"
        )
    model = prepare(loaded.model)
    file, multiple = DetectorFile(loaded), model.transform.size_divisible
    metadata = common_metadata(trained) | {
        "category_ids": list(loaded.categories.ids),
        "category_names": list(loaded.categories.names),
        "images": "float32 [1, 3, H, W]: one image resized by `input.min_size` and `input.max_size`, minus "
        f"`input.mean`, over `input.std`, zeros right of it and below up to the next multiple of {multiple}",
        "size": "float32 [2]: its height and width in pixels, before the zeros",
        "boxes": "float32 [N, 4], xyxy in pixels of the resized image",
        "labels": "int64 [N], from 1: positions in `category_ids`",
    }
    if model.has_masks:
        metadata |= {"masks": MASKS, "mask_threshold": THRESHOLD}
    views = [name for name in ("test_sizes", "test_flip", "refine", "soft_nms") if trained.config.get(name)]
    options = ", ".join(f"--{name.replace('_', '-')}" for name in views)
    return Exportable(
        OneImageDetector(model, loaded.predictor.nms).eval(),
        ("images", "size"),
        ("boxes", "scores", "labels", *(["masks"] if model.has_masks else [])),
        metadata,
        stride=multiple,
        multiple=multiple,
        batches=False,
        read=file.read,
        check=file.check,
        blanks=file.blanks(),
        notes={"left out": f"{options} of the run: the file views each image once"} if views else {},
    )


def _content(inputs: Inputs) -> tuple[int, int]:
    """Return height and width of the content of an image, from the inputs of a file."""
    return int(inputs[1][0]), int(inputs[1][1])


def _clip(boxes: Tensor, size: Tensor) -> Tensor:
    """Clip boxes `[N, 4]` to an image of height and width `size` `[2]`."""
    return torch.minimum(boxes.clamp(min=0), size[[1, 0, 1, 0]])


def _shorter_sides(boxes: Tensor) -> Tensor:
    """Return the shorter side `[N]` of each box `[N, 4]`."""
    return torch.minimum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])


def _suppress(boxes: Tensor, scores: Tensor, groups: Tensor, count: int, threshold: float) -> Tensor:
    """Return the indices that non-maximum suppression within groups keeps, the highest scores first.

    The boxes of each group are shifted so far that boxes of different groups do not overlap. The groups, numbered from
    0 to `count` - 1, are laid out as a square, because a long row would have coordinates that round coarsely.
    """
    side = math.isqrt(count) + 1
    far = F.pad(boxes.flatten(), (0, 1)).max() + 1
    rows = (groups / side).floor()
    columns = groups - rows * side
    return nms(boxes + far * torch.stack([columns, rows, columns, rows], dim=1), scores, threshold)
