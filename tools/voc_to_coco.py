"""Turn a Pascal VOC detection set into COCO's layout, as `tools/train_det.py --data` reads it.

    python tools/voc_to_coco.py --data VOC2007 --output voc-as-coco --train trainval --val test

The splits are VOC's own lists, ImageSets/Main/<list>.txt. Images are hard-linked where possible, else copied.
"""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # tools/ itself must not shadow other modules

from backbones.errors import UserError
from tools.cli import parse, run
from tools.files import create_once, write_json


@dataclass
class VocOptions:
    """What to convert.

    Args:
        data: folder with Annotations/, ImageSets/Main/ and JPEGImages/.
        output: folder to make.
        train: name of the list of training images.
        val: name of the list of validation images.
    """

    data: str
    output: str
    train: str = "train"
    val: str = "val"


@dataclass
class Options:
    """The option groups of this script."""

    voc: VocOptions


def convert(source: Path, output: Path, *, train: str, val: str) -> Path:
    """Write `annotations/instances_{train,val}.json`, `train/` and `val/` below `output`.

    Raises:
        UserError: where a list, an annotation or an image is missing or cannot be read, or `output` exists.
    """
    if output.exists():
        raise UserError(f"--output {output}: exists already; name a new folder")
    names = {"train": _listed(source, train), "val": _listed(source, val)}
    both = sorted(names["train"] & names["val"])
    if both:
        raise UserError(f"{source}: {len(both)} images are in {train} and in {val} ({both[0]}, ...); name other lists")
    whole = _annotations(source)
    truths = {split: _part(whole, wanted, source) for split, wanted in names.items()}

    def write(folder: Path) -> None:
        for split, truth in truths.items():
            _place((image["file_name"] for image in truth["images"]), source / "JPEGImages", folder / split)
            (folder / "annotations").mkdir(exist_ok=True)
            write_json(folder / "annotations" / f"instances_{split}.json", truth, indent=None)

    create_once(output, is_complete=output.exists, write=write)
    return output


def _listed(source: Path, name: str) -> set[str]:
    """Image names of one of VOC's lists."""
    path = source / "ImageSets" / "Main" / f"{name}.txt"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        there = ", ".join(sorted(p.stem for p in path.parent.glob("*.txt"))) or "none"
        raise UserError(f"{path}: cannot be read ({error.strerror}); the lists there: {there}") from None
    names = {line.split()[0] for line in lines if line.strip()}
    if not names:
        raise UserError(f"{path}: lists no image; name another list")
    return names


def _annotations(source: Path) -> dict[str, Any]:
    """All of the folder's XML files as one COCO dictionary."""
    from hotcoco import COCO

    try:
        whole = COCO.from_voc(str(source)).dataset
    except (ValueError, OSError) as error:
        raise UserError(f"{source}: its annotations cannot be read ({' '.join(str(error).split())})") from None
    files = Counter(image["file_name"] for image in whole["images"])
    twice = sorted(name for name, count in files.items() if count > 1)
    if twice:
        raise UserError(f"{source}: two annotations name the image {twice[0]}; mend the <filename> of one")
    outside = next((name for name in files if Path(name).name != name), None)
    if outside:  # it would be written there, too
        raise UserError(f"{source}: an annotation names the image {outside}; a <filename> names a file of JPEGImages")
    return whole


def _part(whole: dict[str, Any], names: set[str], source: Path) -> dict[str, Any]:
    """The images of a list with their annotations."""
    images = [image for image in whole["images"] if Path(image["file_name"]).stem in names]
    missing = sorted(names - {Path(image["file_name"]).stem for image in images})
    if missing:
        raise UserError(f"{source}: {len(missing)} listed images have no annotation ({missing[0]}.xml, ...)")
    ids = {image["id"] for image in images}
    annotations = [thing for thing in whole["annotations"] if thing["image_id"] in ids]
    return {"images": images, "annotations": annotations, "categories": whole["categories"]}


def _place(names: Iterable[str], source: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    for name in names:
        if not (source / name).is_file():
            raise UserError(f"{source / name}: an annotation names it, but there is no such image")
        try:
            (folder / name).hardlink_to(source / name)
        except OSError:  # another file system, or one without links
            shutil.copyfile(source / name, folder / name)


def main() -> None:
    """Convert, and say what was found."""
    voc = parse(Options, description=__doc__.splitlines()[0]).voc
    folder = convert(Path(voc.data), Path(voc.output), train=voc.train, val=voc.val)
    print(f"{folder}: train of it with tools/train_det.py --data {folder}")


if __name__ == "__main__":
    run(main)
