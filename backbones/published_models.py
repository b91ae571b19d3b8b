"""Published models of torchvision by name, as weights files of this project: `detection.load("coco")`.

The published file is converted once. The new file lies in the cache of torch.hub beside torchvision's own, and has a
header with classes, sizes and options. Each task registers its models.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import torch
from filelock import FileLock
from safetensors.torch import save_file
from torch import nn

from backbones.common.files import JsonObject, atomic_file
from backbones.common.registry import Registry
from backbones.errors import UserError
from backbones.weights.files import is_run
from backbones.weights.published import DownloadError


@dataclass(frozen=True)
class PublishedModel:
    """A model whose weights torchvision publishes.

    Attributes:
        address: address of torchvision's file.
        build: builds the model with these weights, and its description as in the header of a run's weights.
    """

    address: str
    build: Callable[[], tuple[nn.Module, JsonObject]]


PUBLISHED: Registry[Callable[[], PublishedModel]] = Registry("published model")


def published_file(run: str | os.PathLike[str]) -> Path | None:
    """Return the weights file of a published model; None for any other name, or a file or run folder of this name.

    The first call downloads torchvision's file, unless it is in the cache, and converts it.

    Raises:
        UserError: the file cannot be downloaded, is not the published one, or cannot be written.
    """
    name = os.fspath(run)
    if name not in PUBLISHED or Path(name).is_file() or is_run(Path(name)):
        return None
    model = PUBLISHED[name]()
    source = Path(model.address.rsplit("/", 1)[-1])
    path = Path(torch.hub.get_dir()) / "checkpoints" / f"{source.stem}.{name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            _convert(name, model, path)
    return path


def suggestion(run: str | os.PathLike[str]) -> str:
    """Return a question after the published models whose names are near a name that is no file; "" for no such name."""
    near = get_close_matches(os.fspath(run), PUBLISHED.names(), 2)
    return f", or did you mean the published model {' or '.join(near)}?" if near else ""


def _convert(name: str, model: PublishedModel, path: Path) -> None:
    """Write the weights file of a published model."""
    try:
        net, meta = model.build()
    except DownloadError as error:
        raise UserError(
            f"{name}: {error.failure}; download {model.address} elsewhere and put it into that folder"
        ) from None
    tensors = {name: tensor.contiguous() for name, tensor in net.state_dict().items()}
    with atomic_file(path) as temporary:
        save_file(tensors, temporary, metadata={"meta": json.dumps(meta), "config": "{}"})
