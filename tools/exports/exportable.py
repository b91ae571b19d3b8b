"""TODO-DOC tools/exports/exportable.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backbones.trained import Trained

Inputs = tuple[Tensor, ...]


@dataclass
class Exportable:
    """A net in evaluation mode and fp32, for export.

    Attributes:
        net: takes the tensors of `inputs`.
        inputs, outputs: their names.
        metadata: what must travel with the file: JSON values.
        stride: sides of the images, in pixels, above which sizes may vary.
        multiple: what they are multiples of; 0: no size but that of the example.
        batches: whether the first input's number of images may vary.
        reader: gives the net's inputs of an image file.
        classes: names by number, of a classifier.
        reference: what the file must equal, where it is not `net`.
    """

    net: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    metadata: dict[str, Any]
    stride: int
    multiple: int
    batches: bool
    reader: Callable[[Path], Inputs]
    classes: tuple[str, ...] = ()
    reference: Callable[..., Any] | None = None

    def read(self, path: Path) -> Inputs:
        """The net's inputs of an image file, one image each."""
        return self.reader(path)

    def label(self, path: Path) -> int | None:
        """Class of an image file by its folder's name."""
        return self.classes.index(path.parent.name) if path.parent.name in self.classes else None

    def computed(self, inputs: Inputs) -> list[Tensor]:
        """What PyTorch gives."""
        with torch.inference_mode():
            outputs = (self.reference or self.net)(*inputs)
        return list(outputs) if isinstance(outputs, tuple) else [outputs]


def plain_layout(net: Any) -> Any:
    """The net for export: evaluation mode, no gradient, the usual memory format."""
    return net.eval().requires_grad_(False).to(memory_format=torch.contiguous_format)


def common_metadata(trained: Trained) -> dict[str, Any]:
    """What is said of nets of every task."""
    return {
        "task": trained.task,
        "input": trained.meta["input"],
        "model": trained.meta["model"],
        "producer": "resnet-transfer",
    }


def batches(items: Sequence[Inputs], size: int) -> Iterator[Inputs]:
    """Neighbours whose shapes agree, up to `size` of them stacked."""
    start = 0
    while start < len(items):
        stop = start + 1
        shapes = [x.shape for x in items[start]]
        while stop < min(len(items), start + size) and [x.shape for x in items[stop]] == shapes:
            stop += 1
        yield tuple(torch.cat(parts) for parts in zip(*items[start:stop], strict=True))
        start = stop
