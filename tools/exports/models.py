"""Loads trained models of all tasks for export."""

from __future__ import annotations

from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

import classification
import segmentation
from backbones.trained import TrainedFile, find
from tools.exports.detector import exportable_detector
from tools.exports.exportable import Exportable, Inputs, common_metadata, prepare


def load_exportable(run: str) -> Exportable:
    """Load the model of a run folder, or of a weights file of this project, for export.

    Raises:
        UserError: there is no trained model of this project.
    """
    trained = find(run)
    if trained.task == "classification":
        return exportable_classifier(trained)
    if trained.task == "segmentation":
        return exportable_segmenter(trained)
    return exportable_detector(trained)


def exportable_classifier(trained: TrainedFile) -> Exportable:
    """Load a classifier for export: from images `[N, C, H, W]` of any size to logits `[N, classes]`."""
    loaded = classification.load(trained.path, device="cpu", precision="fp32")
    model = prepare(loaded.model)

    def read(path: Path) -> Inputs:
        return (model.backbone.normalise(loaded.read(path)[0][None]).contiguous(),)

    infos = model.backbone.feature_info
    metadata = common_metadata(trained) | {
        "classes": list(loaded.classes),
        "images": "float32 [N, C, H, W]: pixels in 0..1, minus `input.mean`, over `input.std`",
        "logits": f"float32 [N, classes], before {'sigmoid' if loaded.multi_label else 'softmax'}",
    }
    if loaded.multi_label:
        metadata["thresholds"] = loaded.thresholds.tolist()
    return Exportable(
        model,
        ("images",),
        ("logits",),
        metadata,
        stride=infos[-1].stride if infos else 32,
        multiple=1,
        batches=True,
        read=read,
        classes=loaded.classes,
    )


def exportable_segmenter(trained: TrainedFile) -> Exportable:
    """Load a segmentation model for export: from images `[N, C, H, W]` to scores `[N, classes, H, W]`."""
    loaded = segmentation.load(trained.path, device="cpu", precision="fp32")
    model = prepare(loaded.model)
    stride = max(32, *(info.stride for info in model.backbone.feature_info))
    smallest = loaded.predictor.min_size

    def read(path: Path) -> Inputs:
        images = model.backbone.normalise(loaded.read(path)[None]).contiguous()
        # Resize as the predictor does, then to the nearest multiples of the stride.
        scale = smallest / min(images.shape[-2:]) if smallest else 1
        sides = [max(2, round(side * scale / stride)) * stride for side in images.shape[-2:]]
        return (F.interpolate(images, size=sides, mode="bilinear", align_corners=False),)

    metadata = common_metadata(trained) | {
        "classes": list(loaded.classes.names),
        "images": f"float32 [N, C, H, W]: pixels in 0..1, minus `input.mean`, over `input.std`; "
        f"H and W are multiples of {stride}",
        "scores": "float32 [N, classes, H, W], before softmax",
    }
    return Exportable(
        _Scores(model),
        ("images",),
        ("scores",),
        metadata,
        stride=stride,
        multiple=stride,
        batches=True,
        read=read,
    )


class _Scores(nn.Module):
    """Wraps a segmentation model so that it returns only the scores `[N, classes, H, W]`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)["out"]
