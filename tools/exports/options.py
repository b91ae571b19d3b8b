"""Options of export.py. This module imports nothing heavy, so that `--help` is quick."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from backbones.common.options import option
from backbones.errors import UserError, require

LEAST_CHECKED = 5  # images
SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "torch-export": ".pt2", "torchvision": ".pth"}


@dataclass
class ExportOptions:
    """Run to export, and file to write.

    Args:
        run: folder of a finished run, or its model.safetensors.
        format: onnx; openvino (a graph, .xml, and its weights, .bin); torch-export, for PyTorch without this project's
            code; or torchvision, the state dict of torchvision's or timm's own model (classifiers only).
        output: file to write; default: model with the format's suffix, in the run's folder.
        overwrite: replace the output file if it exists.
        images: folder of real images that check the file and calibrate 8 bits; default: the run's own data.
        checked: number of images that check the file.
        nms: leave out low scores and overlapping boxes in the file; false returns the scores and boxes of all
            proposals (detectors only).
        raw: let the file resize, normalise and pad images itself: from bytes [N, H, W, 3] of any size to boxes in their
            pixels, or to the scores and class numbers of their pixels (detectors and segmentation models, in ONNX and
            OpenVINO files).
        precision: fp16 stores and computes the layers in 16 bits; all else, such as boxes, stays in 32.
        int8: quantise the layers to 8 bits, static (calibrated) or dynamic; prints size, latency and agreement.
        most_loss: largest loss of AP (of boxes, and of masks if there are any), mIoU, top-1 accuracy or mAP (of several
            classes an image) on the run's validation data, 0..1, from fp16 or int8; a file that loses more is refused.
        calibration: images for calibration, at most half of the images found.
        measured: further images that measure the 8-bit file.
        fastest_on: cpu (shorter: --for cpu) writes ONNX and OpenVINO files in fp32 and 8 bits, measures them here, and
            keeps the fastest that is as good as the run.
    """

    run: str
    format: Literal["onnx", "openvino", "torch-export", "torchvision"] = "onnx"
    output: str | None = None
    overwrite: bool = False
    images: str | None = None
    checked: int = LEAST_CHECKED
    nms: bool = True
    raw: bool = False
    precision: Literal["fp32", "fp16"] = "fp32"
    int8: Literal["no", "static", "dynamic"] = "no"
    calibration: int = 64
    measured: int = 200
    most_loss: float = 0.02
    fastest_on: Literal["no", "cpu"] = option("no", formerly="for")

    def __post_init__(self) -> None:
        require(self.checked >= LEAST_CHECKED, "checked", self.checked, f"must be {LEAST_CHECKED} or more")
        require(self.calibration > 0, "calibration", self.calibration, "must be above 0")
        require(self.measured >= LEAST_CHECKED, "measured", self.measured, f"must be {LEAST_CHECKED} or more")
        graph = self.format in ("onnx", "openvino")
        require(not self.raw or graph, "raw", self.raw, "needs --format onnx or openvino")
        require(self.int8 == "no" or graph, "int8", self.int8, "needs --format onnx or openvino")
        require(self.precision == "fp32" or graph, "precision", self.precision, "needs --format onnx or openvino")
        both = self.precision == "fp16" and self.int8 != "no"
        require(not both, "precision", self.precision, "cannot be combined with --int8; leave one of them out")
        reduced = self.precision == "fp16" or self.int8 != "no"
        require(self.nms or not reduced, "nms", self.nms, "needs fp32, because a file without detections has no AP")
        plain = self.format == "onnx" and not reduced and self.nms and not self.raw
        chosen = self.fastest_on == "no" or plain
        require(chosen, "fastest_on", self.fastest_on, "chooses format and bits itself; leave the other options out")
        require(self.nms or not self.raw, "raw", self.raw, "needs --nms true, because it scales the detections back")
        require(0 <= self.most_loss <= 1, "most_loss", self.most_loss, "must be between 0 and 1")

    @property
    def images_needed(self) -> int:
        """Number of images to read: for checking, for calibration and for measuring."""
        if self.fastest_on != "no":
            return self.checked + self.calibration
        calibration = self.calibration if self.int8 == "static" else 0
        return max(self.checked, self.measured + calibration if self.int8 != "no" else 0)

    def target(self) -> Path:
        """Return the path of the file to write.

        Raises:
            UserError: the file exists and must not be replaced, or its folder does not exist.
        """
        source = Path(self.run)
        folder = source if source.is_dir() else source.parent
        kind = (
            ".cpu"
            if self.fastest_on == "cpu"
            else ".int8"
            if self.int8 != "no"
            else ".fp16"
            if self.precision == "fp16"
            else ""
        )
        name = f"model{kind}{SUFFIXES[self.format]}"
        target = Path(self.output) if self.output else folder / name
        if target.suffix != SUFFIXES[self.format]:
            raise UserError(f"--output {target}: must end with {SUFFIXES[self.format]} for --format {self.format}")
        for path in (target, target.with_suffix(".xml")) if self.fastest_on == "cpu" else (target,):
            self.require_new(path)
        if not target.absolute().parent.is_dir():
            raise UserError(f"--output {target}: its folder does not exist; create the folder first")
        return target

    def require_new(self, target: Path) -> None:
        """Check that no file is in the way, unless it may be replaced.

        Raises:
            UserError: a file exists.
        """
        for path in files_of(target):
            if path.exists() and not self.overwrite:
                raise UserError(f"--output {path}: exists already; name another file or pass --overwrite")


def files_of(target: Path) -> tuple[Path, ...]:
    """Return the files that an export to `target` writes: beside an OpenVINO file lie its weights."""
    return (target.with_suffix(".bin"), target) if target.suffix == ".xml" else (target,)
