"""Lists the images of a split from CSV files: one file a split, or one file with or without a column of splits."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from backbones.common.datasets import SPLIT_NAMES, existing_split, leads_out
from backbones.common.json_lines import FILE
from backbones.common.listing import visible
from backbones.common.values import is_file_name
from backbones.errors import UserError, first_names, shortened
from classification.data.csv_table import LABEL_NAMES, Row, Table
from classification.data.image_index import ImageIndex
from classification.data.json_lines import names_label
from classification.data.listing import ALL, ClassListing, NoSplitError
from classification.data.reading import Reading

SUFFIXES = (".csv", ".tsv")


def is_chosen(options: Reading) -> bool:
    """Return whether options ask for a CSV file, even if there are class folders beside it."""
    return any((options.image_column, options.label_column, options.split_column))


def find(root: Path, split: str) -> list[Path]:
    """Return the CSV files that may list a split.

    These are `SPLIT.csv`, the file in the folder SPLIT, or else the files in `root`.
    """
    named = [path for suffix in SUFFIXES if (path := _of_split(root, split, suffix)).is_file()]
    if named:
        return named[:1]
    inside = _tables(root / existing_split(split, lambda name: (root / name).is_dir()))
    return inside or _tables(root)


def read(root: Path, tables: Sequence[Path], split: str, options: Reading) -> ClassListing:
    """List the images of a split from a CSV file.

    Args:
        root: folder that the paths in the file are relative to.
        tables: the files that may list the split, of which there must be one.

    Raises:
        UserError: there are several files, or the file is malformed, has no such split, or names missing images.
    """
    path = _file_of_split(_only_table(root, tables), split)
    table = Table.read(path, options)
    rows = list(table.rows())
    if _is_of_one_split(path, root):
        return _listing(root, table, rows, split)
    unsplit = 0 if table.split_column is None else sum(not row.split for row in rows)
    notes = [f"lines without a split, which are left out: {unsplit}"] if unsplit else []
    return _listing(root, table, _of_the_split(table, rows, split), split, notes)


def _only_table(root: Path, tables: Sequence[Path]) -> Path:
    """Return the file to read among several: one that is named by its split, such as train.csv.

    Other files beside it, such as sample_submission.csv, are not read.
    """
    of_splits = sorted((path for path in tables if _role(path)), key=lambda path: _role(path) != "train")
    if len(tables) > 1 and not of_splits:
        names = first_names([path.name for path in tables])
        raise UserError(f"--data {root}: has several CSV files ({names}); name one, such as --data {tables[0]}")
    return (of_splits or tables)[0]


def _listing(
    root: Path, table: Table, rows: Sequence[Row], split: str, further_notes: Sequence[str] = ()
) -> ClassListing:
    index = ImageIndex(root, prefer=(split, *SPLIT_NAMES.get(split, ())))
    found: dict[str, Row] = {}
    absent: list[Row] = []
    repeated = 0
    for row in rows:
        _check_labels(table, row)
        file = index.find(_path_of(root, table, row), where=f"{table.path}: line {row.line}")
        if file is None:
            absent.append(row)
        file = _absent_name(_path_of(root, table, row)) if file is None else file
        known = found.setdefault(file, row)
        if known is not row:
            found[file] = _merged(table, known, row)
            repeated += 1
    if absent and not table.options.keep_absent:
        raise UserError(
            f"{table.path}: {len(absent)} of {len(rows)} images are not in {root}, such as "
            f"{shortened(absent[0].image)} (line {absent[0].line}); add the images, or pass --on-bad-image skip"
        )
    pairs = [(file, row.labels if table.multi_label else row.labels[0]) for file, row in found.items()]
    notes = [*further_notes, *([f"{repeated} repeated lines"] if repeated else [])]
    notes += [f"WARNING: missing images: {len(absent)}"] if absent else []
    notes += [_describe_renamed(index)] if index.renamed else []
    notes += [f"names that differ from their files in capitals only: {index.respelled}"] if index.respelled else []
    where = f"{table.path}" + ("" if table.split_column is None else f" ({split})")
    return ClassListing.of(root, pairs, where=where, multi_label=table.multi_label, notes=notes)


def _absent_name(name: str) -> str:
    """Return the name of a missing image: that of another machine without its folders, which never exist here."""
    return PurePosixPath(name).name if _is_of_another_machine(name) else name


def _describe_renamed(index: ImageIndex) -> str:
    """Return how many paths of another machine were replaced, with the first of them."""
    examples = first_names([f"{name[:80]} -> {file}" for file, name in index.renamed.items()], 3)
    return f"paths of another machine replaced by those of fitting files: {len(index.renamed)} ({examples})"


def _path_of(root: Path, table: Table, row: Row) -> str:
    """Return the path of an image, relative to `root` if it lies there.

    Raises:
        UserError: the path is no file name, or leads out of `root`.
    """
    where, name = f"{table.path}: line {row.line}", row.image.replace("\\", "/")
    if not is_file_name(name):
        raise UserError(f"{where}: {row.image[:80]!r} is no file name; fix the line")
    if Path(name).is_absolute() and Path(name).is_relative_to(root.absolute()):
        name = Path(name).relative_to(root.absolute()).as_posix()
    if _is_of_another_machine(name):
        return name
    if leads_out(name) and not table.options.allow_outside:
        raise UserError(
            f"{where}: {shortened(row.image)!r} leads out of {root}; fix the line, or pass --allow-outside true if "
            "you trust it"
        )
    return name


def _is_of_another_machine(name: str) -> bool:
    """Return whether a path is absolute, of any system, and leads to nothing here."""
    absolute = os.path.isabs(name) or re.match("[A-Za-z]:/", name) is not None
    return absolute and os.pardir not in name.split("/") and not os.path.exists(name)


def _check_labels(table: Table, row: Row) -> None:
    if table.multi_label or len(row.labels) == 1:
        return
    what = f"has {len(row.labels)} classes ({first_names(row.labels)})" if row.labels else "has no class"
    raise UserError(
        f"{table.path}: line {row.line} {what}; fix the line, or pass --multi-label true if an image may have several "
        "classes or none"
    )


def _merged(table: Table, known: Row, row: Row) -> Row:
    """Return the row of an image that two lines name: the classes of both."""
    if known.labels == row.labels:
        return known
    if not table.multi_label:
        classes = f"{shortened(known.labels[0])} and {shortened(row.labels[0])}"
        raise UserError(
            f"{table.path}: lines {known.line} and {row.line} give {shortened(row.image)} the classes {classes}; fix "
            "one, or pass --multi-label true if an image may have several"
        )
    return Row(known.line, known.image, tuple(dict.fromkeys((*known.labels, *row.labels))), known.split)


def _of_the_split(table: Table, rows: Sequence[Row], split: str) -> list[Row]:
    """Return the rows of a split of a file that lists several splits, or one without a name."""
    if table.split_column is None:
        if split in (ALL, "train"):
            return list(rows)
        raise NoSplitError(
            f"{table.path}: has no split {split}, because no column names the splits; divide the images with "
            "--val-fraction, name the column with --split-column, or write train.csv and val.csv"
        )
    groups: dict[str, list[Row]] = {}
    for row in filter(lambda row: row.split, rows):
        groups.setdefault(row.split.lower(), []).append(row)
    name = existing_split(split.lower(), groups.__contains__)
    if name not in groups:
        raise NoSplitError(
            f"{table.path}: the column {shortened(table.header[table.split_column])} has no split {split} (it has "
            f"{first_names(sorted(groups))}); name one with --train-split or --val-split"
        )
    return groups[name]


def _is_of_one_split(path: Path, root: Path) -> bool:
    """Return whether a file lists one split: it has the name of the split, or lies in the folder of the split."""
    return _role(path) is not None or path.parent != root


def _role(path: Path) -> str | None:
    """Return the split that the name of a file says, such as "val" for valid.csv; None for other names."""
    stem = path.stem.lower()
    roles: Mapping[str, Sequence[str]] = {**SPLIT_NAMES, "test": ("testing",)}
    return next((role for role, names in roles.items() if stem in (role, *names)), None)


def _file_of_split(path: Path, split: str) -> Path:
    """Return the file of a split beside the file that the user named, if the latter has the name of another split."""
    if _role(path) is None or path.stem.lower() == split:
        return path
    other = _of_split(path.parent, split, path.suffix)
    if other.is_file() or _role(path) == split:
        return other if other.is_file() else path
    raise NoSplitError(
        f"{path}: there is no {other.name} beside it; add the file, or divide {path.name} with --val-fraction"
    )


def _of_split(folder: Path, split: str, suffix: str) -> Path:
    return folder / f"{existing_split(split, lambda name: (folder / f'{name}{suffix}').is_file())}{suffix}"


def _tables(folder: Path) -> list[Path]:
    """Return the CSV files of a folder, or else its `metadata.jsonl` if it names classes."""
    if not folder.is_dir():
        return []
    tables = sorted(each for each in visible(folder, "*") if each.suffix.lower() in SUFFIXES and each.is_file())
    return tables or [path for path in (folder / FILE,) if names_label(path, LABEL_NAMES)]
