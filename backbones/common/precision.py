"""Chooses the precision of a model's arithmetic: fp32, or 16 bits if the hardware supports them natively."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from backbones.errors import UserError


def precision_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return the dtype for autocast. torch.float32 means that autocast is off.

    Args:
        precision: auto (bf16 if the hardware has it, else fp32), fp32, bf16 or fp16.

    Raises:
        UserError: the precision is unknown, or is fp16 on a CPU, where gradients would underflow without a scaler.
    """
    if precision == "fp16" and device.type != "cuda":
        where = "a CPU" if device.type == "cpu" else device.type
        raise UserError(f"--precision fp16: needs a GPU with CUDA; on {where} use bf16, fp32 or auto")
    if precision == "auto":
        return torch.bfloat16 if has_bf16(device.type) else torch.float32
    known = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if precision not in known:
        raise UserError(f"--precision {precision}: expected auto, {', '.join(known)}")
    return known[precision]


def at_least_fp32(x: Tensor) -> Tensor:
    """Return a tensor of 16 bits in float32, and others as they are, so that a model in double precision stays so."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


@cache
def has_bf16(device_type: str) -> bool:
    """Return whether the hardware multiplies bf16 natively. Other hardware emulates it, more slowly than fp32."""
    if device_type == "cuda":
        return torch.cuda.get_device_capability()[0] >= 8
    if platform.system() != "Linux":
        return False
    flags = set(Path("/proc/cpuinfo").read_text().split())
    return bool(flags & {"avx512_bf16", "amx_bf16"})
