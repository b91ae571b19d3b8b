"""Runs an exported classifier in place of the layers of `classification.Classifier`."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch import Tensor

from backbones.exported import ExportedBackbone
from backbones.weights.exported import ExportedFile
from classification.model import Classifier


class ExportedClassifier(Classifier):
    """A classifier whose layers an exported file computes, on the CPU.

    Args:
        path: ONNX or OpenVINO file of a classifier.
        classes: names of the classes in the order of the logits; by default that of the file.

    Raises:
        UserError: the file cannot be opened, or has other classes.
    """

    def __init__(self, path: str | os.PathLike[str], classes: Sequence[str] | None = None) -> None:
        file = ExportedFile(path)
        super().__init__(ExportedBackbone(file, "fc.weight"))
        self.file, self.multi_label = file, bool(file.meta.get("multi_label"))
        self.order = file.class_order(classes)

    def logits(self, x: Tensor) -> Tensor:
        """Map normalised images `[N, C, H, W]` to logits `[N, num_classes]`, one size of images after another."""
        found = self.file(x.float())[0]
        return found if self.order is None else found[:, torch.tensor(self.order, device=found.device)]
