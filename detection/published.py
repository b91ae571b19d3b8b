"""Published detectors by name: torchvision's Faster R-CNN and Mask R-CNN, trained on COCO's 80 categories."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Any

from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from backbones.common.files import JsonObject
from backbones.norm import norm_eps
from backbones.published_models import PUBLISHED, PublishedModel
from detection import weights
from detection.data.annotations import CategoryMap
from detection.faster_rcnn import FasterRCNN, build
from detection.options import DetectorOptions

# Name -> options, and the constant in detection.weights with the address. "coco" is the smallest and oldest.
MODELS: dict[str, tuple[dict[str, Any], str]] = {
    "coco": ({}, "COCO_URL"),
    "coco-v2": ({"version": "v2"}, "COCO_V2_URL"),
    "coco-masks": ({"masks": True}, "COCO_MASKS_URL"),
    "coco-masks-v2": ({"version": "v2", "masks": True}, "COCO_V2_MASKS_URL"),
}


def coco_categories() -> CategoryMap:
    """Return COCO's 80 categories with their ids in 1..90."""
    names = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    pairs = [(number, name) for number, name in enumerate(names) if number and name != "N/A"]
    return CategoryMap(tuple(number for number, _ in pairs), tuple(name for _, name in pairs))


def _build(name: str) -> tuple[FasterRCNN, JsonObject]:
    options, categories = DetectorOptions(backbone="resnet50", neck="fpn", **MODELS[name][0]), coco_categories()
    model = build("resnet50", len(categories), weights="coco", categories=categories, **options.keywords())
    return model, {
        "task": "detection",
        "category_ids": list(categories.ids),
        "category_names": list(categories.names),
        "input": model.transform.describe(),
        "norm_eps": norm_eps(model.backbone.body),
        "model": asdict(options),
    }


def published(name: str) -> PublishedModel:
    """Return the address and the builder of a published detector."""
    return PublishedModel(getattr(weights, MODELS[name][1]), partial(_build, name))


def register_models() -> None:
    """Register the models, so that `load` and the commands know their names."""
    for name in MODELS:
        PUBLISHED.register(name)(partial(published, name))
