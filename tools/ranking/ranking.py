"""Ranks backbones by features of their frozen weights, and keeps the features for a second ranking."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch

from backbones.base import Backbone
from backbones.common.files import JsonObject, atomic_file
from backbones.errors import UserError
from tools.cli.ending import as_options
from tools.engine.cost import macs, parameters
from tools.processes import distributed
from tools.ranking.candidates import Candidate, identity
from tools.ranking.data import RankingData, fingerprint
from tools.ranking.extraction import CPU, Extracted, extract
from tools.ranking.remarks import lone_class_warnings, require_classes, width_warnings
from tools.ranking.samples import Estimate, Samples, scores

VERSION = 1  # of the kept features; a change of the extraction raises it


@dataclass(frozen=True)
class Ranked:
    """Scores and costs of one candidate.

    Attributes:
        estimates: `logme`, `probe` and `knn`.
        parameters: of the backbone alone.
        gflops: multiply-adds in 1e9 of the backbone for a square image of the ranking's size.
        speed: images per second of one process when the features were computed.
    """

    candidate: Candidate
    estimates: dict[str, Estimate]
    parameters: int
    gflops: float
    speed: float

    def as_json(self) -> JsonObject:
        """Return all values as JSON."""
        return {
            "backbone": self.candidate.backbone,
            "weights": self.candidate.weights,
            "weights_from": self.candidate.weights_from,
            "scores": {name: asdict(estimate) for name, estimate in self.estimates.items()},
            "parameters": self.parameters,
            "gflops": self.gflops,
            "images_per_second": self.speed,
        }


@dataclass(frozen=True)
class Ranking:
    """Candidates from best to worst by one score, and why others have no score.

    Attributes:
        by: the score that ranks.
        failed: error message of each candidate that could not be scored.
        warnings: what makes scores or intervals unreliable.
    """

    by: str
    rows: list[Ranked]
    failed: dict[str, str]
    warnings: list[str] = field(default_factory=list)


def rank(
    data: RankingData,
    names: Sequence[Candidate],
    *,
    by: str,
    levels: Sequence[str],
    size: int,
    seed: int,
    cache: Path | None,
    device: torch.device = CPU,
) -> Ranking:
    """Score all candidates on the same images. A candidate that fails is left out and named.

    Args:
        by: "logme", "probe" or "knn".
        levels: feature maps to join, such as ("c4", "c5"); empty for the last one.
        size: short side of the images in pixels.
        cache: folder of kept features; None to keep none.
        device: where the backbones compute.

    Raises:
        UserError: no candidate could be scored, such as if an image cannot be read, or the images show fewer than two
            classes.
    """
    rows: list[Ranked] = []
    failed: dict[str, str] = {}
    warnings: list[str] = []
    place = "" if device.type == "cpu" else f"|{device.type}"  # features differ by rounding, speeds by much
    key = distributed.on_main(lambda: f"{VERSION}|{fingerprint(data)}|{','.join(levels)}|{size}|{seed}{place}")
    for number, candidate in enumerate(names, 1):
        try:
            backbone = distributed.on_all(partial(_build, candidate, levels, seed))
            file = _file(cache, key, backbone)
            extracted = _extracted(data, backbone, size=size, seed=seed, path=file, device=device)
        except UserError as error:
            failed[candidate.name] = as_options(str(error))
            _say(f"{number}/{len(names)} {candidate.name}: left out: {failed[candidate.name]}")
            continue
        require_classes(extracted.samples, data.classes)
        if not rows:
            warnings += lone_class_warnings(extracted.samples, data.classes)
        row = _score(candidate, backbone, extracted, size=size, seed=seed)
        rows.append(row)
        warnings += width_warnings(candidate.name, row.estimates)
        _say(f"{number}/{len(names)} {candidate.name}: {by} {row.estimates[by].value:.3f}, {row.speed:.1f} images/s")
    if not rows:
        raise UserError(f"no backbone could be scored: {next(iter(failed.values()))}")
    return Ranking(by, sorted(rows, key=lambda row: -row.estimates[by].value), failed, warnings)


def _build(candidate: Candidate, levels: Sequence[str], seed: int) -> Backbone:
    backbone = candidate.build(levels, seed)
    if len(backbone.mean) != 3:
        raise UserError(f"{candidate.name}: takes {len(backbone.mean)} channels; a ranking reads RGB images")
    return backbone


def _file(cache: Path | None, key: str, backbone: Backbone) -> Path | None:
    """Return the file of a backbone's kept features; None to keep none."""
    if cache is None:
        return None
    name = distributed.on_main(lambda: hashlib.sha256(f"{key}|{identity(backbone)}".encode()).hexdigest()[:32])
    return cache / f"{name}.npz"


def _extracted(
    data: RankingData, backbone: Backbone, *, size: int, seed: int, path: Path | None, device: torch.device
) -> Extracted:
    """Return the features of all images: the kept ones, or else new ones, which are kept."""
    kept = distributed.on_main(lambda: _load(path)) if path else None
    if kept is not None:
        return kept
    extracted = extract(backbone, data, size=size, seed=seed, device=device)
    if path and distributed.is_main():
        _keep(path, extracted)
    return extracted


def _score(candidate: Candidate, backbone: Backbone, extracted: Extracted, *, size: int, seed: int) -> Ranked:
    estimates = scores(extracted.samples, seed=seed)
    return Ranked(candidate, estimates, parameters(backbone), macs(backbone, size) / 1e9, extracted.speed)


def _say(text: str) -> None:
    if distributed.is_main():
        print(text, file=sys.stderr, flush=True)


def _load(path: Path) -> Extracted | None:
    """Return kept features; None if there are none, or the file is damaged."""
    try:
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, BadZipFile):
        return None
    speed = float(arrays.pop("speed"))
    return Extracted(Samples(**arrays), speed)


def _keep(path: Path, extracted: Extracted) -> None:
    arrays = {name: value for name, value in vars(extracted.samples).items() if value is not None}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, speed=np.array(extracted.speed), **arrays)
