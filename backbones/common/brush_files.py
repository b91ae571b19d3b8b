"""Reads Label Studio's exports "Brush labels to PNG" and "to NumPy": a file for each stroke of the brush.

A file's name is `task-ID-annotation-ID-by-AUTHOR-TAG-LABEL-INDEX.png`. It names no image, so that the images are those
of the tasks in a JSON file beside the masks, or have the number of the task as their name.

Source: label_studio_converter/brush.py in HumanSignal/label-studio-converter.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from backbones.common.datasets import Record, listed_lines
from backbones.common.image_finder import ImageFinder, fitting_file
from backbones.common.images import open_image
from backbones.common.listing import visible
from backbones.common.values import is_text
from backbones.errors import UserError, first_names

FOLDERS = ("masks", "labels", "annotations", "brush")
CLASS_LIST = "classes.txt"
FURTHER = "masks of further annotations of the same task, which are left out"
UNLABELLED = "images without a mask, which are left out"
_FORM = re.compile(r"task-(\d{1,18})-annotation-(\d{1,18})-by-([^-]*)-(.+)-(\d+)\.(?:png|npy)", re.IGNORECASE)


@dataclass(frozen=True)
class BrushMask:
    """The file of a stroke.

    Attributes:
        path: the file.
        label: the class.
        order: task, annotation and index of the stroke.
    """

    path: Path
    label: str
    order: tuple[int, int, int]

    def read(self) -> np.ndarray:
        """Return the mask `[H, W]` bool.

        Raises:
            UserError: the file does not decode, or is no mask.
        """
        try:
            pixels = _array(self.path)
        except (OSError, SyntaxError, ValueError, EOFError):
            raise UserError(f"{self.path}: does not decode: truncated, damaged or no mask; export it again") from None
        if pixels.ndim != 2 or pixels.dtype.kind not in "bui":
            raise UserError(f"{self.path}: is no mask of one grey value a pixel; export it again as PNG or NumPy")
        return np.asarray(pixels > 0)


@dataclass(frozen=True)
class BrushExport:
    """A folder of masks, and the images below it.

    Attributes:
        root: folder of the data set.
        notes: number of cases of what is left out, by description.
    """

    root: Path
    notes: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, root: Path) -> BrushExport | None:
        """Return the export in a folder; None if there is none, or if a JSON file beside it holds the same strokes."""
        folder = _mask_folder(root)
        return cls(root) if folder is not None and not any(map(_is_annotated, _tasks(root))) else None

    @cached_property
    def finder(self) -> ImageFinder:
        """The images below the folder."""
        return ImageFinder(self.root)

    @cached_property
    def masks(self) -> Sequence[BrushMask]:
        """The masks of the first annotation of each task, in the order of tasks and strokes."""
        found = sorted(self._files(), key=lambda mask: (mask.order, mask.path))
        first = {mask.order[0]: mask.order[1] for mask in reversed(found)}
        kept = [mask for mask in found if mask.order[1] == first[mask.order[0]]]
        if len(kept) < len(found):
            self.notes[FURTHER] += len(found) - len(kept)
        return kept

    @property
    def labels(self) -> list[str]:
        """The classes: those of classes.txt, or else the sorted ones of the masks."""
        used = {mask.label for mask in self.masks}
        return [*self._listed, *sorted(used.difference(self._listed))]

    def by_image(self) -> Mapping[str, Sequence[BrushMask]]:
        """Return the masks by the paths of their images below `root`. Images without a mask are left out and counted.

        Raises:
            UserError: the image of a task is not found.
        """
        tasks: dict[int, list[BrushMask]] = {}
        for mask in self.masks:
            tasks.setdefault(mask.order[0], []).append(mask)
        addresses = {int(task["id"]): _addresses(task) for task in _tasks(self.root)}
        found = {self._image(task, addresses.get(task), len(tasks)): masks for task, masks in tasks.items()}
        if len(found) < len(tasks):
            raise UserError(f"{self.root}: two tasks have the same image; remove the masks of one of them")
        if unlabelled := len(self._images - found.keys()):
            self.notes[UNLABELLED] += unlabelled
        return found

    def passed_over(self) -> Mapping[str, int]:
        """Return the number of files by suffix below `root` that are neither images nor masks nor lists of tasks."""
        read = [mask.path for mask in self._files()] + [path for path, _ in _task_files(self.root)]
        if self._listed:
            read.append(self.root / CLASS_LIST)
        return Counter(self.finder.passed_over) - Counter(path.suffix.lower() for path in read)

    @cached_property
    def _listed(self) -> list[str]:
        path = self.root / CLASS_LIST
        text = path.read_text(encoding="utf-8-sig", errors="replace") if path.is_file() else ""
        return list(dict.fromkeys(name for _, name in listed_lines(text)))

    @cached_property
    def _images(self) -> set[str]:
        """Images below the folder, without the masks."""
        return {name for name in self.finder.files if not _FORM.fullmatch(Path(name).name)}

    def _files(self) -> Iterator[BrushMask]:
        folder = _mask_folder(self.root)
        for path in sorted(visible(folder, "*")) if folder is not None else ():
            if match := _FORM.fullmatch(path.name):
                task, annotation, _, names, index = match.groups()
                yield BrushMask(path, self._label(names), (int(task), int(annotation), int(index)))

    def _label(self, names: str) -> str:
        """Return the class in the text TAG-LABEL: the longest listed one at its end, or else all after the first -."""
        listed = [label for label in self._listed if names.endswith(f"-{label}")]
        return max(listed, key=len) if listed else names.partition("-")[2] or names

    def _image(self, task: int, addresses: Iterable[str] | None, tasks: int) -> str:
        """Return the image of a task.

        Args:
            addresses: texts in the JSON file's data of the task; None if no JSON file has the task.
            tasks: number of all tasks.
        """
        for address in addresses or ():
            found = fitting_file(self.finder, address)
            if found in self._images:
                return str(found)
        if addresses is None:
            own = re.compile(rf"(?:task[-_ ]?)?0*{task}")
            named = [name for name in self._images if own.fullmatch(Path(name).stem)]
            if not named and tasks == len(self._images) == 1:
                named = [*self._images]
            if len(named) == 1:
                return named[0]
        shown = "" if addresses is None else f" ({first_names([address[:80] for address in addresses])})"
        raise UserError(
            f"{self.root}: no image is known to be that of task {task}{shown}; put the images and the project's export "
            f"as JSON beside the masks, or name the image {task}.jpg"
        )


def _mask_folder(root: Path) -> Path | None:
    """Return the folder that holds masks: the data set's own, or one in it; None if there is none."""
    folders = (root, *(root / name for name in FOLDERS))
    has = (folder for folder in folders if any(_FORM.fullmatch(path.name) for path in visible(folder, "task-*")))
    return next(has, None)


def _tasks(root: Path) -> Iterator[Record]:
    """Yield the tasks in the JSON files of a folder."""
    for _, tasks in _task_files(root):
        yield from tasks


def _task_files(root: Path) -> Iterator[tuple[Path, list[Record]]]:
    """Yield the JSON files of a folder that are lists of tasks, with their tasks."""
    for path in sorted(visible(root, "*.json")):
        try:
            content = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError):
            continue
        listed = content if isinstance(content, list) else []
        tasks = [task for task in listed if isinstance(task, dict) and isinstance(task.get("id"), int)]
        if tasks:
            yield path, tasks


def _is_annotated(task: Record) -> bool:
    """Return whether a task holds annotations, in Label Studio's JSON or JSON-MIN."""
    return any(isinstance(value, list) and value for key, value in task.items() if key != "predictions")


def _addresses(task: Record) -> list[str]:
    data = task.get("data")
    values = (data if isinstance(data, dict) else task).values()
    return [value for value in values if is_text(value)]


def _array(path: Path) -> np.ndarray:
    if path.suffix.lower() == ".npy":
        return np.asarray(np.load(path, allow_pickle=False))
    with open_image(path) as image:
        return np.asarray(image.getchannel("A") if "A" in image.getbands() else image)
