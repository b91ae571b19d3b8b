"""Records of a split in the form of COCO's instances files, for data in any layout."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from backbones.common.categories import map_records
from backbones.common.category_options import CategoryOptions
from backbones.common.datasets import Record, listed_lines, read_coco
from backbones.common.image_finder import renamed_note
from backbones.common.listing import list_files
from backbones.common.suffixes import IMAGE_SUFFIXES
from backbones.errors import UserError, no_folder

Protocol = Literal["coco", "voc", "lvis"]
ProblemHandler = Callable[[str, str, UserError], None]  # kind of the problem, file, and error text


@dataclass(frozen=True)
class Truth:
    """Records of one split (images, annotations, categories) as COCO's instances files have them.

    Attributes:
        layout: name of the layout.
        path: file or folder to name in messages.
        folder: folder of the images.
        data: `images`, `annotations` and `categories` as in COCO's instances file.
        files: annotation file of each image, in layouts other than COCO's; image ids are then 1, 2, ...
        ordinals: position of each annotation in its file from 1, in layouts other than COCO's.
        notes: number of cases in which something was corrected or left out in reading, by description.
        passed_over: number of files in the image folder by suffix that are not images, in layouts other than COCO's.
        word: what an annotation is in its file: "object" or "line".
        coco_file: COCO file that holds exactly these records; None if there is none.
        renamed: names of images as in the annotation file, by the files that are used for them instead.
    """

    layout: str
    path: Path
    folder: Path
    data: Record
    files: list[str] = field(default_factory=list)
    ordinals: list[int] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    passed_over: Mapping[str, int] = field(default_factory=dict)
    word: str = "line"
    coco_file: Path | None = None
    renamed: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of_coco(cls, path: Path, folder: Path) -> Truth:
        """Read a COCO instances file, whose records are not checked yet.

        Raises:
            UserError: the file is missing, not JSON, or not a JSON object.
        """
        return cls("coco", path, folder, read_coco(path), coco_file=path)

    def with_categories(self, options: CategoryOptions) -> Truth:
        """Return these records with merged, renamed and chosen categories, as the options say.

        Raises:
            UserError: an option names an unknown class, or a category is malformed.
        """
        if not options.changes_classes:
            return self
        mapped = map_records(self.data, options, self.path)
        ordinals = [self.ordinals[index] for index in mapped.kept] if self.ordinals else []
        notes = Counter(self.notes)
        if mapped.dropped:
            notes["boxes of other classes left out"] += mapped.dropped
        return replace(self, data=mapped.data, ordinals=ordinals, notes=notes, coco_file=None)

    def locate(self, index: int) -> tuple[str, str]:
        """Return the file that contains annotation `index`, and a description of the annotation within the file."""
        record = self.data["annotations"][index]
        if not self.ordinals:
            name = f"annotation {record['id']}" if "id" in record else f"annotations[{index}]"
            return str(self.path), f"{name} of image {record['image_id']}"
        return self.files[record["image_id"] - 1], f"{self.word} {self.ordinals[index]}"

    def all_notes(self) -> dict[str, int]:
        """Return `notes`, and the number of images whose names were replaced, with the first of them."""
        return {**self.notes, **renamed_note(self.renamed)}

    def evaluator_source(self) -> Path | bytes:
        """Return the ground truth for an evaluator: the path of a COCO file, or the records as JSON.

        The JSON is a single object, which data workers share without copying.
        """
        return self.coco_file or json.dumps(self.data).encode()

    def protocol(self) -> Protocol:
        """Return the benchmark whose metrics to compute in addition to COCO's.

        LVIS's images list their absent categories.
        """
        if self.coco_file:
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


@dataclass(frozen=True)
class FolderImages:
    """The image files in a folder and its subfolders.

    Attributes:
        by_stem: names of the files by name without suffix; several may differ in the suffix only.
        passed_over: number of the other files by suffix.
    """

    by_stem: dict[str, list[str]]
    passed_over: Mapping[str, int]

    @classmethod
    def of(cls, folder: Path) -> FolderImages:
        """List a folder. Links and hidden files are handled as in `list_files`.

        Raises:
            UserError: the folder does not exist.
        """
        if not folder.is_dir():
            raise UserError(f"{folder}: {no_folder(folder)} of images; check the path")
        listing, by_stem = list_files(folder, IMAGE_SUFFIXES), dict[str, list[str]]()
        for file in listing.files:
            name = file.relative_to(folder).as_posix()
            by_stem.setdefault(os.path.splitext(name)[0], []).append(name)
        return cls(by_stem, listing.passed_over)


def read_names(path: Path) -> list[str]:
    """Read the class names of a text file, one per line. Blank lines and comments are skipped; see `listed_lines`.

    Raises:
        UserError: the file cannot be read, has no name, or has a duplicate.
    """
    return checked_names(path, [name for _, name in listed_lines(read_text(path))])


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
