"""A trained net in evaluation mode, as its run evaluated it: images in, results out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from backbones.errors import UserError
from backbones.fold import Folds
from backbones.norm import freeze_batch_norm
from backbones.pixels import Image
from backbones.precision import precision_dtype
from backbones.state_file import first_line
from backbones.trained import Trained

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

    def __call__(self, images: Image | Sequence[Image], *, batch_size: int = 8) -> Any:
        """Results of an image, or a list of them for a list of images.

        Args:
            images: file paths, PIL images, arrays `[H, W, C]` (RGB; uint8, or floats in 0..1) or tensors `[C, H, W]`.
            batch_size: images that go through the net together.

        Raises:
            UserError: naming the image, where it cannot be used.
        """
        if not isinstance(images, (list, tuple)):
            return self.predict([self.read(images)])[0]
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
