"""Builds models of finished runs of any task."""

from __future__ import annotations

import os
from collections.abc import Callable

from torch import nn

import classification.trained
import detection.trained
import segmentation.trained
from backbones.common.files import JsonObject

REBUILD: dict[str, Callable[[JsonObject, str | os.PathLike[str] | None], nn.Module]] = {
    "classification": classification.trained.rebuild,
    "detection": detection.trained.rebuild,
    "segmentation": segmentation.trained.rebuild,
}


def rebuild(meta: JsonObject, weights: str | os.PathLike[str] | None) -> nn.Module:
    """Build the model that a run's `meta` describes, with the weights of a file or with random weights."""
    return REBUILD[meta["task"]](meta, weights)
