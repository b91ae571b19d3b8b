"""Benchmark of scaling: how time grows with images, objects, classes, pixels and processes."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import TypedDict

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torchvision.models.detection._utils import Matcher
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

import classification
from detection.matching import match_boxes
from detection.rpn import Anchors
from tools.benchmarks.detect import MeasuredDetector
from tools.benchmarks.evaluate import SCORERS
from tools.benchmarks.fork_server import fork_server
from tools.benchmarks.machine import Machine, set_up
from tools.benchmarks.models import ModelJob
from tools.benchmarks.options import AXES, PYCOCOTOOLS, ScaleOptions, TimingAndMemory, split_list
from tools.benchmarks.output import BarChart, BenchmarkReport, Columns, ResultTable, cell
from tools.benchmarks.peak import peak_memory
from tools.benchmarks.rounds import Implementation, Step, measure, ratio, time_steps
from tools.benchmarks.settings import OURS, TORCHVISION, Way, settings
from tools.synthetic.coco_results import write_synthetic

DETECTIONS_PER_IMAGE = 25
HEIGHT, WIDTH = 800, 1344  # typical of COCO's images when they are resized, padded to the stride
STRIDES = (4, 8, 16, 32, 64)
IMAGES, SIDE = 4, 96  # images of one process's training step, and their side in pixels
TITLES = {
    "images": "COCO metrics, 25 detections an image, beside pycocotools",
    "objects": "matching the anchors of one 800x1344 image with true boxes, beside torchvision",
    "classes": "training step of resnet18-fpn, two images at 256 pixels, beside torchvision",
    "pixels": "training step of resnet18-fpn, one image of that short side, beside torchvision",
    "processes": "DistributedDataParallel over gloo, resnet18, each with a thread and 4 images of 96 pixels",
}
NOTES = (
    "Seconds are those of one step; ours and the other library take turns, both in the same precision and memory "
    "format. `vs` is the other library's time divided by ours, computed within each round; the table shows the median "
    "over the rounds. `growth` is the exponent of the cost between the first and the last row: 1 is proportional, 0 is "
    "constant. MB is the peak in a fresh process beyond the memory that it held before. For processes, `efficiency` is "
    "images/s divided by that of one process times the number of processes, or times the number of cores if there are "
    "fewer cores: 1 is ideal.",
)


class TimedRow(TypedDict):
    """Seconds per step of every implementation at one value of an axis, such as 1000 on the axis "images"."""

    value: int
    seconds: dict[str, list[float]]


class ScaleRow(TimedRow):
    """Times at one value of an axis, for results.json. `ratio` is the other library's time divided by ours."""

    peak_bytes: dict[str, int | None]
    ratio: dict[str, float]


class GroupRow(TimedRow):
    """Speed of a group of processes that train together, as an entry of results.json."""

    images_per_second: float
    efficiency: float


class ScaleBenchmark:
    """Benchmark of how time grows along several axes: images, objects, classes, pixels, processes."""

    def __init__(self, options: ScaleOptions, timing: TimingAndMemory) -> None:
        self.axes = {axis: AXES[axis][: options.values] for axis in split_list(options.axes)}
        self.timing = timing
        self.way = settings("auto")[0].ours
        self.precisions = sorted({"fp32", self.way.precision})

    def run(self, machine: Machine) -> Iterator[BenchmarkReport]:
        """Measure along one axis after another; yield a report of all axes so far after each."""
        found: dict[str, object] = {}
        tables: list[ResultTable] = []
        charts: list[BarChart] = []
        for axis, values in self.axes.items():
            title = f"{axis}: {TITLES[axis]}"
            if axis == "processes":
                groups = measure_groups(values, rounds=self.timing.rounds, cores=machine["cores"])
                tables.append(ResultTable.of(title, groups, GROUP_COLUMNS))
                found[axis] = groups
            else:
                rows = [self._measure(axis, value) for value in values]
                tables.append(growth_table(title, axis, rows))
                charts.append(growth_chart(title, rows))
                found[axis] = rows
            yield BenchmarkReport(results={"axes": found}, notes=NOTES, tables=tables, charts=charts)

    def _measure(self, axis: str, value: int) -> ScaleRow:
        """Time our code and the other library's at one value of an axis, such as 1000 on the axis "images"."""
        timing, threads = self.timing, self.timing.threads or 1
        with tempfile.TemporaryDirectory() as folder:
            compared = IMPLEMENTATIONS[axis](value, self.way, Path(folder))
            seconds = measure(compared, rounds=timing.rounds, turn=timing.turn, title=f"{axis} {value}")
            peaks = {each.name: peak_memory(each, threads=threads) if timing.memory else None for each in compared}
        ours, *peers = (each.name for each in compared)
        ratios = {peer: ratio(seconds[ours], seconds[peer]) for peer in peers}
        return {"value": value, "seconds": seconds, "peak_bytes": peaks, "ratio": ratios}


