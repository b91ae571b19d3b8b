"""What a net costs: parameters, and multiply-adds of one image."""

from __future__ import annotations

import copy
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.utils.flop_counter import FlopCounterMode


def parameters(module: nn.Module) -> int:
    """Number of parameters, frozen ones included; a shared parameter counts once."""
    return sum(p.numel() for p in module.parameters())


def macs(module: nn.Module, size: int | tuple[int, int], in_channels: int = 3) -> int:
    """Multiply-adds of convolutions and matrix products for one image of `size` (height, width) pixels.

    Counted on a copy on the meta device: nothing is computed and the module stays as it is.
    """
    height, width = (size, size) if isinstance(size, int) else size
    twin = copy.deepcopy(module).to("meta").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        twin(torch.zeros(1, in_channels, height, width, device="meta"))
    return counter.get_total_flops() // 2  # the counter takes a multiply-add as two operations


@contextmanager
def without_numbers() -> Iterator[None]:
    """Nets built inside take no time and no memory for their parameters, which are on the meta device.

    Unlike under `torch.device("meta")`, whatever a net computes while it is built has its numbers.
    """

    def empty(module: nn.Module, name: str, parameter: nn.Parameter | None) -> Any:
        if parameter is None:
            return None
        return nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)

    hook = register_module_parameter_registration_hook(empty)
    try:
        yield
    finally:
        hook.remove()


def versions() -> dict[str, str]:
    """What the run ran on."""
    return {"python": platform.python_version(), "torch": str(torch.__version__)}
