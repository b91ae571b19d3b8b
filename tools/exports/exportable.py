"""A trained model ready for export: tensors in, tensors out, and the metadata that its users need.

An exported file holds the layers of the model and nothing else. The program that runs the file does the rest:

| task | before the file | in the file | after the file |
|---|---|---|---|
| classification | decode, resize, crop, normalise | all layers, to logits `[N, classes]` | softmax; several views, if wanted |
| segmentation | decode, resize to the sides allowed, normalise | all layers, to scores `[N, classes, H, W]` | argmax; resize to the image's size |
| detection | decode, resize, normalise, pad with zeros to a fixed square | backbone, proposals, RoI heads, clipping, score threshold and suppression, to boxes, scores and labels | scale the boxes to the original image; map labels to category ids |

Sizes, mean, std, classes or category ids, and the meaning of every tensor are in the metadata.
"""  # noqa: E501  a table has long lines

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from backbones.trained import Trained

Inputs = tuple[Tensor, ...]  # the tensors that a model takes, in order
Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class Exportable:
    """A model in evaluation mode and fp32 on the CPU, and what an export must know about it.

    Attributes:
        model: takes the tensors of `inputs`, and returns one tensor or a tuple, those of `outputs`.
        inputs: names of the input tensors.
        outputs: names of the output tensors.
        metadata: JSON values that are written into the file.
        stride: pixels of the input per pixel of the last feature map; images must be larger.
        multiple: number of pixels of which the images' sides must be multiples; 1: any side; 0: only the size of the
            example.
        batches: whether the first input may hold any number of images.
        read: returns the input tensors of one image file.
        classes: names of a classifier's classes, by number.
        reference: computes the outputs that the file must reproduce, if `model` is a rewritten form; None: `model`.
    """

    model: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    metadata: dict[str, object]
    stride: int
    multiple: int
    batches: bool
    read: Callable[[Path], Inputs]
    classes: tuple[str, ...] = ()
    reference: Callable[..., Tensor | tuple[Tensor, ...]] | None = None

    def label(self, path: Path) -> int | None:
        """Return the class number of an image file, from the name of its folder; None if that is no class."""
        return self.classes.index(path.parent.name) if path.parent.name in self.classes else None

    def expected(self, inputs: Inputs) -> list[Tensor]:
        """Compute the outputs with PyTorch, which the file must reproduce."""
        with torch.inference_mode():
            outputs = (self.reference or self.model)(*inputs)
        return list(outputs) if isinstance(outputs, tuple) else [outputs]


def prepare(model: Module) -> Module:
    """Put a model into the state for export: evaluation mode, no gradients, contiguous weights."""
    return model.eval().requires_grad_(False).to(memory_format=torch.contiguous_format)


def common_metadata(trained: Trained) -> dict[str, object]:
    """Return the metadata that the models of all tasks have."""
    return {
        "task": trained.task,
        "input": trained.meta["input"],
        "model": trained.meta["model"],
        "producer": "resnet-transfer",
    }


def batches(items: Sequence[Inputs], size: int) -> Iterator[Inputs]:
    """Stack neighbouring inputs of the same shapes, up to `size` of them at a time."""
    start = 0
    while start < len(items):
        stop = start + 1
        shapes = [tensor.shape for tensor in items[start]]
        while stop < min(len(items), start + size) and [tensor.shape for tensor in items[stop]] == shapes:
            stop += 1
        yield tuple(torch.cat(parts) for parts in zip(*items[start:stop], strict=True))
        start = stop
