"""8-bit ONNX files: makes them from fp32 files with onnxruntime, and measures both."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torchvision.ops import box_iou

from backbones.errors import UserError, first_line
from tools.exports.exportable import Exportable, Inputs
from tools.exports.files import latencies, run_onnx

LAYERS = ("Conv", "Gemm", "MatMul")
# Also computed in 8 bits where all that follows are layers. A detector adds and multiplies coordinates of boxes too,
# which 8 bits would ruin, and of which an image without detections has none.
BETWEEN_LAYERS = ("Add", "MaxPool", "GlobalAveragePool", "ReduceMean")
LEAST_AGREEMENT = 0.8  # fraction of unchanged answers; a file below it is refused


@dataclass(frozen=True)
class Int8Report:
    """Comparison of an fp32 file with its 8-bit file. In pairs of values, the first is that of the fp32 file.

    Attributes:
        images: number of images.
        sizes: bytes of the files.
        ms: milliseconds of the fastest of many calls, for one image on the CPU.
        agreement: fraction of unchanged answers, in 0..1. Answers are the classes of images or of pixels, or boxes with
            a score above 0.5, which are unchanged if the 8-bit file finds one of the same class with IoU above 0.5;
            None if there are no answers.
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
            else f"{self.agreement:.2%} of {self.images} images",
        }
        return found if self.top1 is None else found | {"top-1": " -> ".join(f"{each:.2%}" for each in self.top1)}


class _Calibration:
    """Gives images to onnxruntime, which records the range of each activation."""

    def __init__(self, names: Sequence[str], items: Sequence[Inputs]) -> None:
        self._names, self._items = names, items
        self.rewind()

    def get_next(self) -> dict[str, np.ndarray] | None:
        inputs = next(self._remaining, None)
        return None if inputs is None else {k: x.numpy() for k, x in zip(self._names, inputs, strict=True)}

    def rewind(self) -> None:
        self._remaining: Iterator[Inputs] = iter(self._items)


def quantise(
    source: Path, target: Path, exportable: Exportable, items: Sequence[Inputs], kind: Literal["static", "dynamic"]
) -> None:
    """Write an 8-bit version of an fp32 ONNX file.

    Args:
        source: the fp32 file.
        target: the 8-bit file to write.
        items: inputs of images that give the ranges of the activations ("static" only).
        kind: "static" puts pairs of quantise and dequantise operators around convolutions and matrix products;
            "dynamic" finds the ranges at every run.

    Raises:
        UserError: onnxruntime cannot quantise the file.
    """
    from onnxruntime import quantization as q

    logging.disable(logging.WARNING)
    try:
        if kind == "dynamic":
            q.quantize_dynamic(source, target, weight_type=q.QuantType.QUInt8)
            return
        q.quantize_static(
            source,
            target,
            _Calibration(exportable.inputs, items),
            quant_format=q.QuantFormat.QDQ,
            per_channel=True,
            activation_type=q.QuantType.QUInt8,
            weight_type=q.QuantType.QInt8,
            op_types_to_quantize=[*LAYERS, *(() if exportable.metadata["task"] == "detection" else BETWEEN_LAYERS)],
        )
    except Exception as error:  # onnxruntime raises many kinds of errors
        raise UserError(f"onnxruntime cannot quantise this model ({first_line(error)}); leave --int8 out") from None
    finally:
        logging.disable(logging.NOTSET)


def measure(
    exportable: Exportable, plain: Path, small: Path, items: Sequence[Inputs], labels: Sequence[int | None]
) -> Int8Report:
    """Measure size, latency and predictions of an 8-bit file and of its fp32 file, on the CPU.

    Args:
        plain: the fp32 file.
        small: the 8-bit file.
        items: inputs of one image each.
        labels: class number of each image, None if it is not known.

    Raises:
        UserError: too many answers differ.
    """
    runs = [run_onnx(path) for path in (plain, small)]
    agreed: list[float] = []
    right: list[tuple[int, int]] = []
    for inputs, label in zip(items, labels, strict=True):
        first, second = (run(inputs) for run in runs)
        agreed += _agreement(str(exportable.metadata["task"]), first, second)
        if label is not None:
            right.append((int(first[0].argmax() == label), int(second[0].argmax() == label)))
    agreement = sum(agreed) / len(agreed) if agreed else None
    fast_plain, fast_small = (round(ms, 3) for ms in latencies(runs, items[0]))
    if agreement is not None and agreement < LEAST_AGREEMENT:
        raise UserError(
            f"--int8: {agreement:.0%} of the 8-bit predictions equal those of fp32, fewer than the required "
            f"{LEAST_AGREEMENT:.0%}, so no file was kept; pass more --calibration images, or leave --int8 out"
        )
    return Int8Report(
        len(items),
        (plain.stat().st_size, small.stat().st_size),
        (fast_plain, fast_small),
        agreement,
        (sum(a for a, _ in right) / len(right), sum(b for _, b in right) / len(right)) if right else None,
    )


def _agreement(task: str, plain: list[torch.Tensor], small: list[torch.Tensor]) -> list[float]:
    """Return the fraction of the fp32 file's answers on an image that the 8-bit file shares; [] without answers."""
    if task != "detection":
        return [float((plain[0].argmax(1) == small[0].argmax(1)).float().mean())]
    sure = plain[1] > 0.5
    if not sure.any():
        return []
    same = box_iou(plain[0][sure], small[0]) * (plain[2][sure][:, None] == small[2])
    return [float((F.pad(same, (0, 1)).max(1).values > 0.5).float().mean())]
