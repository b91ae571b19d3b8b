"""Checks the image files of a data set. Each file is read once."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from backbones.common.bits import small_values
from backbones.common.listing import is_file
from backbones.common.near_equal import decode_grey, image_hash, near_across
from backbones.errors import UserError
from tools.checks.box_sizes import Boxes
from tools.checks.findings import CheckReport

Findings = list[tuple[str, str]]  # kind and text of each problem of a file
Inspect = Callable[[int, np.ndarray], Findings]
MISSING = "missing file"
NEAR_EQUAL = "near-equal image"
UNDECODABLE = "undecodable file"
SMALL_VALUES = "small 16-bit values"
DAMAGED = "the file is incomplete, damaged or not an image"


@dataclass
class SplitImages:
    """The image files of a split, and functions that check their content.

    Attributes:
        split: name of the split.
        folder: folder of the files.
        names: paths `[N]` of the images, relative to `folder`.
        records: names `[N]` of the images' records for the report; "" if only the file is to be named.
        inspect: maps the index of a file and its content (bytes `[B]` uint8) to the file's problems.
        conclude: returns the problems of the split as a whole, after all files were inspected.
        classes: names of the categories by id; empty for data without boxes.
        boxes: the valid boxes of objects; None for data without boxes.
        digests: hashes of the contents of the files that were read, by name.
        hashes: perceptual hashes of the images that were decoded, by name, see `near_equal.image_hash`.
    """

    split: str
    folder: Path
    names: Sequence[str]
    records: Sequence[str]
    inspect: Inspect
    conclude: Callable[[], Findings] = list
    classes: Mapping[int, str] = field(default_factory=dict)
    boxes: Boxes | None = None
    digests: dict[str, bytes] = field(default_factory=dict)
    hashes: dict[str, int] = field(default_factory=dict)

    def examine(self, report: CheckReport, *, workers: int | None, perceptual: bool = False) -> None:
        """Read, hash and check every file, in `workers` threads. Decoding releases Python's global lock.

        Args:
            perceptual: whether to compute `hashes` as well.
        """
        cv2.setNumThreads(0)  # the threads use the cores
        with ThreadPoolExecutor(workers) as pool:
            found = pool.map(partial(self._examine, perceptual=perceptual), range(len(self.names)))
            found = tqdm(found, f"images of {self.split}", len(self.names), leave=False, disable=None)
            for index, findings in enumerate(found):
                for kind, text in findings:
                    report.add(kind, self.split, record=self.records[index], file=self.names[index], text=text)
        for kind, text in self.conclude():
            report.add(kind, self.split, file=str(self.folder), text=text)
        if small := small_values([self.folder / name for name in self.names]):
            text = f"16-bit values up to {small.highest}; give the training commands --bits {small.bits}"
            report.add(SMALL_VALUES, self.split, file=str(small.folder), text=text)

    def list_missing(self, report: CheckReport) -> None:
        """Report files that do not exist, without reading any file."""
        present = {entry.name for entry in os.scandir(self.folder) if entry.is_file()}
        for record, name in zip(self.records, self.names, strict=True):
            if name not in present and not os.path.isfile(self.folder / name):
                report.add(MISSING, self.split, record=record, file=name, text=f"not in {self.folder}")

    def sizes(self) -> dict[str, int]:
        """Return the size in bytes of each file that exists, by name."""
        paths = {name: self.folder / name for name in self.names}
        return {name: path.stat().st_size for name, path in paths.items() if is_file(path)}

    def digest(self, name: str) -> bytes | None:
        """Return the hash of a file's content; None if the file cannot be read. A file is read only once."""
        if name not in self.digests:
            self._content(name)
        return self.digests.get(name)

    def _examine(self, index: int, *, perceptual: bool) -> Findings:
        name = self.names[index]
        if not os.path.isfile(self.folder / name):
            return [(MISSING, f"not in {self.folder}")]
        content = self._content(name)
        if content is None:
            return [(UNDECODABLE, "the file cannot be read; check its permissions")]
        if perceptual:
            with suppress(UserError):  # `inspect` reports the file
                found = image_hash(decode_grey(content.tobytes(), self.folder / name))
                self.hashes |= {} if found is None else {name: found}
        return self.inspect(index, content)

    def _content(self, name: str) -> np.ndarray | None:
        try:
            content = np.fromfile(self.folder / name, np.uint8)
        except OSError:
            return None
        self.digests[name] = hashlib.blake2b(content.tobytes(), digest_size=16).digest()
        return content


def report_shared(train: SplitImages, val: SplitImages, report: CheckReport) -> None:
    """Report images of the validation split whose content also occurs in the training split.

    If the files were not hashed before, only files of equal size are compared.
    """
    if not train.digests or not val.digests:
        sizes, others = train.sizes(), val.sizes()
        for split, own, common in ((train, sizes, set(others.values())), (val, others, set(sizes.values()))):
            for name, size in own.items():
                if size in common:
                    split.digest(name)
    owners = {digest: name for name, digest in train.digests.items()}
    for record, name in zip(val.records, val.names, strict=True):
        twin = owners.get(val.digests.get(name, b""))
        if twin is not None:
            text = f"the same content as {twin} of {train.split}"
            report.add("image in both splits", val.split, record=record, file=name, text=text)


def report_near(train: SplitImages, val: SplitImages, report: CheckReport) -> None:
    """Report images of the validation split that look nearly the same as an image of the training split.

    Images of equal content are left out, because `report_shared` reports them.
    """
    shared = set(train.digests.values())
    names = [name for name in val.names if name in val.hashes and val.digests.get(name) not in shared]
    owners = list(train.hashes)
    found = near_across(list(train.hashes.values()), [val.hashes[name] for name in names])
    records = dict(zip(val.names, val.records, strict=True))
    for index, owner in found.items():
        name = names[index]
        text = f"looks nearly the same as {owners[owner]} of {train.split}"
        report.add(NEAR_EQUAL, val.split, record=records[name], file=name, text=text)
