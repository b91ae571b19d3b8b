"""Faster R-CNN (Ren et al. 2015) assembled from a backbone's declared features and torchvision's parts.

Three necks: FPN (Lin et al. 2017) over all levels; C4, the ResNet paper's own, whose RoI features come from conv4 and
whose head is conv5; DC5, a dilated conv5 with a two-layer head. Anchors, RoI scales and widths follow from
`feature_info` alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from backbones import Backbone
from backbones.errors import UserError
from backbones.norm import freeze_batch_norm, synchronise_batch_norm
from backbones.weights.hub import resolve
from detection.data.annotations import CategoryMap
from detection.necks import Neck, c4_neck, dc5_neck, fpn_neck
from detection.preprocess import ImageTransform
from detection.roi_align import RoIPool
from detection.roi_heads import RoIHeads
from detection.rpn import Anchors, ProposalHead, RegionProposals
from detection.weights import load_detector, read_detector

ASPECT_RATIOS = (0.5, 1.0, 2.0)
C4_ANCHOR_SCALES = (2, 4, 8, 16, 32)  # one level carries all sizes: 32..512 pixels at stride 16
NECKS: dict[str, Callable[..., Neck]] = {"fpn": fpn_neck, "c4": c4_neck, "dc5": dc5_neck}


class FasterRCNN(GeneralizedRCNN):
    """Images in, losses or detections out.

    In training mode `model(images, targets)` returns `{loss name: scalar}`; in evaluation mode `model(images)` returns
    one dict an image: `boxes` `[N, 4]` xyxy in pixels of the image as given, `scores` `[N]` in 0..1 and `labels` `[N]`
    from 1 to `num_classes`.

    Images are a list of `[3, H, W]` tensors of any sizes, uint8 or floats in 0..1. Targets hold `boxes` and `labels` as
    above, and may hold `ignore` `[K, 4]` (regions, such as crowds, that take no negative loss) and `short_side`
    (pixels to resize to).
    """

    def __init__(self, neck: Neck, rpn: nn.Module, roi_heads: nn.Module, transform: nn.Module) -> None:
        super().__init__(neck, rpn, roi_heads, transform)
        self.load_report: Any = None

    def predict_with_losses(
        self, images: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Detections as in evaluation mode, and the training losses of the same features.

        The losses' samples are drawn of the proposals of evaluation (`proposals`, half as many as in training).
        """
        sizes = [(image.shape[-2], image.shape[-1]) for image in images]
        batch, scaled = self.transform(images, targets)
        features = self.backbone(batch.tensors)
        proposals, losses = self.rpn.predict_with_losses(batch, features, scaled)
        detections, more = self.roi_heads.predict_with_losses(features, proposals, batch.image_sizes, scaled)
        return self.transform.postprocess(detections, batch.image_sizes, sizes), {**more, **losses}

    def freeze_stages(self, stages: int) -> None:
        """Freeze the backbone's first stages (1: stem, 2: stem and c2, ...)."""
        self.backbone.body.freeze_stages(stages)


