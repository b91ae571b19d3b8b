"""A loss that is no number: what is said of it, and what is kept of it for `tools/replay.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backbones.errors import UserError
from tools.engine import checkpoint


class NonFiniteLossError(UserError):
    """Some process has a loss that is not finite.

    Attributes:
        evidence: this process's batch and weights, where the loss is its own; else None.
    """

    def __init__(self, text: str, evidence: dict[str, Any] | None) -> None:
        super().__init__(text)
        self.evidence = evidence

    def keep(self, folder: Path, **about: Any) -> UserError:
        """Write the evidence into a run folder, beside what is known `about` the run; returns the error to end with."""
        if self.evidence is None:
            return self
        path = folder / f"nonfinite-step-{self.evidence['step']}-rank-{self.evidence['rank']}.safetensors"
        try:
            checkpoint.save(path, {**self.evidence, **about})
        except UserError as error:  # the loss is what matters
            return UserError(f"{self}; {error}")
        return UserError(f"{self}; look into it with: python tools/replay.py {path}")


def describe(losses: dict[str, Tensor], targets: Any, *, rank: int, lr: float) -> str:
    """One process's share of the message: loss terms, learning rate, images, boxes."""
    terms = ", ".join(f"{name} {loss.item():.4g}" for name, loss in losses.items())
    return f"process {rank}: {terms}; lr {lr:.3g}; images {image_ids(targets)}{_boxes(targets)}"


def evidence(
    model: nn.Module, images: Any, targets: Any, *, losses: dict[str, Tensor], random: dict[str, Tensor], **facts: Any
) -> dict[str, Any]:
    """All that the forward pass was computed from.

    Args:
        model: the bare model, with the weights that gave the loss (the last checkpoint's are older).
        random: state of the generators before the pass.
        facts: JSON values.
    """
    return {
        "images": images,
        "targets": targets,
        "random": random,
        "parameters": dict(model.named_parameters()),
        "buffers": dict(model.named_buffers()),  # also those that no checkpoint holds, such as a loss's class weights
        "losses": {name: loss.item() for name, loss in losses.items()},
        **facts,
    }


def image_ids(targets: Any) -> list[int]:
    """Of a batch of detection's (a dict an image), or of classification's or segmentation's (a dict of tensors)."""
    if isinstance(targets, dict):
        return targets["index"].tolist()
    return [int(target["image_id"]) for target in targets if isinstance(target, dict)]


def _boxes(targets: Any) -> str:
    boxes = [target["boxes"] for target in targets if isinstance(target, dict) and "boxes" in target]
    if not boxes:
        return ""
    sides = torch.cat([box[:, 2:] - box[:, :2] for box in boxes]).float()
    span = f", sides of {sides.min():.4g} to {sides.max():.4g} pixels" if len(sides) else ""
    return f"; {len(sides)} boxes{span}"
