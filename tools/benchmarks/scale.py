"""How costs grow with images, objects, classes, pixels and processes, ours beside the peers'."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backbones.errors import require
from tools.benchmarks.options import Measuring
from tools.benchmarks.settings import OURS, number, words

if TYPE_CHECKING:
    from tools.benchmarks.output import Report, Table

AXES = {
    "images": (
        "COCO metrics, 25 detections an image, beside pycocotools",
        [250, 500, 1000, 2000],
    ),
    "objects": (
        "matching the anchors of one 800x1344 image with true boxes, beside torchvision",
        [4, 20, 100],
    ),
    "classes": ("training step of resnet18-fpn, two images at 256 pixels, beside torchvision", [10, 90, 365, 1203]),
    "pixels": (
        "training step of resnet18-fpn, one image of that short side, beside torchvision",
        [256, 384, 512, 768],
    ),
    "processes": (
        "DistributedDataParallel over gloo, resnet18, each with a thread and 4 images of 96 pixels",
        [1, 2],
    ),
}
NOTES = (
    "Seconds are of one step; ours and the peer take turns, both in the same precision and memory format. `vs` is the "
    "peer's time divided by ours, within each round, median over the rounds. `growth` is the exponent between the "
    "first and the last row: 1 is in proportion, 0 constant. MB: peak in a fresh process beyond what it held. Of "
    "processes `efficiency` is images/s divided by that of one process times their number, or times the cores where "
    "those are fewer: 1 is ideal.",
)


@dataclass
class ScaleOptions:
    """What to measure.

    Args:
        axes: of images, objects, classes, pixels and processes, with commas between them.
        values: how many values of each axis, smallest first; 4 are all.
    """

    axes: str = ",".join(AXES)
    values: int = 4

    def __post_init__(self) -> None:
        named = words(self.axes)
        require(named and set(named) <= set(AXES), "axes", self.axes, f"must be of {', '.join(AXES)}")
        require(self.values > 0, "values", self.values, "must be above 0")


@dataclass
class Options:
    """The benchmark's option groups."""

    scale: ScaleOptions
    measuring: Measuring


class Benchmark:
    """Measures axis after axis."""

    def __init__(self, options: Options) -> None:
        from tools.benchmarks.settings import settings

        self.options, self.measuring = options.scale, options.measuring
        self.way = settings("auto")[0].ours
        self.precisions = sorted({"fp32", self.way.precision})

    def run(self, machine: dict[str, Any]) -> Iterator[Report]:
        """A report after each axis; `machine` is `benchmark_machine.describe`'s."""
        found: dict[str, list[dict[str, Any]]] = {}
        for axis in words(self.options.axes):
            values = AXES[axis][1][: self.options.values]
            if axis == "processes":
                found[axis] = self._processes(values, machine["cores"])
            else:
                found[axis] = [self._value(axis, value) for value in values]
            yield report(found)

    def _value(self, axis: str, value: int) -> dict[str, Any]:
        from tools.benchmarks.growth import contestants
        from tools.benchmarks.peak import peak_memory
        from tools.benchmarks.rounds import measure, ratio

        timing, threads = self.measuring, self.measuring.threads or 1
        with tempfile.TemporaryDirectory() as folder:
            entrants = contestants(axis, value, self.way, Path(folder))
            seconds = measure(entrants, rounds=timing.rounds, turn=timing.turn, title=f"{axis} {value}")
            peaks = {c.name: peak_memory(c, threads=threads) if timing.memory else None for c in entrants}
        ours, *peers = (contestant.name for contestant in entrants)
        ratios = {peer: ratio(seconds[ours], seconds[peer]) for peer in peers}
        return {"value": value, "seconds": seconds, "peak_bytes": peaks, "ratio": ratios}

    def _processes(self, values: Sequence[int], cores: int) -> list[dict[str, Any]]:
        from statistics import median

        from tools.benchmarks.growth import IMAGES, train_together

        rows: list[dict[str, Any]] = []
        for count in values:
            seconds = train_together(count, rounds=self.measuring.rounds)
            speed = count * IMAGES / median(seconds)
            ideal = (rows[0]["images_per_second"] if rows else speed) * min(count, cores)
            row = {"value": count, "seconds": {OURS: seconds}, "images_per_second": speed, "efficiency": speed / ideal}
            rows.append(row)
        return rows


def report(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> Report:
    """Tables and charts of the axes measured so far."""
    from tools.benchmarks.output import Chart, Report

    charts = [
        Chart(
            f"{axis}: {AXES[axis][0]}",
            [str(row["value"]) for row in rows],
            {name: [row["ratio"][name] for row in rows] for name in rows[0]["ratio"]},
        )
        for axis, rows in found.items()
        if rows[0].get("ratio")
    ]
    tables = [process_table(rows) if axis == "processes" else table(axis, rows) for axis, rows in found.items()]
    return Report(results={"axes": dict(found)}, notes=NOTES, tables=tables, charts=charts)


def growth(rows: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """The exponent of a contestant's time between the first and the last value; None of a single one."""
    from statistics import median

    first, last = rows[0], rows[-1]
    if first["value"] == last["value"]:
        return None
    times = median(last["seconds"][name]) / median(first["seconds"][name])
    return math.log(times) / math.log(last["value"] / first["value"])


def table(axis: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """A row for each value, and a last one with the growth."""
    from statistics import median

    from tools.benchmarks.output import Table

    names = list(rows[0]["seconds"])
    columns = [axis, *(f"seconds {name}" for name in names), *(f"vs {name}" for name in names[1:])]
    made = Table(f"{axis}: {AXES[axis][0]}", [*columns, *(f"MB {name}" for name in names)])
    for row in rows:
        cells: list[str | None] = [str(row["value"]), *(f"{median(row['seconds'][name]):.4f}" for name in names)]
        cells += [f"{row['ratio'][name]:.2f}" for name in names[1:]]
        made.rows.append([*cells, *(number(row["peak_bytes"][name], "{:.0f}", 1e6) for name in names)])
    exponents = [number(growth(rows, name), "{:.2f}") for name in names]
    made.rows.append(["growth", *exponents, *[None] * (2 * len(names) - 1)])
    return made


def process_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """A row for each number of processes."""
    from tools.benchmarks.output import Table

    made = Table(f"processes: {AXES['processes'][0]}", ["processes", "images/s", "efficiency"])
    for row in rows:
        made.rows.append([str(row["value"]), f"{row['images_per_second']:.1f}", f"{row['efficiency']:.2f}"])
    return made
