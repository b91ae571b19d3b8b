"""Benchmark of inference on the CPU: PyTorch beside exported files, each through `load(...)`, one image at a time."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import classification
import detection
import segmentation
from backbones.common import precision
from backbones.common.run_files import MODEL_FILE
from backbones.errors import UserError, first_line
from backbones.trained import TrainedModel
from classification.options import ClassifierOptions
from detection.options import DetectorOptions
from segmentation.options import SegmenterOptions
from tools.benchmarks.machine import Machine
from tools.benchmarks.options import LatencyOptions, Timing, split_list
from tools.benchmarks.output import BarChart, BenchmarkReport, ResultTable
from tools.benchmarks.rounds import Implementation, Step, measure, ratio
from tools.exports import files, int8
from tools.exports.models import load_exportable
from tools.exports.openvino_files import write_openvino

CLASSES = 20
Loader = Callable[[Path, str], TrainedModel[Any, Any]]
NOTES = (
    "One image at a time on the CPU, through the same `load(...)`: resizing, normalising and reading the answer are "
    "included, decoding the file is not. `vs PyTorch` is the time of PyTorch in fp32 divided by the runtime's time, "
    "computed within each round; the tables show medians over the rounds. Weights are random, so a detector scores all "
    "its proposals but returns few boxes. What 8 bits cost in accuracy depends on the training: `export.py --int8` "
    "measures it on the run's validation data.",
)


@dataclass(frozen=True)
class MeasuredModel:
    """A model to measure.

    Attributes:
        name: as given, such as "resnet18-fpn:320".
        backbone: registered name.
        kind: "cls", "fcn", or the neck of a detector.
        size: side of a classifier's crop, short side of a detector's resized image, or side of a label map's image.
    """

    name: str
    backbone: str
    kind: str
    size: int

    @classmethod
    def parse(cls, name: str) -> MeasuredModel:
        """Parse "BACKBONE:PIXELS", "BACKBONE-NECK:PIXELS" or "BACKBONE-fcn:PIXELS".

        Raises:
            UserError: the text has another form.
        """
        model, _, size = name.partition(":")
        backbone, _, kind = model.partition("-")
        if not size.isdigit() or not int(size):
            raise UserError(f"--nets {name}: expected BACKBONE:PIXELS, BACKBONE-fpn:PIXELS or BACKBONE-fcn:PIXELS")
        return cls(name, backbone, kind or "cls", int(size))

    def load(self, path: Path, bits: str) -> TrainedModel[Any, Any]:
        """Load the model from its weights, to compute in fp32 or bf16, or from an exported file; on the CPU."""
        if self.kind == "cls":
            return classification.load(path, device="cpu", precision=bits)
        if self.kind == "fcn":
            return segmentation.load(path, device="cpu", precision=bits)
        return detection.load(path, device="cpu", precision=bits)

    def image(self) -> np.ndarray:
        """Return a random image `[H, W, 3]`: square, or 4:3 for a detector."""
        width = self.size if self.kind in ("cls", "fcn") else self.size * 4 // 3
        return np.random.default_rng(0).integers(0, 256, (self.size, width, 3), dtype=np.uint8)

    def save(self, path: Path) -> None:
        """Save the model with random weights, as if a run had trained it."""
        torch.manual_seed(0)
        seen: dict[str, object] = {"in_channels": 3, "mean": [0.5] * 3, "std": [0.25] * 3}
        names = [f"class {number}" for number in range(CLASSES)]
        model: nn.Module
        meta: dict[str, object]
        if self.kind == "cls":
            model = classification.build(self.backbone, CLASSES)
            seen |= {"crop_size": self.size, "resize_size": self.size}
            meta = {"task": "classification", "classes": names, "model": asdict(ClassifierOptions(self.backbone))}
        elif self.kind == "fcn":
            options = SegmenterOptions(self.backbone, weights="none")
            model = segmentation.build(self.backbone, CLASSES, head=options.head, aux=options.aux)
            colours = [[number, 0, 0] for number in range(CLASSES)]
            seen |= {"min_size": 0}
            meta = {"task": "segmentation", "classes": names, "colours": colours, "model": asdict(options)}
        else:
            chosen = DetectorOptions(self.backbone, "none", neck=self.kind, min_size=self.size, max_size=2 * self.size)
            model = detection.build(self.backbone, CLASSES, **chosen.keywords())
            seen = dict(model.transform.describe())
            ids = list(range(1, CLASSES + 1))
            meta = {"task": "detection", "category_ids": ids, "category_names": names, "model": asdict(chosen)}
        header = {"meta": json.dumps({**meta, "input": seen, "norm_eps": None}), "config": "{}"}
        save_file(model.state_dict(), path, metadata=header)


class LatencyBenchmark:
    """Benchmark of PyTorch, onnxruntime and OpenVINO on the CPU.

    Raises:
        UserError: a runtime or the form of a name is unknown, or a runtime is not installed.
    """

    precisions = ("fp32",)

    def __init__(self, options: LatencyOptions, timing: Timing) -> None:
        self.models = [MeasuredModel.parse(name) for name in split_list(options.nets)]
        self.runtimes, self.timing = split_list(options.runtimes), timing
        files.require_onnx()
        if find_spec("openvino") is None and any(name.startswith("openvino") for name in self.runtimes):
            raise UserError("--runtimes openvino: is not installed; pip install openvino, or leave it out")

    def run(self, machine: Machine) -> Iterator[BenchmarkReport]:
        """Measure the models one after another; yield a report of all models so far after each."""
        found: dict[str, dict[str, list[float]]] = {}
        absent: dict[str, str] = {}
        for model in self.models:
            with tempfile.TemporaryDirectory() as folder:
                sources = write_files(model, Path(folder), self.runtimes)
                found[model.name] = self._measure(model, sources, absent)
            yield report(found, absent)

    def _measure(
        self, model: MeasuredModel, sources: dict[str, Path], absent: dict[str, str]
    ) -> dict[str, list[float]]:
        """Return the seconds per image of each runtime; note in `absent` why a runtime cannot run."""
        steps: list[Implementation] = []
        for runtime in self.runtimes:
            try:
                step = prepare(runtime, sources, model.load, model.image())
                step()
                steps.append(Implementation(runtime, partial(_given, step)))
            except Exception as error:  # of compilers and of other libraries
                absent[f"{model.name}, {runtime}"] = first_line(error)
        return measure(steps, rounds=self.timing.rounds, turn=self.timing.turn, title=model.name)


def _given(step: Step) -> Step:
    return step


def write_files(model: MeasuredModel, folder: Path, runtimes: Sequence[str]) -> dict[str, Path]:
    """Write the weights of a model, and the files that the runtimes need.

    Returns:
        A file for each runtime.
    """
    weights, plain, small = folder / MODEL_FILE, folder / "model.onnx", folder / "int8.onnx"
    model.save(weights)
    found = dict.fromkeys(("pytorch", "pytorch-bf16", "compiled"), weights)
    if all(name in found for name in runtimes):
        return found
    exportable = load_exportable(str(weights))
    picture = folder / "image.png"
    Image.fromarray(model.image()).save(picture)
    item = exportable.read(picture)
    files.write_onnx(plain, files.trace(exportable, item), exportable)
    found["onnxruntime"] = plain
    if any(name.endswith("int8") for name in runtimes):
        int8.quantise(plain, small, exportable, [item], "static")
        found["onnxruntime-int8"] = small
    for name, source in (("openvino", plain), ("openvino-int8", small)):
        if name in runtimes:
            found[name] = folder / f"{name}.xml"
            write_openvino(source, found[name])
    return found


def prepare(runtime: str, sources: dict[str, Path], load: Loader, pixels: np.ndarray) -> Step:
    """Return a function that predicts an image with one runtime.

    Raises:
        UserError: this machine lacks what the runtime needs.
    """
    if runtime == "pytorch-bf16" and not precision.has_bf16("cpu"):
        raise UserError("this CPU computes bf16 no faster than fp32")
    if runtime == "compiled" and not any(map(shutil.which, ("g++", "c++", "clang++"))):
        raise UserError("torch.compile needs a C++ compiler, and there is none")
    model = load(sources[runtime], "bf16" if runtime == "pytorch-bf16" else "fp32")
    if runtime == "compiled":
        with contextlib.redirect_stderr(io.StringIO()):
            compiled = model.model.backbone
            assert isinstance(compiled, nn.Module)
            compiled.compile()
    content = model.read(pixels)
    return lambda: model.predict([content])


def report(found: dict[str, dict[str, list[float]]], absent: dict[str, str]) -> BenchmarkReport:
    """Return the tables of all models measured so far, and why runtimes are missing."""
    columns = ("model", "runtime", "ms an image", "images/s", "vs PyTorch")
    table = ResultTable("Latency on the CPU", columns)
    for name, seconds in found.items():
        for runtime, times in seconds.items():
            base = seconds.get("pytorch")
            gain = f"{ratio(times, base):.2f}" if base else None
            table.rows.append([name, runtime, f"{1000 * median(times):.1f}", f"{1 / median(times):.1f}", gain])
    notes = [*NOTES, *(f"Not measured: {name} ({why})." for name, why in absent.items())]
    runtimes = dict.fromkeys(runtime for seconds in found.values() for runtime in seconds)
    bars = {
        runtime: [
            ratio(seconds[runtime], seconds["pytorch"]) if {runtime, "pytorch"} <= set(seconds) else None
            for seconds in found.values()
        ]
        for runtime in runtimes
    }
    charts = [BarChart("Latency on the CPU", list(found), bars, "speed / PyTorch's in fp32")] if found else []
    return BenchmarkReport({"seconds": found, "absent": absent}, notes, [table], charts)
