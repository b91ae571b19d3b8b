"""Collective operations of the processes of a training. With only one process they do nothing."""

from __future__ import annotations

import socket
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from backbones.common.devices import AUTO, usable_device
from backbones.common.processes import mean, shard_batches
from backbones.errors import UserError
from backbones.norm import has_live_buffers
from tools.processes import failures
from tools.processes.environment import (
    is_main,
    launcher,
    local_rank,
    processes_on_this_machine,
    rank,
    world_size,
)
from tools.processes.failures import SharedError
from tools.processes.rendezvous import meet

Value = TypeVar("Value")


def start(timeout: float = 30, device_name: str = AUTO) -> torch.device:
    """Join the process group if there are several processes, and choose this process's device.

    Args:
        timeout: minutes that processes wait for one another before they fail.
        device_name: auto, cpu, cuda, cuda:1 or mps.

    Returns:
        The named device. auto and cuda mean the CUDA device of the local rank; auto means the CPU if the machine has no
        CUDA device.

    Raises:
        UserError: the device cannot be used, or several processes would share it.
    """
    device = _own_device(device_name)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if world_size() > 1 and not dist.is_initialized():
        # gloo beside NCCL, so that objects in main memory, such as detections and errors, bypass the GPU.
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        limit = timedelta(minutes=timeout)
        store, number, count = meet(limit)
        dist.init_process_group(backend, store=store, rank=number, world_size=count, timeout=limit)
    return device


def _own_device(name: str) -> torch.device:
    """Return this process's device. The errors are those of `start`."""
    if name in (AUTO, "cuda") and torch.cuda.is_available():
        name = f"cuda:{local_rank()}"
    elif name not in (AUTO, "cpu") and (count := processes_on_this_machine()) > 1:
        raise UserError(f"--device {name}: {count} processes would share it; name cuda, auto or cpu, or start one")
    return usable_device(name)


def stop() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def launchers() -> set[str]:
    """Return the names of torchrun's launches on all machines; `environment.launcher` describes these names."""
    return {name for name in all_gather(launcher()) if name}


def all_gather(value: Value) -> list[Value]:
    """Return the `value` (any picklable object) of every process, in order of rank, on every process."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def broadcast(value: Value) -> Value:
    """Return the `value` (any picklable object) of the main process, on every process."""
    if not dist.is_initialized():
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def on_all(work: Callable[[], Value]) -> Value:
    """Call `work` on every process. If it raises a UserError on one process, raise this error on all processes.

    Otherwise the other processes would wait for the failed one at the next collective. Calls may be nested. Any other
    collective inside `work` must come after everything that can fail.
    """
    try:
        result = work()
    except SharedError:  # a nested call has told all processes already
        raise
    except UserError as error:
        _share_error(error)
        raise  # there is only one process
    _share_error(None)
    return result


def on_main(work: Callable[[], Value]) -> Value:
    """Call `work` on the main process only. Every process returns the result of `work` or raises its UserError."""
    return cast(Value, broadcast(on_all(lambda: work() if is_main() else None)))


def _share_error(error: UserError | None) -> None:
    """Raise the error of the first failed process on all processes; return if no process failed."""
    # The mean of one number is much cheaper than gathering texts, and is nearly always 0.
    failed = torch.tensor(float(error is not None))
    if not dist.is_initialized() or mean(failed) == 0:
        return
    failures.ignore_sigterm()
    texts = all_gather(None if error is None else f"{error}{_process_name()}")
    raise SharedError(next(text for text in texts if text), is_reporter=is_main()) from error


def _process_name() -> str:
    """Return rank and host name in parentheses if there are several machines, as their files may differ; else ""."""
    one_machine = processes_on_this_machine() == world_size()
    return "" if one_machine else f" (process {rank()}, on {socket.gethostname()})"


def broadcast_buffers(model: torch.nn.Module) -> None:
    """Copy the main process's buffers, such as running statistics of batch norm, to every process."""
    if dist.is_initialized():
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


def broadcast_weights(model: torch.nn.Module) -> None:
    """Copy the main process's weights and buffers to every process."""
    if dist.is_initialized():
        for tensor in model.state_dict().values():
            sent = tensor.contiguous()  # channels_last weights are sent as a copy
            dist.broadcast(sent, src=0)
            tensor.copy_(sent)


def wrap(model: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    """Return the model in DistributedDataParallel, or the model itself if there is only one process.

    Before each step, the main process's buffers are copied to the others, except where all buffers are those of frozen
    norm layers, which never change.
    """
    if not dist.is_initialized():
        return model
    broadcast_buffers(model)
    device_ids = [device.index] if device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=device_ids, broadcast_buffers=has_live_buffers(model))


def unwrap(model: torch.nn.Module) -> torch.nn.Module:
    """Return the model without DistributedDataParallel, for evaluation and saving."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def shard(length: int, batch_size: int) -> list[list[int]]:
    """Return the batches of this process for evaluation: a part of the indices 0..length-1."""
    return shard_batches(length, batch_size, rank=rank(), world_size=world_size())
