"""Items and batches of classification data. An item is an image, or a list of its views, with the label."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor

from backbones.common.channels_last import stack_images, to_tensor

# Class number of an image, or a bool for each class `[classes]` in a multi-label data set.
ItemLabel: TypeAlias = int | np.integer | np.ndarray
# An image `[C, h, w]` or a list of its views, and its `label` and `index` (in the split).
Item: TypeAlias = tuple[Tensor | list[Tensor], dict[str, ItemLabel]]
# Images `[N, C, h, w]` or a list of them for each view, and `label` `[N]` or `[N, classes]`, and `index` `[N]`.
ItemBatch: TypeAlias = tuple[Tensor | list[Tensor], dict[str, Tensor]]


class Transform(Protocol):
    """Prepares an image `[H, W, C]` for the model: `Augment` returns one image, `Views` a list of views."""

    def __call__(self, image: np.ndarray, *, epoch: int, index: int) -> np.ndarray | list[np.ndarray]: ...

    def shrink_factor(self, size: tuple[int, int]) -> int:
        """Return by what an image of size (height, width) may be divided in decoding; see `decode`."""


class Collate(Protocol):
    """Function that makes a batch from items."""

    def __call__(self, items: list[Item], /) -> ItemBatch: ...


def make_item(image: np.ndarray | list[np.ndarray], *, label: ItemLabel, index: int) -> Item:
    """Make a dataset's item from pixels `[H, W, C]`, or from a list of views `[h, w, C]`."""
    target: dict[str, ItemLabel] = {"label": label, "index": index}
    if isinstance(image, list):
        return [to_tensor(view) for view in image], target
    return to_tensor(image), target


def collate(items: Iterable[Item]) -> ItemBatch:
    """Stack items to images `[N, C, h, w]`, or to one such tensor for each view, and to targets `[N]`.

    Raises:
        UserError: the batch mixes bytes and floats.
    """
    images, targets = zip(*items, strict=True)
    batch = {key: torch.from_numpy(np.array([target[key] for target in targets])) for key in targets[0]}
    if isinstance(images[0], list):
        return [stack_images(views) for views in zip(*images, strict=True)], batch
    return stack_images(images), batch
