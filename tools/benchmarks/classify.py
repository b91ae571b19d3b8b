"""Benchmark of classification models: speed and memory of our models, torchvision's and timm's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import timm
import torch
import torchvision
from torch import nn

import backbones
import classification
from backbones.errors import UserError
from tools.benchmarks.machine import device
from tools.benchmarks.models import BenchmarkModel, Calls, ModelJob
from tools.benchmarks.options import ClassifyOptions, Mode, TimingAndMemory, split_list
from tools.benchmarks.output import BenchmarkReport, Columns, cell
from tools.benchmarks.rounds import Step
from tools.benchmarks.settings import OURS, TIMM, TORCHVISION, Setting
from tools.benchmarks.speed import RATIO_NOTE, SpeedBenchmark, SpeedRow
from tools.engine.cost import macs

CLASSES = 1000
USUAL_SIZE, CIFAR_SIZE = 224, 32
# The auxiliary classifiers of these models are left out: no library computes them.
WITHOUT_AUXILIARY = ("googlenet", "inception_v3")
# A backward pass costs as much as two forward passes: it computes gradients of the inputs and of the weights.
PASSES = {"train": 3, "infer": 1}
NOTES = (
    f"Images/s are ours. {RATIO_NOTE} GFLOPs are 1e9 multiply-adds of one image. `of matmul rate` is the fraction of "
    "the machine's measured rate of matrix products that our model reaches, at two operations a multiply-add and "
    "three passes in training. MB is the peak of weights, gradients, optimizer state and activations of two steps in "
    "a fresh process. All libraries get the same batch, the same threads, a fused SGD step (ours is that of the "
    "training commands, the others' is torch's own), and the same weights if the layouts agree.",
)
OTHER_LAYOUT = "\\* Our layout of the weights differs from the other library's, so the weights differ as well."


@dataclass(frozen=True)
class MeasuredClassifier(BenchmarkModel):
    """A classification model with 1000 classes, to be measured in our library and in others.

    Attributes:
        name: a name of `backbones.names`; a library's own model has that library's prefix.
        size: side of the images in pixels.
        batch: images per step.
        macs: multiply-adds of one image.
    """

    difference: ClassVar[str] = "logit_difference"
    name: str
    size: int
    batch: int
    macs: int = 0

    def __str__(self) -> str:
        return self.name

    @classmethod
    def measured(cls, name: str, *, batch: int, size: int | None) -> MeasuredClassifier:
        """Describe a model by its image size and its cost. The cost is counted on the meta device, without computing.

        Args:
            size: side of the images in pixels; None: the size that the model was made for.

        Raises:
            UserError: the model is unknown, or cannot process this batch or size.
        """
        with torch.device("meta"):
            model = classification.build(name, CLASSES)
            size = size or usual_size(name, model)
            try:
                model.train()(torch.zeros(batch, 3, size, size))
                cost = macs(model, size)
            except (RuntimeError, ValueError) as error:
                reason = " ".join(str(error).split())
                raise UserError(
                    f"--size {size} --batch {batch}: {name} cannot process such a batch ({reason}); raise --size or "
                    "--batch"
                ) from None
        return cls(name, size, batch, cost)

    @property
    def peers(self) -> list[str]:
        """Return the names of the other libraries that can build the model: for a name "timm/..." only timm."""
        if "/" in self.name:
            return [self.name.split("/", 1)[0]]
        known = {
            TORCHVISION: self.name in torchvision.models.list_models(module=torchvision.models),
            TIMM: timm.is_model(self.name),
        }
        return [library for library, has in known.items() if has]

    def build(self, library: str, weights: Path | None = None) -> nn.Module:
        """Build this model with one library. A weights file must name its entries as torchvision does.

        Raises:
            UserError: the model is unknown, or the file does not fit all of it.
        """
        if library == OURS:
            classifier = classification.build(self.name, CLASSES, weights=weights)
            missing = classifier.load_report.missing if classifier.load_report else ()
            if missing:
                raise UserError(f"{self.name}: {weights} lacks the entry {missing[0]}; use weights of the same model")
            return classifier
        model = _build_peer(library, self.name.rpartition("/")[2])
        if weights:
            try:
                model.load_state_dict(torch.load(weights, weights_only=True))
            except RuntimeError as error:
                raise UserError(
                    f"{library}'s {self.name}: {weights} does not fit ({error}); use weights of the same model"
                ) from None
        return model

    def calls(self, model: nn.Module, job: ModelJob) -> Calls:
        """Make random images `[N, 3, size, size]` and labels `[N]`; return functions that run the model on them."""
        images = torch.randn(self.batch, 3, self.size, self.size, device=device())
        images = images.to(memory_format=job.memory_format)
        labels = torch.randint(CLASSES, (self.batch,), device=device())
        return Calls(lambda: model(images), lambda: nn.functional.cross_entropy(model(images), labels))

    def share_weights(self, path: Path) -> float | None:
        """Save random weights of the first other library, and compare the logits of all libraries in fp32.

        Returns:
            The largest difference between a logit of ours and of another library, as a fraction of the largest logit.
            None, and no file, if no other library has the model, or if the layouts of the weights differ.
        """
        if not self.peers:
            return None
        torch.manual_seed(0)
        torch.save(self.build(self.peers[0]).state_dict(), path)
        try:
            models = [self.build(library, path) for library in (OURS, *self.peers)]
        except UserError:
            path.unlink()
            return None
        image = torch.randn(1, 3, self.size, self.size)
        with torch.inference_mode():
            ours, *theirs = (model.eval()(image) for model in models)
        return max(((ours - other).abs().max() / other.abs().max()).item() for other in theirs)


class ClassifyBenchmark(SpeedBenchmark[MeasuredClassifier]):
    """Benchmark of classification models: speed, and on request peak memory.

    Raises:
        UserError: a model is unknown, or cannot process the size or batch.
    """

    notes = NOTES
    libraries = (TORCHVISION, TIMM)

    def __init__(self, options: ClassifyOptions, timing: TimingAndMemory) -> None:
        names = expand(options.nets)
        specs = [MeasuredClassifier.measured(name, batch=options.batch, size=options.size) for name in names]
        super().__init__(specs, options, timing, memory=timing.memory)

    def operations(self, spec: MeasuredClassifier, mode: Mode, step: Step) -> float:
        """Return the operations for one image. A multiply-add counts as two; training includes the backward pass."""
        return 2 * spec.macs * PASSES[mode]

    def report(self, rows: Sequence[SpeedRow[MeasuredClassifier]]) -> BenchmarkReport:
        """Return the tables and charts of all models measured so far."""
        report = super().report(rows)
        return replace(report, notes=[*report.notes, OTHER_LAYOUT]) if any(map(has_other_layout, rows)) else report

    def results(self, row: SpeedRow[MeasuredClassifier]) -> dict[str, object]:
        """Return the measurements of one model as an entry of results.json."""
        return {
            "net": row.spec.name,
            "size": row.spec.size,
            "batch": row.spec.batch,
            "parameters": row.parameters,
            "macs": row.spec.macs,
            "peers": row.spec.peers,
            "same_weights": row.difference is not None,
            "logit_difference": row.difference,
            **{str(mode): figures for mode, figures in row.modes.items()},
        }

    def columns(self, mode: Mode, setting: Setting) -> Columns[SpeedRow[MeasuredClassifier]]:
        """Return the columns of the table for training or inference at one setting (precision and memory format)."""

        def ratio_to(library: str) -> Callable[[SpeedRow[MeasuredClassifier]], str | None]:
            return lambda row: cell(row.at(mode, setting)["ratio"].get(library), "{:.2f}")

        def peak_of(library: str) -> Callable[[SpeedRow[MeasuredClassifier]], str | None]:
            return lambda row: cell(row.at(mode, setting)["peak_bytes"].get(library), "{:.0f}", 1e6)

        return {
            "model": lambda row: row.spec.name + (" \\*" if has_other_layout(row) else ""),
            "pixels": lambda row: str(row.spec.size),
            "batch": lambda row: str(row.spec.batch),
            "params M": lambda row: f"{row.parameters / 1e6:.2f}",
            "GFLOPs": lambda row: f"{row.spec.macs / 1e9:.3f}",
            "images/s": lambda row: f"{row.at(mode, setting)['images_per_second']:.1f}",
            "of matmul rate": lambda row: f"{row.at(mode, setting)['floor_share']:.0%}",
            **{f"vs {library}": ratio_to(library) for library in self.libraries},
            **{f"MB {library}": peak_of(library) for library in (OURS, *self.libraries)},
            **self.compiled_column(mode, setting),
        }


def expand(patterns: str) -> list[str]:
    """Return the model names that match a list of names and wildcards, without duplicates, in the order of the list.

    Raises:
        UserError: a wildcard matches no name. Plain names are checked when the model is built.
    """
    found: dict[str, None] = {}
    for pattern in split_list(patterns):
        matching = backbones.names(pattern) if set(pattern) & set("*?[") else [pattern]
        if not matching:
            raise UserError(f"--nets {pattern}: matches no model; list the names with tools/list_backbones.py")
        found |= dict.fromkeys(matching)
    return list(found)


def has_other_layout(row: SpeedRow[MeasuredClassifier]) -> bool:
    """Return whether other libraries have the model, but cannot load our weights because their entries differ."""
    return bool(row.spec.peers) and row.difference is None


def usual_size(name: str, model: classification.Classifier) -> int:
    """Return the side in pixels of the images that a model was made for.

    The libraries state it for their models. For our models it follows from the stride.
    """
    library, _, arch = name.rpartition("/")
    if library == TIMM:
        config = timm.models.get_pretrained_cfg(arch)
        return config.input_size[-1] if config else USUAL_SIZE
    if library == TORCHVISION:
        return torchvision.models.get_model_weights(arch).DEFAULT.transforms().crop_size[0]
    return CIFAR_SIZE if model.backbone.feature_info[-1].stride <= 8 else USUAL_SIZE


def _build_peer(library: str, arch: str) -> nn.Module:
    if library == TIMM:
        return timm.create_model(arch, num_classes=CLASSES)
    options = {"aux_logits": False, "init_weights": False} if arch in WITHOUT_AUXILIARY else {}
    return torchvision.models.get_model(arch, weights=None, **options)
