"""Faster R-CNN (Ren et al. 2015): a backbone of the registry, a neck, an RPN and RoI heads.

With `masks=True`, the RoI heads have a mask branch: the detector is a Mask R-CNN (He et al. 2017).

Anchors, RoI scales and widths follow from the features that the neck declares (see `detection.necks`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import partial

from torch import Tensor, nn
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

import backbones
from backbones import Backbone
from backbones.common.keywords import known_keywords
from backbones.common.numeric import whole_number
from backbones.errors import UserError
from backbones.norm import freeze_batch_norm, synchronise_batch_norm
from backbones.weights.hub import resolve
from backbones.weights.report import LoadReport
from detection.cascade import IOUS, CascadeHeads
from detection.data.annotations import CategoryMap
from detection.mask_head import build_mask_parts
from detection.necks import NECKS, BackboneBuilder, BoxHead, ConvHead, HeadNorm, Neck, StageHead, default_box_head
from detection.preprocess import Preprocessor
from detection.roi_align import PyramidRoIAlign
from detection.roi_heads import RoIHeads
from detection.rpn import RPN
from detection.settings import DetectorSettings, takes
from detection.targets import check_targets, with_strips
from detection.weights import load_detector, read_detector

HEAD_NORM = ".norm.bn."  # in the names of the entries of `HeadNorm`


class FasterRCNN(GeneralizedRCNN):
    """Faster R-CNN detector. It maps images to detections, or in training mode to losses.

    In training mode `model(images, targets)` returns `{loss name: scalar}`. In evaluation mode `model(images)` returns
    one dict per image: `boxes` `[N, 4]` xyxy in pixels of the image as given, `scores` `[N]` in 0..1 and `labels` `[N]`
    from 1 to `num_classes`. A detector with a mask branch adds `masks` `[N, M, M]`: probabilities in the cells of a
    grid over each box. `detection.masks` pastes them into the image.

    Images are a list of `[3, H, W]` tensors of any sizes, uint8 or floats in 0..1. Targets hold `boxes` and `labels` as
    above. They may hold `ignore` `[K, 4]` (regions, such as crowds, that take no negative loss) and `short_side`
    (pixels to resize to). A detector with a mask branch needs `masks`
    `[N, H, W]` (bitmaps of the image's size) or `strips` `[S, 5]` (see `detection.strips`).
    """

    backbone: Neck
    rpn: RPN
    roi_heads: RoIHeads
    transform: Preprocessor

    def __init__(self, neck: Neck, rpn: RPN, roi_heads: RoIHeads, transform: Preprocessor) -> None:
        super().__init__(neck, rpn, roi_heads, transform)
        self.checks_targets = True
        self.load_report: LoadReport | None = None

    def forward(
        self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Return the losses in training mode, else the detections.

        Raises:
            UserError: in training mode, the targets are missing, or one is malformed; the message names image and box.
        """
        if not self.training:
            sizes = [(image.shape[-2], image.shape[-1]) for image in images]
            batch, _ = self.transform(images)
            features = self.backbone(batch.tensors)
            proposals, _ = self.rpn(batch, features)
            detections, _ = self.roi_heads(features, proposals, batch.image_sizes)
            return self.transform.postprocess(detections, batch.image_sizes, sizes)
        if targets is None:
            raise UserError("targets: missing in training mode; give a dict for each image, or call model.eval() first")
        batch, scaled = self.transform(images, self._checked(targets, images))
        features = self.backbone(batch.tensors)
        proposals, losses = self.rpn(batch, features, scaled)
        _, more = self.roi_heads(features, proposals, batch.image_sizes, scaled)
        return {**more, **losses}

    def _checked(self, targets: list[dict[str, Tensor]], images: list[Tensor]) -> list[dict[str, Tensor]]:
        """Return the targets after checking them, with masks as strips, or without masks if the model has none."""
        if self.checks_targets:
            check_targets(targets, self.num_classes)
        if self.has_masks:
            return with_strips(targets, images)
        return [{name: value for name, value in target.items() if name != "masks"} for target in targets]

    @property
    def has_masks(self) -> bool:
        """Return whether the detector has a mask branch."""
        return self.roi_heads.has_mask()

    @property
    def num_classes(self) -> int:
        """Return the number of classes without the background."""
        return self.roi_heads.box_predictor.cls_score.out_features - 1

    def predict_with_losses(
        self, images: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Return detections as in evaluation mode, and the training losses computed from the same features.

        The losses use samples of the proposals of evaluation mode, which has half as many proposals as training.
        """
        targets = self._checked(targets, images)
        sizes = [(image.shape[-2], image.shape[-1]) for image in images]
        batch, scaled = self.transform(images, targets)
        features = self.backbone(batch.tensors)
        proposals, losses = self.rpn.predict_with_losses(batch, features, scaled)
        detections, more = self.roi_heads.predict_with_losses(features, proposals, batch.image_sizes, scaled)
        return self.transform.postprocess(detections, batch.image_sizes, sizes), {**more, **losses}

    def trust_targets(self) -> None:
        """Leave out the check of targets, which waits for the GPU, because the data loader checks them on the CPU."""
        self.checks_targets = False

    def recompute_activations(self) -> None:
        """Save memory in training: store only the inputs of blocks, pyramid and heads, and recompute the rest.

        Outputs, gradients and running statistics stay the same to the last bit.

        Raises:
            UserError: the backbone cannot do this.
        """
        self.backbone.body.recompute_activations()
        self.backbone.recomputes = self.rpn.recomputes = self.roi_heads.recomputes = True
        if isinstance(self.roi_heads.box_head, StageHead):
            self.roi_heads.box_head.recomputes = True

    def compilable(self) -> dict[str, nn.Module]:
        """Return the parts by name that torch.compile can compile whole. Sampling and NMS have sizes of their own."""
        return {"backbone": self.backbone, "rpn head": self.rpn.head, **self.roi_heads.compilable()}

    def freeze_stages(self, stages: int) -> None:
        """Freeze the first `stages` stages of the backbone (1: stem, 2: stem and c2, ...)."""
        self.backbone.body.freeze_stages(stages)


@dataclass(frozen=True)
class DetectorSpec(DetectorSettings):
    """The arguments of `build`: the settings of a detector, its backbone, weights and classes.

    Args:
        backbone: a registered name, or a `Backbone` with the features and the stride that the neck needs.
        num_classes: number of object classes, not counting the background.
        weights: None for random weights; "coco" or a detector's file for the whole detector; anything else
            ("imagenet", a tag, the file of a backbone or classifier) for the backbone.
        in_channels: number of channels of the images.
        mean, std: normalisation of inputs in 0..1, one value per channel. By default those of the backbone.
        score_threshold: detections with a lower score are left out.
        categories: ids and names of the classes. With them, each row of the predictor is loaded from the file's row of
            the same category.
    """

    backbone: str | Backbone
    num_classes: int
    _: KW_ONLY
    weights: str | os.PathLike[str] | None = None
    in_channels: int = 3
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    score_threshold: float = 0.05
    categories: CategoryMap | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        # A frozen dataclass sets its fields in this way.
        object.__setattr__(self, "num_classes", whole_number("num_classes", self.num_classes))


@known_keywords("detection.build")
@takes(DetectorSpec)
def build(spec: DetectorSpec) -> FasterRCNN:
    """Build a detector.

        detection.build("resnet50", 80, neck="c4", weights="imagenet", min_size=600)

    Raises:
        UserError: the neck or the backbone is unknown, or the weights do not fit.
    """
    build_neck = NECKS[spec.neck]
    weights = resolve(spec.weights)
    state = read_detector(
        weights, spec.backbone, spec.neck, masks=spec.masks, version=spec.version, weights_from=spec.weights_from
    )
    _refuse_misfit(spec, has_weights=weights is not None, has_detector=state is not None)
    neck, box_head = build_neck(_backbone_builder(spec, None if state is not None else weights), spec)
    model = _assemble(spec, neck, box_head)
    _refuse_unused_norm(spec, model)
    if weights is not None or spec.norm == "frozen":
        _freeze_norm(model, spec.norm, state)
    if spec.norm == "sync":
        synchronise_batch_norm(model)
    if spec.recompute:
        model.recompute_activations()
    model.load_report = neck.body.load_report
    if state is not None:
        model.load_report = load_detector(model, state, source=str(weights), categories=spec.categories)
    return model


def _refuse_misfit(spec: DetectorSpec, *, has_weights: bool, has_detector: bool) -> None:
    """Refuse weights that cannot be used with the norm or the backbone of a spec.

    Raises:
        UserError: the norm is frozen without weights, or weights of a backbone are given for a backbone that is built
            already.
    """
    is_name = isinstance(spec.backbone, str)
    if spec.norm == "frozen" and is_name and not has_weights:
        raise UserError(
            "norm 'frozen': cannot be combined with random weights; give weights, or use norm='batch' or norm='group'"
        )
    if not is_name and has_weights and not has_detector:
        raise UserError(
            f"weights {spec.weights}: a backbone that is built already has its own weights; give the weights file of "
            "a whole detector"
        )


def _backbone_builder(spec: DetectorSpec, weights: str | os.PathLike[str] | None) -> BackboneBuilder:
    """Return the function that a neck calls to build its backbone."""
    backbone = spec.backbone
    if not isinstance(backbone, str):
        return lambda *, features, output_stride=32: backbone
    norm = "group" if spec.norm == "group" else "batch"  # frozen and sync norm are made of batch norm later
    return partial(
        backbones.build,
        backbone,
        weights=weights,
        norm=norm,
        in_channels=spec.in_channels,
        stride_style=spec.stride_style,
        weights_from=spec.weights_from,
    )


def _assemble(spec: DetectorSpec, neck: Neck, box_head: BoxHead | None) -> FasterRCNN:
    """Assemble a detector from a neck and a box head. The heads' weights are random."""
    rpn = RPN(neck.feature_info, anchor_scale=spec.anchor_scale, proposals=spec.proposals, depth=spec.rpn_depth)
    pool = PyramidRoIAlign(neck.roi_features, neck.roi_size, spec.roi_samples)
    if spec.cascade and box_head is not None:
        raise UserError(
            f"cascade: needs box heads of its own, but neck {spec.neck} brings one; use fpn or dc5, or no cascade"
        )
    box_head = box_head or default_box_head(neck, spec)
    make: Callable[..., RoIHeads]
    if spec.cascade:
        make = partial(CascadeHeads, pool, [box_head, *(default_box_head(neck, spec) for _ in IOUS[1:])])
    else:
        make = partial(RoIHeads, pool, box_head, class_agnostic_boxes=spec.class_agnostic_boxes)
    roi_heads = make(
        num_classes=spec.num_classes,
        context=spec.context,
        rois_per_image=spec.rois_per_image,
        score_threshold=spec.score_threshold,
        max_detections=spec.max_detections,
        masks=build_mask_parts(neck, pool, box_head, spec.num_classes, spec) if spec.masks else None,
        box_loss=spec.box_loss,
    )
    mean, std = spec.mean or neck.body.mean, spec.std or neck.body.std
    return FasterRCNN(neck, rpn, roi_heads, Preprocessor(mean, std, min_size=spec.min_size, max_size=spec.max_size))


def _refuse_unused_norm(spec: DetectorSpec, model: FasterRCNN) -> None:
    """Refuse norm layers of the heads if no head has any."""
    heads = model.roi_heads
    has_mask_head = isinstance(heads.mask_head, nn.Module) and not isinstance(heads.mask_head, nn.Identity)
    used = has_mask_head or any(isinstance(part, (HeadNorm, ConvHead)) for part in heads.modules())
    if spec.head_norm != "none" and not used:
        raise UserError(
            f"head_norm {spec.head_norm!r}: has no effect with neck {spec.neck}, box_head {spec.box_head!r} and no "
            "masks; use neck c4 with 'batch', box_head 'conv', or fpn_norm"
        )


def _freeze_norm(model: FasterRCNN, norm: str, state: dict[str, Tensor] | None) -> None:
    """Freeze the batch norm whose statistics come from a file, as the option `norm` says.

    Pretrained weights of a backbone freeze the backbone; the layers of the neck and the heads are random and stay
    live. In the file of a whole detector, live batch norm counts its batches, unlike frozen batch norm. Batch norm that
    a head adds to the layers of a backbone stays live.
    """
    if norm not in ("auto", "frozen"):
        return
    if state is None:
        head = model.roi_heads.box_head
        parts = [model.backbone.body, *([head.stage] if isinstance(head, StageHead) else [])]
        freeze_batch_norm(model, within=parts)
        return
    counted = {name.rpartition(".num_batches_tracked")[0] for name in state if name.endswith("num_batches_tracked")}
    added = {id(part) for head in model.modules() if isinstance(head, HeadNorm) for part in head.modules()}
    named = [
        (name, part)
        for name, part in model.named_modules()
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and id(part) not in added
    ]
    is_live = {name: norm == "auto" and any(each.endswith(name) for each in counted) for name, _ in named}
    freeze_batch_norm(model, within=[part for name, part in named if not is_live[name]])