def build(
    backbone: str | Backbone,
    num_classes: int,
    *,
    neck: Literal["fpn", "c4", "dc5"] = "fpn",
    weights: str | os.PathLike[str] | None = None,
    norm: Literal["auto", "batch", "sync", "frozen", "group"] = "auto",
    in_channels: int = 3,
    min_size: int = 800,
    max_size: int = 1333,
    fpn_channels: int = 256,
    fpn_norm: Literal["none", "batch", "group"] = "none",
    head_channels: int = 1024,
    anchor_scale: float = 8.0,
    rois_per_image: int = 512,
    roi_samples: int = 2,
    proposals: int = 1000,
    context: bool = False,
    max_detections: int = 100,
    score_threshold: float = 0.05,
    categories: CategoryMap | None = None,
) -> FasterRCNN:
    """Build a detector.

    Args:
        backbone: a name of the registry, or a `Backbone` (with `features` and stride that the neck asks for).
        num_classes: number of object classes, the background not counted.
        weights: None for random ones; "coco" or a detector's file for the whole net; anything else ("imagenet", a
            tag, a backbone's or classifier's file) for the backbone.
        norm: batch norm of the backbone; auto is what a detector's file was trained with, else frozen with weights and
            live without. "sync" is live with the statistics of all processes together, in the pyramid as well.
        min_size, max_size: images are resized until the short side is `min_size` or the long one `max_size` pixels.
        fpn_channels: width of the pyramid.
        fpn_norm: norm layers in the pyramid; training from scratch converges faster with them.
        head_channels: width of the two-layer box head (FPN and DC5).
        anchor_scale: anchor side over stride on each level.
        rois_per_image: sampled for the box loss.
        roi_samples: RoIAlign's samples along each side of a cell.
        proposals: kept by the RPN after suppression, in evaluation; twice as many in training.
        context: join to each RoI's feature that of the whole image, before scores and boxes are read from it.
        categories: of the data, so that a detector's file gives the predictor rows of the same categories.

    Raises:
        UserError: for an unknown neck or backbone, or weights that do not fit.
    """
    if neck not in NECKS:
        raise UserError(f"neck {neck!r}: unknown; there are {', '.join(NECKS)}")
    if num_classes < 1:
        raise UserError(f"num_classes {num_classes}: a detector needs at least one object class besides the background")
    weights = resolve(weights)
    state = read_detector(weights, backbone, neck)
    wants_frozen = norm == "frozen" or (norm == "auto" and weights is not None and not _has_live_norm(state))
    backbone_norm = "group" if norm == "group" else "batch"
    if norm == "frozen" and weights is None and isinstance(backbone, str):
        raise UserError("norm 'frozen': random weights need a live norm; give weights, or take norm='batch' or 'group'")
    if weights is not None and state is None and not isinstance(backbone, str):
        raise UserError(f"weights {weights}: a backbone that is built already has its own; name a detector's file")
    made_neck = NECKS[neck](
        backbone,
        fpn_channels=fpn_channels,
        fpn_norm=fpn_norm,
        weights=None if state is not None else weights,
        norm=backbone_norm,
        in_channels=in_channels,
    )
    model = FasterRCNN(
        made_neck,
        _proposal_net(made_neck, anchor_scale, proposals),
        _roi_heads(
            made_neck,
            num_classes,
            head_channels=head_channels,
            rois_per_image=rois_per_image,
            pool=RoIPool(made_neck.roi_features, made_neck.roi_size, roi_samples),
            score_threshold=score_threshold,
            max_detections=max_detections,
            context=context,
        ),
        ImageTransform(made_neck.body.mean, made_neck.body.std, min_size=min_size, max_size=max_size),
    )
    if wants_frozen:
        freeze_batch_norm(model)
    if norm == "sync":
        synchronise_batch_norm(model)
    model.load_report = made_neck.body.load_report
    if state is not None:
        model.load_report = load_detector(model, state, source=str(weights), categories=categories)
    return model


def _has_live_norm(state: dict[str, Tensor] | None) -> bool:
    """Whether a detector was trained with live batch norm, which alone counts its batches."""
    return any(name.endswith("num_batches_tracked") for name in state or ())


def _proposal_net(neck: Neck, anchor_scale: float, proposals: int) -> RegionProposals:
    infos = neck.feature_info
    sizes: tuple[tuple[int, ...], ...]
    if len(infos) > 1:
        sizes = tuple((int(anchor_scale * info.stride),) for info in infos)
    else:
        sizes = (tuple(int(anchor_scale / 8 * scale * infos[0].stride) for scale in C4_ANCHOR_SCALES),)
    anchors = Anchors(sizes, (ASPECT_RATIOS,) * len(sizes))
    return RegionProposals(
        anchors,
        ProposalHead(infos[0].channels, anchors.num_anchors_per_location()[0]),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_top_n={"training": 2 * proposals, "testing": proposals},
        post_nms_top_n={"training": 2 * proposals, "testing": proposals},
        nms_thresh=0.7,
    )


def _roi_heads(
    neck: Neck,
    num_classes: int,
    *,
    head_channels: int,
    rois_per_image: int,
    pool: RoIPool,
    score_threshold: float,
    max_detections: int,
    context: bool,
) -> RoIHeads:
    box_head, width = neck.box_head(head_channels)
    heads = RoIHeads(
        pool,
        box_head,
        FastRCNNPredictor(2 * width if context else width, num_classes + 1),
        fg_iou_thresh=0.5,
        bg_iou_thresh=0.5,
        batch_size_per_image=rois_per_image,
        positive_fraction=0.25,
        bbox_reg_weights=None,
        score_thresh=score_threshold,
        nms_thresh=0.5,
        detections_per_img=max_detections,
    )
    heads.context = context
    return heads
