"""The built-in shapes data set: coloured shapes on textured backgrounds, as a COCO detection set.

All files are a pure function of the options. The command `tools/shapes.py` and the training scripts generate it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypedDict

from backbones.common.coco import AnnotationRecord, CategoryRecord, ImageRecord
from backbones.common.files import create_once
from backbones.errors import UserError
from tools.synthetic.parallel import draw_images
from tools.synthetic.records import DrawnObject, ImageJob, ShapesFile

VERSION = 2  # increase it when the bytes change: it is part of the cache folder's name
SPLITS = ("train", "val")
FIRST_IMAGE_ID = {"train": 1, "val": 1_000_001}
CATEGORIES: tuple[CategoryRecord, ...] = (  # in the order of drawing.OUTLINES; the ids have gaps, like COCO's
    {"id": 1, "name": "circle", "supercategory": "round"},
    {"id": 3, "name": "square", "supercategory": "angular"},
    {"id": 4, "name": "triangle", "supercategory": "angular"},
    {"id": 7, "name": "star", "supercategory": "angular"},
    {"id": 9, "name": "ring", "supercategory": "round"},
    {"id": 12, "name": "cross", "supercategory": "angular"},
)
LEAST_SIZE, MOST_SIZE = 32, 1024  # width and height of an image in pixels
DESCRIPTION_FILE = "shapes.json"
NOT_WRITABLE = "name a writable folder with --output or with the variable RESNET_TRANSFER_CACHE"


class Recipe(TypedDict):
    """Options that determine the shapes data set completely. They are the content of `shapes.json`."""

    version: int
    train: int
    val: int
    size: int
    seed: int


def cache_root() -> Path:
    """Return the cache folder: $RESNET_TRANSFER_CACHE, $XDG_CACHE_HOME/resnet-transfer or ~/.cache/resnet-transfer."""
    own, common = os.environ.get("RESNET_TRANSFER_CACHE"), os.environ.get("XDG_CACHE_HOME")
    if own:
        return Path(own).expanduser()
    return (Path(common) if common else Path.home() / ".cache") / "resnet-transfer"


def prepare(root: Path | None = None, *, train: int = 3000, val: int = 200, size: int = 128, seed: int = 0) -> Path:
    """Return the folder of the shapes below `root`. It is generated if it does not exist.

    Several processes may call this at once: one generates the data set, the others wait for it. If the process is
    killed, a later call does not mistake its incomplete files for the data set.

    Args:
        root: folder of all generated data sets; the cache by default.
        train: number of training images.
        val: number of validation images.
        size: width and height of an image in pixels.
        seed: seed of the random generator.

    Raises:
        UserError: if an option is out of range, the folder cannot be written, or it holds a damaged data set.
    """
    name = f"shapes-v{VERSION}-train{train}-val{val}-size{size}-seed{seed}"
    folder = (cache_root() if root is None else Path(root)) / name
    return generate(folder, train=train, val=val, size=size, seed=seed)


def generate(folder: Path, *, train: int, val: int, size: int, seed: int) -> Path:
    """Generate the shapes in `folder` unless they exist there; return the folder's absolute path."""
    recipe: Recipe = {"version": VERSION, "train": train, "val": val, "size": size, "seed": seed}
    _check(train=train, val=val, size=size, seed=seed)
    folder = folder.absolute()
    if _is_complete(folder, recipe):
        return folder
    create_once(
        folder,
        is_complete=lambda: _is_complete(folder, recipe),
        write=lambda at: _write(at, recipe),
        fix=NOT_WRITABLE,
    )
    return folder


def _check(*, train: int, val: int, size: int, seed: int) -> None:
    for name, value, least, most in (
        ("train", train, 1, 1_000_000),
        ("val", val, 1, 1_000_000),
        ("size", size, LEAST_SIZE, MOST_SIZE),
        ("seed", seed, 0, 2**63),
    ):
        if not least <= value <= most:
            raise UserError(f"shapes: {name} is {value}; use a value from {least} to {most}")


