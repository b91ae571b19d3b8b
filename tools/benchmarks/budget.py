"""What pretraining and COCO cost on 1, 8 and 64 GPUs: estimates from stated rates, none measured here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backbones.errors import require
from tools.benchmarks.options import Timing

if TYPE_CHECKING:
    from tools.benchmarks.output import Report, Table

MACHINE = 8  # GPUs of one machine
LINKS = {"25 Gbit Ethernet": 3.125, "100 Gbit Ethernet": 12.5, "PCIe 3.0 x16": 15.75, "NVLink 2 (V100)": 150.0}
NOTES = (
    "Estimates. A step on n GPUs takes its images / n / images/s of one GPU; and what the backward pass, two thirds "
    "of that, does not hide of the ring all-reduce: 2(n-1)/n x 4 bytes x parameters / GB/s, of NVLink 2 within a "
    "machine of 8, of `--network` between machines; and (2 x small all-reduces + 1 broadcast of buffers) x (n-1) hops "
    "of `--hop` us, hidden by nothing. 64 GPUs get the recipe's batch (one image a GPU at least), or 8 times that, as "
    "many images a GPU as 8 have. One GPU's images/s: detection, 16 images / 8 GPUs / published s/iter; "
    "classification and FCN, `--anchor` images/s of ResNet-50 times its multiply-adds over the net's; the same at any "
    "number of images a GPU. Cores and MB/s of storage are those that feed 8 GPUs.",
)


@dataclass(frozen=True)
class Job:
    """A run.

    Attributes:
        images: seen in all.
        batch: images of a step.
        rate: images/s of one GPU; None: by multiply-adds.
        gmacs: multiply-adds of an image, 1e9.
        weights: parameters, 1e6.
        calls: small all-reduces of a step: two of the engine, and those of the task's losses.
        kbytes: of an image file.
        decode: images/s of one core of the loader (docs/BENCHMARKS.md).
    """

    name: str
    images: float
    batch: int
    rate: float | None
    gmacs: float
    weights: float
    calls: int = 2
    kbytes: float = 108
    decode: float = 582


@dataclass
class BudgetOptions:
    """What the estimates stand on.

    Args:
        anchor: images/s of one GPU training ResNet-50 at 224 pixels.
        speed: how many times as fast as the published V100 each GPU is, in all jobs.
        network: GB/s of a machine's network in one direction.
        hop: microseconds of a small message from one process to the next.
    """

    anchor: float = 1200.0
    speed: float = 1.0
    network: float = 12.5
    hop: float = 20.0

    def __post_init__(self) -> None:
        for name in ("anchor", "speed", "network", "hop"):
            require(getattr(self, name) > 0, name, getattr(self, name), "must be above 0")


@dataclass
class Options:
    """The benchmark's option groups."""

    budget: BudgetOptions
    measuring: Timing


def jobs() -> list[Job]:
    """ImageNet-1k has 1,281,167 images for training, COCO 118,287."""
    nets = {"ResNet-18": (1.814, 11.690), "ResNet-50": (4.089, 25.557), "ResNet-101": (7.801, 44.549)}
    work = {"90 epochs": 90 * 1_281_167, "120 epochs": 120 * 1_281_167, "600k x 256": 600_000 * 256}
    found = [Job(f"{net}, {way}", n, 256, None, *size) for net, size in nets.items() for way, n in work.items()]
    for net, seconds, weights in (("R50", 0.210, 41.76), ("R101", 0.286, 60.75)):
        for way, steps in (("1x", 90_000), ("3x", 270_000)):
            found.append(
                Job(f"Faster R-CNN {net}-FPN {way}", 16 * steps, 16, 16 / 8 / seconds, 0, weights, 4, 152, 559)
            )
    return [*found, Job("FCN ResNet-50, 30 epochs", 30 * 118_287, 32, None, 121.6, 35.32, 4, 152, 135)]


class Benchmark:
    """Computes; there is nothing to measure."""

    precisions = ("fp32",)

    def __init__(self, options: Options) -> None:
        self.options = options.budget

    def run(self, machine: dict[str, Any]) -> Iterator[Report]:
        """The one report."""
        from tools.benchmarks.output import Report

        yield Report(
            results={"links": LINKS}, notes=NOTES, tables=[hours(self.options), reduce(self.options)], charts=[]
        )


def rate(job: Job, options: BudgetOptions) -> float:
    """Images/s of one GPU."""
    return options.speed * (job.rate or options.anchor * 4.089 / job.gmacs)


def step(job: Job, gpus: int, images: int, options: BudgetOptions) -> dict[str, float]:
    """Milliseconds of an optimizer step of `images` by what they go to: GPU, all-reduce (not hidden), latency."""
    gpu = 1000 * images / gpus / rate(job, options)
    link = options.network if gpus > MACHINE else LINKS["NVLink 2 (V100)"]
    reduce = ring_bytes(job.weights, gpus) / link / 1e6
    hops = (2 * job.calls + 1) * (gpus - 1)
    return {"GPU": gpu, "all-reduce": max(0.0, reduce - 2 / 3 * gpu), "latency": hops * options.hop / 1000}


def hours(options: BudgetOptions) -> Table:
    """A row for each job: hours by number of GPUs, what takes most of them on 64, and what feeds eight."""
    from tools.benchmarks.output import Table

    columns = [
        "run",
        "images/s of a GPU",
        "hours on 1",
        "8",
        "64",
        "of which GPU, all-reduce, latency",
        "64, batch x 8",
    ]
    made = Table("Hours", [*columns, "loader cores", "storage MB/s"])
    for job in jobs():
        speed, few = rate(job, options), max(64, job.batch)
        parts = step(job, 64, few, options)
        shares = ", ".join(f"{100 * part / sum(parts.values()):.0f} %" for part in parts.values())
        ways = [(8, job.batch), (64, few), (64, 8 * job.batch)]
        one, *times = (
            f"{job.images / speed / 3600:.1f}",
            *(f"{job.images / n * sum(step(job, gpus, n, options).values()) / 3.6e6:.1f}" for gpus, n in ways),
        )
        feed = [f"{8 * speed / job.decode:.1f}", f"{8 * speed * job.kbytes / 1000:.0f}"]
        made.rows.append([job.name, f"{speed:.1f}", one, *times[:2], shares, times[2], *feed])
    return made


def ring_bytes(weights: float, processes: int) -> float:
    """Bytes that each process sends in a ring all-reduce of fp32 gradients of `weights` million parameters."""
    return 2 * (processes - 1) / processes * 4e6 * weights


def reduce(options: BudgetOptions) -> Table:
    """A row for each net: the gradient, and ms on each link beside the step's own."""
    from tools.benchmarks.output import Table

    columns = ["run", "MB of gradient", "MB sent by each of 64", "ms of a step on 64", *(f"ms on {x}" for x in LINKS)]
    made = Table("All-reduce", columns)
    for job in {job.weights: job for job in jobs()}.values():
        sent, gpu = ring_bytes(job.weights, 64), step(job, 64, max(64, job.batch), options)["GPU"]
        times = [f"{sent / gbytes / 1e6:.1f}" for gbytes in LINKS.values()]
        made.rows.append([job.name, f"{4 * job.weights:.0f}", f"{sent / 1e6:.0f}", f"{gpu:.1f}", *times])
    return made
