"""Index of tar shards: class names, the shards of each split, and the number of samples in each shard.

A folder or address of shards holds `shards.json`:

    {"classes": ["cat", "dog"], "train": {"train-000000.tar": 1000}, "val": {"val-000000.tar": 500}}

In a local folder without this file, all shards `train-*.tar` and `val-*.tar` are read once from end to end instead.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Literal, TypeAlias

from backbones.common.datasets import listed_lines
from backbones.errors import UserError
from classification.data.shard_reader import CLASS, IMAGES, Shard, opened

INDEX = "shards.json"
CLASSES = "classes.txt"
Split: TypeAlias = Literal["train", "val"]
SPLITS: tuple[Split, ...] = ("train", "val")
REMOTE = re.compile(r"(https?|s3|gs)://")
META = re.compile(r"__[^/]*__($|/)")  # files that webdataset skips
# Each part of a shard's name starts with a letter, digit or underscore. This excludes "..", absolute paths, options and
# schemes: webdataset would run the name "pipe:COMMAND" as a shell command.
PLAIN = re.compile(r"([A-Za-z0-9_][A-Za-z0-9._+=-]*/)*[A-Za-z0-9_][A-Za-z0-9._+=-]*\.tar")


@dataclass(frozen=True)
class ShardIndex:
    """Classes and shards of a data set.

    Attributes:
        address: folder or URL, as the user gave it.
        classes: names by label.
        train: shards for training, possibly none.
        val: shards for validation, possibly none.
    """

    address: str
    classes: tuple[str, ...]
    train: tuple[Shard, ...]
    val: tuple[Shard, ...]

    def shards(self, split: Split) -> tuple[Shard, ...]:
        """Return the shards of a split."""
        return self.train if split == "train" else self.val

    def count(self, split: Split) -> int:
        """Return the number of samples in a split."""
        return sum(shard.count for shard in self.shards(split))


def holds_shards(address: str) -> bool:
    """Return whether an address holds shards: a URL, or a folder with `shards.json`, `train-*.tar` or `val-*.tar`."""
    if REMOTE.match(address):
        return True
    folder = Path(address)
    return (folder / INDEX).is_file() or any(_tars(folder, split) for split in SPLITS)


def read_index(address: str) -> ShardIndex:
    """Read the index at an address: an http(s)://, s3:// or gs:// URL, or a local folder.

    Raises:
        UserError: there are no shards, `shards.json` is malformed or lists a missing file, or, without `shards.json`, a
            shard is damaged or cut short.
    """
    folder = Path(address).absolute()
    remote = REMOTE.match(address) is not None
    if not remote and not folder.is_dir():
        raise UserError(f"--data {address}: no such folder; check the path")
    if not remote and not (folder / INDEX).is_file():
        return _scan(folder, address)
    root = address.rstrip("/") if remote else str(folder)
    with opened(f"{root}/{INDEX}") as stream:
        content = stream.read()
    index = _from_json(content, address, root=root)
    for shard in () if remote else (*index.train, *index.val):
        if not Path(shard.address).is_file():
            raise UserError(
                f"{root}/{INDEX}: lists {shard.address}, but there is no such file; copy the file there or "
                "remove the entry"
            )
    return index


def _from_json(content: bytes, address: str, *, root: str) -> ShardIndex:
    """Check the content of `shards.json` and return the index."""
    where = f"{root}/{INDEX}"
    try:
        value: object = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: is not JSON ({error}); write the file again with tools/make_shards.py") from None
    if not isinstance(value, dict):
        raise UserError(f'{where}: expected an object {{"classes": [...], "train": {{...}}, "val": {{...}}}}')
    classes = value.get("classes")
    named = isinstance(classes, list) and classes and all(isinstance(name, str) for name in classes)
    if not isinstance(classes, list) or not named or len(set(classes)) < len(classes):
        raise UserError(
            f"{where}: `classes` must be a list of different names, one for each class number; fix the "
            "list, or write the file again with tools/make_shards.py"
        )
    train, val = (_shards(_counts(value.get(split, {}), split, where), root) for split in SPLITS)
    if not train and not val:
        raise UserError(
            f"{where}: lists no shards under `train` or `val`; write the file again with tools/make_shards.py"
        )
    return ShardIndex(address, tuple(classes), train, val)


def _counts(value: object, split: Split, where: str) -> dict[str, int]:
    """Check a split's entry in `shards.json`; return a dict from shard paths to numbers of samples."""
    if not isinstance(value, dict):
        raise UserError(f'{where}: `{split}` must be an object of counts, such as {{"{split}-000000.tar": 1000}}')
    for name, count in value.items():
        if not PLAIN.fullmatch(name):
            raise UserError(
                f"{where}: `{split}` lists {name!r}, which is not a valid shard path; use a relative path "
                "inside the folder that ends in .tar and contains only letters, digits and . _ + = - /"
            )
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise UserError(
                f"{where}: `{split}` gives {count!r} as the number of samples in {name}; write a whole number above 0"
            )
    return value


