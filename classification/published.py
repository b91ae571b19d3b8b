"""Published classifiers by name: torchvision's ResNets, trained on ImageNet's 1,000 classes."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial

from torchvision.models import get_model_weights

from backbones.common.files import JsonObject
from backbones.norm import norm_eps
from backbones.published_models import PUBLISHED, PublishedModel
from backbones.weights.published import torchvision_tag
from classification.evaluation_sizes import choose_sizes
from classification.model import Classifier, build
from classification.options import ClassifierOptions

MODELS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
WEIGHTS = "imagenet"


def _build(name: str) -> tuple[Classifier, JsonObject]:
    classes = get_model_weights(name)[torchvision_tag(name, WEIGHTS)].meta["categories"]
    model, sizes = build(name, len(classes), weights=WEIGHTS), choose_sizes(name, WEIGHTS, None, None, None)
    return model, {
        "task": "classification",
        "classes": list(classes),
        "input": {
            "in_channels": 3,
            "crop_size": sizes.crop,
            "resize_size": sizes.resize,
            "interpolation": sizes.interpolation,
            "mean": list(model.backbone.mean),
            "std": list(model.backbone.std),
        },
        "norm_eps": norm_eps(model.backbone),
        "model": asdict(ClassifierOptions(backbone=name)),
    }


def published(name: str) -> PublishedModel:
    """Return the address and the builder of a published classifier."""
    return PublishedModel(get_model_weights(name)[torchvision_tag(name, WEIGHTS)].url, partial(_build, name))


def register_models() -> None:
    """Register the models, so that `load` and the commands know their names."""
    for name in MODELS:
        PUBLISHED.register(name)(partial(published, name))
