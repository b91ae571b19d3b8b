"""Interface of the tasks' predictions, and functions that they share."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from torch import Tensor

from backbones.common.results import ImageResult
from backbones.errors import UserError, require_class
from backbones.trained import TrainedModel
from tools.prediction.inputs import Read
from tools.prediction.naming import NumberedImage
from tools.prediction.outputs import PictureWriter

Content = TypeVar("Content")
Result = TypeVar("Result", bound=ImageResult)


class PredictionTask(Protocol[Content, Result]):
    """Interface of a task's prediction: how to batch images, run the model, draw and write results.

    Attributes:
        read: converts a path or an array to the content of an image; called in data-loading workers.
        limits_memory: whether several batches may be predicted at once, because memory hardly grows with their images.
    """

    read: Read[Content]
    limits_memory: bool

    @property
    def model(self) -> TrainedModel[Any, Result]:
        """The trained model that predicts."""

    def pixels(self, content: Content) -> int:
        """Return the number of pixels of a loaded image, as a measure of its memory."""

    def group(self, content: Content) -> Hashable:
        """Return a key: images with equal keys may share a batch. None means that the image is predicted alone."""

    def predict(self, contents: Sequence[Content]) -> list[Result]:
        """Return the results of a batch of images with equal group keys."""

    def add(self, image: NumberedImage[Content], result: Result, pictures: PictureWriter) -> None:
        """Store the result of an image until `finish` writes it; draw it if pictures are enabled."""

    def finish(self, folder: Path) -> list[str]:
        """Write the stored results to files; return a line of text for each file: its name and its content."""


def choose_classes(chosen: Sequence[str], names: Sequence[str]) -> list[int]:
    """Return the indices of the classes that `chosen` names; all indices if `chosen` is empty.

    Raises:
        UserError: for a name that the model does not have, with similar names.
    """
    for name in chosen:
        require_class(name, names, f"--classes {name}")
    return [index for index, name in enumerate(names) if not chosen or name in chosen]


def read_image_file(read: Read[Tensor], image: Path | np.ndarray) -> Tensor:
    """Read an image with the reader of a detector, which cannot read .npy arrays.

    Raises:
        UserError: for an array file, or an image that cannot be read.
    """
    if isinstance(image, Path) and image.suffix.lower() == ".npy":
        raise UserError(f"{image}: is an array, which detectors cannot read; save it as a PNG")
    return read(image)


def to_array(content: Tensor) -> np.ndarray:
    """Convert an image `[3, H, W]` uint8 to an array `[H, W, 3]`."""
    return np.ascontiguousarray(content.permute(1, 2, 0).numpy())


AnyTask = PredictionTask[Any, Any]
