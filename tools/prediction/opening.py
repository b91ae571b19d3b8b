"""Opens whatever can predict: a run folder, a weights file of a run, or an exported ONNX or OpenVINO file."""

from __future__ import annotations

import os
from typing import TypeAlias

import classification
import detection
import segmentation
from backbones.trained import find
from classification.trained import TrainedClassifier
from detection.trained import TrainedDetector
from segmentation.trained import TrainedSegmenter

AnyModel: TypeAlias = TrainedClassifier | TrainedDetector | TrainedSegmenter


def open_model(
    source: str | os.PathLike[str], *, device: str | None = None, precision: str | None = None, top: int = 5
) -> AnyModel:
    """Open a model of any task. Call it with images to get their results.

        model = open_model("model.onnx")
        found = model("street.jpg")

    Args:
        source: run folder, weights file of a run, or file that `export.py` wrote (.onnx, .xml).
        device: auto, cpu, cuda, cuda:1 or mps. An exported file computes on the CPU in any case.
        precision: auto, fp32, bf16 or fp16; by default the run's own. An exported file has its own.
        top: number of classes in a classifier's ranking.

    Raises:
        UserError: there is no trained model, or the file was not written by `export.py`.
    """
    task = find(source).task
    if task == "detection":
        return detection.load(source, device=device, precision=precision)
    if task == "segmentation":
        return segmentation.load(source, device=device, precision=precision)
    return classification.load(source, device=device, precision=precision, top=top)
