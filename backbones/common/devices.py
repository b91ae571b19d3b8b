"""Chooses the device that a model computes on: auto, cpu, cuda, cuda:1 or mps."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from backbones.errors import UserError, first_line

AUTO = "auto"
Built = TypeVar("Built")


def without_data(build: Callable[[], Built]) -> Built:
    """Return what `build` makes, without memory for the numbers of its tensors and without drawing random numbers.

    Some models need numbers while they are built, which depends on the versions of timm and torch. They get them.
    """
    try:
        with torch.device("meta"):
            return build()
    except Exception:  # each family raises other kinds of exceptions; an error of the build itself comes again
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            return build()


def reading_waits(device: torch.device) -> bool:
    """Return whether Python waits for all queued work of this device when it reads a value or a size of a result.

    On such a device, code computes results of fixed sizes and reads the sizes of all images at once. On a CPU, results
    that hold only what is needed are faster.
    """
    return device.type == "cuda"


def usable_device(device: str | torch.device | None = AUTO) -> torch.device:
    """Return a device after checking that it can be used.

    Args:
        device: cpu, cuda, cuda:1, mps, ...; auto and None are the first GPU with CUDA, or else the CPU. Apple's mps
            must be named, because some operations of detectors are slower there than on the CPU or not exact.

    Raises:
        UserError: this machine does not have it, or torch does not know its name.
    """
    if device in (None, AUTO):
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        # Use the device, because a valid name is not enough: "meta" stores no numbers, "cuda:9" may not exist.
        torch.empty(1, device=device).cpu()
        return torch.device(device)  # type: ignore[arg-type]  # not None
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # a build without CUDA raises AssertionError
        reason = first_line(error)
        if reason.startswith("Expected one of"):  # torch lists two dozen kinds, most of which no model runs on
            reason = "there is no such kind of device"
        raise UserError(
            f"device {device}: cannot be used here ({reason}); name another: cpu, cuda, cuda:1, mps or auto"
        ) from None
