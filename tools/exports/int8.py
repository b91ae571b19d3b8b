"""8-bit ONNX files: makes them from fp32 files with onnxruntime. Compares files of 8 and 16 bits with fp32 files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import torch
import torch.nn.functional as F
from torchvision.ops import box_iou

from backbones.errors import UserError, counted
from tools.exports.exportable import Exportable, Inputs
from tools.exports.files import latencies, run_onnx
from tools.exports.trial import run_alone, save_inputs

LAYERS = ("Conv", "Gemm", "MatMul")
# Also computed in 8 bits where all that follows are layers. A detector adds and multiplies coordinates of boxes too,
# which 8 bits would ruin, and of which an image without detections has none.
BETWEEN_LAYERS = ("Add", "MaxPool", "GlobalAveragePool", "ReduceMean")
# Layers of a detector that give scores and deltas of boxes, by the name of their weights. They stay in floats: 256
# steps would make scores equal and boxes coarse. They are small, so the file is as fast.
PREDICTORS = ("cls_logits", "cls_score", "bbox_pred")
LEAST_AGREEMENT = 0.8  # fraction of unchanged answers; a file below it is refused if its accuracy is not known
# Writes the 8-bit version argv[2] of the file argv[1], of the kind argv[4]: calibrated with the inputs argv[3], with
# 8-bit operators of the types argv[7:], without those whose weights argv[5] names. Ranges of activations are the
# extremes of all images, or if argv[6] is "mean" the mean extremes of an image. A crash of the native library ends this
# process and not the export.
# Weights use -64..64 only (`reduce_range`). CPUs with AVX2 and without VNNI add two products of an activation (0..255)
# and a weight in 16 bits: 2 * 255 * 64 fits, and 2 * 255 * 127 would be clipped in silence.
PROGRAM = """
import sys
import numpy as np
import onnx
from onnxruntime import quantization as q

source, target, inputs, kind, names_in_floats, ranges, *operators = sys.argv[1:]
if kind == "dynamic":
    q.quantize_dynamic(source, target, weight_type=q.QuantType.QUInt8)
    sys.exit()
arrays = np.load(inputs)
names = sorted({key.partition(" ")[2] for key in arrays})


class Calibration:  # gives the inputs of one image after the other to onnxruntime
    def __init__(self):
        self.number = 0

    def get_next(self):
        if f"{self.number} {names[0]}" not in arrays:
            return None
        self.number += 1
        return {name: arrays[f"{self.number - 1} {name}"] for name in names}


