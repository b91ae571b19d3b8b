"""RoI heads of a detector. They extend torchvision's by ignored regions, losses over all processes and global context.

torchvision's losses are means over the sampled boxes of one process. Here, the processes that train together weight
their losses by the number of their samples. The result is the mean over the samples of all processes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.roi_heads import RoIHeads as TorchvisionRoIHeads

from backbones.blocks import recomputed
from backbones.common import devices
from backbones.common.precision import at_least_fp32
from backbones.common.processes import weighted
from backbones.norm import fixed_statistics
from detection.box_coder import CachedBoxCoder
from detection.box_predictor import BoxPredictor, box_losses
from detection.mask_head import MaskParts, mask_loss
from detection.matching import IGNORE, ignore_negatives, match_boxes
from detection.necks import BoxHead, MapHead, StageHead
from detection.rois import Sampled, Scored
from detection.sampling import sample_rois
from detection.suppression import detections_of_images


class RoIHeads(TorchvisionRoIHeads):
    """RoI pooling, box head and predictor. Targets may contain `ignore`: regions `[K, 4]` xyxy.

    Args:
        pool: maps features, boxes and image sizes to RoI features `[R, C, size, size]`.
        box_head: maps RoI features to vectors `[R, box_head.out_channels]`.
        num_classes: number of object classes, not counting the background.
        context: append the feature of the whole image to the feature of each box. It is pooled and passed through the
            same layers (He et al. 2016, appendix B), and the predictor is twice as wide.
        rois_per_image: number of RoIs per image that the box loss samples.
        score_threshold: detections with a lower score are left out.
        max_detections: largest number of detections per image.
        masks: layers of the mask branch, or None for boxes only. Targets then also hold `strips` `[S, 5]`.
        class_agnostic_boxes: predict one box per RoI in place of one per class.
        box_loss: see `box_losses`.
    """

    box_predictor: BoxPredictor

    def __init__(
        self,
        pool: nn.Module,
        box_head: BoxHead,
        num_classes: int,
        *,
        context: bool,
        rois_per_image: int,
        score_threshold: float,
        max_detections: int,
        masks: MaskParts | None = None,
        class_agnostic_boxes: bool = False,
        box_loss: str = "smooth_l1",
    ) -> None:
        width = 2 * box_head.out_channels if context else box_head.out_channels
        super().__init__(
            pool,
            box_head,
            BoxPredictor(width, num_classes + 1, class_agnostic=class_agnostic_boxes),
            fg_iou_thresh=0.5,  # Fast R-CNN, section 2.3: a RoI is an object from this IoU
            bg_iou_thresh=0.5,
            batch_size_per_image=rois_per_image,
            positive_fraction=0.25,  # Fast R-CNN, section 2.3: a quarter of the sampled RoIs are objects
            bbox_reg_weights=None,
            score_thresh=score_threshold,
            nms_thresh=0.5,
            detections_per_img=max_detections,
            mask_roi_pool=masks and masks.pool,
            mask_head=masks and masks.head,
            mask_predictor=masks and masks.predictor,
        )
        self.box_coder = CachedBoxCoder((10.0, 10.0, 5.0, 5.0))  # the inverse of the deltas' std
        self.context, self.box_loss = context, box_loss
        self.recomputes = False  # compute the heads again in the backward pass
        self.mask_side = 0 if masks is None else masks.side  # cells along a side of a mask
        self.mask_pasting = "aligned" if masks is None else masks.pasting

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Return the detections of each image, or in training mode the losses."""
        if self.training and targets is not None:
            return [], self._losses(features, proposals, image_shapes, targets)
        found = self.postprocess_detections(*self.score(features, proposals, image_shapes), image_shapes)
        detections = [
            {"boxes": boxes, "labels": labels, "scores": scores} for boxes, scores, labels in zip(*found, strict=True)
        ]
        if self.has_mask():
            boxes, _, labels = found
            for each, masks in zip(detections, self.masks(features, boxes, labels, image_shapes), strict=True):
                each["masks"] = masks
        return detections, {}

    def compilable(self) -> dict[str, nn.Module]:
        """Return the parts by name that torch.compile can compile whole: modules between RoIAlign and losses."""
        head = self.box_head
        found = {"box head": head.stage if isinstance(head, StageHead) else head, "box predictor": self.box_predictor}
        # With the neck C4, the mask branch reads the maps of the box head.
        has_layers = self.has_mask() and not isinstance(self.mask_head, nn.Identity)
        return {**found, "mask head": self.mask_head} if has_layers else found

    def predict_with_losses(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]],
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Return detections as in evaluation mode, and the training losses on a sample of the same proposals."""
        detections, _ = self(features, proposals, image_shapes)
        return detections, self._losses(features, proposals, image_shapes, targets)

    def score(self, features: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Scored:
        """Return the class logits and box deltas of boxes.

        Args:
            features: feature maps `[N, C, H, W]` by level name.
            boxes: for each image its boxes `[B, 4]` xyxy. R is the number of boxes in all images.
            image_shapes: height and width of each resized image.
        """
        logits, deltas = self.box_predictor(self._vectors(features, boxes, image_shapes, self.box_head)[0])
        return Scored(logits, deltas, boxes)

    def masks(
        self,
        features: dict[str, Tensor],
        boxes: list[Tensor],
        labels: list[Tensor],
        image_shapes: list[tuple[int, int]],
    ) -> list[Tensor]:
        """Return the masks of each image's boxes `[B, M, M]`: probabilities in the cells of a grid over the box.

        Args:
            features: feature maps `[N, C, H, W]` by level name.
            boxes: for each image its boxes `[B, 4]` xyxy.
            labels: for each image the classes of its boxes `[B]`.
            image_shapes: height and width of each resized image.
        """
        if not sum(len(each) for each in boxes):
            side = self.mask_side
            return [each.new_zeros((0, side, side)) for each in boxes]
        logits = self.mask_predictor.of_class(self._mask_maps(features, boxes, image_shapes), torch.cat(labels))
        return list(logits.sigmoid().split([len(each) for each in boxes]))

    def _mask_maps(
        self, features: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> Tensor:
        """Return the features of RoIs that the mask predictor reads `[R, C, M / 2, M / 2]`."""
        rois = self.mask_roi_pool(features, boxes, image_shapes)
        if isinstance(self.box_head, MapHead):
            return self.box_head.maps(rois)
        if not len(rois):
            with fixed_statistics(self.mask_head):
                return self.mask_head(rois)
        return recomputed(self.mask_head, rois) if self.recomputes and self.training else self.mask_head(rois)

    def _vectors(
        self, features: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]], head: BoxHead
    ) -> tuple[Tensor, Tensor | None]:
        """Return the vector of each box `[R, C]`, and the box head's map of each box if it has maps."""
        if not self.context:
            return self._through_head(head, self.box_roi_pool(features, boxes, image_shapes))
        # Put a box around the whole image before the boxes of each image.
        whole = [_whole(own, size) for own, size in zip(boxes, image_shapes, strict=True)]
        pooled = [torch.cat(pair) for pair in zip(whole, boxes, strict=True)]
        vectors, maps = self._through_head(head, self.box_roi_pool(features, pooled, image_shapes))
        counts = [len(b) for b in pooled]
        # Append the image's vector to the vector of each of its boxes.
        joined = [torch.cat([own[1:], own[:1].expand(len(own) - 1, -1)], dim=1) for own in vectors.split(counts)]
        own_maps = None if maps is None else torch.cat([own[1:] for own in maps.split(counts)])
        return torch.cat(joined), own_maps

    def _through_head(self, head: BoxHead, rois: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return a box head's vectors of RoI features, and the maps whose means they are, if it has maps."""
        if isinstance(head, MapHead):
            maps = head.maps(rois)
            return maps.mean(dim=(2, 3)), maps
        return recomputed(head, rois) if self.recomputes and self.training else head(rois), None

    def _losses(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]],
    ) -> dict[str, Tensor]:
        """Return the classification and box losses of Fast R-CNN (equation 1), both averaged over the sampled RoIs.

        With a mask branch, also return the mask loss, averaged over the pixels of the positive RoIs.
        """
        # Sample RoIs, with the class and the true box of each.
        sampled = self.sample(proposals, targets)
        # Compute logits and deltas of the sampled RoIs.
        vectors, maps = self._vectors(features, sampled.boxes, image_shapes, self.box_head)
        logits, deltas = self.box_predictor(vectors)
        losses = self._weighted_losses(logits, deltas, sampled, self.box_coder)
        if self.has_mask():
            losses["loss_mask"] = self._mask_loss(features, sampled, maps, image_shapes, targets)
        return losses

    def _weighted_losses(
        self, logits: Tensor, deltas: Tensor, sampled: Sampled, coder: BoxCoder, suffix: str = ""
    ) -> dict[str, Tensor]:
        """Return the classification and box losses of RoIs, averaged over the RoIs of all processes in training.

        Args:
            suffix: end of the losses' names.
        """
        labels, boxes, truth = (torch.cat(part) for part in (sampled.labels, sampled.boxes, sampled.truth))
        if sampled.may_ignore:
            used = torch.where(labels >= 0)[0]
            logits, deltas, labels, boxes, truth = (each[used] for each in (logits, deltas, labels, boxes, truth))
        # Turn the means over this process's samples into means over the samples of all processes.
        classifier, regression = box_losses(logits, deltas, labels, boxes, truth, coder=coder, kind=self.box_loss)
        losses = {f"loss_classifier{suffix}": classifier, f"loss_box_reg{suffix}": regression}
        return weighted(losses, labels.new_full((), len(logits))) if self.training else losses

    def _mask_loss(
        self,
        features: dict[str, Tensor],
        sampled: Sampled,
        maps: Tensor | None,
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]],
    ) -> Tensor:
        """Return the mask loss of the positives.

        Args:
            maps: maps of the sampled RoIs that the box head has computed already, or None.
        """
        labels = torch.cat(sampled.labels)
        chosen = torch.where(labels > 0)[0]
        # Divide the positives by image.
        counts = torch.stack([(label > 0).sum() for label in sampled.labels]).tolist()
        boxes, objects = (list(torch.cat(part)[chosen].split(counts)) for part in (sampled.boxes, sampled.objects))
        own = self._mask_maps(features, boxes, image_shapes) if maps is None else maps[chosen]
        masks = self.mask_predictor.of_class(own, labels[chosen])
        return mask_loss(masks, boxes, objects, targets, image_shapes, training=self.training)

    def select_training_samples(
        self, proposals: list[Tensor], targets: list[dict[str, Tensor]] | None
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
        """Return the sampled RoIs of each image as torchvision's method does: the last list has true deltas."""
        assert targets is not None
        sampled = self.sample(proposals, targets)
        return sampled.boxes, sampled.objects, sampled.labels, self.box_coder.encode(sampled.truth, sampled.boxes)

    def sample(self, proposals: list[Tensor], targets: list[dict[str, Tensor]]) -> Sampled:
        """Sample positives and negatives of each image; negatives inside ignored regions are not sampled."""
        truth = [target["boxes"].to(proposals[0].dtype) for target in targets]
        # Add the true boxes to the proposals, so that there are positives from the first step on.
        boxes = self.add_gt_proposals(proposals, truth)
        # Label every box, and leave out the negatives inside ignored regions.
        matches, labels = self.assign_targets_to_proposals(boxes, truth, [target["labels"] for target in targets])
        labels = ignore_negatives(labels, boxes, targets)
        # Sample positives and negatives of each image.
        together = devices.reading_waits(boxes[0].device)
        sampled = sample_rois(labels, self.fg_bg_sampler) if together else self.subsample(labels)
        boxes, labels, matches = (
            [values[kept] for values, kept in zip(each, sampled, strict=True)] for each in (boxes, labels, matches)
        )
        return Sampled(boxes, matches, labels, self._matched(truth, matches))

    @staticmethod
    def _matched(truth: list[Tensor], matches: list[Tensor]) -> list[Tensor]:
        """Return the true box of each RoI. An image without objects gets zeros, which nothing reads."""
        return [(own if len(own) else own.new_zeros(1, 4))[each] for own, each in zip(truth, matches, strict=True)]

    def assign_targets_to_proposals(
        self, proposals: list[Tensor], gt_boxes: list[Tensor], gt_labels: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return, for each image, the indices of the proposals' true boxes and the proposals' labels, both `[P]`."""
        images = zip(proposals, gt_boxes, gt_labels, strict=True)
        found = [self._assign(*image, self.proposal_matcher) for image in images]
        matches, labels = map(list, zip(*found, strict=True))
        return matches, labels

    @staticmethod
    def _assign(proposals: Tensor, truth: Tensor, classes: Tensor, matcher: Matcher) -> tuple[Tensor, Tensor]:
        """Return, for one image, the indices of the proposals' true boxes and the proposals' labels, both `[P]`."""
        if not len(truth):
            nothing = torch.zeros(len(proposals), dtype=torch.int64, device=proposals.device)
            return nothing, nothing.clone()
        matches = match_boxes(truth, proposals, matcher)
        labels = torch.where(matches >= 0, classes[matches.clamp(min=0)], 0)
        labels[matches == matcher.BETWEEN_THRESHOLDS] = IGNORE
        return matches.clamp(min=0), labels

    def postprocess_detections(
        self,
        class_logits: Tensor,
        box_regression: Tensor,
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Return the boxes, scores and labels of each image's detections, computed in float32 or more.

        bf16 would round coordinates above 256 to even numbers.
        """
        logits, deltas = at_least_fp32(class_logits), at_least_fp32(box_regression)
        if not devices.reading_waits(logits.device):
            return super().postprocess_detections(logits, deltas, proposals, image_shapes)
        boxes = self.box_coder.decode_single(deltas, torch.cat(proposals)).reshape(*logits.shape, 4)
        return detections_of_images(
            boxes.split([len(each) for each in proposals]),
            logits.softmax(-1),
            image_shapes,
            least_score=self.score_thresh,
            threshold=self.nms_thresh,
            most=self.detections_per_img,
        )


def _whole(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the box around an image of size (height, width) as `[1, 4]` xyxy, with type and device of `boxes`."""
    whole = boxes.new_zeros(1, 4)
    whole[:, 2], whole[:, 3] = size[1], size[0]  # filled on the device
    return whole
