"""Folders of classes as a dataset of (image, target) pairs, and the loaders over it.

ImageNet's layout: `train/CLASS/*.jpg` and `val/CLASS/*.jpg`; the classes are the folders' names in sorted order.
Images are JPEG, PNG, WebP, BMP or TIFF files; `.npy` files are arrays `[H, W]` or `[H, W, bands]`.
"""

from __future__ import annotations

import copy
import io
import os
import tokenize
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from backbones.common.datasets import PIXEL_SUFFIXES
from backbones.common.images import decode_image, read_file
from backbones.errors import UserError

Item = tuple[Tensor | list[Tensor], dict[str, int]]


class ClassFolder(Dataset):
    """The images of one split.

    An item is a uint8 image `[C, h, w]` (float32 and normalised where the file is an array of other numbers), or a list
    of such views in evaluation, and a target: `label` from 0 and `index`, the image's place in the split.

    Args:
        root: folder of class folders.
        transform: `Augment` or `Views`; None for raw pixels.
        in_channels: channels that an image must have.
        indices: which images, in order; all by default.
    """

    def __init__(
        self,
        root: Path,
        transform: Callable[..., Any] | None,
        *,
        in_channels: int,
        indices: Sequence[int] | np.ndarray | None = None,
    ) -> None:
        self.root, self.transform, self.in_channels = root, transform, in_channels
        self.classes, self.files, self.labels = scan(root)
        self.indices = np.arange(len(self.files)) if indices is None else np.asarray(indices, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, key: int | tuple[int, int]) -> Item:
        """One image; a key `(epoch, index)` chooses the augmentation, a plain index stands for epoch 0.

        Raises:
            UserError: naming the file, where it does not decode or has another number of channels.
        """
        epoch, place = key if isinstance(key, tuple) else (0, key)
        row = int(self.indices[place])
        path = self.path(row)
        image = decode(read_file(path), str(path), self.in_channels)
        if self.transform is not None:
            image = self.transform(image, epoch=epoch, index=row)
        return item(image, label=int(self.labels[row]), index=row)

    def seen_by(self, transform: Callable[..., Any] | None, *, in_channels: int, indices: np.ndarray) -> ClassFolder:
        """The same files, not listed again, through another transform."""
        other = copy.copy(self)
        other.transform, other.in_channels, other.indices = transform, in_channels, indices
        return other

    def unreadable(self, place: int) -> Path | None:
        """The file of an image that is missing or does not decode; None where it is whole."""
        path = self.path(int(self.indices[place]))
        try:
            decode_raw(read_file(path), str(path))
        except UserError:
            return path
        return None

    def path(self, row: int) -> Path:
        """The file of an image by its place in the split."""
        return self.root / os.fsdecode(self.files[row])


def scan(root: Path) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    """Classes, files `[N]` (bytes, relative to `root`) and labels `[N]` of a folder of class folders.

    Raises:
        UserError: where the folder, its classes or a class's images are absent.
    """
    if not root.is_dir():
        raise UserError(f"--data {root.parent}: has no folder {root.name}/; expected train/CLASS/* and val/CLASS/*")
    classes = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not classes:
        raise UserError(f"{root}: has no class folders; expected {root.name}/CLASS/*.jpg")
    files: list[bytes] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = sorted(path.relative_to(root) for path in image_files(root / name))
        if not found:
            raise UserError(
                f"{root / name}: a class without images ({', '.join(PIXEL_SUFFIXES)}); fill or remove the folder"
            )
        files += [os.fsencode(path) for path in found]
        labels += [label] * len(found)
    # Packed: a list of a million Python objects would be copied into each worker by its reference counts.
    return tuple(classes), np.array(files, dtype=np.bytes_), np.array(labels, dtype=np.int64)


def image_files(folder: Path) -> Iterator[Path]:
    """Image files at any depth; what is hidden is an editor's or a file manager's, not the data's."""
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if name.lower().endswith(PIXEL_SUFFIXES) and not name.startswith("."):
                yield Path(parent, name)


def require_same_classes(train: Sequence[str], val: Sequence[str], *, here: str, there: str) -> None:
    """Refuse splits whose classes differ: the numbers of one would mean other names in the other.

    Raises:
        UserError: naming up to three classes that only one of them has.
    """
    odd = sorted(set(train) ^ set(val))
    if odd:
        shown = ", ".join(f"{name} (only in {here if name in train else there})" for name in odd[:3])
        more = f" and {len(odd) - 3} more" if len(odd) > 3 else ""
        raise UserError(f"the classes of {here} and {there} differ: {shown}{more}; both need the same class folders")


