"""Provides a split as a dataset of (image, target) pairs."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from backbones.common.bits import WHOLE_BITS, require_bits
from backbones.common.decoded import DecodedImages, decoded
from backbones.common.images import read_image
from backbones.common.shrinking import read_shrunk
from backbones.errors import BadImageError, UserError
from detection.augmentation.sample import Sample, without_emptied
from detection.data.annotations import SMALLEST_SIDE, CocoAnnotations
from detection.runs import shrunk
from detection.targets import check_targets
from detection.transforms import Augment


class CocoDetection(Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """Dataset of images with their boxes.

    An item is a uint8 image `[3, H, W]`, of its original size unless `augment` shrinks it, and a target: `boxes`
    `[N, 4]` xyxy in pixels of that image, `labels` `[N]` from 1, `ignore` `[K, 4]` (crowd regions), `image_id`, and in
    multi-scale training `short_side`. If the annotations have masks, it has `strips` `[S, 5]` (see `detection.strips`).
    An image without objects has `[0, 4]` boxes and is a negative.

    Args:
        augment: augmentation of an image, a function of (seed, epoch, index).
        indices: indices of the images to use, in order. By default all.
        bits: bits that the values of 16-bit images use, 8 to 16. By default all 16, and a data set of small 16-bit
            values is refused.
        boxes_only: leave masks out of the targets; only the augmentation uses them.

    Attributes:
        cache: keeps decoded images; by default each is decoded every time.

    Raises:
        UserError: `bits` is None, and the values of 16-bit images all fit 12 bits.
    """

    def __init__(
        self,
        annotations: CocoAnnotations,
        augment: Augment,
        *,
        indices: Sequence[int] | np.ndarray | None = None,
        bits: int | None = None,
        boxes_only: bool = False,
    ) -> None:
        self.annotations, self.augment, self.bits = annotations, augment, bits or WHOLE_BITS
        self.boxes_only = boxes_only
        self.cache: DecodedImages | None = None
        self.indices = np.arange(len(annotations)) if indices is None else np.asarray(indices, dtype=np.int64)
        require_bits([self.path(index) for index in range(len(self))], bits)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return one image and its target.

        Args:
            key: `(epoch, index)`; the epoch chooses the augmentation. A plain index means epoch 0.

        Raises:
            UserError: the file cannot be decoded, its size is not the one in the annotations, or a 16-bit
                value needs more than `bits`.
        """
        epoch, index = key if isinstance(key, tuple) else (0, key)
        row = int(self.indices[index])
        sample, factor = self._read(index)
        seen = self.augment(sample, epoch=epoch, index=row, partner=self._partner, least_side=SMALLEST_SIDE / factor)
        crowd = np.flatnonzero(seen.crowd)
        target = {
            "ignore": torch.from_numpy(seen.boxes[crowd]),
            "image_id": torch.tensor(int(self.annotations.image_ids[row])),
        }
        seen = seen.kept(np.flatnonzero(~seen.crowd))
        if seen.strips is not None and not self.boxes_only:
            target["strips"] = torch.from_numpy(seen.strips)
        target["boxes"] = torch.from_numpy(seen.boxes)
        target["labels"] = torch.from_numpy(seen.labels.astype(np.int64))
        if seen.short_side is not None:
            target["short_side"] = torch.tensor(seen.short_side)
        return torch.from_numpy(np.stack(cv2.split(seen.image))), target  # three times as fast as a transposed copy

    def _read(self, index: int) -> tuple[Sample, int]:
        """Read an image with its objects. Return it divided by a power of two if it is large, and this factor."""
        row, data = int(self.indices[index]), self.annotations
        size = tuple(data.sizes[row].tolist())
        # Divide a large image and its boxes by a power of two, which changes no bit of the boxes but the exponent.
        factor = self.augment.shrink_factor(size)
        path = self.path(index)
        read = partial(read_shrunk, path, size=size, factor=factor, bits=self.bits)
        image = decoded(self.cache, read, path, size, factor)
        boxes, labels, crowd = data.of_image(row)
        strips = data.strips_of(row)
        sample = Sample(image, boxes / np.float32(factor), labels, crowd, strips)
        if strips is not None:
            sample = replace(sample, strips=shrunk(strips, factor, size))
            sample = without_emptied(np.isin(np.arange(len(boxes)), strips[:, 0]), sample)
        return sample, factor

    def _partner(self, random: np.random.Generator) -> Sample:
        """Read the image that a generator draws, to be mixed into another one.

        Raises:
            BadImageError: its file is missing or cannot be decoded.
        """
        index = int(random.integers(len(self)))
        try:
            return self._read(index)[0]
        except UserError as error:
            path = self.unreadable(index)
            if path is None:
                raise
            raise BadImageError(str(error), path) from None

    def with_annotations(self, annotations: CocoAnnotations) -> CocoDetection:
        """Return a dataset of the same images with other annotations of theirs."""
        other = copy.copy(self)
        other.annotations = annotations
        return other

    def path(self, index: int) -> Path:
        """Return the file of an image."""
        return self.annotations.folder / str(self.annotations.file_names[self.indices[index]])

    def unreadable(self, index: int) -> Path | None:
        """Return the file of an image if it is missing or cannot be decoded, or None if the image can be read."""
        try:
            read_image(self.path(index))
        except UserError:
            return self.path(index)
        return None

    def fingerprint(self) -> str:
        """Return a hash of the file names, their order, their boxes and their masks."""
        data = self.annotations
        digest = hashlib.sha256("\0".join(map(str, data.file_names[self.indices])).encode(errors="replace"))
        masks = () if data.masks is None else (data.masks.ends, data.masks.text)
        for part in (data.offsets, data.boxes, data.labels, data.crowd, *masks):
            digest.update(np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()

    def aspect_groups(self) -> np.ndarray:
        """Return a group for each image `[N]`: 1 if it is wider than high, else 0.

        Batches from one group need less padding.
        """
        sizes = self.annotations.sizes[self.indices]
        return (sizes[:, 1] > sizes[:, 0]).astype(np.int64)

    def repeat_factors(self, threshold: float) -> np.ndarray:
        """Return how often each image `[N]` occurs in an epoch if rare classes are repeated (Gupta et al. 2019, LVIS).

        A class in a fraction f of the images has the factor max(1, sqrt(threshold / f)). An image has the largest
        factor of its classes.
        """
        data, rows = self.annotations, self.indices
        # List the pairs of an image and a class that occurs in it.
        counts = np.diff(data.offsets)
        images = np.repeat(np.arange(len(counts)), counts)[~data.crowd]
        pairs = np.unique(np.stack([images, data.labels[~data.crowd].astype(np.int64)]), axis=1)
        # Number the images by their position in this data set, and leave out the pairs of others.
        position = np.full(len(counts), -1)
        position[rows] = np.arange(len(rows))
        image, label = position[pairs[0]], pairs[1]
        image, label = image[image >= 0], label[image >= 0]
        # Count the images of each class, and give each image its largest factor.
        fractions = np.bincount(label, minlength=len(data.categories) + 1) / len(rows)
        factors = np.ones(len(rows))
        np.maximum.at(factors, image, np.sqrt(threshold / fractions[label]))
        return factors


def select(
    annotations: CocoAnnotations,
    *,
    limit: int | None = None,
    negatives: str = "keep",
    among: np.ndarray | None = None,
) -> np.ndarray:
    """Return the indices of the images to use: at most the first `limit`.

    Args:
        negatives: with "drop", images without objects are left out.
        among: indices of the images to choose from; None for all.
    """
    indices = np.arange(len(annotations)) if among is None else among
    if negatives == "drop":
        indices = indices[~annotations.empty()[indices]]
    return indices[:limit]


def collate(
    items: Iterable[tuple[Tensor, dict[str, Tensor]]], num_classes: int | None = None
) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Return the images and the targets of a batch as lists. Images differ in size; the model pads them.

    Args:
        num_classes: check boxes and labels against this number of classes; by default they are not checked.

    Raises:
        UserError: a target is malformed; the message names image and box.
    """
    images, targets = zip(*items, strict=True)
    if num_classes is not None:
        check_targets(targets, num_classes)
    return list(images), list(targets)
