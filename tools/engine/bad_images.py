"""Bad images (missing or undecodable files): replaced in training, counted as wrong in evaluation, always reported."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Generic, Protocol, TypeVar, cast

import numpy as np
from filelock import FileLock
from torch.utils.data import DataLoader, Dataset

from backbones.common.loading import loader
from backbones.errors import BadImageError, UserError

RECORD = "bad_images.jsonl"
TRIES = 100  # images drawn in place of a bad one; if all of them are bad, so is the data set

Item = TypeVar("Item")
Item_co = TypeVar("Item_co", covariant=True)
Batch = TypeVar("Batch")
Key = tuple[int, int]  # epoch and index of an image


class ImageDataset(Protocol[Item_co]):
    """Dataset of image files that can also tell which file is unreadable."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: Key, /) -> Item_co:
        """Return an item; raise a UserError with the reason if its image cannot be read."""

    def unreadable(self, index: int, /) -> Path | None:
        """Return the file of an image if it is missing or undecodable, or None if the image can be read."""


class SizedDataset(Dataset[Item_co]):
    """Dataset whose length is known."""

    def __len__(self) -> int:
        raise NotImplementedError


class BadImages:
    """Records the bad images of a run, and makes datasets and loaders that go on without them.

    The data-loading workers of all processes write to one file in the run folder. So each image causes one warning, and
    a resumed run knows the images that were found before.

    Args:
        folder: the run folder; nothing is recorded before it exists.
        skip: go on without bad images; otherwise a bad image is an error.
        seed: seed of the run.
    """

    def __init__(self, folder: Path, *, skip: bool, seed: int) -> None:
        self.record, self.skip, self.seed = folder / RECORD, skip, seed

    def replacing(self, data: ImageDataset[Item]) -> SizedDataset[Item]:
        """Return a dataset that replaces each bad image by another one, which depends only on seed, epoch and index."""
        return _Replacing(data, self) if self.skip else cast("SizedDataset[Item]", data)

    def omitting(self, data: ImageDataset[Item]) -> SizedDataset[Item | None]:
        """Return a dataset that has None instead of each bad image."""
        return _Omitting(data, self) if self.skip else cast("SizedDataset[Item | None]", data)

    def evaluation_loader(
        self,
        data: ImageDataset[Item],
        *,
        workers: int,
        collate: Callable[[list[Item]], Batch],
        batch_sampler: Sequence[list[int]],
    ) -> DataLoader[Batch] | NonEmptyBatches[Batch]:
        """Return a data loader for evaluation that omits bad images. The arguments are those of `loading.loader`."""
        images = self.omitting(data)
        if not self.skip:
            return loader(images, workers=workers, collate=collate, batch_sampler=batch_sampler)
        present = _CollatePresent(collate)
        return NonEmptyBatches(loader(images, workers=workers, collate=present, batch_sampler=batch_sampler))

    def add(self, path: Path, reason: str) -> None:
        """Record a bad image and print a warning, unless a process has already recorded it."""
        if not self.record.parent.is_dir():
            return
        with FileLock(self.record.with_name(f".{RECORD}.lock")):
            if str(path) in self.files():
                return
            # A kill may have cut the last line short; the new line must not continue it.
            torn = self.record.is_file() and not self.record.read_bytes().endswith(b"\n")
            with open(self.record, "a", encoding="utf-8") as file:
                file.write("\n" * torn + json.dumps({"file": str(path), "reason": reason}) + "\n")
        print(f"warning: {path}: is missing or does not decode; skipped", file=sys.stderr, flush=True)

    def files(self) -> list[str]:
        """Return the paths of the bad images found so far, sorted."""
        if not self.record.is_file():
            return []
        lines = self.record.read_text(encoding="utf-8", errors="replace").splitlines()
        return sorted({file for line in lines if (file := _file_of(line)) is not None})

    def counted(self) -> dict[str, int]:
        """Return {"bad_images": number found so far} for the log; {} if a bad image is an error."""
        return {"bad_images": len(self.files())} if self.skip else {}

    def listed(self) -> dict[str, int | list[str]]:
        """Return `bad_images` (their number) and `bad_image_files` (their paths); {} if a bad image is an error."""
        return {**self.counted(), "bad_image_files": self.files()} if self.skip else {}


def _file_of(line: str) -> str | None:
    """Return the file that a line of the record names; None if the line is incomplete because of a killed process."""
    try:
        return json.loads(line)["file"]
    except (ValueError, TypeError, KeyError):
        return None


class _Recording(Generic[Item]):
    """Base class of datasets that record bad images and go on. Other errors are raised."""

    def __init__(self, data: ImageDataset[Item], bad: BadImages) -> None:
        self.data, self.bad = data, bad

    def __len__(self) -> int:
        return len(self.data)

    def read(self, epoch: int, index: int) -> Item | None:
        """Return an item; for a bad image record it and return None."""
        try:
            return self.data[(epoch, index)]
        except UserError as error:
            # An augmentation may have read other images as well.
            path = error.path if isinstance(error, BadImageError) else self.data.unreadable(index)
            if path is None:
                raise
            self.bad.add(path, str(error))
            return None


class _Omitting(_Recording[Item], SizedDataset["Item | None"]):
    """Dataset that has None instead of each bad image."""

    def __getitem__(self, key: int | Key) -> Item | None:
        return self.read(*_epoch_and_index(key))


class _Replacing(_Recording[Item], SizedDataset[Item]):
    """Dataset that replaces each bad image by another one."""

    def __getitem__(self, key: int | Key) -> Item:
        epoch, index = _epoch_and_index(key)
        for candidate in self._candidates(epoch, index):
            item = self.read(epoch, candidate)
            if item is not None:
                return item
        path = self.data.unreadable(index)
        raise UserError(
            f"{path}: does not decode, and neither do the {TRIES} images that were tried instead; replace "
            "the bad images of the data set"
        )

    def _candidates(self, epoch: int, index: int) -> Iterator[int]:
        """Yield the given index, then random ones, which depend only on seed, epoch and index."""
        yield index
        # The last number separates these draws from those of the augmentation.
        random = np.random.default_rng((self.bad.seed, epoch, index, 1))
        yield from random.integers(len(self.data), size=TRIES).tolist()


def _epoch_and_index(key: int | Key) -> Key:
    return key if isinstance(key, tuple) else (0, key)


class _CollatePresent(Generic[Item, Batch]):
    """Collate function that drops items that are None, and returns None if all are. As a class it can be pickled."""

    def __init__(self, collate: Callable[[list[Item]], Batch]) -> None:
        self.collate = collate

    def __call__(self, items: Sequence[Item | None]) -> Batch | None:
        present = [item for item in items if item is not None]
        return self.collate(present) if present else None


class NonEmptyBatches(Generic[Batch]):
    """Iterates over the batches of a loader and skips batches that are None."""

    def __init__(self, loader: DataLoader[Batch | None]) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[Batch]:
        return (batch for batch in self.loader if batch is not None)

    def __len__(self) -> int:
        return len(self.loader)

    @property
    def worker_init_fn(self) -> Callable[[int], None] | None:
        """Function that each worker process of the loader calls first."""
        return self.loader.worker_init_fn

    @worker_init_fn.setter
    def worker_init_fn(self, function: Callable[[int], None] | None) -> None:
        self.loader.worker_init_fn = function
