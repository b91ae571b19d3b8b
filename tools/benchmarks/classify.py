"""Speed and memory of classification nets, ours beside torchvision's and timm's."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import backbones
from backbones.errors import UserError, require
from tools.benchmarks.options import Measuring
from tools.benchmarks.settings import (
    MODES,
    OURS,
    Setting,
    Way,
    chart,
    measure_jobs,
    number,
    precisions,
    settings,
    words,
)
from tools.cli.plugins import PluginOptions

if TYPE_CHECKING:
    from tools.benchmarks.nets import Job
    from tools.benchmarks.output import Report, Table

NETS = (
    "plain18,resnet18,plain34,resnet34,resnet50,resnet101,resnet152,plain20,resnet20,plain56,resnet56,resnet110,"
    "torchvision/alexnet,torchvision/vgg16,torchvision/googlenet,torchvision/inception_v3,timm/inception_resnet_v2"
)
LIBRARIES = ("torchvision", "timm")
# A backward pass costs two forward passes: gradients of the inputs, and of the weights.
PASSES = {"train": 3, "infer": 1}
NOTES = (
    "Images/s are ours. `vs` is our speed divided by the peer's, taken within each round, median over the rounds: "
    "above 1 ours is faster. GFLOPs are 1e9 multiply-adds of one image; `floor` is the share of the machine's rate of "
    "matrix products that they reach (two operations a multiply-add, three passes in training). MB: peak, of weights, "
    "gradients, moments and activations of two steps in a fresh process. Every contestant gets the same batch and "
    "threads, a fused SGD step (ours that of the training scripts, the peers' torch's own), and the same weights where "
    "layouts agree.",
)
OTHER_LAYOUT = "\\* The layouts of ours and of the peer differ, as do their weights: compare with care."


@dataclass
class ClassifyOptions:
    """What to measure.

    Args:
        nets: names with commas between them, wildcards allowed; torchvision/... and timm/... are compared with that
            library's own net.
        batch: images per step.
        size: side of the images in pixels; absent: what each net was made for.
        mode: train, infer, or both with a comma.
        precision: of the comparison at equal settings; auto is bf16 where the hardware has it, else fp32.
    """

    nets: str = NETS
    batch: int = 16
    size: int | None = None
    mode: str = "train,infer"
    precision: Literal["auto", "fp32", "bf16", "both"] = "auto"

    def __post_init__(self) -> None:
        require(self.batch > 0, "batch", self.batch, "must be above 0")
        require(self.size is None or self.size > 0, "size", self.size, "must be above 0")
        require(self.modes and set(self.modes) <= set(MODES), "mode", self.mode, "must be train, infer or train,infer")

    @property
    def modes(self) -> list[str]:
        return words(self.mode)


@dataclass
class Options:
    """The benchmark's option groups."""

    classify: ClassifyOptions
    measuring: Measuring
    plugins: PluginOptions


