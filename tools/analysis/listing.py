"""Describes backbones by name: size, cost, features and published weights. Nothing is downloaded."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import redirect_stderr, suppress
from dataclasses import dataclass

import backbones
import classification
from backbones.base import FeatureInfo
from backbones.errors import UserError
from backbones.weights.catalogue import Published, published
from tools.engine.cost import macs, parameters, without_numbers

IMAGENET, CIFAR = (1000, 224), (10, 32)  # classes, and side of the images in pixels


@dataclass
class BackboneEntry:
    """Description of one backbone: size, cost, features and weights. Unknown and unrequested values are None.

    Attributes:
        name: registered name.
        parameters: number of parameters of the classification model.
        gflops: multiply-adds of the classification model for one image, in 1e9.
        image_size: side in pixels of the image for which `gflops` was counted.
        features: feature levels; None also for a backbone without a pyramid.
        weights: published weights, the default ones first.
    """

    name: str
    parameters: int | None
    gflops: float | None
    image_size: int | None
    features: tuple[FeatureInfo, ...] | None
    weights: list[Published]


def describe(name: str, *, costs: bool = True) -> BackboneEntry:
    """Return size, cost, feature levels and published weights of a backbone.

    Args:
        costs: also build the model, on the meta device, for its parameters, multiply-adds and features. Without it,
            models of libraries have no features either.
    """
    library, _, arch = name.rpartition("/")
    if not costs and library:
        return BackboneEntry(name, None, None, None, None, published((library, arch)))
    features, source, is_cifar = _features(name)
    weights = published((library, arch) if library else source)
    if not costs:
        return BackboneEntry(name, None, None, None, features, weights)
    classes, size = CIFAR if is_cifar else IMAGENET
    sizes = dict.fromkeys([size, *(each.size for each in weights)])
    return BackboneEntry(name, *_cost(name, classes, tuple(sizes)), features, weights)


def _features(name: str) -> tuple[tuple[FeatureInfo, ...] | None, tuple[str, str] | None, bool]:
    """Return a backbone's feature levels, the library model whose weights it can load, and whether it is for CIFAR."""
    try:
        with without_numbers(), redirect_stderr(io.StringIO()):  # torch.fx prints code if it cannot split a model
            backbone = backbones.build(name, weights=None)
    except UserError:  # the model has no pyramid; it can still classify
        return None, None, False
    return backbone.feature_info, backbone.source, backbone.feature_info[0].name == "c0"


def _cost(name: str, classes: int, sizes: Sequence[int]) -> tuple[int | None, float | None, int | None]:
    """Return parameters, GFLOPs, and the first image size of `sizes` that the model accepts. Unknown values: None."""
    # A library's model may need values of tensors that are on the meta device, and fails with any kind of exception.
    try:
        with without_numbers():
            model = classification.build(name, classes)
    except Exception:
        return None, None, None
    for size in sizes:
        with suppress(Exception):
            return parameters(model), macs(model, size) / 1e9, size
    return parameters(model), None, None
