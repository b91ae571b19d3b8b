"""Processes under torchrun: their environment, collectives that are no-ops on one process, exact shards.

torchrun (or accelerate launch, which is torchrun underneath) sets RANK, WORLD_SIZE, LOCAL_RANK and the rendezvous
address; without them everything here behaves as the only process of its world.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from backbones.common.processes import deal, mean
from backbones.errors import UserError
from tools.processes import failures
from tools.processes.failures import SharedError
from tools.processes.rendezvous import meet

Result = TypeVar("Result")


def start(timeout: float = 30) -> torch.device:
    """Join the process group, if there is one, and pick this process's device.

    Args:
        timeout: minutes that processes wait for one another before they give up.

    Returns:
        The local rank's CUDA device where there are devices, else the CPU (with gloo).
    """
    device = torch.device("cuda", local_rank()) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if world_size() > 1 and not dist.is_initialized():
        # Gloo beside NCCL: what lies in main memory, such as detections and errors, need not pass through the GPU.
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        limit = timedelta(minutes=timeout)
        store, number, count = meet(limit)
        dist.init_process_group(backend, store=store, rank=number, world_size=count, timeout=limit)
    return device


def stop() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """Number of this process among all, from 0."""
    return int(os.environ.get("RANK", 0))


def local_rank() -> int:
    """Number of this process on its machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", 0))


def world_size() -> int:
    """How many processes train together, over all machines."""
    return int(os.environ.get("WORLD_SIZE", 1))


def processes_on_this_machine() -> int:
    """How many of them share this machine's cores."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def is_main() -> bool:
    """Whether this process writes files and prints."""
    return rank() == 0


def launcher() -> str | None:
    """What tells this launch of torchrun on this machine from all others, and stays when it starts processes anew.

    That is the folder of its logs, named by the run id and a random part: ids alone (`--rdzv_id`) are used again.
    """
    error_file = os.environ.get("TORCHELASTIC_ERROR_FILE")  # FOLDER/attempt_N/RANK/error.json
    return Path(error_file).parents[2].name if error_file else None


def launchers() -> set[str]:
    """Those of all processes, of several machines it may be."""
    return {name for name in all_gather(launcher()) if name}


def all_gather(value: Any) -> list[Any]:
    """Every process's `value` (anything picklable), in order of rank, on every process."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def broadcast(value: Any) -> Any:
    """The main process's `value` (anything picklable), on every process."""
    if not dist.is_initialized():
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def on_all(work: Callable[[], Result]) -> Result:
    """Do `work` on every process; a UserError of one is raised on all, which would wait for that one otherwise.

    Calls may lie within one another. Other collectives inside of `work` must come after all that can fail.
    """
    try:
        result = work()
    except SharedError:
        raise
    except UserError as mistake:
        _agree(mistake)
        raise  # no other process is there
    _agree(None)
    return result


def on_main(work: Callable[[], Any]) -> Any:
    """Do `work` on the main process alone; its result, or its UserError, reaches every process."""
    return broadcast(on_all(lambda: work() if is_main() else None))


def _agree(mistake: UserError | None) -> None:
    """Raise the first process's mistake on all of them."""
    failed = torch.tensor(float(mistake is not None))
    if not dist.is_initialized() or mean(failed) == 0:
        return
    failures.end_by_itself()
    texts = all_gather(None if mistake is None else f"{mistake}{_place()}")
    raise SharedError(next(filter(None, texts)), speaks=is_main()) from mistake


def _place() -> str:
    """Which process this is, where that may help: folders of several machines differ."""
    alone = processes_on_this_machine() == world_size()
    return "" if alone else f" (process {rank()}, on {socket.gethostname()})"


def share_buffers(model: torch.nn.Module) -> None:
    """Give every process the main one's buffers, such as the running statistics of batch norm."""
    if dist.is_initialized():
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


def wrap(model: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    """The model under DistributedDataParallel where several processes train; alone as it is."""
    if not dist.is_initialized():
        return model
    return DistributedDataParallel(model, device_ids=[device.index] if device.type == "cuda" else None)


def unwrap(model: torch.nn.Module) -> torch.nn.Module:
    """The model itself: what is evaluated and saved."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def shard(length: int, batch_size: int) -> list[list[int]]:
    """This process's batches of `length` items for evaluation; see `backbones.processes.deal`."""
    return deal(length, batch_size, rank=rank(), world_size=world_size())


class TrainBatches:
    """Batches of `(epoch, index)` keys for a data loader: a function of (seed, epoch) alone.

    An optimizer step sees the same `batch_size` images whatever the number of processes or accumulated batches;
    each process takes its slices of them. Images of one group (of similar shape, say) come together where possible. The
    last step of an epoch is filled up from the epoch's beginning, so that no image is dropped.

    Args:
        groups: a group number for each image `[N]`.
        batch_size: images per optimizer step, over all processes and accumulated batches; a multiple of
            `world_size * accumulate`.
        repeats: how often each image `[N]` comes in an epoch on average, 1 or more; absent: once. An image of 2.3 comes
            twice, and in three epochs of ten once more; all epochs are as long.
    """

    def __init__(
        self,
        groups: np.ndarray,
        batch_size: int,
        *,
        seed: int,
        accumulate: int = 1,
        repeats: np.ndarray | None = None,
    ) -> None:
        self.groups, self.batch_size, self.seed, self.accumulate = groups, batch_size, seed, accumulate
        self.repeats = repeats
        self.length = len(groups) if repeats is None else round(float(repeats.sum()))
        self.epoch = self.first_step = 0

    @property
    def steps(self) -> int:
        """Optimizer steps of one epoch."""
        return -(-self.length // self.batch_size)

    def seek(self, epoch: int, step: int = 0) -> None:
        """Make the next iteration begin at a step of an epoch, without loading what lies before."""
        self.epoch, self.first_step = epoch, step

    def __len__(self) -> int:
        return (self.steps - self.first_step) * self.accumulate

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        size = self.batch_size // (world_size() * self.accumulate)
        for step in self._steps_of_epoch()[self.first_step :]:
            for batch in range(self.accumulate):
                begin = (batch * world_size() + rank()) * size
                yield [(self.epoch, int(index)) for index in step[begin : begin + size]]

    def _steps_of_epoch(self) -> np.ndarray:
        """All steps of the epoch `[steps, batch_size]`: one group each, leftovers of the groups together."""
        random = np.random.default_rng((self.seed, self.epoch))
        order = random.permutation(self._drawn(random))
        whole, rest = [], []
        for group in np.unique(self.groups):
            members = order[self.groups[order] == group]
            cut = len(members) - len(members) % self.batch_size
            whole.append(members[:cut].reshape(-1, self.batch_size))
            rest.append(members[cut:])
        leftover = np.concatenate(rest)
        missing = -len(leftover) % self.batch_size
        leftover = np.concatenate([leftover, np.resize(order, missing)]).reshape(-1, self.batch_size)
        return random.permutation(np.concatenate([*whole, leftover]))

    def _drawn(self, random: np.random.Generator) -> np.ndarray:
        """The images of an epoch: marks at even distances, from a random first one, over their repeats end to end."""
        if self.repeats is None:
            return np.arange(len(self.groups))
        ends = self.repeats.cumsum() * (self.length / self.repeats.sum())
        marks = np.arange(self.length) + random.random()
        return np.searchsorted(ends, marks, side="right").clip(max=len(ends) - 1)
