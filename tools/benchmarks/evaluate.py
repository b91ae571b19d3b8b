"""Benchmark of COCO's metrics of boxes or masks: time and memory of our code, pycocotools and faster-coco-eval."""

from __future__ import annotations

import contextlib
import gc
import io
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, Literal, TypeAlias, TypedDict

from backbones.errors import UserError
from tools.benchmarks.machine import Machine
from tools.benchmarks.options import FASTER, PYCOCOTOOLS, EvaluateOptions, Timing, split_list
from tools.benchmarks.output import BarChart, BenchmarkReport, Columns, ResultTable
from tools.benchmarks.peak import in_fresh_process, peak, restart_peak
from tools.benchmarks.rounds import ratio, rotated
from tools.benchmarks.settings import OURS
from tools.evaluation import CocoEvaluator
from tools.evaluation.summary import METRICS, PREFIXES
from tools.synthetic.coco_results import write_synthetic

NOTES = (
    "Each library reads two JSON files (truth and detections) and computes the twelve metrics, in a fresh "
    "process that has loaded the library and scored a few images before. `time / ours` is the library's time divided "
    "by ours, computed within each round; the table shows the median over the rounds. `memory / ours` is the "
    "library's peak divided by ours. MB is the peak beyond the memory that the process held before. `of copy rate` is "
    "the rate of the files' bytes as a fraction of the machine's measured rate of copying. AP is each library's own; "
    "results.json has the largest difference of any of the twelve metrics from ours.",
)
Kind: TypeAlias = Literal["bbox", "segm"]
MODULES = {OURS: "hotcoco", PYCOCOTOOLS: "pycocotools", FASTER: "faster_coco_eval"}


class Scoring(TypedDict):
    """Measurements of one computation of COCO's metrics: seconds, peak memory added by it, and the twelve metrics."""

    seconds: float
    peak_bytes: int
    figures: list[float]


class LibraryRow(TypedDict):
    """Time, memory and metrics of one library, as an entry of results.json."""

    library: str
    version: str
    seconds: list[float]
    peak_bytes: float
    time_ratio: float
    memory_ratio: float
    floor_share: float
    figures: list[float]
    difference: float


class EvaluateBenchmark:
    """Benchmark of libraries that compute COCO's metrics, all on the same synthetic detections.

    Raises:
        UserError: a library is unknown or not installed.
    """

    precisions = ("fp32",)

    def __init__(self, options: EvaluateOptions, timing: Timing) -> None:
        self.options, self.rounds = options, timing.rounds
        self.libraries = [OURS, *split_list(options.libraries)]
        for library in self.libraries:
            if library not in MODULES:
                others = ", ".join(name for name in MODULES if name != OURS)
                raise UserError(f"--libraries {library}: unknown; choose from {others}")
            if find_spec(MODULES[library]) is None:
                raise UserError(
                    f"--libraries {library}: is not installed; install it with `pip install {library}`, or "
                    f"leave {library} out"
                )

    def run(self, machine: Machine) -> Iterator[BenchmarkReport]:
        """In each round, let each library compute the metrics once; then yield a report of all rounds so far."""
        runs: dict[str, list[Scoring]] = {library: [] for library in self.libraries}
        with tempfile.TemporaryDirectory() as folder:
            truth, detections = write_synthetic(
                Path(folder), self.options.images, self.options.detections, seed=0, masks=self.options.iou == "segm"
            )
            size = truth.stat().st_size + detections.stat().st_size
            for number in range(self.rounds):
                for library in rotated(self.libraries, number):
                    runs[library].append(score_alone(library, truth, detections, self.options.iou))
                rows = [summary(name, runs, size=size, gbytes=machine["copy_gbytes"]) for name in self.libraries]
                yield report(rows, size=size, options=self.options)


def score_alone(library: str, truth: Path, detections: Path, iou: Kind) -> Scoring:
    """Compute the metrics once with a library, in a new process, and measure time and memory.

    Raises:
        UserError: the process was killed.
    """
    found = in_fresh_process(partial(score, library, truth, detections, iou))
    if found is None:
        raise UserError(
            f"{library}: the process that scored with it ended early, perhaps for lack of memory; use fewer --images "
            "and --detections"
        )
    return found


def score(library: str, truth: Path, detections: Path, iou: Kind) -> Scoring:
    """Compute the metrics once with a library, in this process, and measure time and memory.

    The library first scores a few images, so that the time to load its code does not count.
    """
    work = SCORERS[library]
    with tempfile.TemporaryDirectory() as folder:
        work(*write_synthetic(Path(folder), 2, 20, seed=0, masks=iou == "segm"), iou)
    gc.collect()
    before = restart_peak()
    start = time.perf_counter()
    figures = work(truth, detections, iou)
    return {"seconds": time.perf_counter() - start, "peak_bytes": peak() - before, "figures": figures}


