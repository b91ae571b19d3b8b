"""Runs an exported detector in place of the layers of `detection.FasterRCNN`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchvision.models.detection.transform import resize_boxes

from backbones.errors import UserError
from backbones.exported import ExportedBackbone, as_bytes
from backbones.weights.exported import ExportedFile
from detection.data.annotations import CategoryMap
from detection.faster_rcnn import FasterRCNN
from detection.necks import Neck
from detection.preprocess import Preprocessor
from detection.roi_heads import RoIHeads
from detection.rpn import RPN


class ExportedHeads(nn.Module):
    """Limits of the detections of an exported file.

    Attributes:
        nms_thresh: IoU above which the file removes the weaker of two boxes of a class.
        detections_per_img: largest number of detections per image.
        mask_side: cells along a side of a mask; 0 without masks.
        mask_pasting: rule by which masks are pasted into the image.
    """

    def __init__(self, file: ExportedFile) -> None:
        super().__init__()
        limits = file.metadata["limits"]
        self.least_score: float = limits["score"]
        self.nms_thresh: float = limits["nms"]
        self.detections_per_img: int = limits["detections"]
        self.mask_side = int(bool(file.metadata.get("masks")))
        self.mask_pasting: str = file.metadata.get("mask_pasting", "aligned")
        self.limit = self.least_score

    @property
    def score_thresh(self) -> float:
        """Least score of a detection.

        Raises:
            UserError: on setting it below the limit in the file, which has left lower scores out.
        """
        return self.limit

    @score_thresh.setter
    def score_thresh(self, value: float) -> None:
        if value < self.least_score:
            raise UserError(
                f"score={value}: the file leaves out scores below {self.least_score}; name a larger score, or export "
                "the run again"
            )
        self.limit = value


class ExportedDetector(FasterRCNN):
    """A detector whose layers an exported file computes, on the CPU. It detects as the file does, without other views.

    Args:
        path: ONNX or OpenVINO file of a detector.
        categories: of the labels; by default those of the file.

    Raises:
        UserError: the file cannot be opened, has other categories, or holds no suppression.
    """

    def __init__(self, path: str | os.PathLike[str], categories: CategoryMap | None = None) -> None:
        file = ExportedFile(path)
        if not file.metadata["limits"]["suppressed"]:
            raise UserError(f"{path}: was exported with --nms false, so it returns no detections; export it without")
        seen = file.meta["input"]
        super().__init__(
            Neck(ExportedBackbone(file, "backbone.body"), roi_size=1),
            cast(RPN, nn.Identity()),
            cast(RoIHeads, ExportedHeads(file)),
            Preprocessor(seen["mean"], seen["std"], min_size=seen["min_size"], max_size=seen["max_size"]),
        )
        self.load_report = self.backbone.body.load_report
        self.file = file
        own = list(file.meta["category_ids"])
        ids = own if categories is None else list(categories.ids)
        if set(own) != set(ids):
            odd = ", ".join(map(str, sorted(set(own) ^ set(ids))[:3]))
            raise UserError(f"{path}: was trained on other categories (ids {odd}); use the data of its training")
        self.labels = torch.tensor([0, *(1 + ids.index(each) for each in own)])  # of the file -> of the categories

    @property
    def has_masks(self) -> bool:
        """Return whether the file predicts masks."""
        return bool(self.file.metadata.get("masks"))

    @property
    def num_classes(self) -> int:
        """Return the number of classes without the background."""
        return len(self.labels) - 1

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None) -> Any:
        """Return the detections of each image, as `FasterRCNN` does in evaluation mode.

        Raises:
            UserError: there are targets, because a file cannot compute losses.
        """
        if targets is not None:
            raise UserError(f"{self.file.path}: an exported file cannot compute losses; use the weights of the run")
        if self.file.is_raw:
            return [self._detections(self.file(as_bytes(image)[None]), 1)[0] for image in images]
        batch, _ = self.transform(list(images))
        sizes = torch.tensor(batch.image_sizes, dtype=torch.float32, device=batch.tensors.device)
        found = self._detections(self.file(batch.tensors.float(), sizes), len(images))
        for each, image, size in zip(found, images, batch.image_sizes, strict=True):
            each["boxes"] = resize_boxes(each["boxes"], size, (image.shape[-2], image.shape[-1]))
        return found

    def predict_with_losses(self, images: list[Tensor], targets: list[dict[str, Tensor]]) -> Any:
        """Refuse, as `forward` refuses targets."""
        return self.forward(images, targets)

    def _detections(self, outputs: Sequence[Tensor], count: int) -> list[dict[str, Tensor]]:
        """Return the detections of each of `count` images, from the outputs of the file."""
        boxes, scores, labels, owners, *masks = outputs
        named = {"boxes": boxes, "labels": self.labels.to(labels.device)[labels], "scores": scores}
        named |= {"masks": masks[0]} if masks else {}
        good = scores > self.roi_heads.score_thresh
        return [{name: each[good & (owners == number)] for name, each in named.items()} for number in range(count)]
