"""Trained nets as other programs may run them: tensors in, tensors out, with all that a user must know beside them."""

from __future__ import annotations

from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from backbones.common.datasets import PIXEL_SUFFIXES
from backbones.errors import UserError
from backbones.trained import Trained, find
from tools.exports.exportable import Exportable, Inputs, common_metadata, plain_layout


def exportable(run: str, *, size: int | None = None) -> Exportable:
    """The net of a run folder, or of one of our weights files.

    Args:
        size: side of a detector's square input in pixels; absent: its longest side, rounded up to a multiple of 32.

    Raises:
        UserError: where there is none of ours.
    """
    trained = find(run)
    if size is not None and trained.task != "detection":
        raise UserError(f"--size {size}: is for detectors; nets of {trained.task} take images of many sizes")
    if trained.task == "classification":
        return _classifier(trained)
    if trained.task == "segmentation":
        return _segmenter(trained)
    from tools.exports.detector import detector

    return detector(trained, size)


class _Scores(nn.Module):
    """A segmentation net's scores alone."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)["out"]


def _classifier(trained: Trained) -> Exportable:
    import classification

    loaded = classification.load(trained.path, device="cpu", precision="fp32")
    net = plain_layout(loaded.model)

    def read(path: Path) -> Inputs:
        return (net.backbone.normalised(loaded.read(path)[0][None]).contiguous(),)

    infos = net.backbone.feature_info
    metadata = common_metadata(trained) | {
        "classes": list(loaded.classes),
        "images": "float32 [N, C, H, W]: pixels in 0..1, minus `input.mean`, over `input.std`",
        "logits": "float32 [N, classes], before softmax",
    }
    stride = infos[-1].stride if infos else 32
    return Exportable(net, ("images",), ("logits",), metadata, stride, 1, True, read, loaded.classes)


def _segmenter(trained: Trained) -> Exportable:
    import segmentation

    loaded = segmentation.load(trained.path, device="cpu", precision="fp32")
    net = plain_layout(loaded.model)
    stride = max(32, *(info.stride for info in net.backbone.feature_info))
    smallest = loaded.predictor.min_size

    def read(path: Path) -> Inputs:
        images = net.backbone.normalised(loaded.read(path)[None]).contiguous()
        scale = smallest / min(images.shape[-2:]) if smallest else 1
        sides = [max(2, round(side * scale / stride)) * stride for side in images.shape[-2:]]
        return (F.interpolate(images, size=sides, mode="bilinear", align_corners=False),)

    metadata = common_metadata(trained) | {
        "classes": list(loaded.classes.names),
        "images": f"float32 [N, C, H, W]: pixels in 0..1, minus `input.mean`, over `input.std`; "
        f"H and W are multiples of {stride}",
        "scores": "float32 [N, classes, H, W], before softmax",
    }
    return Exportable(_Scores(net), ("images",), ("scores",), metadata, stride, stride, True, read)


def image_files(folder: Path, count: int) -> list[Path]:
    """The first `count` images, spread over the folders below; those of a validation split where there are such.

    Raises:
        UserError: where there are fewer than five.
    """
    found = [path for path in folder.rglob("*") if path.suffix.lower() in PIXEL_SUFFIXES and "labels" not in path.parts]
    found.sort()
    held_out = [path for path in found if any(part.startswith(("val", "test")) for part in path.parts)]
    found = held_out or found
    if len(found) < 5:
        raise UserError(f"--images {folder}: holds {len(found)} images; a file is checked on at least five real ones")
    step = max(1, len(found) // count)
    return found[::step][:count]
