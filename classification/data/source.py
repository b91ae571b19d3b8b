"""Interface of classification data: image files or tar shards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from torch.utils.data import DataLoader, Dataset

from backbones.common.data_split import DataSplit
from backbones.common.decoded import DecodedImages
from classification.data.folders import ClassFolder
from classification.data.items import Collate, Item, ItemBatch
from classification.transforms import Augment, Views

Split: TypeAlias = Literal["train", "val"]
SPLIT_FOLDERS: Mapping[Split, str] = {"train": "train", "val": "val"}
# Selects training images: labels `[N]` (or `[N, classes]` bool in a multi-label data set), class names and file names
# -> indices `[M]` of the images to use, and what was chosen, for the plan.
Choice: TypeAlias = Callable[[np.ndarray, tuple[str, ...], Sequence[str]], tuple[np.ndarray, str]]

# Splits the images of a folder into training and validation images.
Divide: TypeAlias = Callable[[ClassFolder], DataSplit]


class ImageSource(Protocol):
    """Interface of the data set of a classification run: image files or tar shards.

    Attributes:
        classes: names by label.
        in_channels: number of channels of the images.
        train_size, val_size: number of images that are used of each split.
        measurable: splits that `eval_loader` accepts.
        where: folder or address of each split, for the plan.
        remarks: remarks about each split for the plan: files that are not read, classes without images.
        floating: whether the images are floating arrays, according to the first image of each split.
        multi_label: whether an image may have several classes, or none.
        split: how the training images were split, if the data have no validation split.
        chosen: which training images were chosen, for the plan; "" for all.
        choosable: number of training images without a choice.
    """

    classes: tuple[str, ...]
    in_channels: int
    train_size: int
    val_size: int
    measurable: tuple[Split, ...]
    where: Mapping[Split, str]
    remarks: Mapping[Split, str]
    floating: bool
    multi_label: bool
    split: DataSplit | None
    chosen: str
    choosable: int

    def keep_decoded(self, cache: DecodedImages | None) -> None:
        """Read the images of loaders that are made from now on through a cache.

        Raises:
            UserError: there is a cache, and the images are those of tar shards.
        """

    def train_loader(self, batches: Any, augment: Augment, *, workers: int, collate: Collate) -> DataLoader:
        """Return a loader of the training batches that `batches` lists."""

    def eval_loader(
        self, split: Split, views: Views, *, rank: int, world_size: int, batch_size: int, workers: int, sample: int = 0
    ) -> Iterable[ItemBatch]:
        """Return a loader of this process's part of a split.

        With folders, the batches do not depend on the number of processes. With shards, only the images do not.

        Args:
            sample: use only this many images, evenly spread; 0 for all.
        """

    def expected(self, split: Split, sample: int = 0) -> tuple[np.ndarray, np.ndarray] | None:
        """Return indices `[N]` and labels of all images that `eval_loader` should yield, over all processes.

        The labels are `[N]`, or `[N, classes]` bool in a multi-label data set.

        Return None if images cannot be missing from it.
        """

    def train_labels(self) -> np.ndarray | None:
        """Return the labels of the training images, `[N]` or `[N, classes]` bool; None if they are not known."""

    def present(self, split: Split) -> np.ndarray | None:
        """Return the labels `[P]` of the classes that have images in a split, or None if this is not known."""

    def names(self, split: Split, indices: np.ndarray) -> list[str]:
        """Return the names of images for tables. `indices` are their indices in the split."""

    def fingerprints(self) -> dict[str, str]:
        """Return for each split a hash of its image names in order. Equal hashes mean the same data."""

    def statistics(self, count: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and std per channel over `count` evenly spread training images. Bytes are scaled to 0..1."""


class BadImagePolicy(Protocol):
    """Interface of a policy for images that cannot be read, such as `tools.engine.bad_images.BadImages`."""

    def replacing(self, data: ClassFolder) -> Dataset[Item]:
        """Return a dataset that replaces each bad image by another image."""

    def evaluation_loader(
        self,
        data: ClassFolder,
        *,
        workers: int,
        collate: Callable[[list[Item]], ItemBatch],
        batch_sampler: list[list[int]],
    ) -> Iterable[ItemBatch]:
        """Return a data loader without bad images."""
