"""Images that are missing or do not decode: replaced in training, counted as misses in evaluation, never in silence."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch.utils.data import Dataset

from backbones.errors import UserError

RECORD = "bad_images.jsonl"
TRIES = 100  # images drawn in place of a bad one; where all of them are bad, the data set is


class Images(Protocol):
    """A dataset of image files, by keys `(epoch, place)`."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: tuple[int, int]) -> Any:
        """An item; a UserError says why there is none."""

    def unreadable(self, place: int) -> Path | None:
        """The file of an image that is missing or does not decode; None where it is whole."""


class BadImages:
    """What a run does about images that cannot be read, and which it met.

    The loader workers of all processes write what they meet to one file in the run folder, so that each image is
    warned of once, and a resumed run knows those of the time before.

    Args:
        folder: of the run; until it exists nothing is recorded, since each image comes again.
        skip: go on without them; otherwise they are errors, as without all this.
        seed: of the run.
    """

    def __init__(self, folder: Path, *, skip: bool, seed: int) -> None:
        self.record, self.skip, self.seed = folder / RECORD, skip, seed

    def replacing(self, data: Any) -> Any:
        """The dataset with another image in place of each bad one: a function of (seed, epoch, place) alone."""
        return _Skipping(data, self, replace=True) if self.skip else data

    def omitting(self, data: Any) -> Any:
        """The dataset with None in place of each bad image."""
        return _Skipping(data, self, replace=False) if self.skip else data

    def evaluation(self, loader: Callable[..., Any], data: Any, *, collate: Callable[..., Any], **options: Any) -> Any:
        """The batches of a loader for evaluation, which bad images are not in."""
        if not self.skip:
            return loader(data, collate=collate, **options)
        return _Filled(loader(self.omitting(data), collate=_Present(collate), **options))

    def add(self, path: Path, reason: str) -> None:
        """Record and warn of an image, unless some process did."""
        from filelock import FileLock

        if not self.record.parent.is_dir():
            return
        with FileLock(self.record.with_name(f".{RECORD}.lock")):
            if str(path) in self.files():
                return
            torn = self.record.is_file() and not self.record.read_bytes().endswith(b"\n")  # by a kill
            with open(self.record, "a", encoding="utf-8") as file:
                file.write("\n" * torn + json.dumps({"file": str(path), "reason": reason}) + "\n")
        print(f"warning: {path}: is missing or does not decode; skipped", file=sys.stderr, flush=True)

    def files(self) -> list[str]:
        """Paths of the images met so far, in order."""
        if not self.record.is_file():
            return []
        lines = self.record.read_text(encoding="utf-8", errors="replace").splitlines()
        return sorted({file for line in lines if (file := _file_of(line)) is not None})

    def counted(self) -> dict[str, Any]:
        """`bad_images`, how many were met so far, for the log; nothing where they are errors."""
        return {"bad_images": len(self.files())} if self.skip else {}

    def listed(self) -> dict[str, Any]:
        """`bad_images` and the paths, `bad_image_files`, for the results; nothing where they are errors."""
        return {**self.counted(), "bad_image_files": self.files()} if self.skip else {}


def _file_of(line: str) -> str | None:
    """The file that a line records; None where a kill tore it: the image comes again."""
    try:
        return json.loads(line)["file"]
    except (ValueError, TypeError, KeyError):
        return None


class _Skipping(Dataset):
    """A dataset that goes on where an image cannot be read; other errors pass."""

    def __init__(self, data: Images, bad: BadImages, *, replace: bool) -> None:
        self.data, self.bad, self.replace = data, bad, replace

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, key: int | tuple[int, int]) -> Any:
        epoch, place = key if isinstance(key, tuple) else (0, key)
        for candidate in self._candidates(epoch, place):
            try:
                return self.data[(epoch, candidate)]
            except UserError as error:
                path = self.data.unreadable(candidate)
                if path is None:
                    raise
                self.bad.add(path, str(error))
        if self.replace:
            raise UserError(f"{path}: does not decode, nor do {TRIES} images drawn in its place; mend the data set")
        return None

    def _candidates(self, epoch: int, place: int) -> Iterator[int]:
        yield place
        if self.replace:
            # The last number keeps the draw apart from that of the augmentation.
            random = np.random.default_rng((self.bad.seed, epoch, place, 1))
            yield from random.integers(len(self.data), size=TRIES).tolist()


class _Present:
    """Collates the items that there are; None where there is none."""

    def __init__(self, collate: Callable[..., Any]) -> None:
        self.collate = collate

    def __call__(self, items: list[Any]) -> Any:
        present = [item for item in items if item is not None]
        return self.collate(present) if present else None


class _Filled:
    """The batches of a loader that hold something."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[Any]:
        return (batch for batch in self.loader if batch is not None)

    def __len__(self) -> int:
        return len(self.loader)
