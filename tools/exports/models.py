"""Loads trained models of all tasks for export."""

from __future__ import annotations

from torch import Tensor, nn

import classification
import segmentation
from backbones.trained import TrainedFile, find
from tools.exports.detector import exportable_detector
from tools.exports.exportable import Exportable, common_metadata, prepare
from tools.exports.whole_images import ClassifierFile, SegmenterFile


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

    file = ClassifierFile(loaded)
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
        read=lambda path: file.inputs(path)[0],
        classes=loaded.classes,
        check=file.check,
    )


def exportable_segmenter(trained: TrainedFile) -> Exportable:
    """Load a segmentation model for export: from images `[N, C, H, W]` to scores `[N, classes, H, W]`."""
    loaded = segmentation.load(trained.path, device="cpu", precision="fp32", tile=0, scales=(1.0,), flip=False)
    model, file = prepare(loaded.model), SegmenterFile(loaded)
    stride = max(32, *(info.stride for info in model.backbone.feature_info))
    views = [name for name in ("tile", "test_scales", "test_flip") if trained.config.get(name)]
    options = ", ".join(f"--{name.replace('_', '-')}" for name in views)
    metadata = common_metadata(trained) | {
        "classes": list(loaded.classes.names),
        "images": "float32 [N, C, H, W]: pixels in 0..1, minus `input.mean`, over `input.std`, resized so "
        "that the shorter side has `input.min_size` pixels (0: not resized); `sizes` says which H and W are accepted",
        "scores": "float32 [N, classes, H, W], before softmax",
    }
    return Exportable(
        _Scores(model),
        ("images",),
        ("scores",),
        metadata,
        stride=stride,
        multiple=1,
        batches=True,
        read=file.inputs,
        check=file.check,
        resizable=True,
        notes={"left out": f"{options} of the run: the file views each whole image once"} if views else {},
    )


class _Scores(nn.Module):
    """Wraps a segmentation model so that it returns only the scores `[N, classes, H, W]`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)["out"]
