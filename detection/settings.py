"""Defines, documents and checks the settings of a detector. This module does not import torch.

The command line (`detection.options.DetectorOptions`) and `detection.build` both inherit them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from typing import Any, Literal, ParamSpec, TypeVar

from backbones.common.options import option
from backbones.errors import require

P = ParamSpec("P")
Spec = TypeVar("Spec")
Result = TypeVar("Result")

# Options of torchvision's fasterrcnn_resnet50_fpn_v2 and maskrcnn_resnet50_fpn_v2.
SECOND_VERSION = {"fpn_norm": "batch", "rpn_depth": 2, "box_head": "conv", "head_norm": "batch"}


@dataclass(frozen=True, kw_only=True)
class DetectorSettings:
    """Architecture and sampling of a Faster R-CNN.

    Args:
        neck: registered name of the part between backbone and heads: fpn, c4 (conv5 is the RoI head), dc5 (dilated
            conv5), or the name of your own (see detection.register_neck).
        version: v2 sets the options that make torchvision's nets of the second version, where they have their defaults:
            --fpn-norm batch, --rpn-depth 2, --box-head conv and --head-norm batch.
        norm: batch norm of the backbone. auto is frozen with pretrained weights and live without them; a detector's
            file keeps its own. sync is live and computes its statistics over the images of all processes, on GPUs.
        stride_style: v1.5, or v1 for the bottlenecks of the paper (stride on the first 1x1); absent: that of the
            weights if it is known, else v1.5; only for our own models.
        weights_from: program that made the weights file, such as detectron2, moco or simclr; it sets channel order,
            normalisation and stride style, which the file does not say.
        min_size: short side of an image in pixels after resizing.
        max_size: largest long side in pixels after resizing. In long images, this makes the short side smaller.
        fpn_channels: number of channels of the FPN's levels.
        fpn_norm: norm layers of the FPN. Training from scratch converges faster with them.
        rpn_depth: number of 3x3 convolutions in the RPN head.
        box_head: linear is two linear layers; conv is four convolutions of --fpn-channels and one linear layer. Neck c4
            has conv5 instead.
        head_norm: norm layers of box_head conv and of the mask head. With neck c4, batch adds batch norm after the RoI
            head's conv5, as MoCo's protocol does; it is live, and --norm sync computes its statistics over the images
            of all processes.
        head_channels: width of the linear layers of the box head.
        anchor_scale: side of an anchor divided by the stride of its level.
        rois_per_image: number of RoIs per image that the box loss samples.
        roi_samples: number of points that RoIAlign samples along each side of a cell.
        proposals: number of proposals per image after NMS in evaluation. Training uses twice as many.
        max_detections: largest number of detections per image. Evaluation counts up to this number per image and class;
            in COCO's own evaluation it is 100.
        context: append the pooled feature of the whole image to the feature of each RoI (ResNet paper, appendix B).
        cascade: three box heads, each trained on the boxes of the one before (Cai and Vasconcelos 2018). They predict
            one box for all classes.
        class_agnostic_boxes: predict one box per RoI in place of one per class.
        box_loss: loss of the RoIs' boxes. smooth_l1 compares deltas; giou and ciou compare boxes.
        recompute: in training, store only the inputs of blocks, pyramid and heads, and compute the rest again for the
            backward pass: less memory, more time, the same bits; only for our own backbones.
        masks: also predict a mask for each object (Mask R-CNN). The data must have masks.
        mask_channels: width of the convolutions of the mask head.
        mask_size: cells along a side of a predicted mask, an even number. With neck c4 it is that of conv5, doubled.
        class_agnostic_masks: predict one mask per box in place of one per class.
        mask_pasting: aligned pastes masks where their training targets were cut out; torchvision rounds the boxes to
            whole pixels and enlarges them by one, as torchvision does.
    """

    neck: str = option("fpn", recorded=True)
    version: Literal["v1", "v2"] = option("v1", recorded=True)
    norm: Literal["auto", "batch", "sync", "frozen", "group"] = "auto"
    stride_style: Literal["v1.5", "v1"] | None = option(None, recorded=True)
    weights_from: str | None = option(None, recorded=True)
    min_size: int = option(800, resume="evaluation", recorded="default")
    max_size: int = option(1333, recorded="default")
    fpn_channels: int = option(256, recorded=True)
    fpn_norm: Literal["none", "batch", "group"] = option("none", recorded=True)
    rpn_depth: int = option(1, recorded=True)
    box_head: Literal["linear", "conv"] = option("linear", recorded=True)
    head_norm: Literal["none", "batch", "group"] = option("none", recorded=True)
    head_channels: int = option(1024, recorded=True)
    anchor_scale: float = option(8.0, recorded="default")
    rois_per_image: int = option(512, recorded="evaluation")
    roi_samples: int = option(2, recorded="default")
    proposals: int = option(1000, recorded="evaluation")
    max_detections: int = option(100, resume="evaluation", recorded="evaluation")
    context: bool = option(False, recorded=True)
    cascade: bool = option(False, recorded=True)
    class_agnostic_boxes: bool = option(False, recorded=True)
    box_loss: Literal["smooth_l1", "giou", "ciou"] = option("smooth_l1", recorded="evaluation")
    recompute: bool = option(False, resume="free")
    masks: bool = option(False, recorded="default")
    mask_channels: int = option(256, recorded="default")
    mask_size: int = option(28, recorded="default")
    class_agnostic_masks: bool = option(False, recorded="default")
    mask_pasting: Literal["aligned", "torchvision"] = option("aligned", resume="evaluation", recorded="evaluation")

    def __post_init__(self) -> None:
        if self.version == "v2":
            defaults = {field.name: field.default for field in fields(DetectorSettings)}
            for name, value in SECOND_VERSION.items():
                if getattr(self, name) == defaults[name]:
                    object.__setattr__(self, name, value)  # a frozen dataclass sets its fields in this way
        for field in fields(DetectorSettings):
            value = getattr(self, field.name)
            is_size = isinstance(field.default, (int, float)) and not isinstance(field.default, bool)
            require(not is_size or value > 0, field.name, value, "must be above 0")
        low, high = self.min_size, self.max_size
        require(high >= low, "max_size", high, f"must not be below --min-size {low}")
        require(self.mask_size % 2 == 0, "mask_size", self.mask_size, "must be even")

    def keywords(self) -> dict[str, Any]:
        """Return these settings as keyword arguments of `detection.build`, without the fields of subclasses."""
        return {field.name: getattr(self, field.name) for field in fields(DetectorSettings)}


def takes(spec: Callable[P, Spec]) -> Callable[[Callable[[Spec], Result]], Callable[P, Result]]:
    """Return a decorator for functions of one `spec` object. Callers then pass the fields of `spec` as arguments.

    Editors, type checkers and `help()` then show the fields of the dataclass `spec` as the function's arguments.

        @takes(DetectorSpec)
        def build(spec: DetectorSpec) -> FasterRCNN: ...

        build("resnet50", 80, neck="c4")
    """

    def decorate(function: Callable[[Spec], Result]) -> Callable[P, Result]:
        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> Result:
            return function(spec(*args, **kwargs))

        result = inspect.signature(function).return_annotation
        vars(call)["__signature__"] = inspect.signature(spec).replace(return_annotation=result)
        call.__doc__ = f"{inspect.getdoc(function)}\n\nArgs:\n{_arguments(spec)}"
        return call

    return decorate


def _arguments(spec: object) -> str:
    """Return the section `Args` of a dataclass's docstring, followed by the `Args` of its base classes."""
    found = []
    for each in inspect.getmro(spec) if isinstance(spec, type) else ():
        lines = (inspect.cleandoc(vars(each).get("__doc__") or "")).partition("\nArgs:\n")[2].splitlines()
        found += [line for line in lines if line.startswith(" ")]
    return "\n".join(found)
