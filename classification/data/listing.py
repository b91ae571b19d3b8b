"""The images of a split with their classes, as every layout of classification data returns them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np

from backbones.errors import UserError, counted, first_names, shortened
from classification.data.names import ClassNames

# The class of an image, or the set of its classes in a multi-label data set.
Label: TypeAlias = str | Sequence[str]
MOST_CELLS = 2**31  # images times classes of a multi-label data set; a byte each
ALL = "all"  # the split of a data set that is not divided; it is also called "train"


class NoSplitError(UserError):
    """A data set has no split of the wanted name."""


@dataclass(frozen=True)
class ClassListing:
    """The images of a split and their classes.

    Attributes:
        root: folder that the files are relative to; with class folders, that of the split.
        names: names of the classes with images, sorted.
        files: paths `[N]` of the images, as bytes, relative to `root`.
        numbers: index `[N]` in `names` of each image's class; in a multi-label data set, bools `[N, len(names)]`.
        empty: names of the class folders without images.
        nested: names of the class folders whose images all lie in folders below, which may be the classes.
        passed_over: number of the other files by suffix, and of the images beside the class folders.
        in_folders: whether each class is a folder below `root`.
        where: file that lists the images, or their folder, for messages and the plan.
        notes: remarks for the plan.
    """

    root: Path
    names: tuple[str, ...]
    files: np.ndarray
    numbers: np.ndarray
    empty: tuple[str, ...] = ()
    nested: tuple[str, ...] = ()
    passed_over: Mapping[str, int] = field(default_factory=dict)
    in_folders: bool = True
    where: str = ""
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        root: Path,
        images: Iterable[tuple[str | Path, Label]],
        *,
        where: str,
        multi_label: bool = False,
        notes: Sequence[str] = (),
    ) -> ClassListing:
        """Return the listing of images and their classes. Images of a single class each are sorted by class.

        Args:
            root: folder that the paths of the images are relative to.
            images: path and class of each image, or path and classes if `multi_label`.
            where: file or folder that names the images.

        Raises:
            UserError: there are no images.
        """
        pairs = [(os.fsencode(path), (label,) if isinstance(label, str) else tuple(label)) for path, label in images]
        if not pairs:
            raise UserError(f"{where}: lists no images; add images or name another split")
        names = tuple(sorted({name for _, labels in pairs for name in labels}))
        number = {name: place for place, name in enumerate(names)}
        if multi_label:
            _require_moderate(len(pairs), len(names), where)
            numbers = np.zeros((len(pairs), len(names)), bool)
            for row, (_, labels) in enumerate(pairs):
                numbers[row, [number[name] for name in labels]] = True
        else:
            pairs.sort(key=lambda pair: pair[1])
            numbers = np.array([number[name] for _, (name,) in pairs], np.int64)
        # Pack the paths into an array: reading a list of Python objects would copy its memory into each worker.
        files = np.array([path for path, _ in pairs], dtype=np.bytes_)
        return cls(root, names, files, numbers, in_folders=False, where=where, notes=tuple(notes))

    @property
    def multi_label(self) -> bool:
        """Whether an image may have several classes, or none."""
        return self.numbers.ndim == 2

    @property
    def source(self) -> str:
        """Return the file or folder that names the images."""
        return self.where or str(self.root)

    def counts(self) -> dict[str, int]:
        """Return the number of images of each class, by name."""
        per_class = self.numbers.sum(0) if self.multi_label else np.bincount(self.numbers, minlength=len(self.names))
        return dict(zip(self.names, per_class.tolist(), strict=True))

    def as_multi_label(self) -> ClassListing:
        """Return the same images as those of a multi-label data set."""
        if self.multi_label:
            return self
        _require_moderate(len(self.files), len(self.names), self.source)
        return replace(self, numbers=self.numbers[:, None] == np.arange(len(self.names)))

    def absent(self) -> list[str]:
        """Return the listed files that do not exist."""
        folders: dict[str, set[str]] = {}
        missing = []
        for file in map(os.fsdecode, self.files.tolist()):
            folder, name = os.path.split(os.path.join(self.root, file))
            # Listing a folder once is much faster than asking for each of its files.
            if folder not in folders:
                folders[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
            if name not in folders[folder]:
                missing.append(file)
        return missing


def labels_by_name(listing: ClassListing, classes: ClassNames, *, owner: str) -> np.ndarray:
    """Return the labels `[N]` of a listing's images, or `[N, classes]` bool in a multi-label data set.

    The name of an image's class determines the label. Capitals do not matter if only one class fits.

    Args:
        owner: what the classes belong to, such as a weights file, for the message.

    Raises:
        UserError: a name matches no class, or two names match the same class.
    """
    strange = [name for name in listing.names if classes.label(name) is None]
    if strange:
        of = f"the {len(classes.names)} classes of {owner} ({first_names(classes.names)})"
        count = f"{len(strange)} of {len(listing.names)}"
        if listing.in_folders:
            raise UserError(
                f"{listing.root / strange[0]}: is not one of {of}; {count} folders match no class: rename or remove "
                "them"
            )
        raise UserError(
            f"{listing.source}: the class {shortened(strange[0])} is not one of {of}; {count} classes match none: "
            "change them"
        )
    labels = np.array([classes.label(name) for name in listing.names], np.int64)
    _refuse_shared(listing, labels)
    if not listing.multi_label:
        return labels[listing.numbers]
    members = np.zeros((len(listing.files), len(classes.names)), bool)
    members[:, labels] = listing.numbers
    return members


def count_suffixes(files: Iterable[Path]) -> Counter[str]:
    """Return the number of files by suffix in lower case."""
    return Counter(file.suffix.lower() for file in files)


def _require_moderate(images: int, classes: int, where: str) -> None:
    """Refuse a table of images and classes that would fill the memory, mostly because a column holds no classes."""
    if images * classes > MOST_CELLS:
        raise UserError(
            f"{where}: {counted(images, 'image')} of {counted(classes, 'class')}, several an image, would fill the "
            "memory; name the column of the classes with --label-column"
        )


def _refuse_shared(listing: ClassListing, labels: np.ndarray) -> None:
    """Refuse a listing in which two names stand for one class, such as a synset of ImageNet and its word."""
    owners: dict[int, str] = {}
    for name, label in zip(listing.names, labels.tolist(), strict=True):
        if label in owners and listing.in_folders:
            raise UserError(f"{listing.root / name}: is the same class as {owners[label]}; merge the two folders")
        if label in owners:
            raise UserError(
                f"{listing.source}: {shortened(name)} is the same class as {shortened(owners[label])}; use one name"
            )
        owners[label] = name