in_floats = [
    node.name
    for node in onnx.load(source, load_external_data=False).graph.node
    if any(f".{name}." in f".{weights}" for name in names_in_floats.split(",") for weights in node.input)
]
q.quantize_static(
    source,
    target,
    Calibration(),
    quant_format=q.QuantFormat.QDQ,
    per_channel=True,
    reduce_range=True,
    activation_type=q.QuantType.QUInt8,
    weight_type=q.QuantType.QInt8,
    op_types_to_quantize=operators,
    nodes_to_exclude=in_floats,
    extra_options={"CalibMovingAverage": ranges == "mean"},
)
"""


@dataclass(frozen=True)
class BitsReport:
    """Comparison of an fp32 file with its file of 8 or 16 bits. In pairs of values, the first is that of the fp32 file.

    Attributes:
        images: number of images.
        sizes: bytes of the files.
        ms: milliseconds of the fastest of many calls, for one image on the CPU.
        agreement: fraction of unchanged answers, in 0..1. Answers are the classes of images or of pixels (with several
            classes an image, the classes that both files find among those that either finds), or boxes with
            a score above 0.5, which are unchanged if the other file finds one of the same class with IoU above 0.5
            and, with a mask branch, IoU of the masks in their grids above 0.5; None if there are no answers.
        top1: top-1 accuracies, in 0..1; None if the classes of the images are not known.
    """

    images: int
    sizes: tuple[int, int]
    ms: tuple[float, float]
    agreement: float | None
    top1: tuple[float, float] | None

    def lines(self) -> dict[str, str]:
        """Return the report as lines of text by title: sizes, latencies, agreement."""
        found = {
            "MB": " -> ".join(f"{size / 1e6:.1f}" for size in self.sizes),
            "ms an image": " -> ".join(f"{ms:.2f}" for ms in self.ms),
            "agreement": "unknown: no image has an answer to compare"
            if self.agreement is None
            else f"{self.agreement:.2%} of {counted(self.images, 'image')}",
        }
        return found if self.top1 is None else found | {"top-1": " -> ".join(f"{each:.2%}" for each in self.top1)}

    def require_agreement(self, option: str) -> None:
        """Refuse a file with too few unchanged answers, whose accuracy is not known.

        Args:
            option: the option that asks for fewer bits, for the message.

        Raises:
            UserError: too many answers differ.
        """
        if self.agreement is not None and self.agreement < LEAST_AGREEMENT:
            raise UserError(
                f"{option}: {self.agreement:.0%} of the predictions equal those of fp32, fewer than the required "
                f"{LEAST_AGREEMENT:.0%}, so no file was kept; leave {option} out"
                + (", or use static with more --calibration images" if option == "--int8" else "")
            )


def quantise(
    source: Path, target: Path, exportable: Exportable, items: Sequence[Inputs], kind: Literal["static", "dynamic"]
) -> None:
    """Write an 8-bit version of an fp32 ONNX file, in a process of its own.

    Args:
        source: the fp32 file.
        target: the 8-bit file to write.
        items: inputs of images that give the ranges of the activations ("static" only).
        kind: "static" puts pairs of quantise and dequantise operators around convolutions and matrix products;
            "dynamic" finds the ranges at every run.

    Raises:
        UserError: onnxruntime cannot quantise the file, or its process ends by a signal.
    """
    detects = exportable.metadata["task"] == "detection"
    layers = [*LAYERS, *(() if detects else BETWEEN_LAYERS)]
    # For detectors the mean extremes were better, for classifiers the extremes (docs/RESULTS.md).
    choices = ",".join(PREDICTORS), "mean" if detects else "all"
    with TemporaryDirectory() as folder:
        inputs = Path(folder) / "inputs.npz"
        save_inputs(inputs, exportable.inputs, items)
        reason = run_alone(PROGRAM, source, target, inputs, kind, *choices, *layers, folder=Path(folder))
    if reason:
        raise UserError(f"onnxruntime cannot quantise this model ({reason}); leave --int8 out")


def measure(
    exportable: Exportable, plain: Path, small: Path, items: Sequence[Inputs], labels: Sequence[int | None]
) -> BitsReport:
    """Measure size, latency and predictions of a file of 8 or 16 bits and of its fp32 file, on the CPU.

    Args:
        plain: the fp32 file.
        small: the file of 8 or 16 bits.
        items: inputs of one image each.
        labels: class number of each image, None if it is not known.
    """
    runs = [run_onnx(path) for path in (plain, small)]
    agreed: list[float] = []
    right: list[tuple[int, int]] = []
    for inputs, label in zip(items, labels, strict=True):
        first, second = (run(inputs) for run in runs)
        agreed += _agreement(str(exportable.metadata["task"]), first, second, exportable.thresholds)
        if label is not None:
            right.append((int(first[0].argmax() == label), int(second[0].argmax() == label)))
    agreement = sum(agreed) / len(agreed) if agreed else None
    fast_plain, fast_small = (round(ms, 3) for ms in latencies(runs, items[0]))
    return BitsReport(
        len(items),
        (plain.stat().st_size, small.stat().st_size),
        (fast_plain, fast_small),
        agreement,
        (sum(a for a, _ in right) / len(right), sum(b for _, b in right) / len(right)) if right else None,
    )


def _agreement(
    task: str, plain: list[torch.Tensor], small: list[torch.Tensor], thresholds: torch.Tensor | None = None
) -> list[float]:
    """Return the fraction of the fp32 file's answers on an image that the other file shares; [] without answers."""
    if not all(each.isfinite().all() for each in small):
        return [0.0]
    if thresholds is not None:
        first, second = (each[0].sigmoid() >= thresholds for each in (plain, small))
        union = float((first | second).sum())
        return [float((first & second).sum()) / union if union else 1.0]
    if task != "detection":
        return [float((plain[0].argmax(1) == small[0].argmax(1)).float().mean())]
    sure = plain[1] > 0.5
    if not sure.any():
        return []
    same = box_iou(plain[0][sure], small[0]) * (plain[2][sure][:, None] == small[2])
    if len(plain) > 4:
        same = torch.minimum(same, _mask_iou(plain[4][sure], small[4]))
    return [float((F.pad(same, (0, 1)).max(1).values > 0.5).float().mean())]


def _mask_iou(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return the IoU `[N, K]` of masks `[N, M, M]` and `[K, M, M]` in their grids; 1 for two masks without a cell."""
    one, other = ((masks >= 0.5).flatten(1).float() for masks in (first, second))
    shared = one @ other.T
    union = one.sum(1)[:, None] + other.sum(1) - shared
    return torch.where(union > 0, shared / union, 1)
