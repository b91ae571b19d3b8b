"""TensorFlow's padding (SAME) of timm's layers, computed in a form that torch.export can simplify and save."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch
from timm.layers import padding


@contextmanager
def traceable_padding(*, fixed: bool) -> Iterator[None]:
    """Context manager that replaces timm's function for the padding of all its layers, for tracing.

    timm rounds the size of an image up with math.ceil. torch.export needs many minutes to simplify such sizes in a
    detector, and cannot save them.

    Args:
        fixed: whether all sizes of images are multiples of all strides. The padding is then the same for all sizes.
    """
    with mock.patch.object(padding, "get_same_padding", _of_multiples if fixed else _of_size):
        yield


def _of_multiples(size: int, kernel_size: int, stride: int, dilation: int) -> int:
    """Return the padding of both ends of a side together, for a size that is a multiple of the stride."""
    return max(dilation * (kernel_size - 1) + 1 - stride, 0)


def _of_size(size: int, kernel_size: int, stride: int, dilation: int) -> int | torch.SymInt:
    """Return the padding of both ends of a side together. The size is a symbol in a graph for images of any size."""
    span = dilation * (kernel_size - 1) + 1
    padding = (size - 1) // stride * stride + span - size
    return padding if span >= stride else torch.sym_max(padding, 0)
