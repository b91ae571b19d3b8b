"""Better detections for more time (He et al. 2016, appendix B): boxes refined, several looks, several nets.

A look is a net with a size and, maybe, a mirror. Looks join where the paper joins its ensemble: their proposals are
united, every net scores each of them in every look, and the looks' answers are averaged. The paper's way to several
sizes, the larger of the features of two neighbouring ones (maxout), wants one feature map of one stride; a pyramid
reads a box of twice the size from the next level already, so that the same box has features of different layers at
two sizes, which no maximum of them compares. Class probabilities and boxes in the image's pixels mean the same
in all looks, all necks and all trunks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.models.detection.transform import resize_boxes
from torchvision.ops import batched_nms, box_iou, clip_boxes_to_image, nms, remove_small_boxes

from backbones.errors import UserError
from backbones.fold import Folds
from detection.faster_rcnn import FasterRCNN
from detection.preprocess import ImageTransform

REFINED_NMS = 0.3  # the paper's threshold for the united boxes of two passes
VOTE_OVERLAP = 0.5  # of the boxes that vote with a kept one (Gidaris and Komodakis 2015)
SMALLEST_SIDE = 1e-2  # pixels, as torchvision has it


class Predictor(nn.Module):
    """Detections by one net or several, in `FasterRCNN`'s form; with nothing asked for, its own to the last bit.

    Args:
        models: of the same labels; the first one's thresholds hold.
        sizes: short sides in pixels to see an image at; none stands for each net's own. The longest side that the net
            allows grows with them.
        flip: see the mirror images as well.
        refine: score the boxes found as new proposals, unite both passes, and let overlapping boxes vote on the place
            of each that is kept.
        nms: overlap from which the weaker of two boxes of a class goes; absent: the first net's (0.5), and 0.3 for
            refined boxes.
    """

    def __init__(
        self,
        models: FasterRCNN | Sequence[FasterRCNN],
        *,
        sizes: Sequence[int] = (),
        flip: bool = False,
        refine: bool = False,
        nms: float | None = None,
    ) -> None:
        super().__init__()
        models = [models] if isinstance(models, FasterRCNN) else models
        if not models or min(sizes, default=1) < 1 or not 0 < (nms or 0.5) <= 1:
            raise UserError(f"{len(models)} nets, sizes {list(sizes)}, nms {nms}: expected nets, pixels, 0 < nms <= 1")
        self.models = nn.ModuleList(models)
        self.looks = [
            (model, _at(model.transform, size), mirrored)
            for model in models
            for size in sizes or (model.transform.min_size[-1],)
            for mirrored in (False, True)[: 1 + flip]
        ]
        heads = models[0].roi_heads
        self.refine, self.heads = refine, heads
        self.nms = nms or (REFINED_NMS if refine else heads.nms_thresh)
        self.plain = len(models) == 1 and not sizes and not flip and not refine and nms is None

    @torch.no_grad()
    def forward(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """Images `[3, H, W]` of any sizes -> `boxes` `[N, 4]` xyxy in their pixels, `scores` and `labels` `[N]` each.

        The features of all looks at a batch are held together.
        """
        with Folds():
            if self.plain:
                return self.looks[0][0](list(images))
            looks = [_Look.of(images, *look) for look in self.looks]
            proposals = [united([look.proposals[n] for look in looks]) for n in range(len(images))]
            scores, boxes = self._score(looks, proposals)
            if self.refine:
                again = [_likeliest(*pair) for pair in zip(scores, boxes, strict=True)]
                passes = zip((scores, boxes), self._score(looks, again), strict=True)
                scores, boxes = ([torch.cat(both) for both in zip(*parts, strict=True)] for parts in passes)
        return [self._select(*found) for found in zip(scores, boxes, strict=True)]

    def predict_with_losses(
        self, images: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """The one net's, which alone has losses."""
        if not self.plain:
            raise UserError("losses are those of one net that sees each image once, and refines nothing")
        return self.looks[0][0].predict_with_losses(images, targets)

    def _score(self, looks: Sequence[_Look], boxes: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """For each image class probabilities `[B, K + 1]` and places by class `[B, K + 1, 4]` of boxes `[B, 4]`.

        Probabilities are means over the looks; a place is their mean weighted by the probability of its class.
        """
        found = [look.score(boxes) for look in looks]
        if len(found) == 1:
            return found[0]
        scores, places = [], []
        for each in zip(*(zip(*pair, strict=True) for pair in found), strict=True):
            chances, seen = (torch.stack(part) for part in zip(*each, strict=True))
            scores.append(chances.mean(0))
            places.append((chances[..., None] * seen).sum(0) / chances.sum(0).clamp(min=1e-12)[..., None])
        return scores, places

    def _select(self, scores: Tensor, boxes: Tensor) -> dict[str, Tensor]:
        """Of an image's scored boxes those to report: above the threshold, suppressed by class, the best ones."""
        labels = torch.arange(scores.shape[1], device=scores.device).expand_as(scores)[:, 1:].flatten()
        scores, boxes = scores[:, 1:].flatten(), boxes[:, 1:].flatten(0, 1)
        likely = torch.where(scores > self.heads.score_thresh)[0]
        likely = likely[remove_small_boxes(boxes[likely], SMALLEST_SIDE)]
        scores, boxes, labels = scores[likely], boxes[likely], labels[likely]
        kept = batched_nms(boxes, scores, labels, self.nms)[: self.heads.detections_per_img]
        places = boxes[kept]
        if self.refine:
            same = labels[kept][:, None] == labels
            places = voted(places, boxes, scores * same)
        return {"boxes": places, "labels": labels[kept], "scores": scores[kept]}


@dataclass
class _Look:
    """What a net sees of a batch of images at one size.

    Attributes:
        sizes: (height, width) of each image as given.
        resized: as the net sees it.
        proposals: in pixels of the images as given.
    """

    model: FasterRCNN
    mirrored: bool
    sizes: list[tuple[int, int]]
    resized: list[tuple[int, int]]
    features: dict[str, Tensor]
    proposals: list[Tensor]

    @classmethod
    def of(cls, images: Sequence[Tensor], model: FasterRCNN, transform: ImageTransform, mirrored: bool) -> _Look:
        """Look at images, up to the proposals."""
        batch, _ = transform([image.flip(-1) if mirrored else image for image in images])
        features = model.backbone(batch.tensors)
        sizes = [(image.shape[-2], image.shape[-1]) for image in images]
        look = cls(model, mirrored, sizes, batch.image_sizes, features, [])
        look.proposals = look._outside(model.rpn(batch, features)[0])
        return look

    def score(self, boxes: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Class probabilities `[B, K + 1]` and places by class `[B, K + 1, 4]` of each image's boxes `[B, 4]`."""
        heads = self.model.roi_heads
        inside = self._inside(boxes)
        logits, deltas = heads.score(self.features, inside, self.resized)
        counts = [len(each) for each in boxes]
        found = heads.box_coder.decode_single(deltas.float(), torch.cat(inside)).unflatten(1, (-1, 4)).split(counts)
        clipped = [clip_boxes_to_image(each, size) for each, size in zip(found, self.resized, strict=True)]
        places = self._outside([each.flatten(0, 1) for each in clipped])
        chances = logits.float().softmax(-1).split(counts)
        return list(chances), [each.unflatten(0, (-1, logits.shape[1])) for each in places]

    def _inside(self, boxes: list[Tensor]) -> list[Tensor]:
        seen = zip(boxes, self.sizes, self.resized, strict=True)
        return [resize_boxes(self._turned(each, size[1]), size, resized) for each, size, resized in seen]

    def _outside(self, boxes: list[Tensor]) -> list[Tensor]:
        seen = zip(boxes, self.sizes, self.resized, strict=True)
        return [self._turned(resize_boxes(each, resized, size), size[1]) for each, size, resized in seen]

    def _turned(self, boxes: Tensor, width: int) -> Tensor:
        return mirrored(boxes, width) if self.mirrored else boxes


def mirrored(boxes: Tensor, width: int) -> Tensor:
    """Boxes `[N, 4]` xyxy as the mirror image of that width has them."""
    left, top, right, bottom = boxes.unbind(1)
    return torch.stack([width - right, top, width - left, bottom], dim=1)


def united(proposals: Sequence[Tensor]) -> Tensor:
    """The proposals `[P, 4]` of an image from several looks, without those that nearly repeat a better one's box.

    Each look's are sorted, best first; what is first among 100 is as good as what is first among 1,000.
    """
    if len(proposals) == 1:
        return proposals[0]
    ranks = torch.cat([-torch.arange(len(each), device=each.device) for each in proposals])
    boxes = torch.cat(list(proposals))
    return boxes[nms(boxes, ranks.float(), 0.7)]


def voted(kept: Tensor, boxes: Tensor, votes: Tensor) -> Tensor:
    """Each kept box `[K, 4]` as the mean of the boxes `[M, 4]` that overlap it by half or more.

    Args:
        votes: what each box counts for each kept one `[K, M]`.
    """
    votes = votes * (box_iou(kept, boxes) >= VOTE_OVERLAP)
    # No matrix product, which autocast would compute in 16 bits.
    return (votes[..., None] * boxes).sum(1) / votes.sum(1, keepdim=True)


def _likeliest(scores: Tensor, boxes: Tensor) -> Tensor:
    """Of each RoI the place `[B, 4]` of its likeliest object class."""
    return boxes[torch.arange(len(boxes), device=boxes.device), scores[:, 1:].argmax(1) + 1]


def _at(transform: ImageTransform, size: int) -> ImageTransform:
    """The same resizing to another short side."""
    own, longest = transform.min_size[-1], transform.max_size
    if size == own:
        return transform
    longest = round(longest * size / own)
    return ImageTransform(transform.image_mean, transform.image_std, min_size=size, max_size=longest)
