"""TODO-DOC classification/data/shard_writer.py."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from backbones.common.datasets import PIXEL_SUFFIXES
from backbones.common.files import write_json
from backbones.errors import UserError

INDEX = "shards.json"


UNFINISHED = ".unfinished"  # folder of the shards until all are written


@dataclass(frozen=True)
class Picture:
    """A file that becomes a sample.

    Args:
        path: of the file.
        label: number of its class.
        key: of the sample; unique within the split, without a dot, where webdataset would split it.
    """

    path: Path
    label: int
    key: str


def make_shards(data: Path, output: Path, *, shard_size: int = 1000, seed: int = 0) -> dict[str, dict[str, int]]:
    """Write the shards of both splits and, last of all, their index.

    Returns:
        Sample counts by shard name, by split.

    Raises:
        UserError: where `data` is no tree of class folders, `output` holds files, or one of them fails on the way;
            nothing is left in `output` then.
    """
    import numpy as np

    train, val = data / "train", data / "val"
    classes = class_names(train)
    strange = sorted(set(class_names(val)) - set(classes))
    if strange:
        raise UserError(f"{val / strange[0]}: a class without a folder in {train}; add it there or remove it here")
    pictures = {"train": find_pictures(train, classes), "val": find_pictures(val, classes)}
    order = np.random.default_rng(seed).permutation(len(pictures["train"]))
    pictures["train"] = [pictures["train"][place] for place in order]
    _require_empty(output)
    try:
        return _make(pictures, classes, output, shard_size)
    except OSError as error:
        raise UserError(f"{error.filename or output}: {error.strerror}; the shards were not made") from None
    finally:
        shutil.rmtree(output / UNFINISHED, ignore_errors=True)


def class_names(folder: Path) -> list[str]:
    """Names of the class folders, in order; a class's number is its place among those for training.

    Raises:
        UserError: where there are none.
    """
    names = sorted(entry.name for entry in _entries(folder) if entry.is_dir())
    if not names:
        raise UserError(f"{folder}: has no class folders; --data holds train/CLASS/* and val/CLASS/*")
    return names


def find_pictures(folder: Path, classes: Sequence[str]) -> list[Picture]:
    """All images of a split, class by class.

    Raises:
        UserError: for an entry of a class folder that is no image by its name, or where there are no images.
    """
    found: list[Picture] = []
    for label, name in enumerate(classes):
        for path in _entries(folder / name) if (folder / name).is_dir() else []:
            if path.suffix.lower() not in PIXEL_SUFFIXES or not path.is_file():
                kinds = ", ".join(PIXEL_SUFFIXES)
                raise UserError(f"{path}: is no image file ({kinds}); convert it or take it out")
            key = f"{len(found):08d}-{name}-{path.stem}".replace(".", "_")
            found.append(Picture(path, label, key))
    if not found:
        raise UserError(f"{folder}: has no images in its class folders")
    return found


def _entries(folder: Path) -> list[Path]:
    """What lies in a folder, in order, but for hidden files."""
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}; --data holds train/CLASS/* and val/CLASS/*") from None


def _require_empty(output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
        found = next(output.iterdir(), None)
    except OSError as error:
        raise UserError(f"--output {output}: {error.strerror}; name a folder that can be written") from None
    if found:
        raise UserError(
            f"--output {output}: is not empty (it holds {found.name}); name another folder or empty this one"
        )


def _make(
    pictures: dict[str, list[Picture]], classes: list[str], output: Path, shard_size: int
) -> dict[str, dict[str, int]]:
    """Write under another name first: whoever finds a shard in `output` finds all of them."""
    from tqdm import tqdm

    unfinished = output / UNFINISHED
    unfinished.mkdir()
    interval = 0.1 if sys.stderr.isatty() else 10  # a log file wants few lines
    total = sum(map(len, pictures.values()))
    counts: dict[str, dict[str, int]] = {split: {} for split in pictures}
    with tqdm(total=total, desc="Writing shards", unit="image", mininterval=interval) as progress:
        for split, members in pictures.items():
            for number, part in enumerate(_parts(members, shard_size)):
                name = f"{split}-{number:06d}.tar"
                _write_shard(unfinished / name, part)
                counts[split][name] = len(part)
                progress.update(len(part))
    write_json(unfinished / INDEX, {"classes": classes, **counts})
    for name in [*counts["train"], *counts["val"], INDEX]:
        (unfinished / name).rename(output / name)
    return counts


def _parts(pictures: Sequence[Picture], size: int) -> Iterator[Sequence[Picture]]:
    return (pictures[begin : begin + size] for begin in range(0, len(pictures), size))


def _write_shard(path: Path, pictures: Sequence[Picture]) -> None:
    from webdataset import TarWriter

    # No time stamps, so that the same pictures give the same bytes; the PAX format takes names of any length.
    # An open file, because webdataset would read a scheme into a path with a colon.
    with path.open("wb") as file, TarWriter(file, encoder=False, mtime=0, format="PAX_FORMAT") as tar:
        for picture in pictures:
            suffix, content = picture.path.suffix[1:].lower(), picture.path.read_bytes()
            tar.write({"__key__": picture.key, suffix: content, "cls": str(picture.label).encode()})