def _is_complete(folder: Path, recipe: Recipe) -> bool:
    """Return whether the folder holds the data set of `recipe`; False if the folder does not exist or is empty.

    Raises:
        UserError: if the folder holds anything else, because files of the user are never overwritten.
    """
    if not folder.exists():
        return False
    if not folder.is_dir():
        raise _refusal(folder, "is not a folder")
    try:
        if not any(folder.iterdir()):
            return False
        found = json.loads((folder / DESCRIPTION_FILE).read_text())
        counts = {split: len(os.listdir(folder / split)) for split in SPLITS}
        annotated = all((folder / "annotations" / f"instances_{split}.json").is_file() for split in SPLITS)
    except FileNotFoundError as error:
        raise _refusal(folder, f"lacks {Path(error.filename).name}") from None
    except (OSError, ValueError) as error:
        raise _refusal(folder, f"cannot be read ({error})") from None
    if found != recipe:
        raise _refusal(folder, "holds shapes that were generated with other options")
    for split, expected in _counts(recipe).items():
        if counts[split] != expected:
            raise _refusal(folder, f"has {counts[split]} of {expected} images in {split}")
    if not annotated:
        raise _refusal(folder, "lacks annotations")
    return True


def _refusal(folder: Path, fault: str) -> UserError:
    return UserError(f"{folder}: {fault}; delete it to generate the shapes there, or name another folder")


def _write(folder: Path, recipe: Recipe) -> None:
    """Write images, annotations and the file `shapes.json` into a new folder."""
    for name in (*SPLITS, "annotations"):
        (folder / name).mkdir(parents=True)
    counts = _counts(recipe)
    images: list[ImageJob] = [
        (number, index, str(folder / split / _file_name(split, index)))
        for number, split in enumerate(SPLITS)
        for index in range(counts[split])
    ]
    drawn = _with_progress(draw_images(images, size=recipe["size"], seed=recipe["seed"]), len(images))
    for split in SPLITS:
        truth = _truth(split, recipe, [next(drawn) for _ in range(counts[split])])
        text = json.dumps(truth, separators=(",", ":"))
        (folder / "annotations" / f"instances_{split}.json").write_text(text)
    next(drawn, None)  # run the generator to its end: it closes the progress bar and waits for the workers
    (folder / DESCRIPTION_FILE).write_text(json.dumps(recipe))


def _counts(recipe: Recipe) -> dict[str, int]:
    """Return the number of images of each split."""
    return {"train": recipe["train"], "val": recipe["val"]}


def _file_name(split: str, index: int) -> str:
    return f"{FIRST_IMAGE_ID[split] + index:012d}.jpg"


def _truth(split: str, recipe: Recipe, drawn: Sequence[Sequence[DrawnObject]]) -> ShapesFile:
    """Return the content of a split's annotation file, in COCO's format."""
    size, first = recipe["size"], FIRST_IMAGE_ID[split]
    images: list[ImageRecord] = []
    annotations: list[AnnotationRecord] = []
    for index, objects in enumerate(drawn):
        images.append({"id": first + index, "file_name": _file_name(split, index), "width": size, "height": size})
        for each in objects:
            annotations.append(_annotation(each, number=len(annotations) + 1, image=first + index))
    return {
        "info": {
            "description": "Shapes, an embedded detection dataset",
            "version": str(VERSION),
            "seed": recipe["seed"],
        },
        "images": images,
        "annotations": annotations,
        "categories": list(CATEGORIES),
    }


def _annotation(drawn: DrawnObject, *, number: int, image: int) -> AnnotationRecord:
    return {
        "id": number,
        "image_id": image,
        "category_id": CATEGORIES[drawn["kind"]]["id"],
        "segmentation": drawn["segmentation"],
        "bbox": drawn["bbox"],
        "area": drawn["area"],
        "iscrowd": drawn["iscrowd"],
    }


def _with_progress(drawn: Iterator[list[DrawnObject]], total: int) -> Iterator[list[DrawnObject]]:
    from tqdm import tqdm

    interval = 0.1 if sys.stderr.isatty() else 10  # few lines in a log file
    return iter(tqdm(drawn, total=total, desc="Drawing shapes", unit="image", mininterval=interval))