class Benchmark:
    """Measures net after net.

    Raises:
        UserError: an unknown net, or a size or batch that one of them cannot take.
    """

    def __init__(self, options: Options) -> None:
        from tools.benchmarks.nets import facts, peers

        self.options, self.measuring = options.classify, options.measuring
        self.settings = settings(self.options.precision)
        self.precisions = precisions(self.settings)
        nets = expand(self.options.nets)
        self.facts = {net: facts(net, batch=self.options.batch, size=self.options.size) for net in nets}
        self.peers = {net: peers(net) for net in nets}

    def run(self, machine: dict[str, Any]) -> Iterator[Report]:
        """A report after each net; `machine` is `benchmark_machine.describe`'s."""
        rows: list[dict[str, Any]] = []
        for net in self.facts:
            with tempfile.TemporaryDirectory() as folder:
                rows.append(self._measure_net(net, Path(folder) / "weights.pth", machine["matmul_gflops"]))
            yield report(rows, self.settings, self.options.modes)

    def _measure_net(self, net: str, weights: Path, rates: dict[str, float]) -> dict[str, Any]:
        from tools.benchmarks.nets import share_weights

        known, libraries = self.facts[net], self.peers[net]
        difference = share_weights(net, libraries, weights, size=known.size) if libraries else None
        row = {
            "net": net,
            "size": known.size,
            "batch": self.options.batch,
            "parameters": known.parameters,
            "macs": known.macs,
            "peers": libraries,
            "same_weights": difference is not None,
            "logit_difference": difference,
        }
        for mode in self.options.modes:
            jobs = self._jobs(net, mode, weights if difference is not None else None)
            work = 2 * known.macs * PASSES[mode]
            options: dict[str, Any] = {"title": f"{net} {mode}", "work": work, "rates": rates}
            options["memory"] = self.measuring.memory
            row[mode] = measure_jobs(jobs, self.settings, self.measuring, **options)
        return row

    def _jobs(self, net: str, mode: str, weights: Path | None) -> dict[tuple[str, Way], Job]:
        """What there is to measure; a way that two settings share is measured once."""
        from tools.benchmarks.nets import Job

        return {
            (library, setting.way(library)): Job(
                library=library,
                net=net,
                way=setting.way(library),
                mode=mode,
                batch=self.options.batch,
                size=self.facts[net].size,
                weights=weights,
            )
            for setting in self.settings
            for library in (OURS, *self.peers[net])
        }


def expand(patterns: str) -> list[str]:
    """The nets of a list with wildcards, each once, in the list's order.

    Raises:
        UserError: a wildcard that nothing matches; a plain name is checked where it is built.
    """
    found: dict[str, None] = {}
    for pattern in words(patterns):
        matching = backbones.names(pattern) if set(pattern) & set("*?[") else [pattern]
        if not matching:
            raise UserError(f"--nets {pattern}: matches no net; see backbones.names()")
        found |= dict.fromkeys(matching)
    if not found:
        raise UserError("--nets: names no net")
    return list(found)


def report(rows: list[dict[str, Any]], settings: list[Setting], modes: list[str]) -> Report:
    """Tables and charts of the nets measured so far."""
    from tools.benchmarks.output import Report

    return Report(
        results={"nets": rows},
        notes=[*NOTES, OTHER_LAYOUT] if any(_differs(row) for row in rows) else NOTES,
        tables=[table(rows, setting, mode) for mode in modes for setting in settings],
        charts=[found for mode in modes if (found := chart(rows, settings, LIBRARIES, mode))],
    )


def table(rows: list[dict[str, Any]], setting: Setting, mode: str) -> Table:
    """One mode at one setting; a net without a peer has figures, but no ratio."""
    from tools.benchmarks.output import Table

    everyone = (OURS, *LIBRARIES)
    columns = ["net", "pixels", "batch", "params M", "GFLOPs", "images/s", "floor"]
    columns += [f"vs {name}" for name in LIBRARIES] + [f"MB {name}" for name in everyone]
    made = Table(f"{MODES[mode]}, {setting.title()}", columns)
    for row in rows:
        found = row[mode]["settings"][setting.name]
        cells: list[str | None] = [row["net"] + (" \\*" if _differs(row) else ""), str(row["size"]), str(row["batch"])]
        cells += [f"{row['parameters'] / 1e6:.2f}", f"{row['macs'] / 1e9:.3f}"]
        cells += [f"{found['images_per_second']:.1f}", f"{found['floor_share']:.0%}"]
        cells += [number(found["ratio"].get(name), "{:.2f}") for name in LIBRARIES]
        cells += [number(found["peak_bytes"].get(name), "{:.0f}", 1e6) for name in everyone]
        made.rows.append(cells)
    return made


def _differs(row: dict[str, Any]) -> bool:
    """Whether a net has peers, but none that its weights fit."""
    return bool(row["peers"]) and not row["same_weights"]
