"""What is known of a split, in COCO's terms, whatever files it was read from."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from backbones.common.datasets import IMAGE_SUFFIXES
from backbones.errors import UserError

Layout = Literal["coco", "voc", "yolo"]
Protocol = Literal["coco", "voc", "lvis"]
Note = Callable[[str, str, UserError], None]  # kind of a problem, file, and its text


@dataclass(frozen=True)
class Truth:
    """The records of a split.

    Attributes:
        layout: of the files.
        path: the file or folder to name in messages; `folder`: where the images lie.
        data: `images`, `annotations` and `categories` as COCO's instances file has them.
        files: where COCO's file is not it, the annotation file of each image, whose ids are then 1, 2, ...
        ordinals: the place of each annotation in its file, from 1.
    """

    layout: Layout
    path: Path
    folder: Path
    data: dict[str, Any]
    files: list[str] = field(default_factory=list)
    ordinals: list[int] = field(default_factory=list)

    def place(self, index: int) -> tuple[str, str]:
        """The file of annotation `index`, and what to call the annotation there."""
        record = self.data["annotations"][index]
        if self.layout == "coco":
            return str(self.path), f"annotation {record['id']} of image {record['image_id']}"
        word = "object" if self.layout == "voc" else "line"
        return self.files[record["image_id"] - 1], f"{word} {self.ordinals[index]}"

    def packed(self) -> Path | bytes:
        """What an evaluator reads the truth from: the file, or its content as one object for any number of workers."""
        return self.path if self.layout == "coco" else json.dumps(self.data).encode()

    def protocol(self) -> Protocol:
        """Whose figures are wanted beside COCO's; LVIS's images say which categories they were searched for."""
        if self.layout == "coco":
            return "lvis" if all("neg_category_ids" in image for image in self.data["images"]) else "coco"
        return "voc" if self.layout == "voc" else "coco"


def refuse(kind: str, file: str, error: UserError) -> None:
    """What a reader does about a problem, unless somebody collects them."""
    raise error


def images_below(folder: Path) -> dict[str, list[str]]:
    """Names of the image files in a folder and those below it, by their name without its suffix.

    Raises:
        UserError: where there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of images")
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
    """The class names of a text file, one a line.

    Raises:
        UserError: where it cannot be read, names none, or one twice.
    """
    return checked_names(path, [line.strip() for line in read_text(path).splitlines() if line.strip()])


def checked_names(path: Path, names: list[str]) -> list[str]:
    """Class names, unless there is none, or one stands twice."""
    if not names:
        raise UserError(f"{path}: names no class; a detector needs at least one")
    twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if twice is not None:
        raise UserError(f"{path}: class {twice} stands twice; mend the list")
    return names


def read_text(path: Path) -> str:
    """Raises: UserError where a file is no text or cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is no UTF-8 text ({error.reason} at byte {error.start}); write it again") from None
