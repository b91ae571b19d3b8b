"""What pretraining and COCO cost on 1, 8 and 64 GPUs: estimates from stated rates, none measured here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tools.benchmark_options import Timing
from tools.options import require

if TYPE_CHECKING:
    from tools.benchmark_report import Report, Table

GPUS = (1, 8, 64)
LINKS = {"25 Gbit Ethernet": 3.125, "100 Gbit Ethernet": 12.5, "PCIe 3.0 x16": 15.75, "NVLink 2 (V100)": 150.0}
NOTES = (
    "Estimates. Hours are images / (GPUs x images/s of one GPU), as if nothing but the GPU took time; the "
    "other columns say when something else does. One GPU's images/s: detection, 16 images / 8 GPUs / published "
    "s/iter; classification and FCN, `--anchor` images/s of ResNet-50 times its multiply-adds over the net's. "
    "All-reduce: 2(n-1)/n x 4 bytes x parameters / the link's bytes/s in one direction, n = 64, hidden by "
    "nothing; a step is of the recipe's batch, or of one image a GPU where that is more. Cores: images/s of 8 "
    "GPUs / those of one core.",
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
        decode: images/s of one core of the loader (docs/BENCHMARKS.md).
    """

    name: str
    images: float
    batch: int
    rate: float | None
    gmacs: float
    weights: float
    decode: float = 582


@dataclass
class BudgetOptions:
    """What the estimates stand on.

    Args:
        anchor: images/s of one GPU training ResNet-50 at 224 pixels.
        speed: how many times as fast as the published V100 each GPU is, in all jobs.
    """

    anchor: float = 1200.0
    speed: float = 1.0

    def __post_init__(self) -> None:
        for name in ("anchor", "speed"):
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
            found.append(Job(f"Faster R-CNN {net}-FPN {way}", 16 * steps, 16, 16 / 8 / seconds, 0, weights, 559))
    return [*found, Job("FCN ResNet-50, 30 epochs", 30 * 118_287, 32, None, 121.6, 35.32, 135)]


class Benchmark:
    """Computes; there is nothing to measure."""

    precisions = ("fp32",)

    def __init__(self, options: Options) -> None:
        self.options = options.budget

    def run(self, machine: dict[str, Any]) -> Iterator[Report]:
        """The one report."""
        from tools.benchmark_report import Report

        yield Report(
            results={"links": LINKS}, notes=NOTES, tables=[hours(self.options), reduce(self.options)], charts=[]
        )


def rate(job: Job, options: BudgetOptions) -> float:
    """Images/s of one GPU."""
    return options.speed * (job.rate or options.anchor * 4.089 / job.gmacs)


def hours(options: BudgetOptions) -> Table:
    """A row for each job: hours by number of GPUs, and cores that feed eight."""
    from tools.benchmark_report import Table

    columns = ["run", "images/s of a GPU", *(f"hours on {n}" for n in GPUS), "loader cores for 8 GPUs"]
    made = Table("Hours", columns)
    for job in jobs():
        speed = rate(job, options)
        cells = [f"{job.images / n / speed / 3600:.1f}" for n in GPUS]
        made.rows.append([job.name, f"{speed:.1f}", *cells, f"{8 * speed / job.decode:.1f}"])
    return made


def ring_bytes(weights: float, processes: int) -> float:
    """Bytes that each process sends in a ring all-reduce of fp32 gradients of `weights` million parameters."""
    return 2 * (processes - 1) / processes * 4e6 * weights


def reduce(options: BudgetOptions) -> Table:
    """A row for each net: the gradient, and ms on each link beside the step's own."""
    from tools.benchmark_report import Table

    columns = ["run", "MB of gradient", "MB sent by each of 64", "ms of a step on 64", *(f"ms on {x}" for x in LINKS)]
    made = Table("All-reduce", columns)
    for job in {job.weights: job for job in jobs()}.values():
        sent, step = ring_bytes(job.weights, 64), 1000 * max(1, job.batch / 64) / rate(job, options)
        times = [f"{sent / gbytes / 1e6:.1f}" for gbytes in LINKS.values()]
        made.rows.append([job.name, f"{4 * job.weights:.0f}", f"{sent / 1e6:.0f}", f"{step:.1f}", *times])
    return made
