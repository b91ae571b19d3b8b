"""What a net costs: parameters, and multiply-adds of one image."""

import copy

import torch
from torch import nn
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