def score_ours(truth: Path, detections: Path, iou: Kind) -> list[float]:
    """Compute COCO's twelve metrics with `CocoEvaluator`. A metric is -1 if there are no objects for it."""
    evaluator = CocoEvaluator(truth, iou_types=(iou,))
    evaluator.load(detections)
    figures = evaluator.compute()
    values = [figures[PREFIXES[iou] + name] for name in METRICS]
    return [-1.0 if value is None else float(value) for value in values]


def score_pycocotools(truth: Path, detections: Path, iou: Kind) -> list[float]:
    """Compute COCO's twelve metrics with pycocotools, as its documentation shows."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    return _score_by_classes(COCO, COCOeval, truth, detections, iou)


def score_faster(truth: Path, detections: Path, iou: Kind) -> list[float]:
    """Compute COCO's twelve metrics with faster-coco-eval, as its documentation shows."""
    from faster_coco_eval import COCO, COCOeval_faster

    return _score_by_classes(COCO, COCOeval_faster, truth, detections, iou)


def _score_by_classes(
    coco: Callable[[str], Any], evaluation: Callable[..., Any], truth: Path, detections: Path, iou: Kind
) -> list[float]:
    """Compute COCO's twelve metrics with a library's classes `COCO` and `COCOeval`, without their printed output."""
    with contextlib.redirect_stdout(io.StringIO()):
        true = coco(str(truth))
        found = evaluation(true, true.loadRes(str(detections)), iouType=iou)
        found.evaluate()
        found.accumulate()
        found.summarize()
    return [float(value) for value in found.stats[:12]]


SCORERS: dict[str, Callable[[Path, Path, Kind], list[float]]] = {
    OURS: score_ours,
    PYCOCOTOOLS: score_pycocotools,
    FASTER: score_faster,
}


def summary(library: str, runs: Mapping[str, Sequence[Scoring]], *, size: int, gbytes: float) -> LibraryRow:
    """Summarise the rounds of one library: time, memory and metrics, and each of them relative to ours.

    Args:
        runs: measurements of every library so far, one per round.
        size: bytes of the two files.
        gbytes: speed at which the machine copies memory, in 1e9 bytes per second.
    """
    mine, ours = runs[library], runs[OURS]
    seconds, peak_bytes = [run["seconds"] for run in mine], median(run["peak_bytes"] for run in mine)
    pairs = zip(mine[-1]["figures"], ours[-1]["figures"], strict=True)
    return {
        "library": library,
        "version": version(MODULES[library]),
        "seconds": seconds,
        "peak_bytes": peak_bytes,
        "time_ratio": ratio([run["seconds"] for run in ours], seconds),
        "memory_ratio": peak_bytes / max(1, median(run["peak_bytes"] for run in ours)),
        "floor_share": size / median(seconds) / (gbytes * 1e9),
        "figures": mine[-1]["figures"],
        "difference": max(abs(theirs - our) for theirs, our in pairs),
    }


def report(rows: Sequence[LibraryRow], *, size: int, options: EvaluateOptions) -> BenchmarkReport:
    """Return the table and chart of all rounds so far; `size` is the number of bytes of both input files."""
    peers = [row for row in rows if row["library"] != OURS]
    bars = {"time": [row["time_ratio"] for row in peers], "peak memory": [row["memory_ratio"] for row in peers]}
    what = "detections" if options.iou == "bbox" else "masks"
    title = f"COCO metrics of {options.images:,} images and {options.detections:,} {what}"
    chart = BarChart(title, [row["library"] for row in peers], bars, axis="the library's / ours")
    return BenchmarkReport(
        results={"images": options.images, "detections": options.detections, "file_bytes": size, "libraries": rows},
        notes=NOTES,
        tables=[ResultTable.of(title, rows, COLUMNS)],
        charts=[chart] if peers else [],
    )


COLUMNS: Columns[LibraryRow] = {
    "library": lambda row: f"{row['library']}{' (hotcoco)' if row['library'] == OURS else ''} {row['version']}",
    "seconds": lambda row: f"{median(row['seconds']):.3f}",
    "MB": lambda row: f"{row['peak_bytes'] / 1e6:.0f}",
    "time / ours": lambda row: f"{row['time_ratio']:.1f}x",
    "memory / ours": lambda row: f"{row['memory_ratio']:.1f}x",
    "of copy rate": lambda row: f"{row['floor_share']:.2%}",
    "AP": lambda row: f"{row['figures'][0]:.4f}",
    "difference": lambda row: f"{row['difference']:.1e}",
}
