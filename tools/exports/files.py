"""Writes and runs ONNX and torch.export files, and compares their outputs with the model's."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.export import Dim, ExportedProgram

from backbones.errors import UserError, first_line
from backbones.weights.exported import LEAST, MULTIPLE, ONLY
from tools.exports.exportable import TOLERANCE, Exportable, FileCheck, Inputs, Runner, batches
from tools.exports.same_padding import traceable_padding

# Without bounds, torch writes numbers of more than 64 bits into the graph of a detector.
MOST_IMAGES, MOST_PIXELS = 1 << 12, 1 << 16


class TracedModel(NamedTuple):
    """Traced graph of a model.

    Attributes:
        sizes: description of the image sizes that the graph accepts.
        freedom: these sizes.
        example: height and width of the example.
        problem: why torch could not trace the model for more sizes; "" if it could.
    """

    program: ExportedProgram
    sizes: str
    freedom: Freedom
    example: tuple[int, int]
    problem: str

    def metadata(self, exportable: Exportable) -> dict[str, object]:
        """Return the metadata of a file, with the sizes that it accepts in words and as numbers."""
        least, multiple = self.freedom
        sides = {LEAST: least, MULTIPLE: multiple} if multiple else {ONLY: list(self.example)}
        return exportable.metadata | ({"sizes": "any"} if exportable.raw else {"sizes": self.sizes, **sides})

    def accepts(self, inputs: Inputs) -> bool:
        """Return whether the graph accepts the sizes of inputs."""
        height, width = inputs[0].shape[-2:]
        least, multiple = self.freedom
        if not multiple:
            return (height, width) == self.example
        return min(height, width) >= least and height % multiple == width % multiple == 0


class Freedom(NamedTuple):
    """Image sizes that a graph may accept: sides of at least `least` pixels that are multiples of `multiple`.

    If `multiple` is 0, only one size is accepted.
    """

    least: int
    multiple: int


def trace(exportable: Exportable, example: Inputs) -> TracedModel:
    """Trace a model's graph, if possible for any number of images and any image size.

    Args:
        example: inputs of one image.

    Raises:
        UserError: torch cannot trace the model.
    """
    problem = ""
    # Begin with the freest sizes: torch may be able to trace the model for restricted sizes only.
    for freedom in [*_freedoms(exportable, min(example[0].shape[-2:])), Freedom(0, 0)]:
        shown = to_multiples(example, freedom.multiple) if exportable.resizable else _enlarged(example, freedom)
        counted = exportable.batches or exportable.many
        inputs = tuple(x.expand(2, *x.shape[1:]).clone() if counted else x for x in shown)
        batch = Dim("batch", max=MOST_IMAGES)
        others = [{0: batch} if exportable.many else None] * (len(example) - 1)
        dims = (_free_axes(exportable, freedom, batch), *others)
        try:
            with _silence(), torch.no_grad(), traceable_padding(fixed=freedom.multiple > 1):
                program = torch.export.export(exportable.model, inputs, dynamic_shapes=dims, strict=False)
        except Exception as error:  # torch raises many kinds of errors
            problem = first_line(error)
            continue
        height, width = shown[0].shape[-2:]
        return TracedModel(program, _sizes(freedom, height, width), freedom, (height, width), problem)
    raise UserError(f"torch cannot trace this model ({problem}); export another model")


def to_multiples(inputs: Inputs, multiple: int) -> Inputs:
    """Resize images to the nearest sides that are multiples of `multiple`, at least two; 0 and 1 change nothing."""
    if multiple < 2:
        return inputs
    sides = [max(2, round(side / multiple)) * multiple for side in inputs[0].shape[-2:]]
    return (F.interpolate(inputs[0], size=sides, mode="bilinear", align_corners=False), *inputs[1:])


def _enlarged(inputs: Inputs, freedom: Freedom) -> Inputs:
    """Pad images with zeros right and below to at least four multiples, if their sides may vary.

    A small image has a coarse map of one cell, and torch would trace the model for maps of one cell only.
    """
    if freedom.multiple < 2:
        return inputs
    room = [max(0, 4 * freedom.multiple - side) for side in inputs[0].shape[-2:]]
    return (F.pad(inputs[0], (0, room[1], 0, room[0])), *inputs[1:])


def _freedoms(exportable: Exportable, side: int) -> list[Freedom]:
    """Return the ranges of image sizes to try, the widest first; `side` is the example's shorter side in pixels."""
    stride, multiple = exportable.stride, exportable.multiple
    if multiple == 1:
        return [Freedom(2 * stride if side >= 2 * stride else stride + 1, 1), Freedom(2 * stride, stride)]
    return [Freedom(2 * multiple, multiple)]


def _free_axes(exportable: Exportable, freedom: Freedom, batch: Dim) -> dict[int, Dim] | None:
    """Return the axes of the image tensor whose size may vary (batch, height, width), or None if none may."""
    names = {2: "height", 3: "width"} if freedom.multiple else {}
    free = {0: batch} if exportable.batches or exportable.many else {}
    return free | {axis: _side(name, freedom) for axis, name in names.items()} or None


