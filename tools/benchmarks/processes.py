"""What processes send, and whether they compute what one does: groups of gloo processes on this machine."""

from __future__ import annotations

import multiprocessing
import os
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backbones.errors import UserError, require
from tools.benchmarks.options import Timing
from tools.benchmarks.settings import words

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tools.benchmarks.output import Report

BATCH, SIDE, EVALUATED = 16, 32, 83  # images of a step over all processes, their pixels, images of an evaluation
TCP_INFO_SIZE, ACKED = 256, 120  # of Linux's struct tcp_info: tcpi_bytes_acked stands at byte 120
NOTES = (
    "Each group trains resnet20 (group norm) on the same 16 images a step, over gloo and TCP on one machine. Bytes "
    "are those that the kernel counts as sent and received by the other side, of the process that sent most, in the "
    "second step; `ring` is 2(n-1)/n of the gradient's bytes. `difference` is the gradient's from that of one process "
    "on all images, relative in norm. `evaluated` are the images of 83 that the processes' shards hold together, "
    "`twice` those that come more than once. Nothing here is a time.",
)


@dataclass
class ProcessOptions:
    """What to measure.

    Args:
        values: numbers of processes with commas between them; each divides 16.
    """

    values: str = "2,4,8"

    def __post_init__(self) -> None:
        named = words(self.values)
        fits = named and all(word.isdecimal() and int(word) > 1 and BATCH % int(word) == 0 for word in named)
        require(bool(fits), "values", self.values, f"must be of 2, 4, 8, 16: divisors of {BATCH} images")


@dataclass
class Options:
    """The benchmark's option groups."""

    processes: ProcessOptions
    measuring: Timing


class Benchmark:
    """Runs group after group."""

    precisions = ("fp32",)

    def __init__(self, options: Options) -> None:
        self.values = [int(word) for word in words(options.processes.values)]

    def run(self, machine: dict[str, Any]) -> Iterator[Report]:
        """A report after each group."""
        rows: list[dict[str, Any]] = []
        for count in self.values:
            rows.append(summary(run_group(count)))
            yield report(rows)


def run_group(count: int) -> list[dict[str, Any]]:
    """What each of `count` processes found, by rank.

    Raises:
        UserError: one of them ended early.
    """
    context = multiprocessing.get_context("forkserver")
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
        raise UserError(f"--values {count}: a process ended early; take fewer") from None
    finally:
        for process in group:
            process.join(timeout=10)
            process.kill()


def _work(rank: int, count: int, port: int, sender: Connection) -> None:
    import torch

    from tools.processes import distributed

    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()}, MASTER_ADDR="127.0.0.1")
    torch.set_num_threads(1)
    alone = _gradient(_net(), slice(None))
    wrapped = distributed.wrap(_net(), distributed.start())
    size = BATCH // count
    part = slice(rank * size, (rank + 1) * size)
    _gradient(wrapped, part)  # the first backward pass finds the buckets
    distributed.all_gather(None)
    before = sent_bytes()
    together = _gradient(wrapped, part)
    found: dict[str, Any] = {"sent": sent_bytes() - before, "gradient": 4 * together.numel()}
    found["difference"] = float((together - alone).norm() / alone.norm())
    found["shard"] = [place for batch in distributed.shard(EVALUATED, 8) for place in batch]
    distributed.all_gather(None)  # nobody leaves while others read their counters
    sender.send(found)
    distributed.stop()


def _net() -> nn.Module:
    import torch

    import classification

    torch.manual_seed(0)
    return classification.build("resnet20", 10, norm="group")


def _gradient(net: nn.Module, part: slice) -> Tensor:
    """The gradient of a part of the step's images, all parameters in one vector."""
    import torch

    images = torch.rand(BATCH, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    net.zero_grad()
    sum(net(images[part], {"label": torch.arange(BATCH)[part] % 10}).values()).backward()
    return torch.cat([weight.grad.flatten() for weight in net.parameters() if weight.grad is not None])


def sent_bytes() -> int:
    """Bytes that this process's open TCP connections sent and the other side has; Linux counts them."""
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


def summary(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A group's figures."""
    count, gradient = len(found), found[0]["gradient"]
    dealt = [place for process in found for place in process["shard"]]
    return {
        "processes": count,
        "gradient_bytes": gradient,
        "ring_bytes": 2 * (count - 1) / count * gradient,
        "sent_bytes": max(process["sent"] for process in found),
        "difference": max(process["difference"] for process in found),
        "evaluated": len(set(dealt)),
        "twice": len(dealt) - len(set(dealt)),
    }


def report(rows: Sequence[Mapping[str, Any]]) -> Report:
    """A row for each number of processes."""
    from tools.benchmarks.output import Report, Table

    columns = ["processes", "gradient bytes", "ring bytes", "sent bytes", "sent / ring", "difference", "evaluated"]
    made = Table("Processes: bytes of a step, gradients, shards", [*columns, "twice"])
    for row in rows:
        sizes = [f"{row[name]:,.0f}" for name in ("gradient_bytes", "ring_bytes", "sent_bytes")]
        share = f"{row['sent_bytes'] / row['ring_bytes']:.4f}"
        cells = [f"{row['difference']:.1e}", str(row["evaluated"]), str(row["twice"])]
        made.rows.append([str(row["processes"]), *sizes, share, *cells])
    return Report(results={"processes": list(rows)}, notes=NOTES, tables=[made], charts=[])
