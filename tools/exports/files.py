"""Files that other programs run, ONNX and torch.export's: written, read back, and compared with the net they are of."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export import Dim

from backbones.errors import UserError, first_line
from tools.exports.exportable import Exportable, Inputs, batches

Runner = Callable[[Inputs], list[Tensor]]
# Of the largest output: engines add in other orders, and fold batch norm into convolutions.
TOLERANCE = 1e-3


def program(net: Exportable, example: Inputs) -> Any:
    """The net's graph, for any number of images and any size where it allows that.

    Raises:
        UserError: where torch cannot trace it.
    """
    height, width = example[0].shape[-2:]
    inputs = tuple(x.expand(2, *x.shape[1:]).clone() if net.batches else x for x in example)
    problem = ""
    for least, multiple in [*_freedoms(net, min(height, width)), (0, 0)]:
        free = {axis: _side(name, least, multiple) for axis, name in ((2, "height"), (3, "width")) if multiple}
        dims = ({0: Dim("batch"), **free} if net.batches else None, *[None] * (len(example) - 1))
        try:
            with _silence(), torch.no_grad():
                made = torch.export.export(net.net, inputs, dynamic_shapes=dims, strict=False)
        except Exception as error:  # in as many ways as there are nets
            problem = first_line(error)
            continue
        few = f", multiples of {multiple}" if multiple > 1 else ""
        net.metadata["sizes"] = f"from {least} pixels{few}" if multiple else f"{height}x{width} only"
        return made
    raise UserError(f"torch cannot trace this net ({problem}); export another one")


def write_program(path: Path, made: Any, net: Exportable) -> None:
    """torch.export's file; `torch.export.load(path, extra_files={"metadata.json": ""})` gives both back."""
    with _silence():
        torch.export.save(made, path, extra_files={"metadata.json": json.dumps(net.metadata)})


def write_onnx(path: Path, made: Any, net: Exportable) -> None:
    """ONNX, its weights inside; each value of the metadata is JSON under its name in `metadata_props`.

    Raises:
        UserError: where the net has an operator that ONNX lacks.
    """
    require_onnx()
    try:
        with _silence():
            exported: Any = torch.onnx.export(
                made, dynamo=True, verbose=False, input_names=list(net.inputs), output_names=list(net.outputs)
            )
            exported.model.metadata_props.update({k: json.dumps(v) for k, v in net.metadata.items()})
            exported.save(path, external_data=False)
    except UserError:
        raise
    except Exception as error:  # the exporter's errors have no common class
        raise UserError(f"ONNX cannot hold this net ({first_line(error)}); take --format torch-export") from None


def run_program(path: Path) -> Runner:
    """torch.export's file as a function."""
    with _silence():
        module = torch.export.load(path).module()

    def call(inputs: Inputs) -> list[Tensor]:
        with torch.no_grad():
            outputs = module(*inputs)
        return list(outputs) if isinstance(outputs, (tuple, list)) else [outputs]

    return call


def run_onnx(path: Path, threads: int | None = None) -> Runner:
    """An ONNX file as a function, on the CPU through onnxruntime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]

    def call(inputs: Inputs) -> list[Tensor]:
        fed = {name: np.ascontiguousarray(x.numpy()) for name, x in zip(names, inputs, strict=True)}
        return [torch.from_numpy(np.asarray(out)) for out in session.run(None, fed)]

    return call


def compare(net: Exportable, run: Runner, items: Sequence[Inputs], *, where: str) -> float:
    """The largest difference of a file's outputs from PyTorch's, over the largest output: one by one, and in batches.

    Raises:
        UserError: where it is more than rounding.
    """
    worst = 0.0
    together = list(batches(items, 4)) if net.batches else []
    for inputs in [*items, *together]:
        for one, other in zip(net.computed(inputs), run(inputs), strict=True):
            if one.shape != other.shape:
                raise UserError(
                    f"{where}: gives {list(other.shape)} where PyTorch gives {list(one.shape)}; no file kept"
                )
            if not one.numel():
                continue
            difference = float((one.double() - other.double()).abs().max()) / max(1.0, float(one.abs().max()))
            if not difference <= TOLERANCE:  # NaN is neither above nor below
                raise UserError(
                    f"{where}: differs from PyTorch by {difference:.1e} of the largest output; no file kept"
                )
            worst = max(worst, difference)
    return worst


def latencies(runs: Sequence[Runner], inputs: Inputs, *, repeats: int = 50) -> list[float]:
    """Milliseconds of each one's fastest call; they take turns, so that a busy machine is busy for all of them."""
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(repeats):
        for run, own in zip(runs, times, strict=True):
            start = time.perf_counter()
            run(inputs)
            own.append(time.perf_counter() - start)
    return [min(own) * 1000 for own in times]


def require_onnx() -> None:
    """Refuse to go on without the packages of the extra `export`."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        try:
            __import__(name)
        except ImportError:
            raise UserError(f"--format onnx: needs {name}; pip install 'resnet-transfer[export]'") from None


def _freedoms(net: Exportable, side: int) -> list[tuple[int, int]]:
    """Least sides and their multiples, from the freest on: torch proves some equations for the strictest alone."""
    stride = net.stride
    if net.multiple == 1:
        return [(2 * stride if side >= 2 * stride else stride + 1, 1), (2 * stride, stride)]
    return [(2 * net.multiple, net.multiple)] if net.multiple else []


def _side(name: str, least: int, multiple: int) -> Any:
    return Dim(name, min=least) if multiple == 1 else multiple * Dim(f"{name}s", min=least // multiple)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Without the pages that torch's exporters print."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            with contextlib.redirect_stderr(io.StringIO()):
                yield
    finally:
        logging.disable(logging.NOTSET)
