"""The built-in shapes for classification: each object is cut out of its image, in a folder for its class."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from backbones.common.coco import InstancesFile
from backbones.common.files import create_once
from tools.synthetic import shapes
from tools.synthetic.shapes import NOT_WRITABLE

if TYPE_CHECKING:
    import numpy as np

SIZE = 32  # width and height of a crop in pixels
MARGIN = 1.2  # side of the square that is cut out, divided by the longer side of the object's box
DESCRIPTION_FILE = "crops.json"


def prepare(root: Path | None = None, **options: int) -> Path:
    """Return the folder of crops below `root`. It is generated if it does not exist.

    It holds `train/CLASS/*.png` and `val/CLASS/*.png`.

    Args:
        root: folder of all generated data sets, the shapes and the crops; the cache by default.
        options: options of `shapes.prepare`.

    Raises:
        UserError: if an option is out of range, or a folder cannot be written.
    """
    source = shapes.prepare(root, **options)
    return generate(source.with_name(f"{source.name}-crops{SIZE}"), source)


def generate(folder: Path, source: Path) -> Path:
    """Write crops of all objects of the shapes data set `source` into `folder`; return `folder`.

    A folder that already holds crops is left as it is.

    Raises:
        UserError: if the folder holds other files or cannot be written.
    """
    is_complete = (folder / DESCRIPTION_FILE).is_file
    create_once(folder, is_complete=is_complete, write=lambda at: _write(at, source), fix=NOT_WRITABLE)
    return folder


def crop(image: np.ndarray, box: list[float]) -> np.ndarray:
    """Return the square around a box, resized to `[SIZE, SIZE, 3]`. The image's edge is repeated outside the image.

    Args:
        image: `[H, W, 3]` uint8.
        box: x, y, width, height in pixels.
    """
    import cv2

    side = max(2, round(MARGIN * max(box[2:])))
    left, top = (round(begin + length / 2 - side / 2) for begin, length in zip(box[:2], box[2:], strict=True))
    # Repeat the image's edge on all sides, by enough for any square.
    wide = cv2.copyMakeBorder(image, side, side, side, side, cv2.BORDER_REPLICATE)
    square = wide[top + side : top + 2 * side, left + side : left + 2 * side]
    return cv2.resize(square, (SIZE, SIZE), interpolation=cv2.INTER_AREA)


def _write(folder: Path, source: Path) -> None:
    counts = {split: _write_split(folder / split, source, split) for split in shapes.SPLITS}
    (folder / DESCRIPTION_FILE).write_text(json.dumps(counts))


def _write_split(folder: Path, source: Path, split: str) -> int:
    """Write the crops of a split; return the number of crops."""
    import cv2

    truth: InstancesFile = json.loads((source / "annotations" / f"instances_{split}.json").read_text())
    names = {category["id"]: category["name"] for category in truth["categories"]}
    for name in names.values():
        (folder / name).mkdir(parents=True)
    files = {image["id"]: image["file_name"] for image in truth["images"]}
    for annotation in truth["annotations"]:
        image = cv2.imread(str(source / split / files[annotation["image_id"]]))
        assert image is not None, "the shapes data set is complete"
        target = folder / names[annotation["category_id"]] / f"{annotation['id']:06d}.png"
        cv2.imwrite(str(target), crop(image, annotation["bbox"]))
    return len(truth["annotations"])
