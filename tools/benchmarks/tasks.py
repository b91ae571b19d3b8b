"""Benchmarks of detectors and segmentation nets beside torchvision's: net after net, stock and at equal settings."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from backbones.errors import UserError, require
from tools.benchmarks.options import Timing
from tools.benchmarks.settings import (
    MODES,
    OURS,
    Job,
    Setting,
    Way,
    chart,
    measure_jobs,
    number,
    precisions,
    settings,
    words,
)

if TYPE_CHECKING:
    from torch import nn

    from tools.benchmarks.output import Report, Table

PEER = "torchvision"


@dataclass
class TaskOptions:
    """Options of a task's nets; each benchmark names its own."""

    nets: str
    batch: int = 2
    mode: str = "train,infer"
    precision: Literal["auto", "fp32", "bf16", "both"] = "auto"

    def __post_init__(self) -> None:
        require(self.batch > 0, "batch", self.batch, "must be above 0")
        require(self.modes and set(self.modes) <= set(MODES), "mode", self.mode, "must be train, infer or train,infer")

    @property
    def modes(self) -> list[str]:
        return words(self.mode)


class Net(Protocol):
    """A net to measure: `str(net)` names it in tables."""

    @property
    def size(self) -> int: ...

    @property
    def batch(self) -> int: ...

    @property
    def peers(self) -> list[str]: ...


@dataclass(frozen=True)
class Task:
    """What a benchmark measures.

    Attributes:
        build: (library, net, weights file or None) to a net.
        share_weights: writes a weights file that fits both libraries, and compares them.
        job: (library, net, way, mode, weights) to a job.
        difference: what `share_weights` compares, as results.json names it.
        notes: sentences above the tables.
    """

    build: Callable[[str, Any, Path | None], nn.Module]
    share_weights: Callable[[Any, Path], float | None]
    job: Callable[[str, Any, Way, str, Path], Job]
    difference: str
    notes: Sequence[str]


class TaskBenchmark:
    """Measures net after net.

    Raises:
        UserError: an unknown net.
    """

    def __init__(self, task: Task, nets: Sequence[Any], options: TaskOptions, timing: Timing) -> None:
        self.task, self.nets, self.options, self.timing = task, nets, options, timing
        if not nets:
            raise UserError("--nets: names no net")
        self.settings = settings(options.precision)
        self.precisions = precisions(self.settings)
        self.parameters = [parameters(task.build, net) for net in nets]

    def run(self, machine: dict[str, Any]) -> Iterator[Report]:
        """A report after each net; `machine` is `benchmark_machine.describe`'s."""
        rows: list[dict[str, Any]] = []
        for net, count in zip(self.nets, self.parameters, strict=True):
            with tempfile.TemporaryDirectory() as folder:
                row = self._measure(net, Path(folder) / "weights.pth", machine["matmul_gflops"])
            rows.append({"net": f"{net} {net.size}", "size": net.size, "batch": net.batch, "parameters": count, **row})
            yield self._report(rows)

    def _measure(self, net: Net, weights: Path, rates: dict[str, float]) -> dict[str, Any]:
        from tools.benchmarks.steps import operations

        row: dict[str, Any] = {self.task.difference: self.task.share_weights(net, weights)}
        for mode in self.options.modes:
            jobs = {
                (library, setting.way(library)): self.task.job(library, net, setting.way(library), mode, weights)
                for setting in self.settings
                for library in (OURS, *net.peers)
            }
            work = operations(jobs[OURS, self.settings[0].ours].prepare()) / net.batch
            options: dict[str, Any] = {"title": f"{net} {mode}", "work": work, "rates": rates, "memory": False}
            row[mode] = {"operations": work, **measure_jobs(jobs, self.settings, self.timing, **options)}
        return row

    def _report(self, rows: Sequence[dict[str, Any]]) -> Report:
        from tools.benchmarks.output import Report

        charts = [chart(rows, self.settings, [PEER], mode) for mode in self.options.modes]
        return Report(
            results={"nets": list(rows)},
            notes=self.task.notes,
            tables=[table(rows, setting, mode) for mode in self.options.modes for setting in self.settings],
            charts=[found for found in charts if found],
        )


def table(rows: Sequence[dict[str, Any]], setting: Setting, mode: str) -> Table:
    """One mode at one setting; a net without a peer has figures, but no ratio."""
    from tools.benchmarks.output import Table

    columns = ["net", "batch", "params M", "GFLOPs", "images/s", "floor", f"vs {PEER}", f"floor {PEER}"]
    made = Table(f"{MODES[mode]}, {setting.title()}", columns)
    for row in rows:
        found = row[mode]["settings"][setting.name]
        cells: list[str | None] = [row["net"], str(row["batch"]), f"{row['parameters'] / 1e6:.2f}"]
        cells += [f"{row[mode]['operations'] / 2e9:.1f}", f"{found['images_per_second']:.2f}"]
        cells += [f"{found['floor_share']:.0%}", number(found["ratio"].get(PEER), "{:.2f}")]
        made.rows.append([*cells, number(found["peer_floor_share"].get(PEER), "{:.0%}")])
    return made


def parameters(build: Callable[[str, Any, Path | None], nn.Module], net: Net) -> int:
    """Parameters of a net of ours; nothing is computed.

    Raises:
        UserError: an unknown net.
    """
    import torch

    from tools.engine import cost

    with torch.device("meta"):
        return cost.parameters(build(OURS, net, None))
