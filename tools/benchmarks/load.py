"""Benchmark of training pipelines on one CPU core: ours and torchvision's reference presets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypedDict

from backbones.common.decoded import GIB, DecodedImages
from backbones.common.loading import one_thread
from backbones.errors import UserError
from tools.benchmarks.machine import Machine
from tools.benchmarks.options import LoadOptions, OneThreadTiming, split_list
from tools.benchmarks.output import BarChart, BenchmarkReport, Columns, ResultTable
from tools.benchmarks.pipelines import CACHED, FLOATS, PEER, PLAIN, TENSORS, Images, implementations
from tools.benchmarks.rounds import measure, rate, ratio
from tools.benchmarks.speed import RATIO_NOTE

OURS = (PLAIN, FLOATS, CACHED)
MOST = 16 * GIB  # of decoded images
NOTES = (
    "One process with one thread does the work of a loader worker: it turns JPEG files into the tensors of one item, "
    "in whole passes over the images, which the operating system has cached. The other pipelines are the presets of "
    "torchvision's reference scripts with the backends `pil`, the default, and `tensor` (`vs tensors`): random resized "
    "crop of 224 pixels and flip, normalised; flip with boxes, as floats; large-scale jitter to 1,024 pixels; SSD's "
    "colours, zoom and crops, beside our `strong`, which also joins images; random size, flip and crop of 480 pixels "
    "with label maps, normalised. Ours are the presets with the same augmentation: `standard`, `light`, and `train`, "
    "which also jitters colours. Our items are bytes, which the model normalises. `as floats` adds to ours the "
    "conversion that the other pipeline makes. `cached` reads images that an earlier pass decoded, as all epochs but "
    f"the first do with `--cache`. {RATIO_NOTE} Our code paints the label maps of both pipelines. `of copy rate` is "
    "the rate of decoded pixels as a fraction of the machine's measured rate of copying.",
)


class PipelineRow(TypedDict):
    """Speeds of the training pipelines of one task, as an entry of results.json."""

    task: str
    images: int
    seconds: Mapping[str, Sequence[float]]
    images_per_second: dict[str, float]
    floor_share: dict[str, float]
    ratio: dict[str, float]
    ratio_tensors: dict[str, float]


class LoadBenchmark:
    """Benchmark of training pipelines, which turn JPEG files into tensors, on one CPU core.

    Raises:
        UserError: the data has no training images that our code can read.
    """

    precisions = ("fp32",)

    def __init__(self, options: LoadOptions, timing: OneThreadTiming) -> None:
        self.tasks, self.timing = split_list(options.tasks), timing
        self.images = Images.read(Path(options.data), limit=options.limit)
        if not len(self.images):
            raise UserError(f"--data {options.data}: has no training images; name a folder that has some")

    def run(self, machine: Machine) -> Iterator[BenchmarkReport]:
        """Measure the pipelines of each task; yield a report of all tasks so far after each task."""
        one_thread(0)
        copied = machine["copy_gbytes"] * 1e9 / self.images.pixel_bytes()
        rows: list[PipelineRow] = []
        for task in self.tasks:
            seconds = self._measure(task)
            rows.append(summary(task, seconds, images=len(self.images), copied=copied))
            yield report(rows)

    def _measure(self, task: str) -> Mapping[str, Sequence[float]]:
        """Return the seconds of each pipeline of a task by round. The decoded images are removed at the end."""
        with TemporaryDirectory() as folder:
            cache = DecodedImages(Path(folder), MOST)
            cache.create()
            pipelines = implementations(task, self.images, cache)
            return measure(pipelines, rounds=self.timing.rounds, turn=self.timing.turn, title=task)


def summary(task: str, seconds: Mapping[str, Sequence[float]], *, images: int, copied: float) -> PipelineRow:
    """Compute images per second of each pipeline of a task, and the ratio of our speed to torchvision's.

    Args:
        seconds: seconds per pass over the images, for each implementation one value per round.
        images: number of images in a pass.
        copied: number of decoded images that the machine can copy in memory per second, as an upper limit.
    """
    speeds = {name: rate(times, images) for name, times in seconds.items()}
    return {
        "task": task,
        "images": images,
        "seconds": seconds,
        "images_per_second": speeds,
        "floor_share": {name: speed / copied for name, speed in speeds.items()},
        "ratio": {name: ratio(seconds[name], seconds[PEER]) for name in OURS},
        "ratio_tensors": {name: ratio(seconds[name], seconds[TENSORS]) for name in OURS},
    }


def report(rows: Sequence[PipelineRow]) -> BenchmarkReport:
    """Return the table and chart of all pipelines measured so far."""
    bars = {name: [row["ratio"][name] for row in rows] for name in OURS}
    return BenchmarkReport(
        results={"pipelines": list(rows)},
        notes=NOTES,
        tables=[ResultTable.of("Training pipelines, images/s of one core", rows, columns())],
        charts=[BarChart("Training pipelines", [row["task"] for row in rows], bars)],
    )


def columns() -> Columns[PipelineRow]:
    """Return the columns of the table, as a dict from title to a function that formats a row's cell."""

    def speed_of(name: str) -> Callable[[PipelineRow], str]:
        return lambda row: f"{row['images_per_second'][name]:.0f}"

    def fraction_of(name: str) -> Callable[[PipelineRow], str]:
        return lambda row: f"{row['floor_share'][name]:.1%}"

    everyone = (*OURS, PEER, TENSORS)
    return {
        "pipeline": lambda row: row["task"],
        **{f"images/s {name}": speed_of(name) for name in everyone},
        "vs": lambda row: f"{row['ratio'][PLAIN]:.2f}",
        "vs, as floats": lambda row: f"{row['ratio'][FLOATS]:.2f}",
        "vs, cached": lambda row: f"{row['ratio'][CACHED]:.2f}",
        "vs tensors": lambda row: f"{row['ratio_tensors'][PLAIN]:.2f}",
        "vs tensors, cached": lambda row: f"{row['ratio_tensors'][CACHED]:.2f}",
        **{f"of copy rate {name}": fraction_of(name) for name in (PLAIN, PEER)},
    }
