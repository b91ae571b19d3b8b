"""In which type a net computes: fp32, or 16 bits where the hardware multiplies those natively."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

import torch

from backbones.errors import UserError


def precision_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The type that autocast computes in; float32 stands for no autocast.

    Args:
        precision: auto (bf16 where the hardware has it, else fp32), fp32, bf16 or fp16.

    Raises:
        UserError: for fp16 on a CPU, whose gradients would underflow without a scaler; for an unknown word.
    """
    if precision == "fp16" and device.type == "cpu":
        raise UserError("--precision fp16: needs a GPU; take bf16, fp32 or auto on a CPU")
    if precision == "auto":
        return torch.bfloat16 if has_bf16(device.type) else torch.float32
    known = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if precision not in known:
        raise UserError(f"--precision {precision}: expected auto, {', '.join(known)}")
    return known[precision]


@cache
def has_bf16(device_type: str) -> bool:
    """Whether the hardware multiplies bf16 natively: elsewhere it is emulated, and slower than fp32."""
    if device_type == "cuda":
        return torch.cuda.get_device_capability()[0] >= 8
    if platform.system() != "Linux":
        return False
    flags = set(Path("/proc/cpuinfo").read_text().split())
    return bool(flags & {"avx512_bf16", "amx_bf16"})
