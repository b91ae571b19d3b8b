"""Costs of a model and a run (parameters, multiply-adds, peak memory), with the versions and hardware of the run."""

from __future__ import annotations

import copy
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from backbones.common.machine import cores, peak_memory
from backbones.common.version import toolkit_version
from tools.processes import distributed

# Functions whose result has the shape and dtype of their first argument, and that hold no multiply-adds to count.
_UNCOUNTED = {F.batch_norm, F.group_norm, F.layer_norm, F.relu, torch.relu, torch.relu_, torch.Tensor.relu_}


def parameters(module: nn.Module) -> int:
    """Count the parameters, frozen ones included. A parameter that two modules share counts once."""
    return sum(p.numel() for p in module.parameters())


def macs(module: nn.Module, size: int | tuple[int, int], in_channels: int = 3) -> int:
    """Count the multiply-adds of convolutions and matrix products for one image.

    The count is made on a copy on the meta device, so nothing is computed and the module does not change.

    Args:
        size: height and width of the image in pixels, or one number for both.
    """
    height, width = (size, size) if isinstance(size, int) else size
    twin = _on_meta(module).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter, _WithoutUncounted():
        twin(torch.zeros(1, in_channels, height, width, device="meta"))
    return counter.get_total_flops() // 2  # the counter counts a multiply-add as two operations


def _on_meta(module: nn.Module) -> nn.Module:
    """Return a copy on the meta device. The numbers are not copied."""
    memo: dict[int, object] = {
        id(each): nn.Parameter(each.to("meta"), requires_grad=each.requires_grad) for each in module.parameters()
    }
    memo |= {id(each): each.to("meta") for each in module.buffers()}
    return copy.deepcopy(module, memo).to("meta")


class _WithoutUncounted(TorchFunctionMode):
    """Mode in which the functions that count nothing return their input: on the meta device they take most time."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return args[0] if args and func in _UNCOUNTED else func(*args, **(kwargs or {}))


@contextmanager
def without_numbers() -> Iterator[None]:
    """Context manager that puts the parameters of new models on the meta device, which costs no time and memory.

    Only parameters are on the meta device. Other tensors that a model computes have their values, which they would not
    have under `torch.device("meta")`.
    """

    def empty(module: nn.Module, name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
        if parameter is None:
            return None
        return nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)

    hook = register_module_parameter_registration_hook(empty)  # type: ignore[arg-type]  # torch says `None` alone
    try:
        yield
    finally:
        hook.remove()


def costs(
    model: nn.Module, device: torch.device, dtype: torch.dtype, *, example_shape: Sequence[int] | None
) -> dict[str, object]:
    """Return parameters, multiply-adds and peak memory of a run, as entries of results.json.

    Args:
        dtype: data type of the computations.
        example_shape: (C, H, W) of an image; None leaves out the multiply-adds.

    Returns:
        `parameters`, `macs` of one image, `peak_memory` in bytes and `environment`. The memory is that of the GPU;
        without a GPU it is that of this process, its libraries included, or None if the system does not tell it.
    """
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_memory()
    counted = {}
    if example_shape is not None and parameters(model):  # an exported file has no layers to count
        channels, height, width = example_shape
        counted = {"macs": macs(model, (height, width), channels)}
    return {"parameters": parameters(model), **counted, "peak_memory": peak, "environment": environment(device, dtype)}


def environment(device: torch.device, dtype: torch.dtype) -> dict[str, object]:
    """Return the versions of toolkit and libraries, device, processes and data type, as entries of results.json."""
    gpu = device.type == "cuda"
    return {
        "toolkit": toolkit_version(),
        **versions(),
        "device": torch.cuda.get_device_name(device) if gpu else f"{cores()} cores of {platform.machine()}",
        "processes": distributed.world_size(),
        "precision": str(dtype).removeprefix("torch."),
    }


def versions() -> dict[str, str]:
    """Return the versions of Python and torch."""
    return {"python": platform.python_version(), "torch": str(torch.__version__)}
