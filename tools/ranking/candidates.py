"""The backbones and starts that a ranking compares."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

import backbones
from backbones.base import Backbone
from backbones.errors import UserError


@dataclass(frozen=True)
class Candidate:
    """A backbone with a start.

    Attributes:
        backbone: registered name.
        weights: "none", "imagenet", a tag, or a weights file.
    """

    backbone: str
    weights: str

    @property
    def name(self) -> str:
        """Return the name for tables and charts."""
        return f"{self.backbone}, {Path(self.weights).name if '/' in self.weights else self.weights}"

    def build(self, levels: Sequence[str], seed: int) -> Backbone:
        """Build the backbone with the feature maps `levels`; random weights are a function of the seed.

        Raises:
            UserError: the name, a level or the weights are unknown or do not fit.
        """
        torch.manual_seed(seed)
        features = "last" if not levels else tuple(levels)
        weights = None if self.weights == "none" else self.weights
        return backbones.build(self.backbone, weights=weights, features=features)

    def key(self) -> str:
        """Return a text that changes with the backbone, the weights, or the content of a weights file."""
        path = Path(self.weights)
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        return f"{self.backbone}|{self.weights}|{content}"


def candidates(patterns: str, weights: str) -> list[Candidate]:
    """Return the candidates that two lists with commas name.

    Args:
        patterns: names or patterns such as "resnet18,timm/tf_efficientnet_lite*". `NAME=WEIGHTS` names its own start.
        weights: starts of the other names; each name is ranked with each start.

    Raises:
        UserError: a pattern matches nothing, or there are fewer than two candidates.
    """
    starts = [each.strip() for each in weights.split(",") if each.strip()]
    found: list[Candidate] = []
    for entry in (each.strip() for each in patterns.split(",") if each.strip()):
        pattern, equals, own = entry.partition("=")
        names = backbones.names(pattern)
        if not names:
            raise UserError(f"--backbones {entry}: matches no backbone; tools/list_backbones.py lists the names")
        found += [Candidate(name, start) for name in names for start in ([own] if equals else starts)]
    distinct = list(dict.fromkeys(found))
    if len(distinct) < 2:
        named = distinct[0].name if distinct else "nothing"
        raise UserError(f"--backbones {patterns}: a ranking needs at least two backbones or starts, not only {named}")
    return distinct
