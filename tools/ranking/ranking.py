"""Ranks backbones by features of their frozen weights, and keeps the features for a second ranking."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from backbones.common.files import JsonObject, atomic_file
from backbones.errors import UserError
from tools.engine.cost import macs, parameters
from tools.processes import distributed
from tools.ranking.candidates import Candidate
from tools.ranking.data import RankingData, fingerprint
from tools.ranking.extraction import Extracted, extract
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
    """

    by: str
    rows: list[Ranked]
    failed: dict[str, str]


def rank(
    data: RankingData,
    names: Sequence[Candidate],
    *,
    by: str,
    levels: Sequence[str],
    size: int,
    seed: int,
    cache: Path | None,
) -> Ranking:
    """Score all candidates on the same images. A candidate that fails is left out and named.

    Args:
        by: "logme", "probe" or "knn".
        levels: feature maps to join, such as ("c4", "c5"); empty for the last one.
        size: short side of the images in pixels.
        cache: folder of kept features; None to keep none.

    Raises:
        UserError: an image cannot be read, or no candidate could be scored.
    """
    rows: list[Ranked] = []
    failed: dict[str, str] = {}
    for number, candidate in enumerate(names, 1):
        try:
            row = _score(data, candidate, levels=levels, size=size, seed=seed, cache=cache)
        except UserError as error:
            failed[candidate.name] = str(error)
            _say(f"{number}/{len(names)} {candidate.name}: left out: {error}")
            continue
        rows.append(row)
        _say(f"{number}/{len(names)} {candidate.name}: {by} {row.estimates[by].value:.3f}, {row.speed:.1f} images/s")
    if not rows:
        raise UserError(f"no backbone could be scored: {next(iter(failed.values()))}")
    return Ranking(by, sorted(rows, key=lambda row: -row.estimates[by].value), failed)


def _score(
    data: RankingData, candidate: Candidate, *, levels: Sequence[str], size: int, seed: int, cache: Path | None
) -> Ranked:
    backbone = distributed.on_all(lambda: candidate.build(levels, seed))
    if len(backbone.mean) != 3:
        raise UserError(f"{candidate.name}: takes {len(backbone.mean)} channels; a ranking reads RGB images")
    key = f"{VERSION}|{candidate.key()}|{fingerprint(data)}|{','.join(levels)}|{size}|{seed}"
    path = cache / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npz" if cache else None
    extracted = (_load(path) if path else None) or extract(backbone, data, size=size, seed=seed)
    if path and distributed.is_main() and not path.exists():
        _keep(path, extracted)
    estimates = scores(extracted.samples, seed=seed)
    cost = macs(backbone, size) / 1e9
    return Ranked(candidate, estimates, parameters(backbone), cost, extracted.speed)


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
