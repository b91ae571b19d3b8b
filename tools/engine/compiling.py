"""Compiles the parts of a model with torch.compile for training (`--compile`)."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec

import torch
from torch import nn

from backbones.errors import UserError

# The compilers that torch looks for on the CPU, by sys.platform. $CXX names another one.
COMPILERS = {"darwin": "clang++", "win32": "cl"}


def require_compiler(device: torch.device) -> None:
    """Refuse a device for which torch.compile finds no compiler.

    Raises:
        UserError: the machine has no C++ compiler, or a CUDA device is chosen and triton is not installed.
    """
    if device.type == "cuda":
        if find_spec("triton") is None:
            raise UserError("--compile: needs triton on a GPU, which is not installed; pip install triton")
        return
    name = os.environ.get("CXX") or COMPILERS.get(sys.platform, "g++")
    if shutil.which(name) is None:
        raise UserError(
            f"--compile: needs the C++ compiler {name}, which is not installed; install it, or name another one in $CXX"
        )


def compile_parts(parts: Mapping[str, nn.Module], *, fixed_size: bool) -> None:
    """Let torch.compile compile modules at their next call. Works in place; names in the state dict do not change.

    Args:
        parts: modules by name, as `compilable()` of a model returns them.
        fixed_size: whether all batches have one shape. Otherwise the compiled code computes any size.
    """
    for part in parts.values():
        part.compile(dynamic=not fixed_size)


def uncompiled(model: nn.Module) -> AbstractContextManager[object]:
    """Return the context manager in which the compiled parts of a model compute without the compiler.

    An evaluation uses it, so that a model is evaluated as `load` computes it, and its many sizes need no compiling.
    """
    # Importing the compiler takes seconds, so do it only where a part is compiled.
    if all(part._compiled_call_impl is None for part in model.modules()):
        return nullcontext()
    return torch.compiler.set_stance("force_eager")