def _shards(counts: dict[str, int], root: str) -> tuple[Shard, ...]:
    firsts = accumulate(counts.values(), initial=0)  # one value more than there are shards
    return tuple(Shard(f"{root}/{name}", count, first) for (name, count), first in zip(counts.items(), firsts))  # noqa: B905


def _tars(folder: Path, split: Split) -> list[Path]:
    return sorted(folder.glob(f"{split}-*.tar"))


def _scan(folder: Path, address: str) -> ShardIndex:
    """Make the index of a folder without `shards.json` by reading the headers of its shards."""
    found = {split: _tars(folder, split) for split in SPLITS}
    if not any(found.values()):
        raise UserError(
            f"--data {address}: has neither {INDEX} nor train-*.tar, val-*.tar; make them with tools/make_shards.py"
        )
    labels: set[int] = set()
    train, val = (
        _shards({path.name: _count_samples(path, labels) for path in found[split]}, str(folder)) for split in SPLITS
    )
    return ShardIndex(address, _class_names(folder, labels), train, val)


def _class_names(folder: Path, labels: set[int]) -> tuple[str, ...]:
    """Return the class names in classes.txt. Without this file, return the numbers up to the largest label as names."""
    path = folder / CLASSES
    if not path.is_file():
        return tuple(str(number) for number in range(max(labels) + 1))
    with opened(str(path)) as stream:
        text = stream.read().decode("utf-8-sig", "replace")
    names = tuple(name for _, name in listed_lines(text))
    if not names or len(set(names)) < len(names):
        raise UserError(
            f"{path}: must list one class name per line, in the order of the class numbers and without duplicates"
        )
    return names


def _count_samples(path: Path, labels: set[int]) -> int:
    """Return the number of samples in a shard, and add their labels to `labels`."""
    from webdataset.tariterators import base_plus_ext

    images = 0
    try:
        with tarfile.open(path, "r:") as tar:
            for member in _members(tar):
                suffix = str(base_plus_ext(member.name)[1]).lower()
                images += suffix in IMAGES
                if suffix == CLASS:
                    labels.add(_label(tar, member, path))
            _require_end(tar, path)
    except (tarfile.TarError, EOFError) as error:
        raise UserError(f"{path}: is damaged or truncated ({error}); copy or write the shard again") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    if not images or not labels:
        raise UserError(
            f"{path}: contains no samples; for each sample add an image KEY.jpg (or .png, ...) and its class KEY.cls"
        )
    return images


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the members of a shard that webdataset would read: all except folders and hidden files."""
    return (member for member in tar if member.isreg() and not META.match(member.name))


def _label(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> int:
    stream = tar.extractfile(member)
    text = stream.read().decode("ascii", "replace").strip() if stream else ""
    if not text.isascii() or not text.isdigit():
        raise UserError(f"{path}: {member.name}: class {text[:20]!r} is not a whole number of at least 0; fix the file")
    return int(text)


def _require_end(tar: tarfile.TarFile, path: Path) -> None:
    """Refuse a truncated archive: blocks of zeros must mark its end."""
    with path.open("rb") as file:
        file.seek(tar.offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("no end mark")
