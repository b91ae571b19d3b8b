"""Benchmark of inference on the CPU: PyTorch beside exported files, each through `load(...)`, one image at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TypedDict

from backbones.errors import UserError, first_line
from tools.benchmarks.deployed import COMPILED, PYTORCH, DeployedModel, bits_of, parse, prepare, write_files
from tools.benchmarks.machine import Machine
from tools.benchmarks.options import LatencyOptions, TimingAndMemory, split_list
from tools.benchmarks.output import BarChart, BenchmarkReport, Columns, ResultTable, cell
from tools.benchmarks.peak import peak_memory
from tools.benchmarks.rounds import Implementation, Step, measure, ratio
from tools.exports import files
from tools.exports.evaluation import Change, change, resample

NOTES = (
    "One image at a time on the CPU, through the same `load(...)`: resizing, normalising and reading the answer are "
    "included, decoding the file is not. `vs PyTorch` is the time of PyTorch in fp32 divided by the runtime's time, "
    "computed within each round; the tables show medians over the rounds. MB is the peak of two predictions in a fresh "
    "process, beyond the memory of a process that has loaded PyTorch: weights, activations, and onnxruntime's or "
    "OpenVINO's own code.",
    "The score is AP, mIoU, mAP or top-1 accuracy in percent, on the validation images of a run that `--nets` names; "
    "up to 64 images of its data give the ranges of the 8-bit files. Change is the score minus PyTorch's in fp32, with "
    "its 95 % interval over images. Other models have random weights: their detectors score all proposals but return "
    "few boxes.",
)


class LatencyRow(TypedDict):
    """Measurements of one model with one runtime, as an entry of results.json.

    Attributes:
        seconds: per image, one value per round.
        change: score of the runtime, and its change from PyTorch in fp32; None if it was not measured.
    """

    net: str
    runtime: str
    seconds: list[float]
    peak_bytes: int | None
    change: Change | None


class LatencyBenchmark:
    """Benchmark of PyTorch, onnxruntime and OpenVINO on the CPU.

    Raises:
        UserError: a runtime or the form of a name is unknown, or a runtime is not installed.
    """

    precisions = ("fp32",)

    def __init__(self, options: LatencyOptions, timing: TimingAndMemory) -> None:
        self.models = [parse(name) for name in split_list(options.nets)]
        self.runtimes, self.timing = split_list(options.runtimes), timing
        files.require_onnx()
        if find_spec("openvino") is None and any(name.startswith("openvino") for name in self.runtimes):
            raise UserError("--runtimes openvino: is not installed; pip install openvino, or leave it out")

    def run(self, machine: Machine) -> Iterator[BenchmarkReport]:
        """Measure the models one after another; yield a report of all models so far after each."""
        rows: list[LatencyRow] = []
        absent: dict[str, str] = {}
        for model in self.models:
            with TemporaryDirectory() as folder:
                weights, images = model.save(Path(folder))
                sources = write_files(weights, images, Path(folder), self.runtimes)
                rows += self._rows(model, sources, images[0], absent)
            yield report(rows, absent)

    def _rows(
        self, model: DeployedModel, sources: dict[str, Path], image: Path, absent: dict[str, str]
    ) -> Iterator[LatencyRow]:
        """Measure a model with each runtime; note in `absent` why a runtime cannot run."""
        jobs = {name: Implementation(name, partial(prepare, name, sources[name], image)) for name in self.runtimes}
        seconds = self._seconds(model.name, jobs, absent)
        scored = [name for name in seconds if name != COMPILED]  # it computes as PyTorch in fp32 does
        changes = measure_changes(model, sources, scored)
        for name, found in seconds.items():
            memory = peak_memory(jobs[name], threads=self.timing.threads or 1) if self.timing.memory else None
            yield LatencyRow(net=model.name, runtime=name, seconds=found, peak_bytes=memory, change=changes.get(name))

    def _seconds(self, title: str, jobs: dict[str, Implementation], absent: dict[str, str]) -> dict[str, list[float]]:
        """Return the seconds per image of each runtime that can run."""
        steps: list[Implementation] = []
        for name, job in jobs.items():
            try:
                step = job.prepare()
                step()
                steps.append(Implementation(name, partial(_given, step)))
            except Exception as error:  # of compilers and of other libraries
                absent[f"{title}, {name}"] = first_line(error)
        return measure(steps, rounds=self.timing.rounds, turn=self.timing.turn, title=title)


def _given(step: Step) -> Step:
    return step


def measure_changes(model: DeployedModel, sources: dict[str, Path], runtimes: Sequence[str]) -> dict[str, Change]:
    """Return the score of each runtime and its change from PyTorch in fp32; nothing for a model without a run."""
    first = model.score(sources[PYTORCH], "fp32")
    if first is None:
        return {}
    base = resample(first)
    others = {name: model.score(sources[name], bits_of(name)) for name in runtimes if name != PYTORCH}
    scores = {PYTORCH: base} | {name: resample(score) for name, score in others.items() if score is not None}
    return {name: change(base, score) for name, score in scores.items()}


COLUMNS: Columns[LatencyRow] = {
    "model": lambda row: row["net"],
    "runtime": lambda row: row["runtime"],
    "ms an image": lambda row: f"{1000 * median(row['seconds']):.1f}",
    "images/s": lambda row: f"{1 / median(row['seconds']):.1f}",
}


def report(rows: Sequence[LatencyRow], absent: dict[str, str]) -> BenchmarkReport:
    """Return the table and chart of all models measured so far, and why runtimes are missing."""
    base = {row["net"]: row["seconds"] for row in rows if row["runtime"] == PYTORCH}

    def gain(row: LatencyRow) -> float | None:
        return ratio(row["seconds"], base[row["net"]]) if row["net"] in base else None

    columns: Columns[LatencyRow] = {
        **COLUMNS,
        "vs PyTorch": lambda row: cell(gain(row), "{:.2f}"),
        "MB": lambda row: cell(row["peak_bytes"], "{:.0f}", 1e6),
        "score": lambda row: row["change"] and f"{100 * row['change']['after']:.2f}",
        "change": lambda row: row["change"] and describe(row["change"]),
    }
    nets, runtimes = (list(dict.fromkeys(row[key] for row in rows)) for key in ("net", "runtime"))
    gains = {(row["net"], row["runtime"]): gain(row) for row in rows}
    bars = {runtime: [gains.get((net, runtime)) for net in nets] for runtime in runtimes}
    charts = [BarChart("Latency on the CPU", nets, bars, "speed / PyTorch's in fp32")] if rows else []
    notes = [*NOTES, *(f"Not measured: {name} ({why})." for name, why in absent.items())]
    table = ResultTable.of("Latency on the CPU", rows, columns)
    return BenchmarkReport({"rows": list(rows), "absent": absent}, notes, [table], charts)


def describe(found: Change) -> str:
    """Describe a change of a score in percent, with its interval: "-0.20 [-0.45, +0.03]"."""
    shown = [100 * value for value in (found["after"] - found["before"], found["low"], found["high"])]
    return "{:+.2f} [{:+.2f}, {:+.2f}]".format(*shown)
