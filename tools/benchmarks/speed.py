"""Base class of the speed benchmarks: our models and other libraries', in training and inference."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Generic, TypedDict, TypeVar

from tools.benchmarks.machine import Machine, device
from tools.benchmarks.models import BenchmarkModel, ModelJob, operations
from tools.benchmarks.options import MODES, Mode, ModelOptions, Timing
from tools.benchmarks.output import BarChart, BenchmarkReport, Columns, ResultTable, cell
from tools.benchmarks.peak import peak_memory
from tools.benchmarks.rounds import Step, measure, rate, ratio
from tools.benchmarks.settings import OURS, TORCHVISION, Setting, Way, precisions, settings
from tools.benchmarks.waits import count_waits
from tools.engine.compiling import require_compiler

# Sentences for the notes of the benchmarks.
RATIO_NOTE = (
    "`vs` is our speed divided by the other library's, computed within each round; the table shows the median over the "
    "rounds. Above 1, ours is faster."
)
WORK_NOTE = (
    "GFLOPs are 1e9 multiply-adds of our model for one image, backward pass included in training. `of matmul rate` is "
    "the fraction of the machine's measured rate of matrix products that a library reaches with this number of "
    "multiply-adds, at two operations each."
)
WAITS_NOTE = (
    "`waits` is how often Python must wait for a GPU within a step; it is counted by the operations and needs no GPU."
)
COMPILE_NOTE = (
    "`compiled` is the speed of our training with torch.compile divided by our speed without it. The time of compiling "
    "is not in it."
)
Jobs = Mapping[tuple[str, Way], ModelJob]


class SettingFigures(TypedDict):
    """Speed and memory of one model at one setting.

    `ratio` is our speed divided by each other library's. `compiled` is our speed with torch.compile divided by our
    speed without it; None if it was not measured.
    """

    images_per_second: float
    floor_share: float
    peer_floor_share: dict[str, float]
    ratio: dict[str, float]
    peak_bytes: dict[str, int | None]
    compiled: float | None


class ModeFigures(TypedDict):
    """Measurements of one model in training or in inference: times per implementation, and ratios per setting."""

    seconds: dict[str, list[float]]
    peak_bytes: dict[str, int | None]
    settings: dict[str, SettingFigures]


Spec = TypeVar("Spec", bound=BenchmarkModel)


@dataclass
class SpeedRow(Generic[Spec]):
    """All measurements of one model.

    Attributes:
        difference: largest difference between what our model and another library's compute; None: not compared.
        operations: operations of one image in each mode; a multiply-add counts as two.
        waits: how often a step would wait for a GPU, in each mode, by library and place in the code.
        modes: figures of each mode.
    """

    spec: Spec
    parameters: int
    difference: float | None
    operations: dict[Mode, float] = field(default_factory=dict)
    waits: dict[Mode, dict[str, dict[str, int]]] = field(default_factory=dict)
    modes: dict[Mode, ModeFigures] = field(default_factory=dict)

    def at(self, mode: Mode, setting: Setting) -> SettingFigures:
        """Return speed and memory in a mode (training or inference) at a setting (precision and memory format)."""
        return self.modes[mode]["settings"][setting.name]


class SpeedBenchmark(Generic[Spec]):
    """Base class of the benchmarks that measure the speed of models, one after another.

    Attributes:
        notes: sentences above the tables.
        libraries: the other libraries in the tables.

    Raises:
        UserError: a model is unknown.
    """

    notes: ClassVar[Sequence[str]]
    libraries: ClassVar[Sequence[str]] = (TORCHVISION,)

    def __init__(self, specs: Sequence[Spec], options: ModelOptions, timing: Timing, *, memory: bool = False) -> None:
        self.specs, self.modes, self.timing, self.memory = specs, options.modes, timing, memory
        self.compiles = options.compile
        if options.compile:
            require_compiler(device())
        self.settings = settings(options.precision)
        self.precisions = precisions(self.settings)
        self.parameters = [spec.parameters() for spec in specs]

    def run(self, machine: Machine) -> Iterator[BenchmarkReport]:
        """Measure the models one after another; yield a report of all models so far after each."""
        rows: list[SpeedRow[Spec]] = []
        for spec, parameters in zip(self.specs, self.parameters, strict=True):
            with tempfile.TemporaryDirectory() as folder:
                weights = Path(folder) / "weights.pth"
                row = SpeedRow(spec, parameters, spec.share_weights(weights))
                for mode in self.modes:
                    self._measure(row, mode, weights if weights.exists() else None, machine["matmul_gflops"])
            rows.append(row)
            yield self.report(rows)

    def _measure(self, row: SpeedRow[Spec], mode: Mode, weights: Path | None, rates: Mapping[str, float]) -> None:
        """Measure a model in one mode (training or inference), and add the measurements to its row."""
        # Two settings may let a library compute in the same way: such a job is measured once.
        jobs = {
            (library, setting.way(library)): ModelJob(library, row.spec, setting.way(library), mode, weights)
            for setting in self.settings
            for library in (OURS, *row.spec.peers)
        }
        self._count(row, mode, jobs)
        work = row.operations[mode]
        compiling = self.compiles and mode == "train"
        compiled = [replace(job, compiled=True) for job in jobs.values() if compiling and job.library == OURS]
        implementations = [job.implementation for job in (*jobs.values(), *compiled)]
        title, threads = f"{row.spec} {mode}", self.timing.threads or 1
        seconds = measure(implementations, rounds=self.timing.rounds, turn=self.timing.turn, title=title)
        peaks = {each.name: peak_memory(each, threads=threads) if self.memory else None for each in implementations}
        row.modes[mode] = {
            "seconds": seconds,
            "peak_bytes": peaks,
            "settings": {
                setting.name: compare(setting, jobs, seconds, peaks, work=work, rates=rates, compiled=compiled)
                for setting in self.settings
            },
        }

    def _count(self, row: SpeedRow[Spec], mode: Mode, jobs: Jobs) -> None:
        """Count the waits and the operations of one step, and add them to a model's row. A library is prepared once."""
        row.waits[mode] = {}
        for library in (OURS, *row.spec.peers):
            step = jobs[library, self.settings[0].way(library)].prepare()
            step()  # makes constants and the optimizer's state
            row.waits[mode][library] = dict(count_waits(step).most_common())
            if library == OURS:
                row.operations[mode] = self.operations(row.spec, mode, step)

    def operations(self, spec: Spec, mode: Mode, step: Step) -> float:
        """Return the multiply-adds per image, with the backward pass when training. `step` runs our model."""
        return operations(step) / spec.batch

    def report(self, rows: Sequence[SpeedRow[Spec]]) -> BenchmarkReport:
        """Return the tables and charts of all models measured so far."""
        charts = [chart(rows, self.settings, self.libraries, mode) for mode in self.modes]
        return BenchmarkReport(
            results={"nets": [self.results(row) for row in rows]},
            notes=[*self.notes, *([COMPILE_NOTE] if self.compiles else [])],
            tables=[
                ResultTable.of(f"{MODES[mode]}, {setting.title()}", rows, self.columns(mode, setting))
                for mode in self.modes
                for setting in self.settings
            ],
            charts=[found for found in charts if found],
        )

    def results(self, row: SpeedRow[Spec]) -> dict[str, object]:
        """Return the measurements of one model as an entry of results.json."""
        return {
            "net": f"{row.spec} {row.spec.size}",
            "size": row.spec.size,
            "batch": row.spec.batch,
            "parameters": row.parameters,
            row.spec.difference: row.difference,
            **{str(mode): self._mode_results(row, mode) for mode in row.modes},
        }

    def _mode_results(self, row: SpeedRow[Spec], mode: Mode) -> dict[str, object]:
        return {"operations": row.operations[mode], "waits": row.waits[mode], **row.modes[mode]}

    def columns(self, mode: Mode, setting: Setting) -> Columns[SpeedRow[Spec]]:
        """Return the columns of the table for training or inference at one setting (precision and memory format)."""
        return {
            "model": lambda row: f"{row.spec} {row.spec.size}",
            "batch": lambda row: str(row.spec.batch),
            "params M": lambda row: f"{row.parameters / 1e6:.2f}",
            "GFLOPs": lambda row: f"{row.operations[mode] / 2e9:.1f}",
            "images/s": lambda row: f"{row.at(mode, setting)['images_per_second']:.2f}",
            "waits": lambda row: waits(row, mode, OURS),
            f"waits {TORCHVISION}": lambda row: waits(row, mode, TORCHVISION),
            "of matmul rate": lambda row: f"{row.at(mode, setting)['floor_share']:.0%}",
            f"vs {TORCHVISION}": lambda row: cell(row.at(mode, setting)["ratio"].get(TORCHVISION), "{:.2f}"),
            f"of matmul rate {TORCHVISION}": lambda row: cell(
                row.at(mode, setting)["peer_floor_share"].get(TORCHVISION), "{:.0%}"
            ),
            **self.compiled_column(mode, setting),
        }

    def compiled_column(self, mode: Mode, setting: Setting) -> Columns[SpeedRow[Spec]]:
        """Return the column of what torch.compile gains in training; {} if it was not measured."""
        if not self.compiles or mode != "train":
            return {}
        return {"compiled": lambda row: cell(row.at(mode, setting)["compiled"], "{:.2f}")}


