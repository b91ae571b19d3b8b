"""Detects more accurately but more slowly: refined boxes, several views and models (He et al. 2016, appendix B).

A view is one model at one image size, optionally flipped. Views are combined as the paper combines the models of its
ensemble: the proposals of all views are united, each view scores all of them, and the answers are averaged.

The paper combines image sizes in another way, by the larger of the features at two neighbouring sizes (maxout). That
needs one feature map of one stride. A pyramid reads a box of twice the size from the next level, so the same box has
features of different layers at two sizes, and their maximum means nothing. Class probabilities, and boxes in pixels of
the image, mean the same in all views, necks and backbones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms, box_iou, clip_boxes_to_image, nms, remove_small_boxes

from backbones.common.precision import at_least_fp32
from backbones.errors import UserError
from backbones.fold import Folds
from detection.exported import ExportedDetector
from detection.faster_rcnn import FasterRCNN
from detection.masks import Offset, encode
from detection.preprocess import Preprocessor, resize_boxes
from detection.soft_nms import soft_nms as apply_soft_nms

PROPOSAL_NMS = 0.7  # IoU above which a proposal repeats a better one, as in the RPN
REFINED_NMS = 0.3  # the paper's IoU for the united boxes of both passes
VOTE_IOU = 0.5  # of the boxes that vote for a kept one (Gidaris and Komodakis 2015, section 4)
SMALLEST_SIDE = 1e-2  # pixels, as in torchvision


class Predictor(nn.Module):
    """Detects with one or several models. With the default options, the detections are exactly those of `FasterRCNN`.

    Args:
        models: detectors with the same labels. The thresholds are those of the first detector.
        sizes: short sides in pixels to view an image at. If empty, each model uses its own size. The limit of the long
            side is scaled by the same factor.
        flip: also view the images flipped left to right.
        refine: score the boxes found as new proposals, unite the boxes of both passes, and move each kept box to the
            weighted mean of the boxes that overlap it.
        nms: IoU above which the weaker of two boxes of a class is removed. None means the first model's value (0.5), or
            0.3 with `refine`.
        soft_nms: lower the scores of overlapping boxes instead of removing them (`detection.soft_nms`).
        outlines: also return the masks as run-length codes.

    Raises:
        UserError: there is no model, a size or IoU is out of range, or the models' masks differ in size.
    """

    def __init__(
        self,
        models: FasterRCNN | Sequence[FasterRCNN],
        *,
        sizes: Sequence[int] = (),
        flip: bool = False,
        refine: bool = False,
        nms: float | None = None,
        soft_nms: bool = False,
        outlines: bool = False,
    ) -> None:
        super().__init__()
        models = [models] if isinstance(models, FasterRCNN) else models
        if not models:
            raise UserError("models: the list is empty; give at least one model")
        sizes = tuple(sizes)
        if min(sizes, default=1) < 1:
            raise UserError(f"sizes={list(sizes)}: must be above 0 pixels")
        if nms is not None and not 0 < nms <= 1:
            raise UserError(f"nms={nms}: must be above 0 and at most 1")
        if soft_nms and nms is not None:
            raise UserError(f"nms={nms}: has no effect with soft_nms, which removes no boxes; leave one out")
        if len({model.roi_heads.mask_side for model in models}) > 1:
            sides = ", ".join(str(model.roi_heads.mask_side or "none") for model in models)
            raise UserError(
                f"models: their masks differ in size (cells along a side: {sides}); use models of equal masks"
            )
        self.models = nn.ModuleList(models)
        self.views = [
            (model, _at(model.transform, size), flipped)
            for model in models
            for size in sizes or (model.transform.min_size[-1],)
            for flipped in (False, True)[: 1 + flip]
        ]
        heads = models[0].roi_heads
        self.refine, self.heads = refine, heads
        self.masks = models[0].has_masks
        self.outlines = outlines and self.masks
        self.nms = nms or (REFINED_NMS if refine else heads.nms_thresh)
        self.soft = soft_nms
        self.plain = len(models) == 1 and not sizes and not flip and not refine and not soft_nms and nms is None
        if not self.plain and any(isinstance(model, ExportedDetector) for model in models):
            raise UserError(
                "an exported file views each image once and suppresses boxes itself; leave out other sizes, flipping, "
                "refinement, nms, soft_nms and --ensemble"
            )

    @torch.no_grad()
    def forward(self, images: Sequence[Tensor]) -> list[dict[str, Any]]:
        """Return the detections of images `[3, H, W]` of any sizes, uint8 or floats in 0..1.

        The features of all views of the batch are in memory at the same time.

        Returns:
            For each image `boxes` `[N, 4]` xyxy in its pixels, `scores` `[N]` in 0..1, and `labels` `[N]` from 1.
            Models with masks add `masks` `[N, M, M]` as in `FasterRCNN`, and with `outlines` a list `rles`.
        """
        return self._outlined(self._detect(images), images)

    def _detect(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        with Folds():
            if self.plain:
                return self.views[0][0](list(images))
            # Compute features and proposals of each view, and unite the proposals of each image.
            views = [View.of(images, *view) for view in self.views]
            proposals = [unite([view.proposals[n] for view in views]) for n in range(len(images))]
            # Score them in all views.
            scores, boxes = self._score(views, proposals)
            if self.refine:
                # Box refinement (appendix B): score the boxes found once more, and unite both passes.
                again = [_likeliest(*pair) for pair in zip(scores, boxes, strict=True)]
                passes = zip((scores, boxes), self._score(views, again), strict=True)
                scores, boxes = ([torch.cat(both) for both in zip(*parts, strict=True)] for parts in passes)
            found = [self._select(*pair) for pair in zip(scores, boxes, strict=True)]
            return self._with_masks(views, found) if self.masks else found

    def _with_masks(self, views: Sequence[View], found: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
        """Add to the detections of each image their masks: the mean of the probabilities of all views."""
        boxes, labels = ([each[name] for each in found] for name in ("boxes", "labels"))
        masks = zip(*(view.masks(boxes, labels) for view in views), strict=True)
        return [{**each, "masks": torch.stack(own).mean(0)} for each, own in zip(found, masks, strict=True)]

    def _outlined(self, found: list[dict[str, Tensor]], images: Sequence[Tensor]) -> list[dict[str, Any]]:
        """Add the masks as run-length codes, if this predictor returns them."""
        if not self.outlines:
            return found
        sizes = [(image.shape[-2], image.shape[-1]) for image in images]
        return [
            {**each, "rles": encode(each["masks"], each["boxes"], size, offset=self.grid_offset(size))}
            for each, size in zip(found, sizes, strict=True)
        ]

    def grid_offset(self, size: tuple[int, int]) -> Offset | None:
        """Return how far the grids of masks lie from their boxes: the mean of all views, or None for torchvision."""
        if self.heads.mask_pasting == "torchvision":
            return None
        offsets = [(transform.grid_offset(size), flipped) for _, transform, flipped in self.views]
        # What lies right of a box in a flipped view lies left of it in the image.
        right = [-x if flipped else x for (x, _), flipped in offsets]
        return sum(right) / len(offsets), sum(y for (_, y), _ in offsets) / len(offsets)

    def predict_with_losses(
        self, images: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
        """Return detections and training losses. There must be only one model and one view.

        Raises:
            UserError: there is more than one view, or boxes are refined.
        """
        if not self.plain:
            raise UserError(
                "--val-loss: needs one model and one view of each image; leave out --ensemble, --test-sizes, "
                "--test-flip, --soft-nms and --refine"
            )
        found, losses = self.views[0][0].predict_with_losses(images, targets)
        return self._outlined(found, images), losses

    def _score(self, views: Sequence[View], boxes: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return class probabilities `[B, K + 1]` and a box for each class `[B, K + 1, 4]` of each image's boxes.

        Probabilities are means over the views. A box is the mean of the views' boxes, weighted by the probability of
        its class.
        """
        found = [view.score(boxes) for view in views]
        if len(found) == 1:
            return found[0]
        scores, means = [], []
        for each in zip(*(zip(*pair, strict=True) for pair in found), strict=True):
            probabilities, moved = (torch.stack(part) for part in zip(*each, strict=True))
            scores.append(probabilities.mean(0))
            weighted = (probabilities[..., None] * moved).sum(0)
            means.append(weighted / probabilities.sum(0).clamp(min=1e-12)[..., None])
        return scores, means

    def _select(self, scores: Tensor, boxes: Tensor) -> dict[str, Tensor]:
        """Select an image's detections among its scored boxes."""
        labels = torch.arange(scores.shape[1], device=scores.device).expand_as(scores)[:, 1:].flatten()
        scores, boxes = scores[:, 1:].flatten(), boxes[:, 1:].flatten(0, 1)
        # Remove boxes below the score threshold, and boxes of no size.
        likely = torch.where(scores > self.heads.score_thresh)[0]
        likely = likely[remove_small_boxes(boxes[likely], SMALLEST_SIDE)]
        scores, boxes, labels = scores[likely], boxes[likely], labels[likely]
        # Apply NMS to each class, and keep the best.
        kept, final = self._best(boxes, scores, labels)
        chosen = boxes[kept]
        if self.refine:
            # Box voting: boxes of the same class vote with their scores.
            same = labels[kept][:, None] == labels
            chosen = vote(chosen, boxes, scores * same)
        return {"boxes": chosen, "labels": labels[kept], "scores": final}

    def _best(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the indices of the best boxes after NMS, and their scores."""
        most = self.heads.detections_per_img
        if self.soft:
            return apply_soft_nms(boxes, scores, labels, most=most, least_score=self.heads.score_thresh)
        kept = batched_nms(boxes, scores, labels, self.nms)[:most]
        return kept, scores[kept]


@dataclass
class View:
    """A batch of images in one view, with its features and proposals.

    Attributes:
        flipped: whether the model sees the images flipped left to right.
        sizes: (height, width) of each image as given.
        resized: (height, width) of each image as the model sees it.
        proposals: for each image its proposals `[P, 4]`, in pixels of the image as given.
    """

    model: FasterRCNN
    flipped: bool
    sizes: list[tuple[int, int]]
    resized: list[tuple[int, int]]
    features: dict[str, Tensor]
    proposals: list[Tensor]

    @classmethod
    def of(cls, images: Sequence[Tensor], model: FasterRCNN, transform: Preprocessor, flipped: bool) -> View:
        """Make the view of a batch of images: resize (and flip) them, and compute their features and proposals."""
        batch, _ = transform([image.flip(-1) if flipped else image for image in images])
        features = model.backbone(batch.tensors)
        sizes = [(image.shape[-2], image.shape[-1]) for image in images]
        view = cls(model, flipped, sizes, batch.image_sizes, features, [])
        view.proposals = view._outside(model.rpn(batch, features)[0])
        return view

    def score(self, boxes: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return class probabilities `[B, K + 1]` and a box for each class `[B, K + 1, 4]` of each image's boxes."""
        heads = self.model.roi_heads
        inside = self._inside(boxes)
        logits, deltas, origin = heads.score(self.features, inside, self.resized)
        counts = [len(each) for each in boxes]
        found = heads.box_coder.decode_single(at_least_fp32(deltas), torch.cat(origin))
        found = found.unflatten(1, (-1, 4)).split(counts)
        clipped = [clip_boxes_to_image(each, size) for each, size in zip(found, self.resized, strict=True)]
        moved = self._outside([each.flatten(0, 1) for each in clipped])
        probabilities = at_least_fp32(logits).softmax(-1).split(counts)
        return list(probabilities), [each.unflatten(0, (-1, logits.shape[1])) for each in moved]

    def masks(self, boxes: list[Tensor], labels: list[Tensor]) -> list[Tensor]:
        """Return the masks of each image's boxes `[B, M, M]`, as in `RoIHeads.masks`, not flipped."""
        found = self.model.roi_heads.masks(self.features, self._inside(boxes), labels, self.resized)
        return [each.flip(-1) for each in found] if self.flipped else found

    def _inside(self, boxes: list[Tensor]) -> list[Tensor]:
        """Convert boxes from pixels of the original images to pixels of the resized (and flipped) images."""
        images = zip(boxes, self.sizes, self.resized, strict=True)
        return [resize_boxes(self._flip(each, size[1]), size, resized) for each, size, resized in images]

    def _outside(self, boxes: list[Tensor]) -> list[Tensor]:
        """Convert boxes from pixels of the resized (and flipped) images to pixels of the original images."""
        images = zip(boxes, self.sizes, self.resized, strict=True)
        return [self._flip(resize_boxes(each, resized, size), size[1]) for each, size, resized in images]

    def _flip(self, boxes: Tensor, width: int) -> Tensor:
        """Flip boxes if this view is flipped; else return them unchanged."""
        return flip_boxes(boxes, width) if self.flipped else boxes


def flip_boxes(boxes: Tensor, width: int) -> Tensor:
    """Flip boxes `[N, 4]` xyxy left to right in an image of the given width."""
    left, top, right, bottom = boxes.unbind(1)
    return torch.stack([width - right, top, width - left, bottom], dim=1)


def unite(proposals: Sequence[Tensor]) -> Tensor:
    """Unite the proposals of an image from several views. A proposal that nearly equals a better one is left out.

    Args:
        proposals: for each view its proposals, the best first. Proposals of different views are compared by rank, since
            scores of different models are not comparable.
    """
    if len(proposals) == 1:
        return proposals[0]
    ranks = torch.cat([-torch.arange(len(each), device=each.device) for each in proposals])
    boxes = torch.cat(list(proposals))
    return boxes[nms(boxes, ranks.to(boxes.dtype), PROPOSAL_NMS)]


def vote(kept: Tensor, boxes: Tensor, votes: Tensor) -> Tensor:
    """Return each kept box `[K, 4]` moved to the weighted mean of the boxes `[M, 4]` that overlap it by `VOTE_IOU`.

    Args:
        votes: weight of each of M boxes for each of K kept boxes, `[K, M]`.
    """
    votes = votes * (box_iou(kept, boxes) >= VOTE_IOU)
    # Not a matrix product, which autocast would compute in 16 bits.
    return (votes[..., None] * boxes).sum(1) / votes.sum(1, keepdim=True)


def _likeliest(scores: Tensor, boxes: Tensor) -> Tensor:
    """Return for each RoI the box of its most likely object class, `[B, 4]`."""
    return boxes[torch.arange(len(boxes), device=boxes.device), scores[:, 1:].argmax(1) + 1]


def _at(transform: Preprocessor, size: int) -> Preprocessor:
    """Return a preprocessor for another short side; the limit of the long side is scaled by the same factor."""
    own, longest = transform.min_size[-1], transform.max_size
    if size == own:
        return transform
    longest = round(longest * size / own)
    return Preprocessor(transform.image_mean, transform.image_std, min_size=size, max_size=longest)
