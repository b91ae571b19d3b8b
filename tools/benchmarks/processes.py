"""Benchmark of training in several processes on this machine: bytes sent, and equality of the gradient."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypedDict

import torch
from torch import Tensor, nn

import classification
from backbones.errors import UserError
from tools.benchmarks.fork_server import fork_server
from tools.benchmarks.machine import Machine
from tools.benchmarks.options import PROCESS_BATCH, ProcessOptions, Timing, split_list
from tools.benchmarks.output import BenchmarkReport, Columns, ResultTable
from tools.processes import distributed

SIDE, EVALUATED = 32, 83  # side of the images in pixels, images of an evaluation
TCP_INFO_SIZE, ACKED = 256, 120  # size of Linux's struct tcp_info, offset of its field tcpi_bytes_acked
NOTES = (
    "Each group trains resnet20 (group norm) on the same 16 images a step, over gloo and TCP on one machine. `sent "
    "bytes` belong to the process that sends most, in the second step; the kernel counts the bytes that the other side "
    "has received. `ring bytes` are 2(n-1)/n of the gradient's bytes. `difference` is the difference between the "
    "group's gradient and the gradient of one process on all images, relative in norm. `evaluated` is how many of 83 "
    "images the processes' shards hold together, `twice` how many of them are in more than one shard. No column is a "
    "time.",
)


class ProcessResult(TypedDict):
    """Measurements in one process of a group that trains together.

    Attributes:
        sent: bytes that the process sent in one training step.
        gradient: bytes of the gradient.
        difference: relative difference between the group's gradient and the gradient of one process on all images.
        shard: indices of the images that this process evaluates.
    """

    sent: int
    gradient: int
    difference: float
    shard: list[int]


class TrafficRow(TypedDict):
    """Bytes sent and gradient of one group of processes, as an entry of results.json."""

    processes: int
    gradient_bytes: int
    ring_bytes: float
    sent_bytes: int
    difference: float
    evaluated: int
    twice: int


class ProcessBenchmark:
    """Benchmark of groups of processes: bytes sent per training step; is the gradient equal to one process's?"""

    precisions = ("fp32",)

    def __init__(self, options: ProcessOptions, timing: Timing) -> None:
        self.values = [int(word) for word in split_list(options.values)]

    def run(self, machine: Machine) -> Iterator[BenchmarkReport]:
        """Run one group of processes after another; yield a report of all groups so far after each."""
        rows: list[TrafficRow] = []
        for count in self.values:
            rows.append(summary(run_group(count)))
            tables = [ResultTable.of("Processes: bytes of a step, gradients, shards", rows, COLUMNS)]
            yield BenchmarkReport(results={"processes": list(rows)}, notes=NOTES, tables=tables)


def run_group(count: int) -> list[ProcessResult]:
    """Start `count` processes that train together; return the measurements of each, in order of rank.

    Raises:
        UserError: a process ended early.
    """
    context = fork_server()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pipes = [context.Pipe(duplex=False) for _ in range(count)]
    group = [
        context.Process(target=_work, args=(rank, count, port, sender), daemon=True)
        for rank, (_, sender) in enumerate(pipes)
    ]
    for process, (_, sender) in zip(group, pipes, strict=True):
        process.start()
        sender.close()
    try:
        return [receiver.recv() for receiver, _ in pipes]
    except EOFError:
        raise UserError(
            f"--values {count}: one of the {count} processes ended early, perhaps for lack of memory; use fewer "
            "processes"
        ) from None
    finally:
        for process in group:
            process.join(timeout=10)
            process.kill()


def _work(rank: int, count: int, port: int, sender: Connection) -> None:
    # Set what torchrun would set.
    environment = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": count,
        "LOCAL_WORLD_SIZE": count,
        "MASTER_PORT": port,
    }
    os.environ.update({name: str(value) for name, value in environment.items()}, MASTER_ADDR="127.0.0.1")
    torch.set_num_threads(1)
    # The gradient of one process on all images.
    alone = _gradient(_model(), slice(None))
    # The gradient of the group, each process on its part of the images.
    wrapped = distributed.wrap(_model(), distributed.start())
    size = PROCESS_BATCH // count
    part = slice(rank * size, (rank + 1) * size)
    _gradient(wrapped, part)  # the first backward pass builds the buckets, which sends other bytes
    distributed.all_gather(None)
    before = sent_bytes()
    together = _gradient(wrapped, part)
    found: ProcessResult = {
        "sent": sent_bytes() - before,
        "gradient": 4 * together.numel(),
        "difference": float((together - alone).norm() / alone.norm()),
        "shard": [index for batch in distributed.shard(EVALUATED, 8) for index in batch],
    }
    # Keep every connection open until all processes have read their counters.
    distributed.all_gather(None)
    sender.send(found)
    distributed.stop()


def _model() -> nn.Module:
    torch.manual_seed(0)
    return classification.build("resnet20", 10, norm="group")


def _gradient(model: nn.Module, part: slice) -> Tensor:
    """Return the gradient on a part of the images, as one vector over all parameters."""
    images = torch.rand(PROCESS_BATCH, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    model.zero_grad()
    sum(model(images[part], {"label": torch.arange(PROCESS_BATCH)[part] % 10}).values()).backward()
    return torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])


def sent_bytes() -> int:
    """Return the bytes that this process sent over open TCP connections and that were received (Linux only)."""
    total = 0
    for number in os.listdir("/proc/self/fd"):
        path = Path("/proc/self/fd", number)
        if not (path.is_symlink() and os.readlink(path).startswith("socket:")):
            continue
        with socket.socket(fileno=os.dup(int(number))) as twin:
            if twin.type == socket.SOCK_STREAM and twin.family in (socket.AF_INET, socket.AF_INET6):
                info = twin.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_SIZE)
                total += struct.unpack_from("Q", info, ACKED)[0]
    return total


def summary(found: Sequence[ProcessResult]) -> TrafficRow:
    """Summarise the measurements of a group's processes as one row of the table."""
    count, gradient = len(found), found[0]["gradient"]
    dealt = [index for process in found for index in process["shard"]]
    return {
        "processes": count,
        "gradient_bytes": gradient,
        "ring_bytes": 2 * (count - 1) / count * gradient,
        "sent_bytes": max(process["sent"] for process in found),
        "difference": max(process["difference"] for process in found),
        "evaluated": len(set(dealt)),
        "twice": len(dealt) - len(set(dealt)),
    }


COLUMNS: Columns[TrafficRow] = {
    "processes": lambda row: str(row["processes"]),
    "gradient bytes": lambda row: f"{row['gradient_bytes']:,.0f}",
    "ring bytes": lambda row: f"{row['ring_bytes']:,.0f}",
    "sent bytes": lambda row: f"{row['sent_bytes']:,.0f}",
    "sent / ring": lambda row: f"{row['sent_bytes'] / row['ring_bytes']:.4f}",
    "difference": lambda row: f"{row['difference']:.1e}",
    "evaluated": lambda row: str(row["evaluated"]),
    "twice": lambda row: str(row["twice"]),
}
