"""What a training run leaves behind: the file of a trained net, and what its header says of it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Generic, TypeVar, cast, overload

import torch
from torch import nn

from backbones.common.images import Image
from backbones.common.plugins import load as load_plugins
from backbones.common.plugins import require as require_plugins
from backbones.common.precision import precision_dtype
from backbones.errors import UserError, first_line
from backbones.fold import Folds
from backbones.norm import freeze_batch_norm
from backbones.weights.hub import resolve

# In a run folder, the one that `results.json` speaks of first; all are written by `tools.experiment`.
FILES = ("model.safetensors", "checkpoint/best.safetensors")


TASKS = ("classification", "detection", "segmentation")


@dataclass(frozen=True)
class Trained:
    """A trained net's file.

    Attributes:
        path: the weights.
        meta: what a user of them must know: `task`, categories or classes, `input` (sizes, mean, std), `model` (the
            options that it was built with).
        config: all options of its run, flat, evaluation's among them; empty where the file does not say.
    """

    path: Path
    meta: dict[str, Any]
    config: dict[str, Any]

    @property
    def task(self) -> str:
        """One of `TASKS`."""
        return self.meta["task"]

    def entries(self) -> set[str]:
        """Names of the weights."""
        from safetensors import safe_open

        with safe_open(self.path, framework="pt") as file:
            return set(file.keys())

    @contextmanager
    def understood(self) -> Iterator[None]:
        """A stretch that builds from the header: what that lacks or has wrong is a mistake in the file.

        Raises:
            UserError: naming the file, in place of the errors that a wrong header leads to.
        """
        try:
            yield
        except UserError as error:
            text = str(error)
            raise (error if str(self.path) in text else UserError(f"{self.path}: {text}")) from None
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            why = f"{type(error).__name__}: {error}"
            raise UserError(
                f"{self.path}: its header describes no net of this version ({why}); train or export it again"
            ) from None


def find(
    run: str | os.PathLike[str], *, task: str | None = None, plugins: Sequence[str | os.PathLike[str]] = ()
) -> Trained:
    """Find the trained model of a run folder or of one of our weights files, and read the header of its file.

    In a run folder it is model.safetensors, the model after the last step. Before that file exists, it is the best
    model so far.

    Args:
        task: the task that the model must have; None allows any.
        plugins: plugins to import, see `backbones.common.plugins.load`.

    Raises:
        UserError: there is no trained model, its file is damaged or not ours, it has another task, or the run used a
            plugin that is not loaded.
    """
    load_plugins(plugins)
    path = _file(Path(resolve(run)))
    header = _header(path)
    meta, config = (_object(header, name, path) for name in ("meta", "config"))
    if header.get("format", "").startswith("resnet-transfer checkpoint"):
        raise UserError(f"{path}: is a checkpoint to resume from; name its run folder, or checkpoint/best.safetensors")
    if meta.get("task") not in TASKS:
        raise UserError(
            f"{path}: does not say what its net is, as model.safetensors of a run folder does; "
            "give such a file, or build the net with `build(..., weights=FILE)`"
        )
    if task not in (None, meta["task"]):
        raise UserError(f"{path}: is a net of {meta['task']}; load it with {meta['task']}.load")
    require_plugins(meta.get("plugins"), where=run)
    return Trained(path, meta, config)


Options = TypeVar("Options")


def options_of(kind: type[Options], meta: Mapping[str, Any]) -> Options:
    """Return the options, a dataclass, that a run's meta records under `model`; unknown entries are left out."""
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]  # a dataclass
    return kind(**{name: value for name, value in meta["model"].items() if name in known})


def _file(run: Path) -> Path:
    if run.is_file():
        return run
    if not run.is_dir():
        raise UserError(f"{run}: no such run folder or weights file")
    for name in FILES:
        if (run / name).is_file():
            return run / name
    if (run / "config.yaml").is_file():
        raise UserError(f"{run}: has no {' or '.join(FILES)} yet: its training goes on with --resume --output {run}")
    raise UserError(f"{run}: is no run folder (no {' or '.join(FILES)}); name one that a train_*.py has finished")


