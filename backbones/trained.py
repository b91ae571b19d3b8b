"""Finds trained models and reads their headers; defines the base class of the objects that `load` returns."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar, cast, overload

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from backbones.common.bits import WHOLE_BITS
from backbones.common.devices import usable_device
from backbones.common.files import JsonObject
from backbones.common.images import Image
from backbones.common.plugins import load as load_plugins
from backbones.common.plugins import require as require_plugins
from backbones.common.precision import precision_dtype
from backbones.common.results import ImageResult
from backbones.errors import UserError, require_class
from backbones.fold import Folds
from backbones.norm import freeze_batch_norm
from backbones.published_models import published_file, suggestion
from backbones.weights.exported import ExportedFile, is_exported
from backbones.weights.files import run_weights
from backbones.weights.hub import resolve

TASKS = ("classification", "detection", "segmentation")


@dataclass(frozen=True)
class TrainedFile:
    """Weights file of a trained model, with the header that describes the model.

    Attributes:
        path: the file.
        meta: description of the model: `task`, categories or classes, `input` (sizes, mean, std), `model` (the options
            that it was built with), `plugins` (the names of the run's plugins, if it used any).
        config: all options of the run by name, including those of the evaluation; empty if not recorded.
    """

    path: Path
    meta: JsonObject
    config: JsonObject

    @property
    def task(self) -> str:
        """Task of the model: "classification", "detection" or "segmentation"."""
        return self.meta["task"]

    @property
    def bits(self) -> int:
        """Bits that the values of 16-bit images use, as in training."""
        return int(self.meta["input"].get("bits", WHOLE_BITS))

    def entries(self) -> set[str]:
        """Return the names of all entries (tensors) in the weights file; of an exported file, none."""
        if is_exported(self.path):
            return set()
        with safe_open(self.path, framework="pt") as file:
            return set(file.keys())

    @contextmanager
    def building(self) -> Iterator[None]:
        """Context manager that converts errors in building the model to a UserError about the file's header.

        Raises:
            UserError: naming the file: the run's plugins are not loaded, or the header lacks something or is wrong.
        """
        require_plugins(self.meta.get("plugins"), where=self.path)
        try:
            yield
        except UserError as error:
            text = str(error)
            raise (error if str(self.path) in text else UserError(f"{self.path}: {text}")) from None
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            why = f"{type(error).__name__}: {error}"
            raise UserError(
                f"{self.path}: its header does not describe a model that this version can build ({why}); "
                "train or export the model again"
            ) from None


def find(
    run: str | os.PathLike[str], *, task: str | None = None, plugins: Sequence[str | os.PathLike[str]] = ()
) -> TrainedFile:
    """Find the trained model in a run folder, weights file or exported file, or by its published name; read its header.

    In a run folder, the model is model.safetensors, which the run delivers at its end. Before that file exists, the
    model is the best checkpoint so far.

    Args:
        task: the task that the model must have; None allows any.
        plugins: plugins to import, as for `backbones.common.plugins.load`.

    Raises:
        UserError: there is no trained model, its file is damaged or not of this project, or it has another task.
    """
    load_plugins(plugins)
    path = published_file(run) or Path(resolve(run))
    if not path.exists():
        raise UserError(f"{path}: no such run folder or weights file; check the path{suggestion(run)}")
    if not path.is_file():
        path = run_weights(path)
    if is_exported(path):
        metadata = ExportedFile(path, threads=1).metadata
        header, meta, config = {}, metadata["meta"], metadata.get("config", {})
    else:
        header = _header(path)
        meta, config = (_object(header, name, path) for name in ("meta", "config"))
    if header.get("format", "").startswith("resnet-transfer checkpoint"):
        raise UserError(
            f"{path}: is a checkpoint for resuming a run, not a finished model; name the run folder or its "
            "checkpoint/best.safetensors"
        )
    if meta.get("task") not in TASKS:
        raise UserError(
            f"{path}: has no header that describes its model; give the model.safetensors of a run folder, "
            "or build the model with `build(..., weights=FILE)`"
        )
    if task not in (None, meta["task"]):
        raise UserError(f"{path}: is a model for {meta['task']}; load it with {meta['task']}.load")
    return TrainedFile(path, meta, config)


def find_weights(run: str | os.PathLike[str]) -> TrainedFile:
    """Find the trained model in a run folder or weights file, as `find` does. An exported file is refused.

    Raises:
        UserError: there is no such model, or it is an exported file, which does not give its weights.
    """
    trained = find(run)
    if is_exported(trained.path):
        raise UserError(f"{run}: is an exported file; name the run or its model.safetensors")
    return trained


Options = TypeVar("Options")


def options_of(kind: type[Options], meta: Mapping[str, Any]) -> Options:
    """Return, as a dataclass, the options that a run's metadata stores under `model`. Unknown entries are ignored."""
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]  # a dataclass
    return kind(**{name: value for name, value in meta["model"].items() if name in known})


def _header(path: Path) -> dict[str, str]:
    if path.suffix != ".safetensors":
        raise UserError(
            f"{path}: is not a .safetensors file, so it has no header that describes its model; name a "
            "run folder or its model.safetensors, or build the model with `build(..., weights=FILE)`"
        )
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path}: is not a complete safetensors file ({' '.join(str(error).split())}); copy or export "
            "the file again"
        ) from None


