"""Records of a split in the form of COCO's instances files, for data in any layout."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from backbones.common.datasets import IMAGE_SUFFIXES, Record
from backbones.errors import UserError

Protocol = Literal["coco", "voc", "lvis"]
ProblemHandler = Callable[[str, str, UserError], None]  # kind of the problem, file, and error text


@dataclass(frozen=True)
class Truth:
    """Records of one split (images, annotations, categories) as COCO's instances files have them.

    Attributes:
        layout: coco, voc, yolo or the name of a registered layout.
        path: file or folder to name in messages.
        folder: folder of the images.
        data: `images`, `annotations` and `categories` as in COCO's instances file.
        files: for VOC and YOLO, the annotation file of each image; image ids are then 1, 2, ...
        ordinals: for VOC and YOLO, the position of each annotation in its file, from 1.
        notes: number of cases in which something was corrected or left out in reading, by description.
    """

    layout: str
    path: Path
    folder: Path
    data: Record
    files: list[str] = field(default_factory=list)
    ordinals: list[int] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)

    def locate(self, index: int) -> tuple[str, str]:
        """Return the file that contains annotation `index`, and a description of the annotation within the file."""
        record = self.data["annotations"][index]
        if not self.ordinals:
            name = f"annotation {record['id']}" if "id" in record else f"annotations[{index}]"
            return str(self.path), f"{name} of image {record['image_id']}"
        word = "object" if self.layout == "voc" else "line"
        return self.files[record["image_id"] - 1], f"{word} {self.ordinals[index]}"

    def evaluator_source(self) -> Path | bytes:
        """Return the ground truth for an evaluator: the path of a COCO file, or the records as JSON.

        The JSON is a single object, which data workers share without copying.
        """
        return self.path if self.layout == "coco" else json.dumps(self.data).encode()

    def protocol(self) -> Protocol:
        """Return the benchmark whose metrics to compute in addition to COCO's.

        LVIS's images list their absent categories.
        """
        if self.layout == "coco":
            return "lvis" if all("neg_category_ids" in image for image in self.data["images"]) else "coco"
        return "voc" if self.layout == "voc" else "coco"


def unknown_size() -> tuple[int, int]:
    """Return a placeholder size for an image that cannot be read and has no size in its annotations.

    The value does not matter, because such an image gets no detections.
    """
    return 640, 640


def raise_problem(kind: str, file: str, error: UserError) -> None:
    """Raise the error of a problem. Readers call this by default; tools/check_data.py collects the problems instead."""
    raise error


def images_below(folder: Path) -> dict[str, list[str]]:
    """Return the image files in a folder and its subfolders, as a dict from names without suffix to names.

    Raises:
        UserError: the folder does not exist.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of images; check the path")
    found: dict[str, list[str]] = {}
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        below = os.path.relpath(parent, folder)
        for name in sorted(names):
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in IMAGE_SUFFIXES and not name.startswith("."):
                inner = [] if below == os.curdir else below.split(os.sep)
                found.setdefault("/".join([*inner, stem]), []).append("/".join([*inner, name]))
    return found


def read_names(path: Path) -> list[str]:
    """Read the class names of a text file, one per line.

    Raises:
        UserError: the file cannot be read, has no name, or has a duplicate.
    """
    return checked_names(path, [line.strip() for line in read_text(path).splitlines() if line.strip()])


def checked_names(path: Path, names: list[str]) -> list[str]:
    """Return class names unchanged after checking them.

    Raises:
        UserError: there is no name, or there is a duplicate.
    """
    if not names:
        raise UserError(f"{path}: contains no class names; add at least one")
    duplicate = next((name for index, name in enumerate(names) if name in names[:index]), None)
    if duplicate is not None:
        raise UserError(f"{path}: class {duplicate} is listed more than once; keep one of the entries")
    return names


def read_text(path: Path) -> str:
    """Read a text file.

    Raises:
        UserError: the file cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from None
    except UnicodeDecodeError as error:
        text = f"{error.reason} at byte {error.start}"
        raise UserError(f"{path}: is not UTF-8 text ({text}); save it again as UTF-8") from None