def decode(content: bytes, name: str, in_channels: int) -> np.ndarray:
    """An image file's bytes to `[H, W, in_channels]`: uint8, or float32 for arrays of other numbers.

    Pictures become grey for one channel and RGB for three, turned as their EXIF orientation says; 16-bit arrays are
    scaled to 0..1, floating ones stay as they are.

    Raises:
        UserError: naming the file, where it does not decode, has another number of channels or numbers that are none.
    """
    image = _array(content, name) if name.lower().endswith(".npy") else _picture(content, name, in_channels)
    if image.shape[2] != in_channels:
        raise UserError(
            f"{name}: has {image.shape[2]} channels, not {in_channels}; take --in-channels {image.shape[2]}"
        )
    if image.dtype == np.uint8:
        return image
    # By kind and width: an array of the other byte order is no `np.uint16`.
    scale = 65535 if image.dtype.kind == "u" and image.dtype.itemsize == 2 else 1
    values = (image / scale).astype(np.float32)
    if not np.isfinite(values).all():
        raise UserError(f"{name}: holds NaN or numbers beyond 32-bit floats; mend or remove it")
    return values


def decode_raw(content: bytes, name: str) -> np.ndarray:
    """A file's pixels as they are: `[H, W, 3]` uint8 of a picture, `[H, W, bands]` of an array.

    Raises:
        UserError: naming the file, where it does not decode.
    """
    return _array(content, name) if name.lower().endswith(".npy") else _picture(content, name, 3)


def channels_of(path: Path) -> int:
    """Channels that a file asks for: an array's bands, and three of any picture."""
    return decode_array(path).shape[2] if path.suffix.lower() == ".npy" else 3


def decode_array(path: Path) -> np.ndarray:
    """The `[H, W, bands]` array of a `.npy` file, in its own type."""
    return _array(read_file(path), str(path))


def item(image: np.ndarray | list[np.ndarray], *, label: int, index: int) -> Item:
    """A dataset's item from pixels `[H, W, C]`, or from a list of views of them."""
    target = {"label": label, "index": index}
    if isinstance(image, list):
        return [_tensor(view) for view in image], target
    return _tensor(image), target


def collate(items: Iterable[Item]) -> tuple[Any, dict[str, Tensor]]:
    """Images `[N, C, h, w]`, or a list of them for each view, and targets `[N]`.

    Raises:
        UserError: where bytes meet floats, of which a stack would make floats that nobody normalised.
    """
    images, targets = zip(*items, strict=True)
    if len({(image[0] if isinstance(image, list) else image).dtype for image in images}) > 1:
        raise UserError("--data: a batch holds pictures of bytes and floating arrays; store all images in one type")
    batch = {key: torch.tensor([target[key] for target in targets]) for key in targets[0]}
    if isinstance(images[0], list):
        return [torch.stack(views) for views in zip(*images, strict=True)], batch
    return torch.stack(images), batch


def _picture(content: bytes, name: str, in_channels: int) -> np.ndarray:
    if in_channels not in (1, 3):
        raise UserError(f"{name}: a picture gives 1 or 3 channels, not {in_channels}; store bands as .npy arrays")
    image = decode_image(content, grey=in_channels == 1)
    if image is None:
        raise UserError(f"{name}: does not decode: cut short, damaged or no image; replace or remove it")
    return image.reshape(*image.shape[:2], in_channels)


def _array(content: bytes, name: str) -> np.ndarray:
    try:
        # Not `np.load`, which takes archives and pickles as well.
        array = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError, OSError, MemoryError, tokenize.TokenError):  # the last two of a damaged header
        raise UserError(f"{name}: does not decode: cut short, damaged or no array; replace or remove it") from None
    if array.ndim not in (2, 3) or array.dtype.kind not in "uif":
        raise UserError(f"{name}: expected an array [H, W] or [H, W, bands] of numbers; mend or remove it")
    if not array.size:
        raise UserError(f"{name}: is an empty array, {list(array.shape)}; replace or remove it")
    return array.reshape(*array.shape[:2], -1)


def _tensor(image: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
