"""Runs an exported segmentation model in place of the layers of `segmentation.FCN`."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.exported import ExportedBackbone, as_bytes
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
        if self.file.is_raw:
            found = self.file(torch.stack([as_bytes(image) for image in self._pixels(images)]))[0]
        elif self.file.accepts(*size):
            found = self.file(normal.contiguous())[0]
        else:
            near = self.file.nearest(*size)
            found = self.file(F.interpolate(normal, size=near, mode="bilinear", align_corners=False))[0]
            found = F.interpolate(found, size=size, mode="bilinear", align_corners=False)
        return {"out": found if self.order is None else found[:, torch.tensor(self.order, device=found.device)]}

    def _pixels(self, images: Tensor) -> Tensor:
        """Return images as bytes, or as floats in 0..1 if they are normalised floats."""
        if images.dtype == torch.uint8:
            return images
        mean, std = (images.new_tensor(each)[:, None, None] for each in (self.backbone.mean, self.backbone.std))
        return images * std + mean
