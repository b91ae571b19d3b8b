"""Where the parts of a data set in COCO's layout lie."""

from __future__ import annotations

from pathlib import Path

from backbones.errors import UserError


def find_split(root: Path, split: str) -> tuple[Path, Path]:
    """Annotation file and image folder of a split in COCO's own layout.

    That is `annotations/instances_<split>*.json` beside a folder `<split>*` (or `images/<split>*`) of the same suffix.

    Raises:
        UserError: where there is no such file or folder, or there are several.
    """
    if not root.is_dir():
        raise UserError(f"--data {root}: no such folder")
    found = sorted((root / "annotations").glob(f"instances_{split}*.json"))
    if not found:
        raise UserError(
            f"--data {root}: has no annotations/instances_{split}*.json; "
            "lay it out like COCO, or name its files (--train-annotations and --train-images, the same for val)"
        )
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise UserError(
            f"--data {root}: has several files for {split} ({names}); name one by --train-annotations or --val-..."
        )
    name = found[0].stem.removeprefix("instances_")
    for folder in (root / name, root / "images" / name):
        if folder.is_dir():
            return found[0], folder
    raise UserError(f"--data {root}: has no image folder {name}/ or images/{name}/ for {found[0].name}")
