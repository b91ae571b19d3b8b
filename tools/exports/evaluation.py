"""Evaluates an exported file and its run on the run's validation data, as `--eval-only` does."""

from __future__ import annotations

import contextlib
import io
import os
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple, TypedDict

import numpy as np
import yaml

from backbones.common.files import JsonObject
from backbones.errors import UserError, counted
from backbones.trained import TrainedFile, find
from backbones.weights.exported import is_exported
from tools.cli.parsing import parse
from tools.engine.run import run as run_task
from tools.runs.bootstrap import bounds, resampled
from tools.runs.folder import RunFolder
from tools.runs.metrics import TASK_METRICS
from tools.runs.scores import ImageScore, read_score
from tools.tasks.classification import ClassificationTask
from tools.tasks.detection import DetectionTask
from tools.tasks.options import TrainClassifierOptions, TrainDetectorOptions, TrainSegmenterOptions
from tools.tasks.segmentation import SegmentationTask

RESAMPLES = 1000
# Options with which a run views each image once, as a file does, and writes nothing beside its results.
ONCE: dict[str, JsonObject] = {
    "classification": {"train_eval": 0},
    "detection": {"test_sizes": None, "test_flip": False, "refine": False, "soft_nms": False, "ensemble": None},
    "segmentation": {"test_scales": None, "test_flip": False, "tile": 0},
}
ALONE = {"resume": False, "dry_run": False, "track": [], "val_loss": False, "device": "cpu"}


@dataclass(frozen=True)
class MeasuredLoss:
    """Loss of an exported file against its run, on the run's validation data.

    Attributes:
        known: whether the loss was measured.
        text: each metric before and after, and the difference with its 95 % interval over images; or why the loss is
            not known.
    """

    known: bool
    text: str

    def lines(self) -> dict[str, str]:
        """Return the loss as a line of text by title."""
        return {"evaluated": self.text if self.known else f"no: {self.text}"}


def measure_loss(run: str, file: Path, *, most: float) -> MeasuredLoss:
    """Evaluate a run and its exported file on the run's validation data, and refuse a file that loses too much.

    Args:
        run: run folder or weights file.
        most: largest loss, 0..1, of the run's main metric (AP, mIoU, top-1 accuracy, or mAP of several classes an
            image), and of the AP of masks if the run has masks.

    Raises:
        UserError: the file loses more than `most`.
    """
    trained = find(run)
    if not trained.config:
        return MeasuredLoss(False, "the weights do not record the data of their run")
    if absent := absent_data(trained.config):
        return MeasuredLoss(False, f"the run's data, {absent}, is not here")
    first = "mAP" if trained.meta.get("multi_label") else TASK_METRICS[trained.task].primary.key
    keys = [first, *(["segm_AP"] if trained.meta["model"].get("masks") else [])]
    with TemporaryDirectory() as folder:
        runs = [
            evaluated(trained, weights, Path(folder) / name)
            for name, weights in (("before", trained.path), ("after", file))
        ]
        pairs = {key: (read_score(runs[0], key), read_score(runs[1], key)) for key in keys}
    known = {key: pair for key, pair in pairs.items() if not isnan(pair[0].whole)}
    if not known:
        return MeasuredLoss(False, f"the validation images have nothing to measure {keys[0]} on")
    return MeasuredLoss(True, "; ".join(_loss(key, *pair, most=most) for key, pair in known.items()))


def absent_data(config: JsonObject) -> str | None:
    """Return the first file or folder of a run's validation data that is not here; None if all of them are."""
    named = (config.get(name) for name in ("data", "annotations", "images", "val_annotations", "val_images"))
    paths = (str(each) for each in named if each is not None)
    return next((path for path in paths if not os.path.exists(path)), None)


class Change(TypedDict):
    """A metric before and after a change of the file, 0..1, and the 95 % interval of the difference over images."""

    before: float
    after: float
    low: float
    high: float


class Resampled(NamedTuple):
    """A score on all images, and on resamples of the images `[RESAMPLES]`; 0..1."""

    whole: float
    values: np.ndarray


def resample(score: ImageScore) -> Resampled:
    """Compute a score on all images and on resamples of them, which are the same for all scores of these images."""
    return Resampled(score.whole, resampled(score.score, size=score.size, count=RESAMPLES))


def change(before: Resampled, after: Resampled) -> Change:
    """Compare two scores on the same images."""
    low, high = bounds(after.values - before.values)
    return Change(before=before.whole, after=after.whole, low=float(low), high=float(high))


def _loss(key: str, before: ImageScore, after: ImageScore, *, most: float) -> str:
    """Describe what a file loses of a metric, with the 95 % interval over images.

    Raises:
        UserError: the file loses more than `most`.
    """
    images, whole = counted(before.size, "image"), (before.whole, after.whole)
    if not whole[0] - whole[1] <= most:  # written this way because NaN must be refused too
        raise UserError(
            f"the exported file loses {whole[0] - whole[1]:.4f} of {whole[0]:.4f} {key} on {images}, more than "
            f"--most-loss {most}, so no file was kept; use fp32, or --int8 static with more --calibration images"
        )
    found = change(resample(before), resample(after))
    difference = f"{whole[1] - whole[0]:+.4f} [{found['low']:+.4f}, {found['high']:+.4f}]"
    return f"{key} {whole[0]:.4f} -> {whole[1]:.4f} on {images}: {difference}"


def evaluated(trained: TrainedFile, weights: Path, folder: Path, *, bits: str = "fp32") -> RunFolder:
    """Evaluate weights or an exported file as `--eval-only` does with the options of a run.

    Args:
        trained: the run, whose options are used, but with one view of each image.
        weights: what to evaluate.
        folder: for the results.
        bits: precision in which PyTorch computes.

    Returns:
        The folder of the evaluation, with its predictions.

    Raises:
        UserError: the data cannot be read.
    """
    changes = {**ONCE[trained.task], **ALONE, "precision": bits}
    config = {**trained.config, **trained.meta["model"]}
    config = {name: changes.get(name, value) for name, value in config.items() if name in trained.config}
    config |= {"eval_only": True, "weights": os.fspath(weights), "output": os.fspath(folder)}
    if is_exported(weights) and "test_nms" in config:
        config["test_nms"] = None  # the file has the run's value
    file = folder.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    words = ["--config", os.fspath(file)]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        if trained.task == "classification":
            run_task(ClassificationTask(), parse(TrainClassifierOptions, description="", argv=words))
        elif trained.task == "detection":
            run_task(DetectionTask(), parse(TrainDetectorOptions, description="", argv=words))
        else:
            run_task(SegmentationTask(), parse(TrainSegmenterOptions, description="", argv=words))
    return RunFolder.read(folder)
