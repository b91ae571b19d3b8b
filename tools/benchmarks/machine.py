"""The machine that a benchmark ran on: what it is, and how fast it multiplies and copies."""

from __future__ import annotations

import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from backbones.common.loading import cores
from tools.benchmarks.rounds import Step, time_steps

# Vector and matrix units that decide how fast convolutions can be.
FLAGS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_tile", "asimd", "bf16", "sve")
LIBRARIES = ("torch", "torchvision", "timm")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
LASTING = 1.5  # seconds to look for the best moment of a shared machine


def set_up(threads: int) -> None:
    """The settings that every training script makes (`tools.experiment`), for all contestants alike."""
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    torch.backends.cudnn.benchmark = True


def device() -> torch.device:
    """The first GPU, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def describe(*, threads: int, precisions: list[str]) -> dict[str, Any]:
    """The header of a benchmark: JSON values.

    Returns:
        Among others `matmul_gflops` by precision, in 1e9 multiplications and additions a second, and `copy_gbytes`,
        bytes read and written a second in 1e9; both the best of several, as floors are.
    """
    name, flags = _cpu()
    return {
        "date": time.strftime("%Y-%m-%d %H:%M %Z"),
        "cpu": name,
        "cores": cores(),
        "flags": [flag for flag in FLAGS if flag in flags],
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": threads,
        "versions": {"python": platform.python_version(), **{library: version(library) for library in LIBRARIES}},
        "matmul_gflops": {precision: matmul_rate(DTYPES[precision]) / 1e9 for precision in precisions},
        "copy_gbytes": copy_rate() / 1e9,
    }


def matmul_rate(dtype: torch.dtype, side: int | None = None) -> float:
    """Operations a second, a multiply-add being two, of a product of square matrices, the best of several."""
    side = side or (8192 if torch.cuda.is_available() else 1024)
    a, b = (torch.randn(side, side, device=device()).to(dtype) for _ in range(2))
    return 2 * side**3 / _best(lambda: a @ b)


def copy_rate(size: int = 1 << 28) -> float:
    """Bytes a second, read and written ones together, of copying `size` bytes, the best of several."""
    source = torch.ones(size // 4, device=device())
    target = torch.empty_like(source)
    return 2 * size / _best(lambda: target.copy_(source))


def _best(step: Step) -> float:
    """Seconds of a step at its fastest; emulated bf16 is so slow that it gets two goes only."""
    start, found = time.perf_counter(), [time_steps(step, 1)]
    while len(found) < 2 or time.perf_counter() - start < LASTING:
        found.append(time_steps(step, 1))
    return min(found)


def _cpu() -> tuple[str, set[str]]:
    """Name and feature flags; elsewhere than on Linux the name that Python knows."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    facts = {key.strip().lower(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    name = facts.get("model name") or platform.processor() or platform.machine()
    return name, set((facts.get("flags") or facts.get("features") or "").split())
