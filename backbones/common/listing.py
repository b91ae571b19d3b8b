"""Lists the files of a data set's folder, and counts the files of other types, which are not read."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from backbones.errors import UserError

# Names in lower case of what macOS, Windows and network drives add to folders, besides names that begin with a dot.
_ADDED = ("__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "thumbs.db", "desktop.ini")

DEEPEST = 4  # folders above a data set, each of which holds nothing else


def is_hidden(name: str) -> bool:
    """Return whether a file or folder was made by another program, such as `._1.jpg`, `__MACOSX` and `Thumbs.db`."""
    return name.startswith(".") or name.lower() in _ADDED


def visible(folder: Path, pattern: str) -> Iterator[Path]:
    """Yield the paths below a folder that a glob pattern fits, in no order, without hidden ones; see `is_hidden`."""
    for path in folder.glob(pattern):
        if not any(map(is_hidden, path.relative_to(folder).parts)):
            yield path


def is_file(path: Path) -> bool:
    """Return whether a file exists. The result is False for names that no file can have, such as very long ones."""
    return os.path.isfile(path)  # Path.is_file raises an error for these


def subfolders(folder: Path) -> list[Path]:
    """Return the visible folders in a folder, sorted; [] if the folder does not exist."""
    others = (folder / entry.name for entry in _entries(folder) if not entry.is_file(follow_symlinks=False))
    return sorted(path for path in others if path.is_dir())


def files_of(folder: Path, suffix: str) -> list[Path]:
    """Return the visible files in a folder, without its subfolders, that have a suffix, sorted; [] for no folder."""
    wanted = os.path.normcase(suffix)
    return sorted(folder / each.name for each in _entries(folder) if os.path.normcase(each.name).endswith(wanted))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """Return the visible entries of a folder; [] if it does not exist or cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not is_hidden(entry.name)]
    except OSError:
        return []


@dataclass(frozen=True)
class Listing:
    """The files below a folder, at any depth.

    Attributes:
        files: the files of the wanted suffixes, sorted by their paths.
        passed_over: number of the other files by suffix in lower case; "" for files without one.
    """

    files: tuple[Path, ...]
    passed_over: Mapping[str, int] = field(default_factory=Counter)


def list_files(folder: Path, suffixes: Collection[str]) -> Listing:
    """List the files below a folder whose suffix is one of `suffixes`, in lower case.

    Links to folders are followed, except to a folder that contains the link. Hidden files and folders (`is_hidden`) are
    left out and not counted: other programs make them.
    """
    found: list[Path] = []
    others: Counter[str] = Counter()
    for file in walk(folder):
        suffix = file.suffix.lower()
        if suffix in suffixes:
            found.append(file)
        else:
            others[suffix] += 1
    return Listing(tuple(sorted(found)), others)


def walk(folder: Path) -> Iterator[Path]:
    """Yield all files below a folder, of any suffix and in no order.

    Links and hidden files are handled as in `list_files`.
    """
    yield from _walk(folder, ())


def inner_folder(root: Path, holds: Callable[[Path], bool]) -> Path:
    """Return the folder of a data set that lies in other folders, as archives have it: `pets/pets/train`.

    Args:
        root: folder that a user named.
        holds: whether a folder is that of a data set.

    Returns:
        `root` if it holds a data set, or else the first of its only subfolder, the only subfolder of that, and so on
        that does; `root` if there is none.
    """
    folder = root
    for _ in range(DEEPEST):
        if holds(folder):
            return folder
        below = subfolders(folder)
        if len(below) != 1:
            break
        folder = below[0]
    return root


def describe_passed_over(counts: Mapping[str, int]) -> str:
    """Return the numbers of files that are not read as text, such as "3 .txt, 1 without suffix"; empty for none."""
    parts = sorted(((count, suffix) for suffix, count in counts.items() if count), key=lambda part: (-part[0], part[1]))
    return ", ".join(f"{count} {suffix or 'without suffix'}" for count, suffix in parts)


def _walk(folder: Path, above: tuple[tuple[int, int], ...]) -> Iterator[Path]:
    """Yield the files below a folder.

    `above` holds device and inode of the folders above, so that cycles of links end.
    """
    state = folder.stat()
    here = (*above, (state.st_dev, state.st_ino))
    if here[-1] in above:
        return
    try:
        with os.scandir(folder) as entries:
            found = [entry for entry in entries if not is_hidden(entry.name)]
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror}); check its permissions") from None
    for entry in found:
        if entry.is_dir():
            yield from _walk(folder / entry.name, here)
        elif entry.is_file() or entry.is_symlink():  # a broken link is reported when it is read
            yield folder / entry.name
