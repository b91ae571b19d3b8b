"""Settings of a run's processes: CPU threads, deterministic operations, and checks that options are possible."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping

import torch

from backbones.errors import UserError, first_line
from tools.engine.compiling import require_compiler
from tools.engine.options import TrainOptions
from tools.processes import distributed

OF_COMPILER = ("torch._dynamo", "torch._inductor")  # modules of the exceptions of torch.compile


def user_error_of(error: Exception) -> UserError | None:
    """Return the user error that explains an exception, such as a non-deterministic operation; None without one."""
    if isinstance(error, OSError):
        return _limit_of_system(error)
    text = str(error).split("\n")[0].split(". ")[0]
    if type(error).__module__.startswith(OF_COMPILER):
        reason = first_line(getattr(error, "inner_exception", error))
        return UserError(f"--compile: torch cannot compile the model ({reason}); leave the option out")
    if "does not have a deterministic implementation" in text:
        return UserError(f"--deterministic: {text}; use another model, or leave the option out")
    if text.startswith("Expected more than 1 value per channel when training"):
        return UserError(
            "--batch-size: batch norm gets only one value per channel, so it cannot compute statistics; "
            "raise --batch-size or the size of the inputs, or use --norm frozen or group"
        )
    return None


def _limit_of_system(error: OSError) -> UserError | None:
    """Return the user error for an OSError that prevents data-loading workers from starting; None for other errors."""
    if error.errno not in (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE):
        return None
    return UserError(
        f"--workers: the system refuses another process or open file ({error.strerror}); lower --workers, or raise the "
        "limits (ulimit -u, ulimit -n)"
    )


def require_possible(train: TrainOptions, config: Mapping[str, object], device: torch.device) -> None:
    """Refuse options that this number of processes or this device cannot fulfil.

    Raises:
        UserError: the batch cannot be divided among the processes, a norm layer needs a GPU, or `--compile` cannot be
            used.
    """
    parts = distributed.world_size() * train.accumulate
    # An evaluation divides the images themselves among the processes.
    if train.batch_size % parts and not config.get("eval_only"):
        raise UserError(
            f"--batch-size {train.batch_size}: does not divide into {distributed.world_size()} processes x "
            f"{train.accumulate} accumulated batches; use a multiple of {parts}"
        )
    if config.get("norm") == "sync" and device.type == "cpu" and distributed.world_size() > 1:
        raise UserError("--norm sync: torch synchronises batch norm on GPUs only; use batch or group on CPUs")
    if config.get("compile") and not config.get("eval_only"):
        if config.get("recompute"):
            raise UserError("--compile: cannot be combined with --recompute; leave one of them out")
        require_compiler(device)


def be_deterministic() -> None:
    """Make torch compute the same bits in every run. An operation that cannot do so raises a RuntimeError."""
    # cuBLAS reads the variable at its first use. Without it the order of additions in matrix products varies.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.deterministic = True
