"""Published segmentation models by name: torchvision's FCNs, trained on COCO's images with Pascal VOC's 21 classes."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial

from torchvision.models.segmentation import FCN_ResNet50_Weights

from backbones.common.files import JsonObject
from backbones.norm import norm_eps
from backbones.published_models import PUBLISHED, PublishedModel
from segmentation.data.classes import Classes
from segmentation.fcn import FCN, build
from segmentation.options import SegmenterOptions
from segmentation.weights import BASE, COCO_FILES

SHORT_SIDE = 520  # pixels: torchvision's size of evaluation


def _build(backbone: str) -> tuple[FCN, JsonObject]:
    names = FCN_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1.meta["categories"]
    model, options = build(backbone, len(names), weights="coco"), SegmenterOptions(backbone=backbone)
    classes = Classes.named(names)
    return model, {
        "task": "segmentation",
        "classes": list(names),
        "colours": [list(colour) for colour in classes.colours],
        "input": {
            "in_channels": 3,
            "min_size": SHORT_SIDE,
            "mean": list(model.backbone.mean),
            "std": list(model.backbone.std),
        },
        "norm_eps": norm_eps(model.backbone),
        "model": asdict(options),
    }


def published(backbone: str) -> PublishedModel:
    """Return the address and the builder of the published FCN of a backbone."""
    return PublishedModel(BASE + COCO_FILES[backbone], partial(_build, backbone))


def register_models() -> None:
    """Register the models, so that `load` and the commands know their names."""
    for name in COCO_FILES:
        PUBLISHED.register(f"fcn_{name}")(partial(published, name))
