"""Options of export.py. This module imports nothing heavy, so that `--help` is quick."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from backbones.errors import UserError, require

LEAST_CHECKED = 5  # images
SUFFIXES = {"onnx": ".onnx", "torch-export": ".pt2", "torchvision": ".pth"}


@dataclass
class ExportOptions:
    """Run to export, and file to write.

    Args:
        run: folder of a finished run, or its model.safetensors.
        format: onnx; torch-export, for PyTorch without this project's code; or torchvision, the state dict of
            torchvision's or timm's own model (classifiers only).
        output: file to write; default: model with the format's suffix, in the run's folder.
        overwrite: replace the output file if it exists.
        images: folder of real images that check the file and calibrate 8 bits; default: the run's own data.
        checked: number of images that check the file.
        int8: quantise the ONNX file to 8 bits, static (calibrated) or dynamic; prints size, latency and agreement.
        calibration: images for calibration, at most half of the images found.
        measured: further images that measure the 8-bit file.
    """

    run: str
    format: Literal["onnx", "torch-export", "torchvision"] = "onnx"
    output: str | None = None
    overwrite: bool = False
    images: str | None = None
    checked: int = LEAST_CHECKED
    int8: Literal["no", "static", "dynamic"] = "no"
    calibration: int = 64
    measured: int = 200

    def __post_init__(self) -> None:
        require(self.checked >= LEAST_CHECKED, "checked", self.checked, f"must be {LEAST_CHECKED} or more")
        require(self.calibration > 0, "calibration", self.calibration, "must be above 0")
        require(self.measured >= LEAST_CHECKED, "measured", self.measured, f"must be {LEAST_CHECKED} or more")
        require(self.int8 == "no" or self.format == "onnx", "int8", self.int8, "needs --format onnx")

    @property
    def images_needed(self) -> int:
        """Number of images to read: for checking, for calibration and for measuring."""
        calibration = self.calibration if self.int8 == "static" else 0
        return max(self.checked, self.measured + calibration if self.int8 != "no" else 0)

    def target(self) -> Path:
        """Return the path of the file to write.

        Raises:
            UserError: the file exists and must not be replaced, or its folder does not exist.
        """
        source = Path(self.run)
        folder = source if source.is_dir() else source.parent
        name = "model.int8.onnx" if self.int8 != "no" else f"model{SUFFIXES[self.format]}"
        target = Path(self.output) if self.output else folder / name
        if target.exists() and not self.overwrite:
            raise UserError(f"--output {target}: exists already; name another file or pass --overwrite")
        if not target.absolute().parent.is_dir():
            raise UserError(f"--output {target}: its folder does not exist; create the folder first")
        return target
