"""Writes the images of class folders to tar shards with an index."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from backbones.common.category_options import EVERY_CATEGORY, CategoryOptions
from backbones.common.files import write_json
from backbones.errors import UserError
from classification.data.chosen import choose_classes
from classification.data.folders import require_filled
from classification.data.layouts import read_split
from classification.data.listing import ClassListing, labels_by_name
from classification.data.names import ClassNames
from classification.data.shard_index import INDEX

UNFINISHED = ".unfinished"  # folder that holds the shards until all of them are written


@dataclass(frozen=True)
class SourceFile:
    """An image file that is written to a shard as one sample.

    Attributes:
        path: the file.
        label: number of its class.
        key: name of the sample; unique within the split, without a dot, at which webdataset would split it.
    """

    path: Path
    label: int
    key: str


@dataclass(frozen=True)
class MadeShards:
    """Numbers of the samples that were written and of the files that were not.

    Attributes:
        counts: number of samples by shard name, for each split.
        passed_over: number of the files by suffix that are not in the shards, for each split.
        notes: remarks on the reading of each split, such as how many images of other classes are left out.
    """

    counts: Mapping[str, Mapping[str, int]]
    passed_over: Mapping[str, Mapping[str, int]]
    notes: Mapping[str, Sequence[str]]


def make_shards(
    data: Path,
    output: Path,
    *,
    shard_size: int = 1000,
    seed: int = 0,
    categories: CategoryOptions = EVERY_CATEGORY,
) -> MadeShards:
    """Write tar shards of the splits `train` and `val` of a data set in any layout, then their index.

    Args:
        data: folder or CSV file of the data set, such as train/CLASS/* and val/CLASS/*.
        output: folder for the shards; new or empty.
        shard_size: number of samples per shard; the last shard of a split has the remaining samples.
        seed: seed of the order of the training images.
        categories: classes to merge, rename and choose.

    Raises:
        UserError: `data` has no such splits, an image has several classes, `output` holds files, or a file cannot be
            read or written. `output` is left empty then.
    """
    listings = {split: read_split(data, split) for split in ("train", "val")}
    if several := next((listing for listing in listings.values() if listing.multi_label), None):
        raise UserError(f"{several.source}: images have several classes, which shards cannot hold; train on the files")
    listings = choose_classes(listings, categories)
    require_filled(listings["train"])
    classes = listings["train"].names
    known, owner = ClassNames.of(classes), str(listings["train"].root)
    sources = {
        split: _sources(listing, labels_by_name(listing, known, owner=owner)) for split, listing in listings.items()
    }
    if not sources["val"]:
        raise UserError(f"{listings['val'].root}: has no images in its class folders; add some")
    # Shuffle the training images: a stream of shards is only shuffled within a buffer.
    order = np.random.default_rng(seed).permutation(len(sources["train"]))
    sources["train"] = [sources["train"][index] for index in order]
    _require_empty(output)
    try:
        return MadeShards(
            _write(sources, list(classes), output, shard_size),
            {split: listing.passed_over for split, listing in listings.items()},
            {split: listing.notes for split, listing in listings.items()},
        )
    except OSError as error:
        raise UserError(
            f"{error.filename or output}: cannot be read or written ({error.strerror}), so no shards were "
            "made; correct the cause and run again"
        ) from None
    finally:
        shutil.rmtree(output / UNFINISHED, ignore_errors=True)


def _sources(listing: ClassListing, labels: np.ndarray) -> list[SourceFile]:
    """Return all images of a split, class by class."""
    found = []
    for number, (file, label) in enumerate(zip(listing.files.tolist(), labels.tolist(), strict=True)):
        path = Path(os.fsdecode(file))
        key = f"{number:08d}-{path.parts[0]}-{path.stem}".replace(".", "_")
        found.append(SourceFile(listing.root / path, label, key))
    return found


def _require_empty(output: Path) -> None:
    """Create the output folder. Refuse a folder that is not empty."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        found = next(output.iterdir(), None)
    except OSError as error:
        raise UserError(
            f"--output {output}: cannot be created ({error.strerror}); name a folder that can be written"
        ) from None
    if found:
        raise UserError(
            f"--output {output}: is not empty (it holds {found.name}); name another folder or empty this folder"
        )


def _write(
    sources: dict[str, list[SourceFile]], classes: list[str], output: Path, shard_size: int
) -> dict[str, dict[str, int]]:
    """Write all shards and the index into a temporary folder, then move them to `output`, the index last."""
    unfinished = output / UNFINISHED
    unfinished.mkdir()
    interval = 0.1 if sys.stderr.isatty() else 10  # seconds between updates; few lines in a log file
    total = sum(map(len, sources.values()))
    counts: dict[str, dict[str, int]] = {split: {} for split in sources}
    with tqdm(total=total, desc="Writing shards", unit="image", mininterval=interval) as progress:
        for split, members in sources.items():
            for number, part in enumerate(_parts(members, shard_size)):
                name = f"{split}-{number:06d}.tar"
                _write_shard(unfinished / name, part)
                counts[split][name] = len(part)
                progress.update(len(part))
    write_json(unfinished / INDEX, {"classes": classes, **counts})
    for name in [*counts["train"], *counts["val"], INDEX]:
        (unfinished / name).rename(output / name)
    return counts


def _parts(sources: Sequence[SourceFile], size: int) -> Iterator[Sequence[SourceFile]]:
    return (sources[begin : begin + size] for begin in range(0, len(sources), size))


def _write_shard(path: Path, sources: Sequence[SourceFile]) -> None:
    from webdataset import TarWriter

    # Without time stamps, the same images give the same bytes. The PAX format allows names of any length.
    # Open the file here: webdataset would read a path with a colon as a URL.
    with path.open("wb") as file, TarWriter(file, encoder=False, mtime=0, format="PAX_FORMAT") as tar:
        for source in sources:
            suffix, content = source.path.suffix[1:].lower(), source.path.read_bytes()
            tar.write({"__key__": source.key, suffix: content, "cls": str(source.label).encode()})
