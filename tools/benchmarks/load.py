"""Speed of the training pipelines on one core, ours beside torchvision's reference presets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backbones.errors import UserError, require
from tools.benchmarks.options import Timing
from tools.benchmarks.settings import words

if TYPE_CHECKING:
    from tools.benchmarks.output import Report, Table

TASKS = ("classify", "detect", "segment")
NOTES = (
    "One process with one thread: what a loader's worker does, from a JPEG file to the tensors of one item; whole "
    "passes over the images, which the system has cached. Peers are the presets of torchvision's reference scripts "
    "with their default backend, PIL: random resized crop of 224 and flip, normalised; flip with boxes, as floats; "
    "random size, flip and crop of 480 with label maps, normalised. Ours are the presets of the same augmentation: "
    "`standard`, `light`, and `train`, which jitters colours besides; their items are bytes, which the net "
    "normalises. `as floats` adds to ours what the peer's item is beyond bytes. `vs` is our speed divided by the "
    "peer's, taken within each round, median over the rounds. Label maps are painted by our code in both. `floor` is "
    "the share of the machine's copying rate at which the decoded pixels passed.",
)


@dataclass
class LoadOptions:
    """What to measure.

    Args:
        data: folder in COCO's layout; its training images are read.
        tasks: pipelines of classify, detect and segment, with commas between them.
        limit: use only the first n images.
    """

    data: str
    tasks: str = ",".join(TASKS)
    limit: int | None = None

    def __post_init__(self) -> None:
        require(self.limit is None or self.limit > 0, "limit", self.limit, "must be above 0")
        named = words(self.tasks)
        require(named and set(named) <= set(TASKS), "tasks", self.tasks, f"must be of {', '.join(TASKS)}")


@dataclass
class OneCore(Timing):
    """How long to measure, and where the figures go.

    Args:
        output: folder for table.md, results.json and chart.png.
        rounds: turns of each contestant; figures are medians over them.
        turn: seconds that a turn should last; a step that is longer makes a turn of its own.
        threads: CPU threads of torch, for the machine's rates; the pipelines have one.
    """

    threads: int | None = 1


@dataclass
class Options:
    """The benchmark's option groups."""

    load: LoadOptions
    measuring: OneCore


class Benchmark:
    """Measures pipeline after pipeline.

    Raises:
        UserError: data without images that our code can read.
    """

    precisions = ("fp32",)

    def __init__(self, options: Options) -> None:
        from tools.benchmarks.pipelines import Images

        self.options, self.measuring = options.load, options.measuring
        self.images = Images.read(Path(self.options.data), limit=self.options.limit)
        if not len(self.images):
            raise UserError(f"--data {self.options.data}: has no training images")

    def run(self, machine: dict[str, Any]) -> Iterator[Report]:
        """A report after each task; `machine` is `benchmark_machine.describe`'s."""
        from backbones.common.loading import one_thread
        from tools.benchmarks.pipelines import contestants
        from tools.benchmarks.rounds import measure

        one_thread(0)
        size = self.images.pixel_bytes()
        rows: list[dict[str, Any]] = []
        for task in words(self.options.tasks):
            entrants = contestants(task, self.images)
            seconds = measure(entrants, rounds=self.measuring.rounds, turn=self.measuring.turn, title=task)
            rows.append(summary(task, seconds, images=len(self.images), rate=machine["copy_gbytes"] * 1e9 / size))
            yield report(rows)


def summary(task: str, seconds: Mapping[str, Sequence[float]], *, images: int, rate: float) -> dict[str, Any]:
    """A pipeline's figures.

    Args:
        seconds: of a pass over the images, by contestant and round.
        rate: images a second, were their pixels only copied.
    """
    from tools.benchmarks import rounds
    from tools.benchmarks.pipelines import FLOATS, PEER, PLAIN

    speeds = {name: rounds.rate(times, images) for name, times in seconds.items()}
    return {
        "task": task,
        "images": images,
        "seconds": seconds,
        "images_per_second": speeds,
        "floor_share": {name: speed / rate for name, speed in speeds.items()},
        "ratio": {name: rounds.ratio(seconds[name], seconds[PEER]) for name in (PLAIN, FLOATS)},
    }


def report(rows: Sequence[Mapping[str, Any]]) -> Report:
    """Table and chart of the pipelines measured so far."""
    from tools.benchmarks.output import Chart, Report
    from tools.benchmarks.pipelines import FLOATS, PLAIN

    bars: dict[str, list[float | None]] = {name: [row["ratio"][name] for row in rows] for name in (PLAIN, FLOATS)}
    return Report(
        results={"pipelines": list(rows)},
        notes=NOTES,
        tables=[table(rows)],
        charts=[Chart("Training pipelines", [row["task"] for row in rows], bars)],
    )


def table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """A row for each pipeline."""
    from tools.benchmarks.output import Table
    from tools.benchmarks.pipelines import FLOATS, PEER, PLAIN

    everyone = (PLAIN, FLOATS, PEER)
    columns = ["pipeline", *(f"images/s {name}" for name in everyone), "vs", "vs, as floats"]
    made = Table("Training pipelines, images/s of one core", [*columns, *(f"floor {name}" for name in everyone)])
    for row in rows:
        cells = [row["task"], *(f"{row['images_per_second'][name]:.0f}" for name in everyone)]
        cells += [f"{row['ratio'][name]:.2f}" for name in (PLAIN, FLOATS)]
        made.rows.append([*cells, *(f"{row['floor_share'][name]:.1%}" for name in everyone)])
    return made
