"""Image files of a data set, each read once: what does not decode, and what lies in two splits."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from tools.checks.findings import Report

Findings = list[tuple[str, str]]  # kind and text of what is wrong with a file
Inspect = Callable[[int, np.ndarray], Findings]
MISSING = "missing file"
UNDECODABLE = "undecodable file"
DAMAGED = "cut short, damaged or no image"


@dataclass
class Images:
    """The image files of a split.

    Attributes:
        split: its name.
        folder: where the files lie.
        names: paths below `folder` `[N]`.
        records: what to call each in a report `[N]`.
        inspect: what is wrong with file i of a given content (bytes `[B]` uint8).
        digests: of the contents, by name, as far as they were read.
    """

    split: str
    folder: Path
    names: Sequence[str]
    records: Sequence[str]
    inspect: Inspect
    digests: dict[str, bytes] = field(default_factory=dict)

    def look(self, report: Report, *, workers: int | None) -> None:
        """Read, hash and inspect every file, with so many threads; decoding leaves Python's lock alone."""
        cv2.setNumThreads(0)
        with ThreadPoolExecutor(workers) as pool:
            found = pool.map(self._examine, range(len(self.names)))
            found = tqdm(found, f"images of {self.split}", len(self.names), leave=False, disable=None)
            for place, findings in enumerate(found):
                for kind, text in findings:
                    report.add(kind, self.split, record=self.records[place], file=self.names[place], text=text)

    def list_missing(self, report: Report) -> None:
        """Note files that are not there, without reading any."""
        present = {entry.name for entry in os.scandir(self.folder) if entry.is_file()}
        for record, name in zip(self.records, self.names, strict=True):
            if name not in present and not os.path.isfile(self.folder / name):
                report.add(MISSING, self.split, record=record, file=name, text=f"not in {self.folder}")

    def digest(self, name: str) -> bytes | None:
        """Of a file's content, read if it was not yet; None where it cannot be."""
        if name not in self.digests and os.path.isfile(self.folder / name):
            self._content(name)
        return self.digests.get(name)

    def _examine(self, place: int) -> Findings:
        name = self.names[place]
        if not os.path.isfile(self.folder / name):
            return [(MISSING, f"not in {self.folder}")]
        content = self._content(name)
        return [(UNDECODABLE, "cannot be read; check its rights")] if content is None else self.inspect(place, content)

    def _content(self, name: str) -> np.ndarray | None:
        try:
            content = np.fromfile(self.folder / name, np.uint8)
        except OSError:
            return None
        self.digests[name] = hashlib.blake2b(content.tobytes(), digest_size=16).digest()
        return content


def report_shared(train: Images, val: Images, report: Report) -> None:
    """Note images of val that are in train as well: of the same content, or, as a remark, of the same name.

    Without hashes of all files only those of a common name are compared.
    """
    both = set(train.names) & set(val.names)
    common = {name for name in both if train.digest(name) and val.digest(name)}
    owners = {digest: name for name, digest in train.digests.items()}
    for record, name in zip(val.records, val.names, strict=True):
        twin = owners.get(val.digests.get(name, b""))
        if twin is not None:
            report.add("image in both splits", val.split, record=record, file=name, text=f"is {twin} of {train.split}")
        elif name in common:
            report.add("same name in both splits", val.split, record=record, file=name, text="other content in each")
