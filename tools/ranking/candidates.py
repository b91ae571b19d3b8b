"""The backbones and starts that a ranking compares."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

import backbones
from backbones.base import Backbone
from backbones.errors import UserError
from backbones.weights.files import read_meta
from backbones.weights.sources import is_weights_file, source_named


@dataclass(frozen=True)
class Candidate:
    """A backbone with a start.

    Attributes:
        backbone: registered name.
        weights: "none", "imagenet", a tag, or a weights file.
        weights_from: program that made the weights file, as in `backbones.build`; None if its facts are the default.
    """

    backbone: str
    weights: str
    weights_from: str | None = None

    @property
    def name(self) -> str:
        """Return the name for messages, which differs from those of all other candidates."""
        return f"{self.backbone}, {self.weights}" + (f" from {self.weights_from}" if self.weights_from else "")

    @property
    def label(self) -> str:
        """Return a short name for charts: of a weights file, its name and its folder."""
        return f"{self.backbone}, {'/'.join(Path(self.weights).parts[-2:])}"

    def build(self, levels: Sequence[str], seed: int) -> Backbone:
        """Build the backbone with the feature maps `levels`; random weights are a function of the seed.

        Raises:
            UserError: the name, a level or the weights are unknown or do not fit.
        """
        torch.manual_seed(seed)
        features = "last" if not levels else tuple(levels)
        weights = None if self.weights == "none" else self.weights
        return backbones.build(self.backbone, weights=weights, features=features, weights_from=self.weights_from)


def identity(backbone: Backbone) -> str:
    """Return a hash of a backbone: of its entries and values, its normalisation, and the source files of its modules.

    It changes if a weights file, a library or the code of a plugin does.
    """
    digest = hashlib.sha256(repr((backbone.name, backbone.mean, backbone.std, str(backbone))).encode())
    for name, value in backbone.state_dict().items():
        digest.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    code = {getattr(sys.modules.get(type(m).__module__), "__file__", None) for m in backbone.modules()}
    for file in sorted(each for each in code if each):
        digest.update(Path(file).read_bytes())
    return digest.hexdigest()


def candidates(patterns: str, weights: str, weights_from: str | None = None) -> list[Candidate]:
    """Return the candidates that two lists with commas name.

    Args:
        patterns: names or patterns such as "resnet18,timm/tf_efficientnet_lite*". `NAME=WEIGHTS` names its own start.
        weights: starts of the other names; each name is ranked with each start.
        weights_from: programs that made the weights files, as "moco" for all of them, or "R-50.pkl=detectron2,...".
            Our own files record theirs.

    Raises:
        UserError: a pattern matches nothing, a program or its file is unknown, or there are fewer than two candidates.
    """
    starts = [each.strip() for each in weights.split(",") if each.strip()]
    found: list[Candidate] = []
    for entry in (each.strip() for each in patterns.split(",") if each.strip()):
        pattern, equals, own = entry.partition("=")
        names = backbones.names(pattern)
        if not names:
            raise UserError(f"--backbones {entry}: matches no backbone; tools/list_backbones.py lists the names")
        found += [Candidate(name, start) for name in names for start in ([own] if equals else starts)]
    distinct = list(dict.fromkeys(_with_sources(found, weights_from or "")))
    if len(distinct) < 2:
        raise UserError(
            f"--backbones {patterns}: a ranking needs at least two backbones or starts; name more with commas between, "
            "such as resnet18,resnet34 or resnet18,resnet18=none"
        )
    return distinct


def _with_sources(found: Sequence[Candidate], weights_from: str) -> list[Candidate]:
    """Return the candidates with the programs that made their weights files."""
    pairs = [each.strip().rpartition("=") for each in weights_from.split(",") if each.strip()]
    of_file = {file: program for file, _, program in pairs}  # "" for all other files
    for file, program in of_file.items():
        source_named(program)
        if file and all(file != each.weights for each in found):
            raise UserError(f"--weights-from {file}={program}: {file} is none of the ranked weights; check its path")
    if "" in of_file and not any(_is_foreign(each.weights) for each in found):
        raise UserError(f"--weights-from {of_file['']}: is for weights files of other programs, and none is ranked")
    return [
        replace(each, weights_from=of_file.get(each.weights, of_file.get("") if _is_foreign(each.weights) else None))
        for each in found
    ]


def _is_foreign(weights: str) -> bool:
    """Return whether weights are a file that is not one of our own."""
    return is_weights_file(weights) and not read_meta(weights)