def _object(header: dict[str, str], name: str, path: Path) -> JsonObject:
    try:
        value = json.loads(header.get(name, "{}"))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise UserError(f"{path}: the entry `{name}` in its header cannot be read; train or export the model again")
    return value


Input = TypeVar("Input")  # what `read` makes of an image
Result = TypeVar("Result", bound=ImageResult)


class TrainedModel(Generic[Input, Result]):
    """Base class of the objects that the tasks' `load` functions return. They map images to results.

    Attributes:
        trained: the weights file and its header.
        model: the model, in evaluation mode.
        device: where it computes.
        dtype: dtype of autocast; float32 means that autocast is off.
        read: converts an image to the input of `predict`, or raises a UserError if the image cannot be used. It does
            not refer to the model, so data workers can use it.
        view: converts an image to pixels `[H, W, 3]` uint8, on which its result is drawn.

    Args:
        device: auto, cpu, cuda, cuda:1, mps; auto, the default, is a GPU if there is one.
        precision: auto, fp32, bf16 or fp16. By default the run's own.
    """

    def __init__(
        self,
        trained: TrainedFile,
        model: nn.Module,
        read: Callable[[Image], Input],
        *,
        view: Callable[[Image], np.ndarray],
        device: str | torch.device | None = None,
        precision: str | None = None,
    ) -> None:
        self.trained, self.read, self.view = trained, read, view
        self.device = usable_device(device)
        self.dtype = precision_dtype(precision or trained.config.get("precision", "auto"), self.device)
        _freeze_as_trained(model, trained)
        self.model = model.eval().to(self.device).to(memory_format=torch.channels_last)
        self._folds = Folds()

    @overload
    def __call__(self, images: Image, *, batch_size: int = 8) -> Result: ...  # type: ignore[overload-overlap]

    @overload
    def __call__(self, images: Sequence[Image], *, batch_size: int = 8) -> list[Result]: ...

    def __call__(self, images: Image | Sequence[Image], *, batch_size: int = 8) -> Result | list[Result]:
        """Return the result of an image, or a list of results for a list of images.

        Args:
            images: file paths, PIL images, arrays `[H, W, C]` (RGB; uint8 0..255, or floats 0..1) or tensors
                `[C, H, W]`.
            batch_size: number of images that the model computes at once.

        Raises:
            UserError: naming the image that cannot be used.
        """
        if not isinstance(images, (list, tuple)):
            return next(self.stream([cast(Image, images)]))
        return list(self.stream(images, batch_size=batch_size))

    def stream(self, images: Iterable[Image], *, batch_size: int = 8) -> Iterator[Result]:
        """Yield the results of any number of images, one after another; only one batch is in memory.

            for found in model.stream(Path("photos").glob("*.jpg")):
                ...

        Args:
            images: paths, PIL images, arrays or tensors, as for a call; a generator is read as it is needed.
            batch_size: number of images that the model computes at once.

        Raises:
            UserError: naming the image that cannot be used, after the results of the batches before it.
        """
        if batch_size < 1:
            raise UserError(f"batch_size={batch_size}: must be above 0")
        if isinstance(images, (str, os.PathLike)):
            raise UserError(
                f"stream: {images} is one path; pass an iterable of images, or call the model with the path"
            )
        remaining = iter(images)
        while batch := list(islice(remaining, batch_size)):
            results = self.predict([self.read(image) for image in batch])
            for image, result in zip(batch, results, strict=True):
                yield result.with_source(image, self.view)

    def predict(self, images: Sequence[Input]) -> list[Result]:
        """Return the results for a batch of inputs, which `read` has prepared."""
        kind = self.device.type
        autocast = torch.autocast(kind, self.dtype, enabled=self.dtype != torch.float32)
        with torch.inference_mode(), autocast, self._folds:
            return self._predict(images)

    def _predict(self, images: Sequence[Input]) -> list[Result]:
        raise NotImplementedError


def require_names(chosen: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """Return names of a model's classes that the user chose.

    Args:
        names: all names of the model.

    Raises:
        UserError: the model has no such class, with similar names.
    """
    if not isinstance(chosen, Iterable):
        raise UserError(f"classes={chosen!r}: expected a list of the names of classes")
    chosen = (chosen,) if isinstance(chosen, str) else tuple(chosen)
    if not chosen:
        raise UserError("classes=[]: names no class; leave it out for all classes")
    for name in chosen:
        require_class(name, names, f"classes={name!r}")
    return chosen


def _freeze_as_trained(model: nn.Module, trained: TrainedFile) -> None:
    """Freeze those batch norm layers that were frozen in training, so that rounding is the same as in training.

    In the file, frozen batch norm has no entry `num_batches_tracked`.
    """
    names = trained.entries()
    frozen = [
        module
        for name, module in model.named_modules()
        if hasattr(module, "num_batches_tracked") and f"{name}.num_batches_tracked" not in names
    ]
    freeze_batch_norm(model, within=frozen)
