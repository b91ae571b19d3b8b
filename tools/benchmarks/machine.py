"""The machine that runs a benchmark: hardware, versions, and measured speed of matrix products and memory copies."""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from contextvars import ContextVar
from importlib.metadata import version
from pathlib import Path
from typing import TypedDict

import torch

from backbones.common.devices import AUTO, usable_device
from backbones.common.machine import cores
from tools.benchmarks.rounds import Step, time_steps

# CPU features that decide how fast convolutions can be.
FLAGS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_tile", "asimd", "bf16", "sve")
LIBRARIES = ("torch", "torchvision", "timm")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SEARCH_SECONDS = 1.5  # how long to repeat a step; other programs may slow down some of its repetitions
_device: ContextVar[torch.device | None] = ContextVar("_device", default=None)


class Machine(TypedDict):
    """Hardware, versions and measured speed of the machine, as JSON values.

    `matmul_gflops` is, for each precision, the speed of matrix products in 1e9 operations per second; a multiply-add
    counts as two operations. `copy_gbytes` is the speed of copying in 1e9 bytes per second, bytes read plus bytes
    written.
    """

    date: str
    cpu: str
    cores: int
    flags: list[str]
    gpu: str | None
    threads: int
    versions: dict[str, str]
    matmul_gflops: dict[str, float]
    copy_gbytes: float


def set_up(threads: int, name: str | torch.device = AUTO) -> None:
    """Set the number of threads and torch's global flags as the training commands do, for all libraries alike.

    Args:
        name: the device that models compute on: auto, cpu, cuda, cuda:1 or mps.

    Raises:
        UserError: this machine does not have the device.
    """
    _device.set(usable_device(name))
    if device().type == "cuda":
        torch.cuda.set_device(device())
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    torch.backends.cudnn.benchmark = True


def device() -> torch.device:
    """Return the device of `set_up`; before it, the first GPU, or the CPU if there is no GPU."""
    return _device.get() or usable_device()


def describe(*, threads: int, precisions: Sequence[str]) -> Machine:
    """Describe this machine: hardware, library versions, and measured rates of multiplying and copying.

    Args:
        threads: CPU threads in use.
        precisions: precisions ("fp32", "bf16") in which to rate matrix products.
    """
    name, flags = _cpu()
    return {
        "date": time.strftime("%Y-%m-%d %H:%M %Z"),
        "cpu": name,
        "cores": cores(),
        "flags": [flag for flag in FLAGS if flag in flags],
        "gpu": torch.cuda.get_device_name() if device().type == "cuda" else None,
        "threads": threads,
        "versions": {"python": platform.python_version(), **{library: version(library) for library in LIBRARIES}},
        "matmul_gflops": {precision: matmul_rate(DTYPES[precision]) / 1e9 for precision in precisions},
        "copy_gbytes": copy_rate() / 1e9,
    }


def matmul_rate(dtype: torch.dtype, side: int | None = None) -> float:
    """Return the operations per second of a product of two square matrices, from the fastest repetition.

    A multiply-add counts as two operations.

    Args:
        side: rows and columns of the matrices; default: 8192 on a GPU, 1024 on a CPU.
    """
    side = side or (8192 if device().type == "cuda" else 1024)
    a, b = (torch.randn(side, side, device=device()).to(dtype) for _ in range(2))
    return 2 * side**3 / _fastest(lambda: a @ b)


def copy_rate(size: int = 1 << 28) -> float:
    """Return the bytes read plus written per second while copying `size` bytes, from the fastest repetition."""
    source = torch.ones(size // 4, device=device())
    target = torch.empty_like(source)
    return 2 * size / _fastest(lambda: target.copy_(source))


def _fastest(step: Step) -> float:
    """Run a step several times and return the seconds of the fastest. Slow steps (emulated bf16) run only twice."""
    start, found = time.perf_counter(), [time_steps(step, 1)]
    while len(found) < 2 or time.perf_counter() - start < SEARCH_SECONDS:
        found.append(time_steps(step, 1))
    return min(found)


def _cpu() -> tuple[str, set[str]]:
    """Return the CPU's name and its feature flags, such as "avx512_bf16"; the flags are known on Linux only."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    facts = {key.strip().lower(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    name = facts.get("model name") or platform.processor() or platform.machine()
    return name, set((facts.get("flags") or facts.get("features") or "").split())
