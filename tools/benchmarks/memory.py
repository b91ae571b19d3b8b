"""Memory of training steps and of loader workers, ours beside torchvision's."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

from backbones.errors import UserError, require
from tools.benchmarks.options import Timing
from tools.benchmarks.settings import OURS, Setting, contestant, precisions, settings, words

if TYPE_CHECKING:
    from tools.benchmarks.output import Report, Table
    from tools.benchmarks.settings import Job

PEER = "torchvision"
NOTES = (
    "MB: peak of two training steps in a fresh process beyond what it held before the net was built: weights, "
    "gradients, moments, activations, and what the kernels allocate for themselves. `of ours` is the peer's divided by "
    "ours: above 1 ours needs less. Steps are those of `classify` and `detect`.",
    "Workers: a loader's process reads the boxes of all images of a synthetic instances file several times, as an "
    "epoch does, without their pixels; growth is the memory that it no longer shares with the main process, which "
    "forked it: counting references writes to Python's objects, packed arrays are only read. The peer is torchvision's "
    "CocoDetection over pycocotools. Reading is the file to a ready data set, in a fresh process.",
)


@dataclass
class MemoryOptions:
    """What to measure.

    Args:
        detectors: BACKBONE-NECK:PIXELS or BACKBONE-NECK:PIXELSxIMAGES with commas between them.
        classifiers: names with commas between them; 224 pixels.
        batch: images per step of detectors.
        images_per_step: the same of classifiers.
        images: of the file that the workers read, with seven boxes each; 0 leaves the workers out.
        precision: of the comparison at equal settings; auto is bf16 where the hardware has it, else fp32.
    """

    detectors: str = "resnet50-fpn:400,resnet50-fpn:800"
    classifiers: str = "resnet50"
    batch: int = 2
    images_per_step: int = 16
    images: int = 20_000
    precision: Literal["auto", "fp32", "bf16", "both"] = "auto"

    def __post_init__(self) -> None:
        for name in ("batch", "images_per_step"):
            require(getattr(self, name) > 0, name, getattr(self, name), "must be above 0")
        require(self.images >= 0, "images", self.images, "must be 0 or above")


@dataclass
class Options:
    """The benchmark's option groups."""

    memory: MemoryOptions
    measuring: Timing


class Benchmark:
    """Measures net after net, then the workers.

    Raises:
        UserError: an unknown net.
    """

    def __init__(self, options: Options) -> None:
        from tools.benchmarks.detectors import Detector, build
        from tools.benchmarks.nets import facts, peers
        from tools.benchmarks.tasks import parameters

        self.options, self.measuring = options.memory, options.measuring
        self.settings = settings(self.options.precision)
        self.precisions = precisions(self.settings)
        self.detectors = [Detector.parse(text, batch=self.options.batch) for text in words(self.options.detectors)]
        self.classifiers = words(self.options.classifiers)
        if not (self.detectors or self.classifiers or self.options.images):
            raise UserError("--detectors, --classifiers and --images: name something to measure")
        for detector in self.detectors:
            parameters(build, detector)
        self.peers = {net: [name for name in peers(net) if name == PEER] for net in self.classifiers}
        self.sizes = {net: facts(net, batch=self.options.images_per_step, size=None).size for net in self.classifiers}

    def run(self, machine: dict[str, Any]) -> Iterator[Report]:
        """A report after each net; `machine` is `benchmark_machine.describe`'s."""
        from tools.benchmarks.detectors import DetectorJob, share_weights

        rows: list[dict[str, Any]] = []
        for detector in self.detectors:
            with tempfile.TemporaryDirectory() as folder:
                weights = Path(folder) / "weights.pth"
                share_weights(detector, weights)
                make = partial(DetectorJob, net=detector, mode="train", weights=weights)
                rows.append(self._row(f"{detector} {detector.size}", detector.batch, make, detector.peers))
            yield report(rows, self.settings, [])
        for net in self.classifiers:
            rows.append(self._row(net, self.options.images_per_step, partial(self._classifier, net), self.peers[net]))
            yield report(rows, self.settings, [])
        yield report(rows, self.settings, self._workers() if self.options.images else [])

    def _classifier(self, net: str, *, library: str, way: Any) -> Job:
        from tools.benchmarks.nets import Job

        batch, size = self.options.images_per_step, self.sizes[net]
        return Job(library=library, net=net, way=way, mode="train", batch=batch, size=size)

    def _row(self, name: str, batch: int, make: Any, peers: Sequence[str]) -> dict[str, Any]:
        from tools.benchmarks.peak import peak_memory

        found: dict[str, dict[str, int | None]] = {}
        measured: dict[Any, int | None] = {}
        for setting in self.settings:
            for library in (OURS, *peers):
                key = library, setting.way(library)
                if key not in measured:
                    job = make(library=library, way=setting.way(library))
                    measured[key] = peak_memory(contestant(job), threads=self.measuring.threads or 1)
                found.setdefault(setting.name, {})[library] = measured[key]
        return {"net": name, "batch": batch, "peak_bytes": found}

    def _workers(self) -> list[dict[str, Any]]:
        from tools.benchmarks.peak import in_fresh_process
        from tools.benchmarks.workers import SETS, measure_set
        from tools.synthetic.coco_results import write_synthetic

        with tempfile.TemporaryDirectory() as folder:
            truth, _ = write_synthetic(Path(folder), self.options.images, 1, seed=0)
            runs = {name: partial(measure_set, name, truth) for name in SETS}
            found = {name: [in_fresh_process(run) for _ in range(self.measuring.rounds)] for name, run in runs.items()}
            return [summary(name, of_rounds, size=truth.stat().st_size) for name, of_rounds in found.items()]