def waits(row: SpeedRow[Spec], mode: Mode, library: str) -> str | None:
    """Return how often a step of a library would wait for a GPU, as text; None if the library was not measured."""
    found = row.waits[mode].get(library)
    return None if found is None else str(sum(found.values()))


def compare(
    setting: Setting,
    jobs: Jobs,
    seconds: Mapping[str, Sequence[float]],
    peaks: Mapping[str, int | None],
    *,
    work: float,
    rates: Mapping[str, float],
    compiled: Sequence[ModelJob] = (),
) -> SettingFigures:
    """Compute speed and memory of a model at one setting, from measured times and memory peaks.

    Args:
        jobs: all jobs of the model in this mode, by library, precision and memory format.
        seconds: seconds per step of each job, one value per round.
        peaks: peak memory of each job in bytes; None if it was not measured.
        work: operations of one image.
        rates: speed of the machine's matrix products in 1e9 operations per second, by precision.
        compiled: the jobs of our model with torch.compile.
    """
    compared = {library: job for (library, way), job in jobs.items() if way == setting.way(library)}
    times = {library: seconds[job.implementation.name] for library, job in compared.items()}
    fractions = {
        library: rate(times[library], job.spec.batch) * work / (rates[job.way.precision] * 1e9)
        for library, job in compared.items()
    }
    gains = [ratio(seconds[job.implementation.name], times[OURS]) for job in compiled if job.way == setting.ours]
    return {
        "images_per_second": rate(times[OURS], compared[OURS].spec.batch),
        "floor_share": fractions.pop(OURS),
        "peer_floor_share": fractions,
        "ratio": {library: ratio(times[OURS], theirs) for library, theirs in times.items() if library != OURS},
        "peak_bytes": {library: peaks[job.implementation.name] for library, job in compared.items()},
        "compiled": gains[0] if gains else None,
    }


def chart(
    rows: Sequence[SpeedRow[Spec]], compared: Sequence[Setting], libraries: Sequence[str], mode: Mode
) -> BarChart | None:
    """Return a bar chart of our speed relative to other libraries'; None if no other library has the models."""
    shown = [row for row in rows if row.at(mode, compared[0])["ratio"]]
    bars = {
        f"{library}, {setting.name}": [row.at(mode, setting)["ratio"].get(library) for row in shown]
        for setting in compared
        for library in libraries
    }
    bars = {label: values for label, values in bars.items() if any(values)}
    return BarChart(MODES[mode], [str(row.spec) for row in shown], bars) if shown else None
