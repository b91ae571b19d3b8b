"""Writes a repaired copy of a data set with boxes: of all problems that have one right repair."""

from __future__ import annotations

import copy
import shlex
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import PIL.Image
from PIL import ImageOps

from backbones.common.datasets import COCO_FIELDS, Record, leads_out
from backbones.common.files import create_once, write_json
from backbones.common.image_finder import ImageFinder, fitting_file, is_foreign
from backbones.common.images import ORIENTATION, image_size
from backbones.common.listing import is_file
from detection.data.annotations import SMALLEST_SIDE
from detection.data.truth import Truth

RECORD = "repairs.json"
QUALITY = 95  # of JPEG files that are written again


@dataclass(frozen=True)
class Repair:
    """One repair.

    Attributes:
        kind: short name of the kind of repair.
        split: name of the split.
        record: the repaired record, such as "annotation 12".
        text: what was changed.
    """

    kind: str
    split: str
    record: str
    text: str


@dataclass
class Repairs:
    """All repairs of a data set, in order.

    Attributes:
        splits: names of the splits of the copy.
        done: the repairs.
    """

    splits: tuple[str, ...] = ()
    done: list[Repair] = field(default_factory=list)

    def add(self, kind: str, split: str, record: str, text: str) -> None:
        self.done.append(Repair(kind, split, record, text))

    def describe(self, output: Path, others: Sequence[str] = ()) -> str:
        """Return the number of repairs by kind, the `others` of the splits, and the commands to run next."""
        counts = Counter(repair.kind for repair in self.done)
        lines = [f"repaired: {count} {kind}" for kind, count in counts.most_common()] or ["repaired: nothing"]
        if others:
            lines.append(
                f"splits that the copy lacks: {', '.join(others)}; name two with --train-split and --val-split"
            )
        folder = shlex.quote(str(output))
        lines += [f"every repair: {output / RECORD}", "next:", f"  python tools/check_data.py --data {folder}"]
        division = "" if "val" in self.splits else " --val-fraction 0.2"
        return "\n".join([*lines, f"  python tools/train_det.py --data {folder}{division}"])


def write_repaired(truths: Mapping[str, Truth], output: Path) -> Repairs:
    """Write a repaired copy of a data set in COCO's layout. The data set itself is not changed.

    Repaired are boxes that reach out of their image, annotations that occur twice, absent areas, crowd flags and image
    sizes, polygons that are not in a list, file names of other systems, and images that only EXIF turns upright.

    Args:
        truths: the splits by name.
        output: folder to create, with `annotations/instances_SPLIT.json`, the images in `SPLIT/`, and `repairs.json`.

    Raises:
        UserError: `output` holds files, or a file cannot be read or written.
    """
    repairs = Repairs(tuple(truths))

    def write(folder: Path) -> None:
        for split, truth in truths.items():
            data = _repaired(truth, split, repairs)
            for image in data["images"]:
                _write_image(image, truth.folder, folder / split, split, repairs)
            (folder / "annotations").mkdir(parents=True, exist_ok=True)
            write_json(folder / "annotations" / f"instances_{split}.json", data, indent=None)
        write_json(folder / RECORD, [asdict(repair) for repair in repairs.done])

    create_once(output, is_complete=lambda: False, write=write)
    return repairs


def _repaired(truth: Truth, split: str, repairs: Repairs) -> Record:
    """Return the repaired records of a split. Records that are malformed in other ways stay as they are."""
    data = copy.deepcopy(truth.data)
    images = [image for image in data.get("images", []) if isinstance(image, dict)]
    finder, names = ImageFinder(truth.folder), {image.get("file_name") for image in images}
    for image in images:
        name = image.get("file_name")
        found = fitting_file(finder, name) if isinstance(name, str) and is_foreign(name) else None
        if found is not None and found not in names:
            image["file_name"] = found
            names.add(found)
            repairs.add("file names of another system", split, _name("image", image), f"{name} -> {found}")
        _complete(image, truth.folder, split, repairs)
    sizes = {image["id"]: image for image in images if _is_valid(image, "image", "id")}
    kept, seen = [], set[str]()
    for annotation in data.get("annotations", []):
        if isinstance(annotation, dict):
            _repair_annotation(annotation, sizes.get(annotation.get("image_id"), {}), split, repairs)
            key = repr(
                [annotation.get(name) for name in ("image_id", "category_id", "bbox", "segmentation", "iscrowd")]
            )
            if key in seen:
                repairs.add("annotations that occurred twice", split, _name("annotation", annotation), "left out")
                continue
            seen.add(key)
        kept.append(annotation)
    return {**data, "annotations": kept}


