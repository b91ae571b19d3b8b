"""8-bit ONNX files: quantised by onnxruntime, and measured beside the file that they are made from."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torchvision.ops import box_iou

from backbones.errors import UserError, first_line
from tools.exports.exportable import Exportable, Inputs
from tools.exports.files import latencies, run_onnx

LEAST_AGREEMENT = 0.8  # of the answers; below it the file is of no use


class _Calibration:
    """Feeds images to onnxruntime, which notes the ranges of all activations."""

    def __init__(self, names: Sequence[str], items: Sequence[Inputs]) -> None:
        self._names, self._items = names, items
        self.rewind()

    def get_next(self) -> dict[str, Any] | None:
        inputs = next(self._rest, None)
        return None if inputs is None else {k: x.numpy() for k, x in zip(self._names, inputs, strict=True)}

    def rewind(self) -> None:
        self._rest: Iterator[Inputs] = iter(self._items)


def quantise(
    source: Path, target: Path, net: Exportable, items: Sequence[Inputs], kind: Literal["static", "dynamic"]
) -> None:
    """Write the 8-bit file of an fp32 one.

    Args:
        items: images from which the ranges of the activations are taken ("static").
        kind: static puts Q/DQ pairs around convolutions and products; dynamic finds ranges at each run.

    Raises:
        UserError: where onnxruntime cannot quantise it.
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
            _Calibration(net.inputs, items),
            quant_format=q.QuantFormat.QDQ,
            per_channel=True,
            activation_type=q.QuantType.QUInt8,
            weight_type=q.QuantType.QInt8,
            op_types_to_quantize=["Conv", "Gemm", "MatMul", "Add", "MaxPool", "GlobalAveragePool", "ReduceMean"],
        )
    except Exception as error:  # in as many ways as there are graphs
        raise UserError(f"onnxruntime cannot quantise this net ({first_line(error)}); leave --int8 out") from None
    finally:
        logging.disable(logging.NOTSET)


def report(
    net: Exportable, plain: Path, small: Path, items: Sequence[Inputs], labels: Sequence[int | None]
) -> dict[str, Any]:
    """Size, speed and answers of the 8-bit file beside the fp32 one's, on the CPU.

    Returns:
        `bytes`, `ms` (one image, the fastest of many calls) and, where classes are known, `top1`, each a pair of fp32
        and int8; and `agreement`, the share of answers that stay, in 0..1: classes of images or of pixels, or boxes
        (score above 0.5) that are found again with an IoU above 0.5.

    Raises:
        UserError: where most answers are others.
    """
    runs = [run_onnx(path) for path in (plain, small)]
    agreed: list[float] = []
    right: list[list[int]] = []
    for inputs, label in zip(items, labels, strict=True):
        outputs = [run(inputs) for run in runs]
        agreed += _agreement(net, *outputs)
        if label is not None:
            right.append([int(out[0].argmax() == label) for out in outputs])
    found: dict[str, Any] = {
        "images": len(items),
        "bytes": [path.stat().st_size for path in (plain, small)],
        "ms": [round(ms, 3) for ms in latencies(runs, items[0])],
        "agreement": sum(agreed) / max(1, len(agreed)),
    }
    if right:
        found["top1"] = [sum(each) / len(right) for each in zip(*right, strict=True)]
    if agreed and found["agreement"] < LEAST_AGREEMENT:
        raise UserError(
            f"--int8: {found['agreement']:.0%} of the answers are those of fp32, under {LEAST_AGREEMENT:.0%}; no file "
            "kept; give more calibration images, or leave --int8 out"
        )
    return found


def _agreement(net: Exportable, plain: list[torch.Tensor], small: list[torch.Tensor]) -> list[float]:
    """How far two files' outputs for an image agree, in 0..1; empty where the fp32 file answers nothing."""
    if net.metadata["task"] != "detection":
        return [float((plain[0].argmax(1) == small[0].argmax(1)).float().mean())]
    sure = plain[1] > 0.5
    if not sure.any():
        return []
    same = box_iou(plain[0][sure], small[0]) * (plain[2][sure][:, None] == small[2])
    return [float((F.pad(same, (0, 1)).max(1).values > 0.5).float().mean())]
