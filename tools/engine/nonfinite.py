"""A loss that is not finite: its error message, and the file that `tools/replay.py` reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor, nn

from backbones.errors import UserError
from tools.engine import checkpoint
from tools.engine.batches import Images, Losses, Targets, image_ids

Evidence: TypeAlias = dict[str, object]  # tensors, trees of tensors, and JSON values


class NonFiniteLossError(UserError):
    """Error for a loss that is not finite on at least one process.

    Attributes:
        evidence: batch and weights of this process; None if the loss of this process is finite.
    """

    def __init__(self, text: str, evidence: Evidence | None) -> None:
        super().__init__(text)
        self.evidence = evidence

    def keep(self, folder: Path, *, config: Mapping[str, object], meta: Mapping[str, object]) -> UserError:
        """Write batch, weights and random state of the step to the run folder; return an error that names the file."""
        if self.evidence is None:
            return self
        path = folder / f"nonfinite-step-{self.evidence['step']}-rank-{self.evidence['rank']}.safetensors"
        try:
            checkpoint.save(path, {**self.evidence, "config": config, "meta": meta})
        except UserError as error:
            # Still report the loss, which matters more than a full disk.
            return UserError(f"{self}; {error}")
        return UserError(f"{self}; find the cause with: python tools/replay.py {path}")


def describe(losses: Losses, targets: Targets, *, rank: int, lr: float) -> str:
    """Describe the batch of one process for the error message: loss terms, learning rate, images, boxes."""
    terms = ", ".join(f"{name} {loss.item():.4g}" for name, loss in losses.items())
    return f"process {rank}: {terms}; lr {lr:.3g}; images {image_ids(targets)}{_boxes(targets)}"


def evidence(
    model: nn.Module,
    images: Images,
    targets: Targets,
    *,
    losses: Losses,
    random: Mapping[str, Tensor],
    **facts: object,
) -> Evidence:
    """Return the inputs of the forward pass: images, targets, weights, random state.

    Args:
        model: the bare model, with the weights that gave the loss. They are newer than the last checkpoint.
        random: state of the random generators before the pass.
        facts: further JSON values.
    """
    return {
        "images": images,
        "targets": targets,
        "random": random,
        "parameters": dict(model.named_parameters()),
        "buffers": dict(model.named_buffers()),  # also those that no checkpoint holds, such as class weights of a loss
        "losses": {name: loss.item() for name, loss in losses.items()},
        **facts,
    }


def _boxes(targets: Targets) -> str:
    """Describe the boxes of a detection batch; return an empty text for other tasks."""
    boxes = [target["boxes"] for target in targets if isinstance(target, dict) and "boxes" in target]
    if not boxes:
        return ""
    sides = torch.cat([box[:, 2:] - box[:, :2] for box in boxes]).float()
    span = f", sides of {sides.min():.4g} to {sides.max():.4g} pixels" if len(sides) else ""
    return f"; {len(sides)} boxes{span}"
