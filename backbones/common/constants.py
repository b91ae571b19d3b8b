"""Constants as tensors. Making such a tensor on a GPU waits for the GPU, so each is made once."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


def constant(values: tuple[float, ...], *, like: Tensor) -> Tensor:
    """Return numbers as a tensor with type and device of another tensor. It must not be changed."""
    if torch.jit.is_tracing() or torch.compiler.is_compiling():
        return torch.tensor(values, dtype=like.dtype, device=like.device)
    return _made(values, like.dtype, like.device)


@lru_cache(maxsize=64)
def _made(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # gradients may pass through later uses
        return torch.tensor(values, dtype=dtype, device=device)
