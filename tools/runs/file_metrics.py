"""Measures an exported file on the images on which a run was evaluated."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import classification
import detection
import segmentation
from backbones.errors import UserError, first_names
from backbones.trained import find
from backbones.weights.exported import is_exported
from classification.metrics import TopK
from classification.multi_label import LabelSets
from classification.trained import TrainedClassifier
from segmentation.metrics import LabelMetrics
from tools.runs.classification import ClassPredictions, image_root
from tools.runs.detection import EvaluatedDetections
from tools.runs.folder import RunFolder
from tools.runs.label_sets import LabelSetPredictions
from tools.runs.segmentation import MaskPredictions

Measured = tuple[Mapping[str, object], int]  # metrics as in results.json, and the number of images
NAMES = {  # metrics in a report, besides those of detection
    "classification": ("top1", "top5", "mAP", "balanced_accuracy", "macro_f1", "micro_f1", "exact_match", "nll"),
    "segmentation": ("mIoU", "pixel_accuracy", "mean_accuracy", "frequency_weighted_IoU"),
}


@dataclass(frozen=True)
class FileMetrics:
    """Metrics of an exported file, measured on the images on which its run was evaluated.

    Attributes:
        path: the file.
        metrics: values by the names of results.json; None for a metric that cannot be computed.
        images: number of images.
        seconds: time per image, with reading and preparing it.
    """

    path: Path
    metrics: Mapping[str, float | None]
    images: int
    seconds: float


def measure_file(run: RunFolder, path: Path, *, data: str | None) -> FileMetrics:
    """Predict the validation images of a run with an exported file, as `load(file)` does, and compute the metrics.

    Args:
        path: ONNX or OpenVINO file that export.py wrote.
        data: folder of the data set; None for the run's own.

    Raises:
        UserError: the file cannot be used or does not fit the run, or the data are missing.
    """
    where = f"--model {path}"
    if not is_exported(path):
        raise UserError(f"{where}: is no exported file (.onnx, or .xml of OpenVINO); name one that export.py wrote")
    task = find(path).task
    if task != run.task:
        raise UserError(f"{where}: is a file for {task}, but {run.folder} is a {run.task} run; name a file of this run")
    measures: dict[str, Callable[[RunFolder, Path, str | None], Measured]] = {
        "classification": _classified,
        "detection": _detected,
        "segmentation": _segmented,
    }
    begin = time.perf_counter()
    found, images = measures[task](run, path, data)
    seconds = (time.perf_counter() - begin) / max(images, 1)
    values = {name: found.get(name) for name in NAMES.get(task, found)}
    metrics = {name: None if value is None else float(str(value)) for name, value in values.items()}
    return FileMetrics(path, metrics, images, seconds)


def _require_classes(run: RunFolder, path: Path, own: Sequence[str]) -> None:
    """Refuse a file with other classes than those of its run."""
    if sorted(own) != sorted(run.classes):
        raise UserError(
            f"--model {path}: has other classes ({first_names(own)}) than {run.folder} ({first_names(run.classes)}); "
            "name a file of this run"
        )


def _detected(run: RunFolder, path: Path, data: str | None) -> Measured:
    model = detection.load(path, device="cpu")
    truth = EvaluatedDetections.read(run, data=data)
    _require_classes(run, path, model.categories.names)
    files = [truth.annotations.folder / name for name in truth.annotations.file_names[truth.indices].tolist()]
    found = zip(truth.images, model.stream(files, batch_size=1), strict=True)
    records = [record for key, each in found for record in each.to_coco(key)]
    return truth.metrics(records, where=f"the detections of {path}"), len(files)


def _classified(run: RunFolder, path: Path, data: str | None) -> Measured:
    model = classification.load(path, device="cpu")
    _require_classes(run, path, model.classes)
    truth = (LabelSetPredictions if model.multi_label else ClassPredictions).read(run)
    root = image_root(run, truth.names, data)
    if root is None:
        raise UserError(f"{run.data_name}: is not there; name the folder of the data set with --data")
    metrics, labels = _class_metrics(model, truth)
    for index, (name, label) in enumerate(zip(truth.names, labels, strict=True)):
        with torch.inference_mode():
            probabilities = model.probabilities([model.read(root / name)])
        metrics.update(probabilities, {"label": label[None], "index": torch.tensor([index])})
    return metrics.compute(), len(truth.names)


def _class_metrics(
    model: TrainedClassifier, truth: ClassPredictions | LabelSetPredictions
) -> tuple[TopK | LabelSets, Tensor]:
    """Return the metrics of a file, and the labels of the images in the order of its classes `[N]` or `[N, K]`."""
    if isinstance(truth, LabelSetPredictions):
        order = [truth.classes.index(name) for name in model.classes]
        return LabelSets(model.classes, thresholds=model.thresholds.tolist()), torch.from_numpy(truth.labels[:, order])
    own = torch.tensor([model.classes.index(name) for name in truth.classes])
    return TopK(model.classes), own[torch.from_numpy(truth.truth)]


def _segmented(run: RunFolder, path: Path, data: str | None) -> Measured:
    model = segmentation.load(path, device="cpu")
    _require_classes(run, path, model.classes.names)
    truth, metrics = MaskPredictions.read(run, data=data), LabelMetrics(model.classes.names)
    for row in truth.rows:
        labels = model(truth.source.file(row)).labels
        size = (labels.shape[0], labels.shape[1])
        metrics.update([labels], {"mask": [torch.from_numpy(np.asarray(truth.source.labels(row, size)))]})
    return metrics.compute(), len(truth.rows)