def growth_chart(title: str, rows: Sequence[ScaleRow]) -> BarChart:
    """Return a bar chart of the other libraries' time divided by ours, at each value of an axis."""
    bars = {name: [row["ratio"][name] for row in rows] for name in rows[0]["ratio"]}
    return BarChart(title, [str(row["value"]) for row in rows], bars)


def growth_table(title: str, axis: str, rows: Sequence[ScaleRow]) -> ResultTable:
    """Return a table with one row for each value of an axis; the last row has the exponents of growth."""

    def seconds_of(name: str) -> Callable[[ScaleRow], str]:
        return lambda row: f"{median(row['seconds'][name]):.4f}"

    def ratio_to(name: str) -> Callable[[ScaleRow], str]:
        return lambda row: f"{row['ratio'][name]:.2f}"

    def peak_of(name: str) -> Callable[[ScaleRow], str | None]:
        return lambda row: cell(row["peak_bytes"][name], "{:.0f}", 1e6)

    names = list(rows[0]["seconds"])
    columns: Columns[ScaleRow] = {
        axis: lambda row: str(row["value"]),
        **{f"seconds {name}": seconds_of(name) for name in names},
        **{f"vs {name}": ratio_to(name) for name in names[1:]},
        **{f"MB {name}": peak_of(name) for name in names},
    }
    table = ResultTable.of(title, rows, columns)
    exponents = [cell(growth(rows, name), "{:.2f}") for name in names]
    table.rows.append(["growth", *exponents, *[None] * (2 * len(names) - 1)])
    return table


def growth(rows: Sequence[TimedRow], name: str) -> float | None:
    """Return the exponent with which an implementation's time grows from the first to the last row; 1: linearly."""
    first, last = rows[0], rows[-1]
    if first["value"] == last["value"]:
        return None
    times = median(last["seconds"][name]) / median(first["seconds"][name])
    return math.log(times) / math.log(last["value"] / first["value"])


GROUP_COLUMNS: Columns[GroupRow] = {
    "processes": lambda row: str(row["value"]),
    "images/s": lambda row: f"{row['images_per_second']:.1f}",
    "efficiency": lambda row: f"{row['efficiency']:.2f}",
}


# --- implementations at a value of an axis, ours first ---


def scorers(images: int, way: Way, folder: Path) -> list[Implementation]:
    """Return implementations of COCO's metrics, ours and pycocotools'. Synthetic results are written to `folder`."""
    files = write_synthetic(folder, images, images * DETECTIONS_PER_IMAGE, seed=0)
    return [Implementation(name, partial(_scoring, name, *files)) for name in (OURS, PYCOCOTOOLS)]


def _scoring(library: str, truth: Path, detections: Path) -> Step:
    return partial(SCORERS[library], truth, detections, "bbox")


def matchers(objects: int, way: Way, folder: Path) -> list[Implementation]:
    """Return implementations that match one image's anchors with `objects` true boxes: ours and torchvision's."""
    return [Implementation(name, partial(_matching, name, objects)) for name in (OURS, TORCHVISION)]


