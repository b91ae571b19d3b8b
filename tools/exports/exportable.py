"""A trained model ready for export: a module from tensors to tensors, and metadata for its users.

An exported file holds the layers of the model and nothing else. The program that runs the file does the rest:

- Classification. Before the file: decode, resize, crop and normalise the image. In the file: all layers, from images
  `[N, C, H, W]` to logits `[N, classes]`. After the file: softmax, and the mean over several views if wanted. With
  several classes an image: sigmoid; a class is found if its probability reaches its threshold.
- Segmentation. Before the file: decode and normalise the image, and resize it to sides that the file accepts. In the
  file: all layers, from images to scores `[N, classes, H, W]`. After the file: argmax, resizing to the image's size.
- Detection. Before the file: decode, resize and normalise the images, and pad them with zeros to multiples of 32. In
  the file: backbone, proposals, RoI heads, clipping, score threshold and suppression, from a batch of images and their
  sizes to boxes, scores, labels and the index of each detection's image; with a mask branch also masks, as
  probabilities in the cells of a grid over each box. After the file: scale the boxes to the original image, paste the
  masks into it, and map labels to category ids.

The metadata in the file has the sizes, mean, std, classes or category ids, and the meaning of every tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from backbones.common.version import toolkit_version
from backbones.trained import TrainedFile

# Largest difference from PyTorch, as a fraction of the largest output. Engines add in other orders and fold batch norm:
# 100 layers x sqrt(5,000) terms of a sum x 1.2e-7 (fp32) are 8e-4.
TOLERANCE = 1e-3
# How the files of all tasks expect colours, in their metadata.
COLOURS = {
    "colour_order": "RGB",
    "values": "0..1: bytes over 255, before subtracting the mean",
    "16 bits": "a value's byte is the upper eight of its `input.bits` bits (16 if absent)",
}
CONFIG = ("test_crops", "crop_size")  # options of the run's evaluation that are steps around the file
Inputs = tuple[Tensor, ...]  # the tensors that a model takes, in order
Runner = Callable[[Inputs], list[Tensor]]  # runs a file: input tensors to output tensors
Module = TypeVar("Module", bound=nn.Module)


class RawPipeline(NamedTuple):
    """Graphs that an ONNX file runs before and after the model, as texts that `onnx.parser` reads.

    Attributes:
        before: from `image` (bytes `[N, H, W, C]`) to the inputs of the model and to `carried`.
        after: from an output of the model and `carried` to the outputs named in `renamed`, and to further ones.
        carried: output of `before` that `after` reads.
        renamed: outputs of `after` that take the names of outputs of the model.
    """

    before: str
    after: str
    carried: str
    renamed: dict[str, str]


class FileCheck(NamedTuple):
    """Result of comparing a file with PyTorch: the largest difference, and what else was found, by name."""

    difference: float
    found: dict[str, str]


class Check(Protocol):
    """Compares a file, which `run` runs, with the loaded run on image files.

    `where` names the file in error messages; `accepts` returns whether the file accepts the sizes of inputs.

    Raises:
        UserError: the file differs by more than rounding.
    """

    def __call__(self, run: Runner, paths: list[Path], where: str, accepts: Callable[[Inputs], bool]) -> FileCheck: ...


@dataclass(frozen=True)
class Exportable:
    """A model in evaluation mode and fp32 on the CPU, with example inputs and metadata for its export.

    Attributes:
        model: takes the tensors named in `inputs`; returns the tensors named in `outputs`, several as a tuple.
        inputs: names of the input tensors.
        outputs: names of the output tensors.
        metadata: JSON values that are written into the file.
        stride: pixels of the input per pixel of the last feature map; images must be larger.
        multiple: number of pixels of which the images' sides must be multiples; 1: any side.
        batches: whether inputs and outputs may hold any number of images.
        many: whether the inputs, but not the outputs, may hold any number of images.
        raw: what an ONNX file does before and after the model, if it takes images as they are decoded.
        read: reads an image file and returns the input tensors.
        check: compares the answers of the file, with the steps around it, with those of the loaded run.
        classes: names of a classifier's classes, by number.
        resizable: whether images may be resized to sizes that the file accepts.
        blanks: inputs without anything to find, on which the file must run.
        notes: what the file leaves out, by name, for the user.
    """

    model: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    metadata: dict[str, object]
    stride: int
    multiple: int
    batches: bool
    read: Callable[[Path], Inputs]
    check: Check
    classes: tuple[str, ...] = ()
    resizable: bool = False
    blanks: tuple[Inputs, ...] = ()
    notes: dict[str, str] = field(default_factory=dict)
    many: bool = False
    raw: RawPipeline | None = None

    @property
    def file_inputs(self) -> tuple[str, ...]:
        """Return the names of the inputs of the file, which may take images as they are decoded."""
        return ("image",) if self.raw is not None else self.inputs

    def label(self, path: Path) -> int | None:
        """Return the class number of an image file, given by its folder's name.

        The result is None if that name is not a class, and for classifiers of several classes an image.
        """
        has_class = path.parent.name in self.classes and self.thresholds is None
        return self.classes.index(path.parent.name) if has_class else None

    @property
    def thresholds(self) -> Tensor | None:
        """Least probability `[K]` of each class of a classifier of several classes an image; None for other models."""
        found = self.metadata.get("thresholds")
        return None if found is None else torch.tensor(found)

    def expected(self, inputs: Inputs) -> list[Tensor]:
        """Compute with PyTorch the outputs that the exported file must reproduce."""
        with torch.inference_mode():
            outputs = self.model(*inputs)
        return list(outputs) if isinstance(outputs, tuple) else [outputs]


def prepare(model: Module) -> Module:
    """Prepare a model for export: evaluation mode, no gradients, contiguous weights."""
    return model.eval().requires_grad_(False).to(memory_format=torch.contiguous_format)


def common_metadata(trained: TrainedFile) -> dict[str, object]:
    """Return the metadata that exported models of all tasks have, such as task, classes, input size, mean and std."""
    return {
        "task": trained.task,
        "meta": {name: value for name, value in trained.meta.items() if name != "plugins"},
        "config": {name: trained.config[name] for name in CONFIG if name in trained.config},
        "input": trained.meta["input"],
        "model": trained.meta["model"],
        "producer": "resnet-transfer",
        "producer_version": toolkit_version(),
    }


def batches(items: Sequence[Inputs], size: int) -> Iterator[Inputs]:
    """Yield batches of up to `size` inputs, stacked from consecutive items whose shapes are equal."""
    start = 0
    while start < len(items):
        stop = start + 1
        shapes = [tensor.shape for tensor in items[start]]
        while stop < min(len(items), start + size) and [tensor.shape for tensor in items[stop]] == shapes:
            stop += 1
        yield tuple(torch.cat(parts) for parts in zip(*items[start:stop], strict=True))
        start = stop
