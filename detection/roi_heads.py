"""RoI heads of a detector. They extend torchvision's by ignored regions, losses over all processes and global context.

torchvision's losses are means over the sampled boxes of one process. Here, the processes that train together weight
their losses by the number of their samples. The result is the mean over the samples of all processes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads as TorchvisionRoIHeads
from torchvision.models.detection.roi_heads import fastrcnn_loss

from backbones.common.precision import at_least_fp32
from backbones.common.processes import relative_count
from detection.mask_head import MaskParts, mask_loss
from detection.matching import IGNORE, ignore_negatives, match_boxes
from detection.necks import BoxHead, MapHead


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
    """

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
    ) -> None:
        width = 2 * box_head.out_channels if context else box_head.out_channels
        super().__init__(
            pool,
            box_head,
            FastRCNNPredictor(width, num_classes + 1),
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
        self.context = context
        self.mask_side = 0 if masks is None else masks.side  # cells along a side of a mask

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
        found = self.postprocess_detections(*self.score(features, proposals, image_shapes), proposals, image_shapes)
        detections = [
            {"boxes": boxes, "labels": labels, "scores": scores} for boxes, scores, labels in zip(*found, strict=True)
        ]
        if self.has_mask():
            boxes, _, labels = found
            for each, masks in zip(detections, self.masks(features, boxes, labels, image_shapes), strict=True):
                each["masks"] = masks
        return detections, {}

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

    def score(
        self, features: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> tuple[Tensor, Tensor]:
        """Return class logits `[R, K + 1]`, background first, and box deltas `[R, 4 * (K + 1)]`.

        Args:
            features: feature maps `[N, C, H, W]` by level name.
            boxes: for each image its boxes `[B, 4]` xyxy. R is the number of boxes in all images.
            image_shapes: height and width of each resized image.
        """
        return self.box_predictor(self._vectors(features, boxes, image_shapes)[0])

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
        return self.box_head.maps(rois) if isinstance(self.box_head, MapHead) else self.mask_head(rois)

    def _vectors(
        self, features: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> tuple[Tensor, Tensor | None]:
        """Return the vector of each box `[R, C]`, and the box head's map of each box if it has maps."""
        if not self.context:
            return self._through_head(self.box_roi_pool(features, boxes, image_shapes))
        # Put a box around the whole image before the boxes of each image.
        whole = [b.new_tensor([[0, 0, width, height]]) for b, (height, width) in zip(boxes, image_shapes, strict=True)]
        pooled = [torch.cat(pair) for pair in zip(whole, boxes, strict=True)]
        vectors, maps = self._through_head(self.box_roi_pool(features, pooled, image_shapes))
        counts = [len(b) for b in pooled]
        # Append the image's vector to the vector of each of its boxes.
        joined = [torch.cat([own[1:], own[:1].expand(len(own) - 1, -1)], dim=1) for own in vectors.split(counts)]
        own_maps = None if maps is None else torch.cat([own[1:] for own in maps.split(counts)])
        return torch.cat(joined), own_maps

    def _through_head(self, rois: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the box head's vectors of RoI features, and the maps whose means they are, if it has maps."""
        if not isinstance(self.box_head, MapHead):
            return self.box_head(rois), None
        maps = self.box_head.maps(rois)
        return maps.mean(dim=(2, 3)), maps

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
        # Sample RoIs, with the class and the true box deltas of each.
        sampled, objects, labels, deltas = self.select_training_samples(proposals, targets)
        # Compute logits and deltas of the sampled RoIs.
        vectors, maps = self._vectors(features, sampled, image_shapes)
        logits, found = self.box_predictor(vectors)
        # Cross-entropy over the classes; smooth L1 of the deltas of the true class, for objects only.
        classifier, regression = fastrcnn_loss(logits, found, labels, deltas)
        # Turn the means over this process's samples into means over the samples of all processes.
        weight = relative_count(labels[0].new_full((), len(logits))) if self.training else 1
        losses = {"loss_classifier": classifier * weight, "loss_box_reg": regression * weight}
        if not self.has_mask():
            return losses
        # Predict the masks of the positives. A box head with maps has computed their maps already.
        positive = [label > 0 for label in labels]
        boxes, objects = ([each[p] for each, p in zip(part, positive, strict=True)] for part in (sampled, objects))
        own = self._mask_maps(features, boxes, image_shapes) if maps is None else maps[torch.cat(positive)]
        chosen = torch.cat(labels)[torch.cat(positive)]
        masks = self.mask_predictor.of_class(own, chosen)
        losses["loss_mask"] = mask_loss(masks, boxes, objects, targets, image_shapes, training=self.training)
        return losses

    def select_training_samples(
        self, proposals: list[Tensor], targets: list[dict[str, Tensor]] | None
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
        """Return the sampled RoIs of each image.

        This extends torchvision's method: negatives inside ignored regions are not sampled.

        Returns:
            Four lists with an entry for each image: boxes `[S, 4]`, indices of true boxes `[S]`, labels `[S]`, true
                deltas `[S, 4]`.
        """
        assert targets is not None
        truth = [target["boxes"].to(proposals[0].dtype) for target in targets]
        # Add the true boxes to the proposals, so that there are positives from the first step on.
        boxes = self.add_gt_proposals(proposals, truth)
        # Label every box, and leave out the negatives inside ignored regions.
        matches, labels = self.assign_targets_to_proposals(boxes, truth, [target["labels"] for target in targets])
        labels = ignore_negatives(labels, boxes, targets)
        # Sample positives and negatives of each image.
        sampled = self.subsample(labels)
        boxes, labels, matches = (
            [values[kept] for values, kept in zip(each, sampled, strict=True)] for each in (boxes, labels, matches)
        )
        # Encode the true boxes relative to the sampled ones. An image without objects gets zeros, which nothing reads.
        true = [
            (own if len(own) else own.new_zeros(1, 4))[matched] for own, matched in zip(truth, matches, strict=True)
        ]
        return boxes, matches, labels, self.box_coder.encode(true, boxes)

    def assign_targets_to_proposals(
        self, proposals: list[Tensor], gt_boxes: list[Tensor], gt_labels: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return, for each image, the indices of the proposals' true boxes and the proposals' labels, both `[P]`."""
        found = [self._assign(*image) for image in zip(proposals, gt_boxes, gt_labels, strict=True)]
        matches, labels = map(list, zip(*found, strict=True))
        return matches, labels

    def _assign(self, proposals: Tensor, truth: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Return, for one image, the indices of the proposals' true boxes and the proposals' labels, both `[P]`."""
        if not len(truth):
            nothing = torch.zeros(len(proposals), dtype=torch.int64, device=proposals.device)
            return nothing, nothing.clone()
        matches = match_boxes(truth, proposals, self.proposal_matcher)
        labels = torch.where(matches >= 0, classes[matches.clamp(min=0)], 0)
        labels[matches == self.proposal_matcher.BETWEEN_THRESHOLDS] = IGNORE
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
        logits, regression = at_least_fp32(class_logits), at_least_fp32(box_regression)
        return super().postprocess_detections(logits, regression, proposals, image_shapes)