def _matching(library: str, objects: int) -> Step:
    matcher = Matcher(0.7, 0.3, allow_low_quality_matches=True)
    random = torch.Generator().manual_seed(0)
    corner = torch.rand(objects, 2, generator=random) * torch.tensor([WIDTH, HEIGHT]) * 0.7
    truth = torch.cat([corner, corner + 8 + torch.rand(objects, 2, generator=random) * 200], dim=1)
    boxes = _anchors()
    return partial(match_boxes, truth, boxes, matcher) if library == OURS else lambda: matcher(box_iou(truth, boxes))


def _anchors() -> Tensor:
    """Return the anchors `[A, 4]` xyxy of one image at all levels."""
    make = Anchors(tuple((8 * stride,) for stride in STRIDES), ((0.5, 1.0, 2.0),) * len(STRIDES))
    maps = [torch.zeros(1, 1, HEIGHT // stride, WIDTH // stride) for stride in STRIDES]
    return make(ImageList(torch.zeros(1, 3, HEIGHT, WIDTH), [(HEIGHT, WIDTH)]), maps)[0]


def detectors(spec: MeasuredDetector, way: Way, folder: Path) -> list[Implementation]:
    """Return implementations of a detector's training step. Their common weights are written to `folder`."""
    weights = folder / "weights.pth"
    spec.share_weights(weights)
    jobs = [ModelJob(library, spec, way, "train", weights) for library in (OURS, TORCHVISION)]
    return [Implementation(job.library, job.prepare) for job in jobs]


IMPLEMENTATIONS: dict[str, Callable[[int, Way, Path], list[Implementation]]] = {
    "images": scorers,
    "objects": matchers,
    "classes": lambda value, way, folder: detectors(MeasuredDetector("resnet18", "fpn", 256, 2, value), way, folder),
    "pixels": lambda value, way, folder: detectors(MeasuredDetector("resnet18", "fpn", value, 1, 90), way, folder),
}


# --- processes that train together ---


def measure_groups(values: Sequence[int], *, rounds: int, cores: int) -> list[GroupRow]:
    """Time training by groups of processes. `values` are the numbers of processes, measured in rising order."""
    rows: list[GroupRow] = []
    for count in values:
        seconds = train_together(count, rounds=rounds)
        speed = count * IMAGES / median(seconds)
        ideal = (rows[0]["images_per_second"] if rows else speed) * min(count, cores)
        rows.append(
            {"value": count, "seconds": {OURS: seconds}, "images_per_second": speed, "efficiency": speed / ideal}
        )
    return rows


def train_together(processes: int, *, rounds: int) -> list[float]:
    """Start `processes` processes that train together; return the seconds per step, one value per round."""
    context = fork_server()
    receiver, sender = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory() as folder:
        address = f"file://{folder}/meeting"
        group = [
            context.Process(target=_train, args=(rank, processes, address, rounds, sender), daemon=True)
            for rank in range(processes)
        ]
        for process in group:
            process.start()
        sender.close()
        try:
            seconds: list[float] = receiver.recv()
        finally:
            for process in group:
                process.join(timeout=10)
                process.kill()
    return seconds


def _train(rank: int, processes: int, address: str, rounds: int, sender: Connection) -> None:
    set_up(1)
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=processes)
    torch.manual_seed(0)
    model = DistributedDataParallel(classification.build("resnet18", 1000).to(memory_format=torch.channels_last))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    images, labels = torch.randn(IMAGES, 3, SIDE, SIDE), torch.randint(1000, (IMAGES,))

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    # Warm up, then measure; all processes begin a round together.
    step()
    seconds = []
    for _ in range(rounds):
        dist.barrier()
        seconds.append(time_steps(step, 3))
    if rank == 0:
        sender.send(seconds)
    dist.destroy_process_group()
