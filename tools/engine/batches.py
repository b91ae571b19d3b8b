"""Types of training batches, and the interface of a batch order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeAlias, TypeVar

import torch
from torch import Tensor

# Images: `[N, C, H, W]`, a list of `[C, H, W]`, or a list of views `[N, C, h, w]`.
Images: TypeAlias = Tensor | list[Tensor]
# Targets: tensors `[N, ...]` by name (classification, segmentation), or one dict of tensors per image (detection).
Targets: TypeAlias = dict[str, Tensor] | list[dict[str, Tensor]]
Batch: TypeAlias = tuple[Images, Targets]
Losses: TypeAlias = dict[str, Tensor]  # scalars by name

Value = TypeVar("Value")


class Batches(Protocol):
    """Order of the training images. Iterating yields, for each batch, the keys of its images.

    Attributes:
        batch_size: images of one optimizer step, over all processes.
        accumulate: batches per optimizer step and process.
    """

    batch_size: int
    accumulate: int

    @property
    def steps(self) -> int:
        """Return the number of optimizer steps per epoch."""

    def seek(self, epoch: int, step: int = 0) -> None:
        """Let the next iteration start at the given step of the given epoch."""


def to_device(value: Value, device: torch.device) -> Value:
    """Move the tensors in nested lists, tuples and dicts to a device; return other values unchanged."""
    return _moved(value, device)  # type: ignore[return-value]  # the structure stays the same


def _moved(value: object, device: torch.device) -> object:
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, Mapping):
        return {name: _moved(item, device) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_moved(item, device) for item in value)
    return value


def image_ids(targets: Targets) -> list[int]:
    """Return the image ids of a batch. Detection has a dict per image, the other tasks have one dict of tensors."""
    if isinstance(targets, dict):
        return targets["index"].tolist()
    return [int(target["image_id"]) for target in targets if isinstance(target, dict)]
