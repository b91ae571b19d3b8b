"""Time and memory of COCO's box metrics, ours beside pycocotools and faster-coco-eval."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from backbones.errors import UserError, require
from tools.benchmarks.options import Timing
from tools.benchmarks.settings import OURS

if TYPE_CHECKING:
    from tools.benchmarks.output import Report, Table

PYCOCOTOOLS, FASTER = "pycocotools", "faster-coco-eval"
NOTES = (
    "From the two JSON files (truth and detections, boxes only) to the twelve figures, in a fresh process each time "
    "that has the library loaded and scored a few images already. `ours` is faster than a peer by `time of ours`, the "
    "ratio within each round, median over the rounds; `memory of ours` is its peak divided by ours. MB: peak beyond "
    "what the process held before. `floor` is the share of the machine's copying rate at which the files' bytes "
    "passed. AP is each library's own; results.json has the largest difference of any of the twelve figures from ours.",
)


@dataclass
class EvaluateOptions:
    """What to measure.

    Args:
        images: of the synthetic set, each with seven boxes on average, 80 classes.
        detections: on all of them together.
        libraries: peers, with commas between them; faster-coco-eval must be installed (extra `benchmark`).
    """

    images: int = 5000
    detections: int = 500_000
    libraries: str = f"{PYCOCOTOOLS},{FASTER}"

    def __post_init__(self) -> None:
        for name in ("images", "detections"):
            require(getattr(self, name) > 0, name, getattr(self, name), "must be above 0")


@dataclass
class Options:
    """The benchmark's option groups."""

    evaluate: EvaluateOptions
    measuring: Timing


class Benchmark:
    """Measures one set of detections.

    Raises:
        UserError: an unknown or absent library.
    """

    precisions = ("fp32",)

    def __init__(self, options: Options) -> None:
        from tools.benchmarks.scorers import SCORERS, installed
        from tools.benchmarks.settings import words

        self.options, self.measuring = options.evaluate, options.measuring
        self.libraries = [OURS, *words(self.options.libraries)]
        for library in self.libraries:
            if library not in SCORERS:
                raise UserError(
                    f"--libraries {library}: there is {', '.join(name for name in SCORERS if name != OURS)}"
                )
            if not installed(library):
                raise UserError(f"--libraries {library}: is not installed; pip install {library}, or leave it out")

    def run(self, machine: dict[str, Any]) -> Iterator[Report]:
        """A report after each round; `machine` is `benchmark_machine.describe`'s."""
        from tools.benchmarks.rounds import rotated
        from tools.synthetic.coco_results import write_synthetic

        runs: dict[str, list[dict[str, Any]]] = {library: [] for library in self.libraries}
        with tempfile.TemporaryDirectory() as folder:
            truth, detections = write_synthetic(Path(folder), self.options.images, self.options.detections, seed=0)
            size = truth.stat().st_size + detections.stat().st_size
            for number in range(self.measuring.rounds):
                for library in rotated(self.libraries, number):
                    runs[library].append(score_alone(library, truth, detections))
                yield report(runs, size=size, gbytes=machine["copy_gbytes"], options=self.options)


def score_alone(library: str, truth: Path, detections: Path) -> dict[str, Any]:
    """`benchmark_scorers.score` in a fresh process.

    Raises:
        UserError: the process was killed.
    """
    from tools.benchmarks.peak import in_fresh_process
    from tools.benchmarks.scorers import score

    found: dict[str, Any] | None = in_fresh_process(partial(score, library, truth, detections))
    if found is None:
        raise UserError(f"{library}: its process ended early; take fewer --images and --detections")
    return found


def report(
    runs: Mapping[str, Sequence[Mapping[str, Any]]], *, size: int, gbytes: float, options: EvaluateOptions
) -> Report:
    """Table and chart of the rounds so far.

    Args:
        size: bytes of the two files.
        gbytes: 1e9 bytes that the machine copies in a second.
    """
    from tools.benchmarks.output import Chart, Report

    rows = [summary(library, runs, size=size, gbytes=gbytes) for library in runs]
    peers = [row for row in rows if row["library"] != OURS]
    bars = {
        "time": [row["time_ratio"] for row in peers],
        "peak memory": [row["memory_ratio"] for row in peers],
    }
    title = f"COCO metrics of {options.images:,} images and {options.detections:,} detections"
    return Report(
        results={"images": options.images, "detections": options.detections, "file_bytes": size, "libraries": rows},
        notes=NOTES,
        tables=[table(title, rows)],
        charts=[Chart(title, [row["library"] for row in peers], bars, axis="times what ours takes")] if peers else [],
    )


def summary(
    library: str, runs: Mapping[str, Sequence[Mapping[str, Any]]], *, size: int, gbytes: float
) -> dict[str, Any]:
    """A library's figures; arguments as in `report`."""
    from tools.benchmarks.rounds import ratio
    from tools.benchmarks.scorers import MODULES

    mine, ours = runs[library], runs[OURS]
    seconds, peak = [run["seconds"] for run in mine], median(run["peak_bytes"] for run in mine)
    pairs = zip(mine[-1]["figures"], ours[-1]["figures"], strict=True)
    return {
        "library": library,
        "version": version(MODULES[library]),
        "seconds": seconds,
        "peak_bytes": peak,
        "time_ratio": ratio([run["seconds"] for run in ours], seconds),
        "memory_ratio": peak / max(1, median(run["peak_bytes"] for run in ours)),
        "floor_share": size / median(seconds) / (gbytes * 1e9),
        "figures": mine[-1]["figures"],
        "difference": max(abs(theirs - our) for theirs, our in pairs),
    }


def table(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """A row for each library."""
    from tools.benchmarks.output import Table

    made = Table(title, ["library", "seconds", "MB", "time of ours", "memory of ours", "floor", "AP", "difference"])
    for row in rows:
        made.rows.append(
            [
                f"{row['library']}{' (hotcoco)' if row['library'] == OURS else ''} {row['version']}",
                f"{median(row['seconds']):.3f}",
                f"{row['peak_bytes'] / 1e6:.0f}",
                f"{row['time_ratio']:.1f}x",
                f"{row['memory_ratio']:.1f}x",
                f"{row['floor_share']:.2%}",
                f"{row['figures'][0]:.4f}",
                f"{row['difference']:.1e}",
            ]
        )
    return made
