"""Models of finished runs, of any task."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

import classification.trained
import detection.trained
import segmentation.trained

REBUILD: dict[str, Callable[[Mapping[str, Any], str | os.PathLike[str] | None], nn.Module]] = {
    "classification": classification.trained.rebuild,
    "detection": detection.trained.rebuild,
    "segmentation": segmentation.trained.rebuild,
}


def rebuild(meta: Mapping[str, Any], weights: str | os.PathLike[str] | None) -> nn.Module:
    """Build the model that a run's `meta` describes; see the `rebuild` of its task."""
    return REBUILD[meta["task"]](meta, weights)
