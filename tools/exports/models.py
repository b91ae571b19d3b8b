"""Loads trained models of all tasks for export."""

from __future__ import annotations

from torch import Tensor, nn

import classification
import segmentation
from backbones.errors import UserError
from backbones.trained import TrainedFile, find_weights
from classification.transforms import describe_views
from tools.exports.detector import exportable_detector
from tools.exports.exportable import COLOURS, Exportable, common_metadata, prepare
from tools.exports.raw_images import raw_label_pipeline
from tools.exports.whole_images import ClassifierFile, SegmenterFile


def load_exportable(run: str, *, suppress: bool = True, raw: bool = False) -> Exportable:
    """Load the model of a run folder, or of a weights file of this project, for export.

    Args:
        suppress, raw: see `exportable_detector`.

    Raises:
        UserError: there is no trained model of this project, or an option does not fit its task.
    """
    trained = find_weights(run)
    if trained.task != "detection" and not suppress:
        raise UserError(f"--nms: is for detectors, but {run} is a {trained.task} model; leave it out")
    if trained.task == "classification" and raw:
        raise UserError(
            f"--raw: is for detectors and segmentation models, but {run} is a classification model; leave it out"
        )
    if trained.task == "classification":
        return exportable_classifier(trained)
    if trained.task == "segmentation":
        return exportable_segmenter(trained, raw=raw)
    return exportable_detector(trained, suppress=suppress, raw=raw)


def exportable_classifier(trained: TrainedFile) -> Exportable:
    """Load a classifier for export: from images `[N, C, H, W]` of any size to logits `[N, classes]`."""
    loaded = classification.load(trained.path, device="cpu", precision="fp32")
    model = prepare(loaded.model)

    file = ClassifierFile(loaded)
    infos = model.backbone.feature_info
    seen, crops = trained.meta["input"], trained.config.get("test_crops", "center")
    metadata = common_metadata(trained) | {
        "classes": list(loaded.classes),
        "preparation": {
            **COLOURS,
            "exif": "images are turned by their EXIF orientation",
            "resize": f"the shorter side to {seen['resize_size']} pixels; the longer side is rounded down",
            "interpolation": f"{seen.get('interpolation', 'bilinear')} with antialiasing, of bytes, before normalising",
            "views": describe_views(crops, seen["crop_size"], seen["resize_size"]) + "; probabilities are averaged",
            "crop": "a centre crop begins at round((side - crop) / 2), halves rounded to even",
            "in the file": False,
        },
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


def exportable_segmenter(trained: TrainedFile, *, raw: bool = False) -> Exportable:
    """Load a segmentation model for export: from images `[N, C, H, W]` to scores `[N, classes, H, W]`.

    Args:
        raw: whether the file takes bytes `[N, H, W, C]` of any size, and also returns the class of each pixel.

    Raises:
        UserError: the file would take bytes, but the model was trained on images of more than 8 bits.
    """
    loaded = segmentation.load(trained.path, device="cpu", precision="fp32", tile=0, scales=(1.0,), flip=False)
    if raw and trained.meta["input"].get("bits") is not None:
        raise UserError(f"--raw: takes bytes, but {trained.path} was trained on 16-bit images; leave it out")
    model, file = prepare(loaded.model), SegmenterFile(loaded, raw=raw)
    stride = max(32, *(info.stride for info in model.backbone.feature_info))
    views = [name for name in ("tile", "test_scales", "test_flip") if trained.config.get(name)]
    options = ", ".join(f"--{name.replace('_', '-')}" for name in views)
    metadata = common_metadata(trained) | {
        "classes": list(loaded.classes.names),
        "preparation": {
            **COLOURS,
            "exif": "ignored: pixels are read as they are stored",
            "resize": "the shorter side to `input.min_size` pixels (0: not resized); sides are rounded to the nearest "
            "whole number",
            "interpolation": "bilinear with antialiasing, of bytes, before normalising; scores are resized back "
            "bilinearly with half-pixel centres",
            "in the file": raw,
        },
        "scores": f"float32 [N, classes, H, W], before softmax{', of the pixels of the image as given' if raw else ''}",
    }
    if raw:
        metadata |= {
            "image": "uint8 [N, H, W, C]: images of one size, as they are decoded; colours are RGB",
            "labels": "uint8 [N, H, W]: positions in `classes`, of the highest score of each pixel",
        }
    else:
        metadata |= {
            "images": "float32 [N, C, H, W]: pixels in 0..1, minus `input.mean`, over `input.std`, resized so that the "
            "shorter side has `input.min_size` pixels (0: not resized); `sizes` says which H and W are accepted",
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
        raw=raw_label_pipeline(model.backbone.mean, model.backbone.std, min_size=file.min_size) if raw else None,
    )


class _Scores(nn.Module):
    """Wraps a segmentation model so that it returns only the scores `[N, classes, H, W]`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)["out"]