def _side(name: str, freedom: Freedom) -> Any:  # a product of a number and a Dim has a private type
    least, multiple = freedom
    if multiple == 1:
        return Dim(name, min=least, max=MOST_PIXELS)
    return multiple * Dim(f"{name}s", min=least // multiple, max=MOST_PIXELS)


def _sizes(freedom: Freedom, height: int, width: int) -> str:
    """Describe in words the image sizes that a graph accepts."""
    if not freedom.multiple:
        return f"{height}x{width} only"
    return f"from {freedom.least} pixels" + (f", multiples of {freedom.multiple}" if freedom.multiple > 1 else "")


def write_program(path: Path, traced: TracedModel, exportable: Exportable) -> None:
    """Write a torch.export file that also holds the metadata, as `metadata.json`.

    `torch.export.load(path, extra_files={"metadata.json": ""})` returns the program and fills in the metadata.

    Raises:
        UserError: torch.export cannot save an operator of the model.
    """
    metadata = traced.metadata(exportable)
    try:
        with _silence():
            torch.export.save(traced.program, path, extra_files={"metadata.json": json.dumps(metadata)})
    except OSError:
        raise
    except Exception as error:  # the errors of torch.export have no common class
        raise UserError(f"torch.export cannot save this model ({first_line(error)}); use --format onnx") from None


def write_onnx(path: Path, traced: TracedModel, exportable: Exportable) -> None:
    """Write an ONNX file that holds the weights; each value of the metadata is JSON in `metadata_props`.

    Raises:
        UserError: ONNX lacks an operator of the model.
    """
    require_onnx()
    metadata = traced.metadata(exportable)
    try:
        with _silence():
            exported = torch.onnx.export(
                traced.program,
                dynamo=True,
                verbose=False,
                input_names=list(exportable.inputs),
                output_names=list(exportable.outputs),
            )
            assert exported is not None
            exported.model.metadata_props.update({name: json.dumps(value) for name, value in metadata.items()})
            exported.model.metadata_props["opset"] = json.dumps(exported.model.opset_imports[""])
            exported.save(path, external_data=False)
    except UserError:
        raise
    except Exception as error:  # the exporter's errors have no common class
        raise UserError(f"ONNX cannot hold this model ({first_line(error)}); use --format torch-export") from None


def run_program(path: Path) -> Runner:
    """Load a torch.export file; return a function that runs the program."""
    with _silence():
        module = torch.export.load(path).module()

    def call(inputs: Inputs) -> list[Tensor]:
        try:
            with torch.no_grad():
                outputs = module(*inputs)
        except Exception as error:  # of the program's checks and operators
            raise _failed(inputs, error) from None
        return list(outputs) if isinstance(outputs, (tuple, list)) else [outputs]

    return call


def run_onnx(path: Path, threads: int | None = None) -> Runner:
    """Load an ONNX file; return a function that runs the model on the CPU with onnxruntime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]

    def call(inputs: Inputs) -> list[Tensor]:
        arrays = {name: np.ascontiguousarray(x.numpy()) for name, x in zip(names, inputs, strict=True)}
        try:
            return [torch.from_numpy(np.asarray(out)) for out in session.run(None, arrays)]
        except Exception as error:  # onnxruntime's errors have no common class
            raise _failed(inputs, error) from None

    return call


def _failed(inputs: Inputs, error: Exception) -> UserError:
    """Return the error of a file that fails on an image."""
    height, width = inputs[0].shape[-2:]
    return UserError(
        f"the exported file fails on an image of {width}x{height} pixels ({first_line(error)}); no file was kept; "
        "export another format or model"
    )


def compare(exportable: Exportable, run: Runner, items: Sequence[Inputs], *, where: str) -> FileCheck:
    """Compare a file's outputs with PyTorch's, for each image alone and in batches of four.

    Args:
        items: inputs of one image each.
        where: name of the file in error messages.

    Returns:
        The largest difference, as a fraction of the largest output (or of 1, if all outputs are smaller).

    Raises:
        UserError: the outputs differ by more than rounding.
    """
    largest = 0.0
    together = list(batches(items, 4)) if exportable.batches else []
    for inputs in [*items, *together]:
        for expected, found in zip(exportable.expected(inputs), run(inputs), strict=True):
            largest = max(largest, _difference(expected, found, where))
    return FileCheck(largest, {})


def _difference(expected: Tensor, found: Tensor, where: str) -> float:
    """Return the largest difference between two outputs, relative to the largest value; refuse more than rounding."""
    fix = "export another format or model, because no file was kept"
    if expected.shape != found.shape:
        raise UserError(
            f"{where}: returns shape {list(found.shape)} where PyTorch returns {list(expected.shape)}; {fix}"
        )
    if not expected.numel():
        return 0.0
    difference = float((expected.double() - found.double()).abs().max()) / max(1.0, float(expected.abs().max()))
    if not difference <= TOLERANCE:  # written this way because NaN must be refused too
        raise UserError(f"{where}: differs from PyTorch by {difference:.1e} of the largest output; {fix}")
    return difference


def latencies(runs: Sequence[Runner], inputs: Inputs, *, repeats: int = 50) -> list[float]:
    """Return the latency of each function in milliseconds: the time of its fastest call.

    The functions take turns, so that other programs slow all of them down alike.
    """
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(repeats):
        for run, own in zip(runs, times, strict=True):
            start = time.perf_counter()
            run(inputs)
            own.append(time.perf_counter() - start)
    return [min(own) * 1000 for own in times]


def require_onnx(wanted: str = "onnx") -> None:
    """Check that the packages of the extra `export` are installed.

    Raises:
        UserError: a package is missing.
    """
    for name in ("onnx", "onnxscript", "onnxruntime"):
        try:
            __import__(name)
        except ImportError:
            raise UserError(f"--format {wanted}: needs {name}; pip install 'resnet-transfer[export]'") from None


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Context manager that suppresses the many lines that torch's exporters print, and their warnings."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            with contextlib.redirect_stderr(io.StringIO()):
                yield
    finally:
        logging.disable(logging.NOTSET)
