"""A COCO split as a dataset of (image, target) pairs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from backbones.common.images import read_image
from backbones.errors import UserError
from detection.data.annotations import CocoAnnotations
from detection.transforms import Augment


class CocoDetection(Dataset):
    """Images with their boxes.

    An item is a uint8 image `[3, H, W]` of its original size and a target: `boxes` `[N, 4]` xyxy in pixels of that
    image, `labels` `[N]` from 1, `ignore` `[K, 4]` (crowd regions), `image_id`, and in multi-scale training
    `short_side`. An image without objects has `[0, 4]` boxes and is a negative.

    Args:
        augment: what happens to an image, by (seed, epoch, index).
        indices: which images, in order; all by default.
    """

    def __init__(
        self, annotations: CocoAnnotations, augment: Augment, *, indices: Sequence[int] | np.ndarray | None = None
    ) -> None:
        self.annotations, self.augment = annotations, augment
        self.indices = np.arange(len(annotations)) if indices is None else np.asarray(indices, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[Tensor, dict[str, Tensor]]:
        """One image; a key `(epoch, index)` chooses the augmentation, a plain index stands for epoch 0.

        Raises:
            UserError: naming the file, where it does not decode or has another size than the annotations say.
        """
        epoch, place = key if isinstance(key, tuple) else (0, key)
        row = int(self.indices[place])
        data = self.annotations
        image = read_image(self.path(place), size=tuple(data.sizes[row].tolist()))
        boxes, labels, crowd = data.of_image(row)
        image, boxes, places, short_side = self.augment(image, boxes, epoch=epoch, index=row)
        labels, crowd = labels[places], crowd[places]
        target = {
            "boxes": torch.from_numpy(boxes[~crowd].copy()),
            "labels": torch.from_numpy(labels[~crowd].astype(np.int64)),
            "ignore": torch.from_numpy(boxes[crowd].copy()),
            "image_id": torch.tensor(int(data.image_ids[row])),
        }
        if short_side is not None:
            target["short_side"] = torch.tensor(short_side)
        return torch.from_numpy(np.stack(cv2.split(image))), target  # thrice as fast as a transposed copy

    def path(self, place: int) -> Path:
        """The file of an image."""
        return self.annotations.folder / str(self.annotations.file_names[self.indices[place]])

    def unreadable(self, place: int) -> Path | None:
        """The file of an image that is missing or does not decode; None where it is whole."""
        try:
            read_image(self.path(place))
        except UserError:
            return self.path(place)
        return None

    def fingerprint(self) -> str:
        """What tells these images, in this order with these boxes, from others."""
        data = self.annotations
        digest = hashlib.sha256("\0".join(map(str, data.file_names[self.indices])).encode(errors="replace"))
        for part in (data.offsets, data.boxes, data.labels, data.crowd):
            digest.update(np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()

    def aspect_groups(self) -> np.ndarray:
        """For each image `[N]` whether it is wider than high: batches of one kind are padded less."""
        sizes = self.annotations.sizes[self.indices]
        return (sizes[:, 1] > sizes[:, 0]).astype(np.int64)

    def repeat_factors(self, threshold: float) -> np.ndarray:
        """How often each image `[N]` should come in an epoch for rare classes to be seen (Gupta et al. 2019, LVIS).

        A class in a share f of the images asks for max(1, sqrt(threshold / f)); an image takes what its rarest class
        asks for.
        """
        data, rows = self.annotations, self.indices
        counts = np.diff(data.offsets)
        images = np.repeat(np.arange(len(counts)), counts)[~data.crowd]
        pairs = np.unique(np.stack([images, data.labels[~data.crowd].astype(np.int64)]), axis=1)
        place = np.full(len(counts), -1)
        place[rows] = np.arange(len(rows))
        image, label = place[pairs[0]], pairs[1]
        image, label = image[image >= 0], label[image >= 0]
        shares = np.bincount(label, minlength=len(data.categories) + 1) / len(rows)
        factors = np.ones(len(rows))
        np.maximum.at(factors, image, np.sqrt(threshold / shares[label]))
        return factors


def select(annotations: CocoAnnotations, *, limit: int | None = None, negatives: str = "keep") -> np.ndarray:
    """Places of the images to use: the first `limit`, those without objects left out where negatives are dropped."""
    places = np.arange(len(annotations))
    if negatives == "drop":
        places = places[~annotations.empty()]
    return places[:limit]


def collate(items: Iterable[tuple[Tensor, dict[str, Tensor]]]) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Lists, since images differ in size: the model pads them."""
    images, targets = zip(*items, strict=True)
    return list(images), list(targets)
