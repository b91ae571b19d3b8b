"""Counts how often a step makes the host wait for the GPU, without a GPU.

A CUDA kernel runs while Python goes on, until Python needs a value or a size that the GPU computes: then the GPU idles
until Python has queued new work. The operations that wait are known, so they can be counted on any machine. A tensor
made from Python's numbers waits too, because torch copies it to the GPU from memory that is not pinned.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.ops import boxes as box_ops  # also registers the operator of NMS

from backbones.common import convolutions, devices

aten = torch.ops.aten
# Operators that always wait on CUDA: they return a number, or a tensor whose size depends on values.
WAITING = {
    aten._local_scalar_dense.default,  # item(), bool(), float(), int()
    aten.nonzero.default,  # also torch.where(condition)
    aten.masked_select.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.unique_consecutive.default,
    aten.bincount.default,
    aten.equal.default,
    torch.ops.torchvision.nms.default,
    # Operators made of the above, which inference mode calls as a whole.
    aten.item.default,
    aten.is_nonzero.default,
    aten.where.default,
    aten.nonzero_numpy.default,
}
MASKED = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default}
# Methods that copy to the host or from it. They call no operator for a tensor on the CPU.
COPIES = ("cpu", "numpy", "tolist", "new_tensor")
# Functions that copy Python's numbers to the device that they are given.
CONSTANTS = ("tensor", "as_tensor")
# Files whose frames are passed over when the place of a wait is named.
LIBRARIES = (f"{Path(torch.__file__).parent}{os.sep}", __file__, convolutions.__file__)
MOST_COORDINATES = 100_000  # of boxes up to which torchvision's `batched_nms` calls NMS once on CUDA; on a CPU 4,000


def count_waits(step: Callable[[], object]) -> Counter[str]:
    """Run a step and count its waits by place, such as "rpn.py:filter_proposals".

    Tensors of a step that stay on the CPU in a training on a GPU are counted as if they were on the GPU, so the count
    is an upper bound.
    """
    places: Counter[str] = Counter()
    with _counted_copies(places), _counted_constants(places), _ways_of_cuda(), _WaitMode(places):
        step()
    return places


class _WaitMode(TorchDispatchMode):
    """Context manager that counts operators that wait for the GPU, by the function that calls them."""

    def __init__(self, places: Counter[str]) -> None:
        super().__init__()
        self.places = places

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> object:
        if waits(func, args, kwargs or {}):
            self.places[caller(sys._getframe(1))] += 1
        return func(*args, **(kwargs or {}))


def waits(func: object, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Return whether an operator waits for the GPU with these arguments."""
    if func is aten.repeat_interleave.Tensor:
        return kwargs.get("output_size") is None
    if func not in MASKED:
        return func in WAITING
    has_mask = any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
    # Assigning one value by a mask is a masked fill, which needs no size.
    return has_mask and not (func is not aten.index.Tensor and args[2].numel() == 1)


@contextmanager
def _counted_copies(places: Counter[str]) -> Iterator[None]:
    """Context manager in which copies of tensors to the host are counted by place."""
    originals = {name: getattr(Tensor, name) for name in COPIES}

    def counted(original: Callable[..., object]) -> Callable[..., object]:
        def copy(tensor: Tensor, *args: object, **kwargs: object) -> object:
            # A function mode calls the method once more.
            if sys._getframe(1).f_code.co_name != "__torch_function__":
                places[caller(sys._getframe(1))] += 1
            return original(tensor, *args, **kwargs)

        return copy

    try:
        for name, original in originals.items():
            setattr(Tensor, name, counted(original))
        yield
    finally:
        for name, original in originals.items():
            setattr(Tensor, name, original)


@contextmanager
def _counted_constants(places: Counter[str]) -> Iterator[None]:
    """Context manager in which tensors that are made of Python's numbers for a named device are counted by place."""
    originals = {name: getattr(torch, name) for name in CONSTANTS}

    def counted(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def make(data: object, *args: object, **kwargs: object) -> Tensor:
            if kwargs.get("device") is not None and not isinstance(data, Tensor):
                places[caller(sys._getframe(1))] += 1
            return original(data, *args, **kwargs)

        return make

    try:
        for name, original in originals.items():
            setattr(torch, name, counted(original))
        yield
    finally:
        for name, original in originals.items():
            setattr(torch, name, original)


@contextmanager
def _ways_of_cuda() -> Iterator[None]:
    """Context manager in which our models compute as on CUDA, and `batched_nms` calls NMS as often as on CUDA."""
    by_class, own = box_ops._batched_nms_vanilla, devices.reading_waits

    def chosen(boxes: Tensor, scores: Tensor, classes: Tensor, threshold: float) -> Tensor:
        way = by_class if boxes.numel() > MOST_COORDINATES else box_ops._batched_nms_coordinate_trick
        return way(boxes, scores, classes, threshold)

    try:
        box_ops._batched_nms_vanilla, devices.reading_waits = chosen, lambda device: True
        yield
    finally:
        box_ops._batched_nms_vanilla, devices.reading_waits = by_class, own


def caller(frame: FrameType | None) -> str:
    """Return file and function of the innermost frame outside torch, such as "rpn.py:filter_proposals"."""
    while frame is not None and frame.f_code.co_filename.startswith(LIBRARIES):
        frame = frame.f_back
    return "backward" if frame is None else f"{Path(frame.f_code.co_filename).name}:{frame.f_code.co_name}"
