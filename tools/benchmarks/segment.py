"""Benchmark of segmentation models: speed of ours and of torchvision's in training and inference."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import get_model

import segmentation
from backbones.errors import UserError
from segmentation.data.classes import IGNORE
from segmentation.fcn import AUX_WEIGHT
from tools.benchmarks.machine import device
from tools.benchmarks.models import BenchmarkModel, Calls, ModelJob
from tools.benchmarks.options import SegmentOptions, Timing, split_list
from tools.benchmarks.settings import OURS, TORCHVISION
from tools.benchmarks.speed import RATIO_NOTE, WAITS_NOTE, WORK_NOTE, SpeedBenchmark

CLASSES = 21
THEIR_BACKBONES = ("resnet50", "resnet101")  # of torchvision's FCNs, which are dilated
NOTES = (
    "Square images with the side in pixels that the model's name gives, 21 classes; batch norm is live; the loss is "
    f"the cross-entropy of both heads. {RATIO_NOTE} {WORK_NOTE} {WAITS_NOTE} "
    "Both libraries use the same weights; results.json has "
    "the largest difference of the scores in fp32 (`score_difference`), as a fraction of the largest score.",
)


@dataclass(frozen=True)
class MeasuredSegmenter(BenchmarkModel):
    """A segmentation model with 21 classes and an auxiliary head, to be measured in our library and in torchvision.

    Attributes:
        head: a head of `segmentation.build`.
        size: side of the images in pixels.
        batch: images per step.
    """

    difference: ClassVar[str] = "score_difference"
    backbone: str
    head: str
    size: int
    batch: int

    def __str__(self) -> str:
        return f"{self.backbone}-{self.head}"

    @classmethod
    def parse(cls, text: str, *, batch: int) -> MeasuredSegmenter:
        """Read a model from text such as `resnet50-dilated:480`.

        Raises:
            UserError: the text has another form.
        """
        name, _, size = text.partition(":")
        backbone, _, head = name.rpartition("-")
        if not (backbone and size.isdecimal() and int(size)):
            raise UserError(f"--nets {text}: expected BACKBONE-HEAD:PIXELS, such as resnet50-dilated:480")
        return cls(backbone, head, int(size), batch)

    @property
    def peers(self) -> list[str]:
        """Return the names of the other libraries that can build the same model: ["torchvision"] or []."""
        return [TORCHVISION] if self.head == "dilated" and self.backbone in THEIR_BACKBONES else []

    def build(self, library: str, weights: Path | None = None) -> nn.Module:
        """Build this model with one library. Without a weights file the weights are random.

        Raises:
            UserError: the model is unknown, or the file does not have all its weights.
        """
        if library == OURS:
            return segmentation.build(self.backbone, CLASSES, head=self.head, weights=weights)
        model = get_model(
            f"fcn_{self.backbone}", weights=None, weights_backbone=None, num_classes=CLASSES, aux_loss=True
        )
        if weights:
            model.load_state_dict(torch.load(weights, weights_only=True))
        return model

    def calls(self, model: nn.Module, job: ModelJob) -> Calls:
        """Make random images and label maps; return functions that run the model on them. It predicts label maps."""
        images, mask = images_and_masks(self.batch, self.size)
        images = images.to(memory_format=job.memory_format)
        return Calls(lambda: model(images)["out"].argmax(dim=1), lambda: loss(job.library, model, images, mask))

    def share_weights(self, path: Path) -> float | None:
        """Save random weights of our model, and compare the scores of both libraries in fp32.

        Returns:
            The largest difference between a score of ours and of torchvision, as a fraction of the largest score; None
            if torchvision cannot build the model.
        """
        torch.manual_seed(0)
        torch.save(self.build(OURS).state_dict(), path)
        if not self.peers:
            return None
        images, _ = images_and_masks(1, self.size)
        with torch.inference_mode():
            models = (self.build(library, path).to(device()).eval() for library in (OURS, TORCHVISION))
            ours, theirs = (model(images)["out"] for model in models)
        return ((ours - theirs).abs().max() / theirs.abs().max()).item()


class SegmentBenchmark(SpeedBenchmark[MeasuredSegmenter]):
    """Benchmark of segmentation models: speed in training and inference.

    Raises:
        UserError: a model is unknown.
    """

    notes = NOTES

    def __init__(self, options: SegmentOptions, timing: Timing) -> None:
        specs = [MeasuredSegmenter.parse(text, batch=options.batch) for text in split_list(options.nets)]
        super().__init__(specs, options, timing)


def images_and_masks(batch: int, size: int) -> tuple[Tensor, Tensor]:
    """Make random normalised images `[N, 3, size, size]`, and label maps `[N, size, size]` with 10 % ignored pixels.

    Args:
        batch: number of images N.
        size: side of the images in pixels.
    """
    random = torch.Generator().manual_seed(0)
    mask = torch.randint(0, CLASSES, (batch, size, size), generator=random)
    mask[torch.rand(mask.shape, generator=random) < 0.1] = IGNORE
    return torch.randn(batch, 3, size, size, generator=random).to(device()), mask.to(device())


def loss(library: str, model: nn.Module, images: Tensor, mask: Tensor) -> Tensor:
    """Return the cross-entropy of main and auxiliary head: our model's loss, or that of torchvision's script."""
    if library == OURS:
        return torch.stack(list(model(images, {"mask": mask}).values())).sum()
    losses = {name: F.cross_entropy(scores, mask, ignore_index=IGNORE) for name, scores in model(images).items()}
    return losses["out"] + AUX_WEIGHT * losses["aux"]
