"""Benchmark of memory: training steps and data-loading workers, ours and torchvision's."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import TypedDict

from backbones.errors import UserError
from tools.benchmarks.classify import MeasuredClassifier
from tools.benchmarks.detect import MeasuredDetector
from tools.benchmarks.machine import Machine
from tools.benchmarks.models import BenchmarkModel, ModelJob
from tools.benchmarks.options import MemoryOptions, Timing, split_list
from tools.benchmarks.output import BarChart, BenchmarkReport, Columns, ResultTable, cell
from tools.benchmarks.peak import in_fresh_process, peak_memory
from tools.benchmarks.settings import OURS, TORCHVISION, Setting, Way, precisions, settings
from tools.benchmarks.workers import DATA_SETS, WorkerMemory, measure_data_set
from tools.synthetic.coco_results import write_synthetic

NOTES = (
    "MB is the peak of two training steps in a fresh process, beyond the memory that the process held before the "
    "model was built: weights, gradients, optimizer state, activations, and the kernels' own buffers. `torchvision / "
    "ours` is torchvision's peak divided by ours: above 1, ours needs less. The steps are those of `classify` and "
    "`detect`.",
    "Workers: a loader worker reads the boxes of all images of a synthetic annotation file several times, without the "
    "pixels, as an epoch does. Growth is the memory that the worker no longer shares with the main process, which "
    "forked it: counting references writes to Python objects, while packed arrays are only read. Torchvision's data "
    "set is CocoDetection over pycocotools. Reading is the time from the file to a ready data set, in a fresh process.",
)


class PeakRow(TypedDict):
    """Peak memory of a training step of one model in bytes, by setting and library, as an entry of results.json."""

    net: str
    batch: int
    peak_bytes: dict[str, dict[str, int | None]]


class WorkerRow(TypedDict):
    """Memory and time of a data-loading worker with one library's data set: medians over rounds, for results.json."""

    library: str
    file_bytes: int
    images: float
    read_seconds: float
    read_peak_bytes: float
    held_bytes: float
    growth_bytes: float
    seconds_an_image: float
    rounds: list[WorkerMemory | None]


class MemoryBenchmark:
    """Benchmark of memory: first the peaks of models' training steps, then the growth of data-loading workers.

    Raises:
        UserError: a model is unknown.
    """

    def __init__(self, options: MemoryOptions, timing: Timing) -> None:
        self.images, self.timing = options.images, timing
        self.settings = settings(options.precision)
        self.precisions = precisions(self.settings)
        self.detectors = [MeasuredDetector.parse(text, batch=options.batch) for text in split_list(options.detectors)]
        for spec in self.detectors:
            spec.parameters()  # refuses an unknown model before anything is measured
        self.classifiers = [
            MeasuredClassifier.measured(name, batch=options.images_per_step, size=None)
            for name in split_list(options.classifiers)
        ]

    def run(self, machine: Machine) -> Iterator[BenchmarkReport]:
        """Measure the models, then the data-loading workers; yield a report of everything so far after each."""
        rows: list[PeakRow] = []
        for detector in self.detectors:
            with tempfile.TemporaryDirectory() as folder:
                weights = Path(folder) / "weights.pth"
                detector.share_weights(weights)
                rows.append(self._row(f"{detector} {detector.size}", detector, weights))
            yield report(rows, self.settings, [])
        for classifier in self.classifiers:
            rows.append(self._row(classifier.name, classifier, None))
            yield report(rows, self.settings, [])
        yield report(rows, self.settings, self._workers() if self.images else [])

    def _row(self, name: str, spec: BenchmarkModel, weights: Path | None) -> PeakRow:
        """Measure the peak memory of a model's training step for every library and setting."""
        libraries = [OURS, *(library for library in spec.peers if library == TORCHVISION)]
        found: dict[str, dict[str, int | None]] = {}
        measured: dict[tuple[str, Way], int | None] = {}
        for setting in self.settings:
            for library in libraries:
                # Two settings may let a library compute in the same way: that is measured once.
                key = library, setting.way(library)
                if key not in measured:
                    job = ModelJob(library, spec, setting.way(library), "train", weights)
                    measured[key] = peak_memory(job.implementation, threads=self.timing.threads or 1)
                found.setdefault(setting.name, {})[library] = measured[key]
        return {"net": name, "batch": spec.batch, "peak_bytes": found}

    def _workers(self) -> list[WorkerRow]:
        """Measure a data-loading worker with each library's data set: once per round, each time in a new process."""
        with tempfile.TemporaryDirectory() as folder:
            truth, _ = write_synthetic(Path(folder), self.images, 1, seed=0)
            runs = {name: partial(measure_data_set, name, truth) for name in DATA_SETS}
            found = {name: [in_fresh_process(run) for _ in range(self.timing.rounds)] for name, run in runs.items()}
            return [summary(name, of_rounds, size=truth.stat().st_size) for name, of_rounds in found.items()]


