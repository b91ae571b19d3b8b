"""The embedded shapes as a classification set: each object cut out of its picture, in folders by class."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from backbones.common.files import create_once
from backbones.errors import UserError
from tools.synthetic import shapes

SIZE = 32  # pixels of a crop's sides
MARGIN = 1.2  # side of the square cut out, over the longer side of the object's box
DESCRIPTION_FILE = "crops.json"


def prepare(root: Path | None = None, **options: int) -> Path:
    """The folder of crops (`train/CLASS/*.png`, `val/CLASS/*.png`), made first where it is not there yet.

    Args:
        root: where the shapes and the crops lie; the cache by default.
        options: of `shapes.prepare`.

    Raises:
        UserError: for impossible options, or a folder that cannot be written.
    """
    source = shapes.prepare(root, **options)
    folder = source.with_name(f"{source.name}-crops{SIZE}")
    try:
        create_once(folder, is_complete=(folder / DESCRIPTION_FILE).is_file, write=lambda at: _write(at, source))
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}; name a folder by RESNET_TRANSFER_CACHE") from None
    return folder


def _write(folder: Path, source: Path) -> None:
    counts = {split: _write_split(folder / split, source, split) for split in shapes.SPLITS}
    (folder / DESCRIPTION_FILE).write_text(json.dumps(counts))


def _write_split(folder: Path, source: Path, split: str) -> int:
    import cv2

    truth = json.loads((source / "annotations" / f"instances_{split}.json").read_text())
    names = {category["id"]: category["name"] for category in truth["categories"]}
    for name in names.values():
        (folder / name).mkdir(parents=True)
    files = {image["id"]: image["file_name"] for image in truth["images"]}
    for thing in truth["annotations"]:
        image = cv2.imread(str(source / split / files[thing["image_id"]]))
        target = folder / names[thing["category_id"]] / f"{thing['id']:06d}.png"
        cv2.imwrite(str(target), crop(image, thing["bbox"]))
    return len(truth["annotations"])


def crop(image: Any, box: list[float]) -> Any:
    """The square around a box [x, y, width, height], scaled; the picture's edge is repeated beyond it."""
    import cv2

    side = max(2, round(MARGIN * max(box[2:])))
    left, top = (round(begin + length / 2 - side / 2) for begin, length in zip(box[:2], box[2:], strict=True))
    wide = cv2.copyMakeBorder(image, side, side, side, side, cv2.BORDER_REPLICATE)
    square = wide[top + side : top + 2 * side, left + side : left + 2 * side]
    return cv2.resize(square, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
