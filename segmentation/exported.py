"""Runs an exported segmentation model in place of the layers of `segmentation.FCN`."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.exported import ExportedBackbone
from backbones.weights.exported import ExportedFile
from segmentation.fcn import FCN
from segmentation.heads import Head


class ExportedSegmenter(FCN):
    """A segmentation model whose layers an exported file computes, on the CPU.

    Images of sizes that the file does not accept are resized to the nearest size that it accepts.

    Args:
        path: ONNX or OpenVINO file of a segmentation model.
        classes: names of the classes in the order of the scores; by default that of the file.

    Raises:
        UserError: the file cannot be opened, or has other classes.
    """

    def __init__(self, path: str | os.PathLike[str], classes: Sequence[str] | None = None) -> None:
        file = ExportedFile(path)
        super().__init__(ExportedBackbone(file, "classifier.weight"), Head(nn.Identity(), None, None))
        self.file = file
        self.order = file.class_order(classes)

    def scores(self, images: Tensor) -> dict[str, Tensor]:
        """Return `out`: scores `[N, num_classes, H, W]` at the images' size."""
        normal, size = self.backbone.normalise(images).float(), (images.shape[-2], images.shape[-1])
        if self.file.accepts(*size):
            found = self.file(normal.contiguous())[0]
        else:
            near = self.file.nearest(*size)
            found = self.file(F.interpolate(normal, size=near, mode="bilinear", align_corners=False))[0]
            found = F.interpolate(found, size=size, mode="bilinear", align_corners=False)
        return {"out": found if self.order is None else found[:, torch.tensor(self.order, device=found.device)]}
