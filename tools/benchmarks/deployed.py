"""Models whose latency is measured, of random weights or of a run, and the files that run them on the CPU."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

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
from backbones.errors import UserError
from backbones.trained import TrainedModel, find
from classification.options import ClassifierOptions
from detection.options import DetectorOptions
from segmentation.options import SegmenterOptions
from tools.benchmarks.rounds import Step
from tools.exports import files, int8
from tools.exports.evaluation import absent_data, evaluated
from tools.exports.images import image_files, image_folder
from tools.exports.models import load_exportable
from tools.exports.openvino_files import write_openvino
from tools.exports.options import ExportOptions
from tools.prediction.opening import open_model
from tools.runs.scores import ImageScore, read_score

CLASSES = 20
CALIBRATION = 64  # images of a run that give the ranges of the 8-bit file
PYTORCH, BF16, COMPILED = "pytorch", "pytorch-bf16", "compiled"


class DeployedModel(Protocol):
    """A model to measure.

    Attributes:
        name: title of its rows.
    """

    @property
    def name(self) -> str: ...

    def save(self, folder: Path) -> tuple[Path, list[Path]]:
        """Return its weights file, and images: the first is predicted, all calibrate the 8-bit file.

        Args:
            folder: for files that do not exist yet.
        """

    def score(self, file: Path, bits: str) -> ImageScore | None:
        """Evaluate the weights or an exported file on the validation images of the run; None if there is no run.

        Args:
            bits: precision in which PyTorch computes.
        """


def parse(name: str) -> DeployedModel:
    """Return the model that `--nets` names: a run's folder, a weights file, or "BACKBONE-KIND:PIXELS".

    Raises:
        UserError: the text has another form, or the file is not a trained model.
    """
    return TrainedRun.parse(name) if Path(name).exists() else RandomModel.parse(name)


@dataclass(frozen=True)
class RandomModel:
    """A model with random weights.

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
    def parse(cls, name: str) -> RandomModel:
        """Parse "BACKBONE:PIXELS", "BACKBONE-NECK:PIXELS" or "BACKBONE-fcn:PIXELS".

        Raises:
            UserError: the text has another form.
        """
        model, _, size = name.partition(":")
        backbone, _, kind = model.partition("-")
        if not size.isdigit() or not int(size):
            raise UserError(
                f"--nets {name}: expected BACKBONE:PIXELS, BACKBONE-fpn:PIXELS, BACKBONE-fcn:PIXELS, or the folder of "
                "a run"
            )
        return cls(name, backbone, kind or "cls", int(size))

    def save(self, folder: Path) -> tuple[Path, list[Path]]:
        """Write a weights file, as if a run had trained it, and a random image: square, or 4:3 for a detector."""
        weights, image = folder / MODEL_FILE, folder / "image.png"
        self._write(weights)
        width = self.size if self.kind in ("cls", "fcn") else self.size * 4 // 3
        pixels = np.random.default_rng(0).integers(0, 256, (self.size, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(image)
        return weights, [image]

    def score(self, file: Path, bits: str) -> ImageScore | None:
        """Return None: the answers of random weights are not worth a score."""
        return None

    def _write(self, path: Path) -> None:
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


@dataclass(frozen=True)
class TrainedRun:
    """A trained model, whose accuracy is measured as well.

    Attributes:
        name: run folder or weights file, as given.
    """

    name: str

    @classmethod
    def parse(cls, name: str) -> TrainedRun:
        """Check that a run's folder or weights file holds a trained model, and that its data is here.

        Raises:
            UserError: one of them is missing.
        """
        if absent := absent_data(find(name).config):
            raise UserError(f"--nets {name}: the data of the run, {absent}, is not here; put it there, or leave it out")
        return cls(name)

    def save(self, folder: Path) -> tuple[Path, list[Path]]:
        """Return the weights file of the run, and validation images."""
        return find(self.name).path, image_files(image_folder(ExportOptions(self.name)), CALIBRATION)

    def score(self, file: Path, bits: str) -> ImageScore:
        """Evaluate the weights or an exported file with the main metric of the task."""
        with TemporaryDirectory() as folder:
            return read_score(evaluated(find(self.name), file, Path(folder) / "scored", bits=bits))


def write_files(weights: Path, images: Sequence[Path], folder: Path, runtimes: Sequence[str]) -> dict[str, Path]:
    """Write the files that the runtimes need into a folder.

    Args:
        images: the first one is an example, all calibrate the 8-bit file.

    Returns:
        A file for each runtime.
    """
    plain, small = folder / "model.onnx", folder / "int8.onnx"
    found = dict.fromkeys((PYTORCH, BF16, COMPILED), weights)
    if all(name in found for name in runtimes):
        return found
    exportable = load_exportable(str(weights))
    items = [exportable.read(image) for image in images]
    traced = files.trace(exportable, max(items, key=lambda item: min(item[0].shape[-2:])))
    files.write_onnx(plain, traced, exportable)
    found["onnxruntime"] = plain
    if any(name.endswith("int8") for name in runtimes):
        int8.quantise(plain, small, exportable, items, "static")
        found["onnxruntime-int8"] = small
    for name, source in (("openvino", plain), ("openvino-int8", small)):
        if name in runtimes:
            found[name] = folder / f"{name}.xml"
            write_openvino(source, found[name])
    return found


def bits_of(runtime: str) -> str:
    """Return the precision in which PyTorch computes for a runtime."""
    return "bf16" if runtime == BF16 else "fp32"


def prepare(runtime: str, file: Path, image: Path) -> Step:
    """Return a function that predicts an image, which is already decoded, with one runtime.

    Args:
        file: weights or exported file.

    Raises:
        UserError: this machine lacks what the runtime needs.
    """
    if runtime == BF16 and not precision.has_bf16("cpu"):
        raise UserError("this CPU computes bf16 no faster than fp32")
    if runtime == COMPILED and not any(map(shutil.which, ("g++", "c++", "clang++"))):
        raise UserError("torch.compile needs a C++ compiler, and there is none")
    model: TrainedModel[Any, Any] = open_model(file, device="cpu", precision=bits_of(runtime))
    if runtime == COMPILED:
        compiled = model.model.backbone
        assert isinstance(compiled, nn.Module)
        compiled.compile()
    content = model.read(image)
    return lambda: model.predict([content])