def _complete(image: Record, folder: Path, split: str, repairs: Repairs) -> None:
    """Read the size of an image from its file if its record lacks it."""
    if image.get("width") is not None and image.get("height") is not None:
        return
    path = folder / str(image.get("file_name"))
    if is_file(path):
        image["height"], image["width"] = image_size(path, apply_exif=True)
        text = f"{image['width']}x{image['height']} pixels"
        repairs.add("absent image sizes", split, _name("image", image), text)


def _repair_annotation(annotation: Record, image: Record, split: str, repairs: Repairs) -> None:
    record = _name("annotation", annotation)
    if annotation.get("iscrowd") is None:
        annotation["iscrowd"] = 0
        repairs.add("absent crowd flags", split, record, "0")
    outline = annotation.get("segmentation")
    if isinstance(outline, list) and outline and all(isinstance(value, (int, float)) for value in outline):
        annotation["segmentation"] = [outline]
        repairs.add("flat polygons", split, record, "put into a list")
    if not _is_valid(annotation, "annotation", "bbox"):
        return
    if all(_is_valid(image, "image", side) for side in ("width", "height")):
        _clip(annotation, image, split, repairs)
    if annotation.get("area") is None:
        annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3]
        repairs.add("absent areas", split, record, f"{annotation['area']:g}, that of the box")


def _clip(annotation: Record, image: Record, split: str, repairs: Repairs) -> None:
    """Clip a box to its image. A box without area inside stays as it is, because nobody knows what was meant."""
    x, y, width, height = annotation["bbox"]
    left, top = max(x, 0), max(y, 0)
    right, bottom = min(x + width, image["width"]), min(y + height, image["height"])
    clipped = [left, top, right - left, bottom - top]
    moved = max(abs(a - b) for a, b in zip((left, top, right, bottom), (x, y, x + width, y + height), strict=True))
    if moved > SMALLEST_SIDE and min(clipped[2:]) > SMALLEST_SIDE:
        repairs.add("clipped boxes", split, _name("annotation", annotation), f"{annotation['bbox']} -> {clipped}")
        annotation["bbox"] = clipped


def _write_image(image: Record, source: Path, target: Path, split: str, repairs: Repairs) -> None:
    """Copy an image; turn it if EXIF says so. Missing images, and those outside the folder, are counted."""
    name, record = image.get("file_name"), _name("image", image)
    if not isinstance(name, str) or leads_out(name) or not is_file(source / name):
        repairs.add("images that were not copied", split, record, f"{name} is not in {source}")
        return
    path = target / name
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with PIL.Image.open(source / name) as picture:
            orientation = picture.getexif().get(ORIENTATION, 1)
            if orientation != 1 and picture.format == "JPEG":
                _turn(picture, image, path)
                text = f"orientation {orientation} removed; {path.name} has {image['width']}x{image['height']} pixels"
                repairs.add("images that EXIF turned", split, record, text)
                return
    except (OSError, SyntaxError, ValueError):  # the check reports files that do not decode
        pass
    shutil.copy2(source / name, path)


def _turn(picture: PIL.Image.Image, image: Record, path: Path) -> None:
    """Write an image as the annotations see it, without the EXIF orientation."""
    turned = ImageOps.exif_transpose(picture)
    stated = (image.get("width"), image.get("height"))
    # The annotations refer to the turned image, unless only the stored one has their size.
    upright = picture if stated == picture.size and stated != turned.size else turned
    image["width"], image["height"] = upright.size
    upright.save(path, format="JPEG", quality=QUALITY, subsampling=0, exif=b"")


def _is_valid(record: Record, kind: str, name: str) -> bool:
    return COCO_FIELDS[kind][name].is_valid(record.get(name))


def _name(kind: str, record: Record) -> str:
    return f"{kind} {record.get('id', record)}"
