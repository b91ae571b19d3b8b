"""Which boxes a detection run's options mean: files named, a split of a folder, or the built-in shapes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from backbones.errors import UserError
from tools.det_options import DataOptions

if TYPE_CHECKING:
    from detection.annotations import CocoAnnotations


def read_annotations(
    data: DataOptions, split: Literal["train", "val"], *, absent_images: Literal["keep", "error"] = "error"
) -> CocoAnnotations:
    """The truth of a split.

    Raises:
        UserError: where files are missing or malformed, or the folder has no layout that is known.
    """
    from detection.annotations import CocoAnnotations
    from detection.folders import LAYOUTS, layout_of, read_folder
    from tools.coco_layout import find_split

    reading: dict[str, Any] = {
        "bad_boxes": data.bad_boxes,
        "absent_images": absent_images,
        "allow_outside": data.allow_outside,
    }
    if named := getattr(data, f"{split}_annotations"):
        return CocoAnnotations.read(Path(named), Path(getattr(data, f"{split}_images")), **reading)
    if data.data is None:
        from tools import shapes
        from tools.distributed import on_main

        return CocoAnnotations.read(*find_split(on_main(shapes.prepare), split), **reading)
    root, name = Path(data.data), getattr(data, f"{split}_split")
    if truth := read_folder(root, name, absent_images=absent_images):
        return CocoAnnotations.of(truth, **reading)
    if root.is_dir() and layout_of(root) is None:
        raise UserError(f"--data {root}: no layout that is known: {LAYOUTS}")
    return CocoAnnotations.read(*find_split(root, name), **reading)
