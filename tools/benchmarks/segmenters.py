"""Segmentation nets of two libraries under one interface: built, given the same weights, made to step."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

import segmentation
from backbones.errors import UserError
from segmentation.data.labels import IGNORE
from segmentation.fcn import AUX_WEIGHT
from tools.benchmarks.machine import device
from tools.benchmarks.rounds import Step
from tools.benchmarks.settings import OURS
from tools.benchmarks.steps import NetJob, placed, prediction, training

CLASSES = 21
TORCHVISION = "torchvision"
THEIRS = ("resnet50", "resnet101")  # the backbones of torchvision's FCNs, which are dilated


@dataclass(frozen=True)
class Segmenter:
    """A segmentation net to measure, and the size of its input.

    Attributes:
        size: side of the images in pixels.
        batch: images per step.
    """

    backbone: str
    head: str
    size: int
    batch: int

    def __str__(self) -> str:
        return f"{self.backbone}-{self.head}"

    @classmethod
    def parse(cls, text: str, *, batch: int) -> Segmenter:
        """From `resnet50-dilated:480`.

        Raises:
            UserError: another form.
        """
        name, _, size = text.partition(":")
        backbone, _, head = name.rpartition("-")
        if not (backbone and size.isdecimal() and int(size)):
            raise UserError(f"--nets {text}: expected BACKBONE-HEAD:PIXELS")
        return cls(backbone, head, int(size), batch)

    @property
    def peers(self) -> list[str]:
        """The libraries that can build the same."""
        return [TORCHVISION] if self.head == "dilated" and self.backbone in THEIRS else []


class SegmenterJob(NetJob):
    """A segmentation net to measure."""

    net: Segmenter

    def prepare(self) -> Step:
        """Build net, input and optimizer; returns one training step or one prediction."""
        model: Any = placed(build(self.library, self.net, self.weights), self)
        form = torch.channels_last if self.way.channels_last else torch.contiguous_format
        images, mask = images_and_masks(self.batch, self.net.size)
        images = images.to(memory_format=form)
        if self.mode == "infer":
            return prediction(lambda: model(images)["out"].argmax(dim=1), self)
        return training(model, lambda: loss(self.library, model, images, mask), self)


def images_and_masks(batch: int, size: int) -> tuple[Tensor, Tensor]:
    """Normalised noise, and label maps of noise of which a tenth does not count."""
    random = torch.Generator().manual_seed(0)
    mask = torch.randint(0, CLASSES, (batch, size, size), generator=random)
    mask[torch.rand(mask.shape, generator=random) < 0.1] = IGNORE
    return torch.randn(batch, 3, size, size, generator=random).to(device()), mask.to(device())


def loss(library: str, model: Any, images: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy of both heads: ours by its own code, torchvision's as its reference script does it."""
    if library == OURS:
        return torch.stack(list(model(images, {"mask": mask}).values())).sum()
    losses = {name: F.cross_entropy(scores, mask, ignore_index=IGNORE) for name, scores in model(images).items()}
    return losses["out"] + AUX_WEIGHT * losses["aux"]


def build(library: str, net: Segmenter, weights: Path | None) -> nn.Module:
    """A net of VOC's classes with a second head for training, with the weights of a file or random ones.

    Raises:
        UserError: an unknown net, or weights that do not fit all of it.
    """
    if library == OURS:
        head: Any = net.head  # segmentation names the ones there are
        return segmentation.build(net.backbone, CLASSES, head=head, weights=weights)
    name = f"fcn_{net.backbone}"
    options: dict[str, Any] = {"weights": None, "weights_backbone": None, "num_classes": CLASSES, "aux_loss": True}
    model = torchvision.models.get_model(name, **options)
    if weights:
        model.load_state_dict(torch.load(weights, weights_only=True))
    return model


def share_weights(net: Segmenter, path: Path) -> float | None:
    """Save random weights, and compare the two libraries' scores in fp32.

    Returns:
        The largest difference between a score of ours and torchvision's, as a share of the largest; None without a
        peer.
    """
    torch.manual_seed(0)
    torch.save(build(OURS, net, None).state_dict(), path)
    if not net.peers:
        return None
    images, _ = images_and_masks(1, net.size)
    with torch.inference_mode():
        models = (build(library, net, path).to(device()).eval() for library in (OURS, TORCHVISION))
        ours, theirs = (model(images)["out"] for model in models)
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()