def _header(path: Path) -> dict[str, str]:
    from safetensors import SafetensorError, safe_open

    if path.suffix != ".safetensors":
        raise UserError(
            f"{path}: is no .safetensors file, and so does not say what its net is; name a run folder or its "
            "model.safetensors, or build the net with `build(..., weights=FILE)`"
        )
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a whole safetensors file ({' '.join(str(error).split())})") from None


def _object(header: dict[str, str], name: str, path: Path) -> dict[str, Any]:
    try:
        value = json.loads(header.get(name, "{}"))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise UserError(f"{path}: its header's `{name}` cannot be read; train or export it again")
    return value


Result = TypeVar("Result")


class TrainedNet(Generic[Result]):
    """Base of what the tasks' `load` gives.

    Attributes:
        trained: the file, and what its header says.
        model: the net, in evaluation mode.
        device: where it computes.
        dtype: of autocast; float32 is none.
        read: an image as `predict` takes it; holds no net, so that data workers may have it. Raises a UserError where
            the image cannot be used.

    Args:
        device: absent: a GPU where there is one.
        precision: auto, fp32, bf16 or fp16; absent: the run's own.
    """

    def __init__(
        self,
        trained: Trained,
        model: nn.Module,
        read: Callable[[Image], Any],
        *,
        device: str | torch.device | None = None,
        precision: str | None = None,
    ) -> None:
        self.trained, self.read = trained, read
        self.device = _usable(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.dtype = precision_dtype(precision or trained.config.get("precision", "auto"), self.device)
        _freeze_as_trained(model, trained)
        self.model = model.eval().to(self.device).to(memory_format=torch.channels_last)
        self._folds = Folds()

    @overload
    def __call__(self, images: Image, *, batch_size: int = 8) -> Result: ...  # type: ignore[overload-overlap]

    @overload
    def __call__(self, images: Sequence[Image], *, batch_size: int = 8) -> list[Result]: ...

    def __call__(self, images: Image | Sequence[Image], *, batch_size: int = 8) -> Result | list[Result]:
        """Results of an image, or a list of them for a list of images.

        Args:
            images: file paths, PIL images, arrays `[H, W, C]` (RGB; uint8, or floats in 0..1) or tensors `[C, H, W]`.
            batch_size: images that go through the net together.

        Raises:
            UserError: naming the image, where it cannot be used.
        """
        if not isinstance(images, (list, tuple)):
            return self.predict([self.read(cast(Image, images))])[0]
        results: list[Result] = []
        for start in range(0, len(images), batch_size):
            results += self.predict([self.read(image) for image in images[start : start + batch_size]])
        return results

    def predict(self, images: Sequence[Any]) -> list[Result]:
        """Results of a batch of what `read` gave."""
        kind = self.device.type
        autocast = torch.autocast(kind, self.dtype, enabled=self.dtype != torch.float32)
        with torch.inference_mode(), autocast, self._folds:
            return self._predict(images)

    def _predict(self, images: Sequence[Any]) -> list[Result]:
        raise NotImplementedError


def _usable(device: str | torch.device) -> torch.device:
    """A device that this machine has.

    Raises:
        UserError: where it has none such, or torch knows no such name.
    """
    try:
        torch.empty(1, device=device).cpu()  # beyond its name: `meta` holds no numbers, `cuda:9` may not be there
        return torch.device(device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # a build without CUDA asserts
        raise UserError(
            f"device {device}: cannot be used here ({first_line(error)}); name another, such as cpu"
        ) from None


def _freeze_as_trained(model: nn.Module, trained: Trained) -> None:
    """Freeze the batch norm that was frozen in training, which alone counts no batches: it is computed otherwise."""
    names = trained.entries()
    frozen = [
        module
        for name, module in model.named_modules()
        if hasattr(module, "num_batches_tracked") and f"{name}.num_batches_tracked" not in names
    ]
    freeze_batch_norm(model, within=frozen)
