"""Opens the ONNX and OpenVINO files that `export.py` writes: reads their metadata, and runs them on the CPU."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from backbones.common.files import JsonObject
from backbones.common.signal_stack import kept_signal_stack
from backbones.errors import UserError, first_line

SUFFIXES = (".onnx", ".xml")  # ONNX; OpenVINO's graph, beside which a .bin file holds the weights
METADATA = ("resnet_transfer", "metadata")  # where an OpenVINO file holds the metadata, as one JSON object
# The numbers of its metadata that a program needs to choose sizes; see `ExportedFile.accepts`.
LEAST, MULTIPLE, ONLY = "least_side", "side_multiple", "only_size"
RAW = "image"  # name of the input of a file that resizes and normalises images itself


class Engine(NamedTuple):
    """A file that a library has opened.

    Attributes:
        metadata: JSON texts by name.
        inputs: names of the inputs, in order.
        run: maps arrays, in the order of the inputs, to the output arrays.
    """

    metadata: Mapping[str, str]
    inputs: tuple[str, ...]
    run: Callable[[Sequence[np.ndarray]], Sequence[np.ndarray]]


def is_exported(path: object) -> bool:
    """Return whether a value names an ONNX or OpenVINO file."""
    return isinstance(path, (str, os.PathLike)) and os.fspath(path).lower().endswith(SUFFIXES)


def is_openvino(path: Path) -> bool:
    """Return whether an exported file is one of OpenVINO."""
    return path.suffix.lower() == ".xml"


class ExportedFile:
    """An exported file that runs on the CPU.

    Args:
        path: file that `export.py` wrote.
        threads: CPU threads; by default torch's number.

    Attributes:
        metadata: JSON values by name.
        meta: description of the model, as in the header of a weights file.

    Raises:
        UserError: the file is missing or damaged, was not written by `export.py`, or its library is not installed.
    """

    def __init__(self, path: str | os.PathLike[str], *, threads: int | None = None) -> None:
        self.path = Path(path)
        self.engine = _open(self.path, threads or torch.get_num_threads())
        self.metadata = _parsed(self.engine.metadata)
        if not isinstance(self.metadata.get("meta"), dict):  # other programs may use the name, too
            raise UserError(f"{path}: has no description of its model; write the file with export.py")
        self.meta: JsonObject = self.metadata["meta"]

    @property
    def library(self) -> str:
        """Return the name of the library that runs the file."""
        return "OpenVINO" if is_openvino(self.path) else "onnxruntime"

    @property
    def is_raw(self) -> bool:
        """Return whether the file takes bytes `[N, H, W, C]`, and resizes and normalises them itself."""
        return self.engine.inputs[0] == RAW

    def class_order(self, classes: Sequence[str] | None) -> list[int] | None:
        """Return the place of each class among the file's classes; None if the order is that of the file.

        Args:
            classes: names of all classes of the file in another order; None for the file's own order.

        Raises:
            UserError: these are not the classes of the file.
        """
        own = list(self.meta["classes"])
        if classes is None or list(classes) == own:
            return None
        if sorted(classes) != sorted(own):
            odd = sorted(set(classes) ^ set(own))
            raise UserError(
                f"{self.path}: was trained on other classes ({', '.join(odd[:3])}); use the data of its training"
            )
        return [own.index(name) for name in classes]

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """Return the outputs of the file, on the device of the first input.

        Raises:
            UserError: the file does not accept the inputs.
        """
        arrays = [np.ascontiguousarray(each.detach().cpu().numpy()) for each in inputs]
        try:
            found = self.engine.run(arrays)
        except Exception as error:  # the libraries' errors have no common class
            shapes = ", ".join(str(list(each.shape)) for each in inputs)
            raise UserError(
                f"{self.path}: fails on inputs of shape {shapes} ({reason(error)}); it accepts sides "
                f"{self.metadata.get('sizes', 'of its own')}, so resize the images, or export the run again"
            ) from None
        return [torch.from_numpy(np.array(each)).to(inputs[0].device) for each in found]

    def accepts(self, height: int, width: int) -> bool:
        """Return whether the file accepts images of a size."""
        only = self.metadata.get(ONLY)
        if only is not None:
            return [height, width] == only
        least, multiple = self.metadata.get(LEAST, 1), self.metadata.get(MULTIPLE, 1)
        return min(height, width) >= least and height % multiple == width % multiple == 0

    def nearest(self, height: int, width: int) -> tuple[int, int]:
        """Return the accepted size that is nearest to a size."""
        only = self.metadata.get(ONLY)
        if only is not None:
            return only[0], only[1]
        least, multiple = self.metadata.get(LEAST, 1), self.metadata.get(MULTIPLE, 1)
        near = [max(-(-least // multiple), round(side / multiple)) * multiple for side in (height, width)]
        return near[0], near[1]


def read_metadata(path: str | os.PathLike[str]) -> JsonObject:
    """Return the metadata of an exported file as JSON values; {} if the file cannot be read."""
    try:
        return _parsed(_open(Path(path), 1).metadata)
    except UserError:
        return {}  # opening the file reports what is wrong with it


def _parsed(texts: Mapping[str, str]) -> JsonObject:
    """Parse the values of metadata; leave out those that are not JSON, which other programs have added."""
    found: JsonObject = {}
    for name, text in texts.items():
        with contextlib.suppress(ValueError):
            found[name] = json.loads(text)
    return found


def _open(path: Path, threads: int) -> Engine:
    """Open a file with its library.

    Raises:
        UserError: there is no such file, its library is not installed, or it is damaged.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; check the path")
    library, extra, open_file = (
        ("openvino", "openvino", open_openvino) if is_openvino(path) else ("onnxruntime", "export", open_onnx)
    )
    weights = path.with_suffix(".bin")
    if is_openvino(path) and not weights.is_file():
        raise UserError(f"{path}: its weights, {weights}, are not here; put them beside it, or export it again")
    try:
        return open_file(path, threads)
    except ImportError:
        raise UserError(f"{path}: needs {library}; pip install 'resnet-transfer[{extra}]'") from None
    except Exception as error:  # the libraries' errors have no common class
        raise UserError(f"{path}: cannot be opened by {library} ({reason(error)}); export it again") from None


def reason(error: BaseException) -> str:
    """Return why a library failed, in one line. OpenVINO says it below the places in its code."""
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines and lines[0].startswith("Exception from ") else first_line(error)


def open_onnx(path: Path, threads: int) -> Engine:
    """Open an ONNX file with onnxruntime, on the CPU."""
    import onnxruntime  # an optional package

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = tuple(each.name for each in session.get_inputs())

    def run(arrays: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        found: Sequence[np.ndarray] = session.run(None, dict(zip(names, arrays, strict=True)))
        return found

    return Engine(session.get_modelmeta().custom_metadata_map, names, run)


def open_openvino(path: Path, threads: int) -> Engine:
    """Open an OpenVINO file, on the CPU."""
    import openvino  # an optional package

    model = openvino.Core().read_model(path)
    text = model.get_rt_info(list(METADATA)).astype(str) if model.has_rt_info(list(METADATA)) else "{}"
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    with kept_signal_stack():
        compiled = openvino.compile_model(model, "CPU", settings)
    requests = threading.local()  # a request computes for one thread at a time

    def run(arrays: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        if not hasattr(requests, "own"):
            requests.own = compiled.create_infer_request()
        found = requests.own.infer(list(arrays))
        return [found[output] for output in compiled.outputs]

    return Engine(json.loads(text), tuple(each.any_name for each in compiled.inputs), run)