def summary(name: str, runs: Sequence[WorkerMemory | None], *, size: int) -> WorkerRow:
    """Compute the medians, over the rounds, of the measurements with one library's data set.

    Args:
        runs: one measurement per round; None if its process was killed.
        size: bytes of the annotation file.

    Raises:
        UserError: all processes were killed.
    """
    whole = [run for run in runs if run]
    if not whole:
        raise UserError(
            f"{name}: the processes that read its data set ended early, perhaps for lack of memory; use fewer --images"
        )
    return {
        "library": name,
        "file_bytes": size,
        "images": median(run["images"] for run in whole),
        "read_seconds": median(run["read_seconds"] for run in whole),
        "read_peak_bytes": median(run["read_peak_bytes"] for run in whole),
        "held_bytes": median(run["held_bytes"] for run in whole),
        "growth_bytes": median(run["growth_bytes"] for run in whole),
        "seconds_an_image": median(run["seconds_an_image"] for run in whole),
        "rounds": list(runs),
    }


def report(rows: Sequence[PeakRow], compared: Sequence[Setting], workers: Sequence[WorkerRow]) -> BenchmarkReport:
    """Return the tables and charts of all models and workers measured so far."""
    shown = [row for row in rows if TORCHVISION in row["peak_bytes"][compared[0].name]]
    bars = {setting.name: [times(row["peak_bytes"][setting.name]) for row in shown] for setting in compared}
    chart = BarChart("Peak of a training step", [row["net"] for row in shown], bars, axis="torchvision's / ours")
    tables = [
        ResultTable.of(f"Training step, {setting.title()}", rows, columns(setting)) for setting in compared if rows
    ]
    return BenchmarkReport(
        results={"nets": list(rows), "workers": list(workers)},
        notes=NOTES,
        tables=[*tables, worker_table(workers)] if workers else tables,
        charts=[chart] if shown else [],
    )


def times(peaks: Mapping[str, int | None]) -> float | None:
    """Return torchvision's peak memory divided by ours, or None if one of them is not known."""
    ours, theirs = peaks.get(OURS), peaks.get(TORCHVISION)
    return theirs / ours if ours and theirs else None


def columns(setting: Setting) -> Columns[PeakRow]:
    """Return the columns of the table for one setting (precision and memory format)."""
    return {
        "model": lambda row: row["net"],
        "batch": lambda row: str(row["batch"]),
        f"MB {OURS}": lambda row: cell(row["peak_bytes"][setting.name].get(OURS), "{:.0f}", 1e6),
        f"MB {TORCHVISION}": lambda row: cell(row["peak_bytes"][setting.name].get(TORCHVISION), "{:.0f}", 1e6),
        "torchvision / ours": lambda row: cell(times(row["peak_bytes"][setting.name]), "{:.2f}"),
    }


def worker_table(rows: Sequence[WorkerRow]) -> ResultTable:
    """Return the table that compares the libraries' data sets: time to read, memory, growth of a loader's worker."""
    size = f"{int(rows[0]['images']):,} images ({rows[0]['file_bytes'] / 1e6:.0f} MB of JSON)"
    found: Columns[WorkerRow] = {
        "library": lambda row: row["library"],
        "seconds to read": lambda row: f"{row['read_seconds']:.2f}",
        "MB peak of reading": lambda row: f"{row['read_peak_bytes'] / 1e6:.1f}",
        "MB held": lambda row: f"{row['held_bytes'] / 1e6:.1f}",
        "MB growth of a worker": lambda row: f"{row['growth_bytes'] / 1e6:.1f}",
        "us an image": lambda row: f"{1e6 * row['seconds_an_image']:.1f}",
    }
    return ResultTable.of(f"Loader workers, annotations of {size}", rows, found)