def summary(name: str, runs: Sequence[Mapping[str, Any] | None], *, size: int) -> dict[str, Any]:
    """Medians of a data set's measurements over the rounds; `size` is the file's, in bytes."""
    whole = [run for run in runs if run]
    if not whole:
        raise UserError(f"{name}: its processes ended early; take fewer --images")
    return {
        "library": name,
        "file_bytes": size,
        **{key: median(run[key] for run in whole) for key in whole[0]},
        "rounds": list(runs),
    }


def report(rows: Sequence[Mapping[str, Any]], compared: Sequence[Setting], workers: Sequence[dict[str, Any]]) -> Report:
    """Tables and charts of what was measured so far."""
    from tools.benchmarks.output import Chart, Report

    shown = [row for row in rows if PEER in row["peak_bytes"][compared[0].name]]
    bars = {setting.name: [times(row["peak_bytes"][setting.name]) for row in shown] for setting in compared}
    charts = [Chart("Peak of a training step", [row["net"] for row in shown], bars, axis="times ours")] if shown else []
    tables = [table(rows, setting) for setting in compared] if rows else []
    return Report(
        results={"nets": list(rows), "workers": list(workers)},
        notes=NOTES,
        tables=[*tables, *([worker_table(workers)] if workers else [])],
        charts=charts,
    )


def times(peaks: Mapping[str, int | None]) -> float | None:
    """The peer's peak divided by ours."""
    ours, theirs = peaks.get(OURS), peaks.get(PEER)
    return theirs / ours if ours and theirs else None


def table(rows: Sequence[Mapping[str, Any]], setting: Setting) -> Table:
    """Training steps at one setting."""
    from tools.benchmarks.output import Table
    from tools.benchmarks.settings import number

    made = Table(f"Training step, {setting.title()}", ["net", "batch", f"MB {OURS}", f"MB {PEER}", "of ours"])
    for row in rows:
        peaks = row["peak_bytes"][setting.name]
        cells = [number(peaks.get(library), "{:.0f}", 1e6) for library in (OURS, PEER)]
        made.rows.append([row["net"], str(row["batch"]), *cells, number(times(peaks), "{:.2f}")])
    return made


def worker_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """What data sets and their workers hold."""
    from tools.benchmarks.output import Table

    size = f"{int(rows[0]['images']):,} images ({rows[0]['file_bytes'] / 1e6:.0f} MB of JSON)"
    made = Table(
        f"Loader workers, annotations of {size}",
        ["library", "seconds to read", "MB peak of reading", "MB held", "MB growth of a worker", "us an image"],
    )
    for row in rows:
        sizes = (f"{row[key] / 1e6:.1f}" for key in ("read_peak_bytes", "held_bytes", "growth_bytes"))
        made.rows.append([row["library"], f"{row['read_seconds']:.2f}", *sizes, f"{1e6 * row['seconds_an_image']:.1f}"])
    return made
