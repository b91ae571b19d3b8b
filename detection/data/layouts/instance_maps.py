"""Instance maps: image files whose pixel values number the objects of an image, from 1. Value 0 is background."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from backbones.common.image_finder import ImageFinder
from backbones.common.images import open_image
from backbones.common.outlines import box_of_mask, run_lengths
from backbones.common.suffixes import IMAGE_SUFFIXES
from backbones.errors import UserError
from detection.data.layouts.base import LAYOUTS, Reading, Sign
from detection.data.layouts.collector import Collector
from detection.data.layouts.images import UNSPLIT, first_of, has_images
from detection.data.layouts.places import Place, PlacedLayout
from detection.data.truth import ProblemHandler, Truth, read_names

IMAGES, MAPS = ("PNGImages", "images"), ("PedMasks", "instance_masks")
SUFFIXES = ("_mask", "_instances", "")  # after the name of the image
CLASS_FILE, PEDESTRIAN, OBJECT = "classes.txt", "pedestrian", "object"
UNLABELLED = "images without an instance map, which are left out"


@LAYOUTS.register("instance-maps")
class InstanceMapsLayout(PlacedLayout):
    """Images of one class of objects, and an instance map for each image, as in Penn-Fudan's data set."""

    name = "instance-maps"
    file = f"a folder {' or '.join(MAPS)}"
    form = "Penn-Fudan's PNGImages/NAME.png and PedMasks/NAME_mask.png, or images and instance_masks"

    def signs(self, root: Path) -> Iterator[Sign]:
        yield self.file, any(first_of(root / name, IMAGE_SUFFIXES) for name in MAPS)
        yield f"images in {' or '.join(IMAGES)}", any(has_images(root / name) for name in IMAGES)

    def places(self, root: Path) -> dict[str, Place]:
        return {UNSPLIT: (_first(root, MAPS), _first(root, IMAGES))}

    def read_place(self, root: Path, split: str, places: Mapping[str, Place], how: Reading) -> Truth:
        maps, images = places[split]
        found = Collector(self.name, maps, ImageFinder(images), how, "object")
        label = _class_name(root)
        for name in found.images.files:
            file = _map_of(Path(name), maps)
            if file is None:
                found.note(UNLABELLED)
            elif found.add_image(name, file) is not None:
                _add_objects(found, file, label)
        return found.finish([label])


def _first(root: Path, names: Sequence[str]) -> Path:
    """Return the first of the folders that exists, or else the first one."""
    return next((root / name for name in names if (root / name).is_dir()), root / names[0])


def _add_objects(found: Collector, file: Path, label: str) -> None:
    """Add the objects of an instance map to the image that was added last. Each pixel value is one object."""
    try:
        pixels = read_instance_map(file)
    except UserError as error:
        found.how.on_problem("malformed annotation", str(file), error)
        return
    for number in np.unique(pixels[pixels > 0]).tolist():
        mask = pixels == number
        found.add_object(label, box_of_mask(mask), number, outline=dict(run_lengths(mask)))


def _class_name(root: Path) -> str:
    """Return the name of the only class: that of classes.txt, or a default."""
    file = root / CLASS_FILE
    if not file.is_file():
        return PEDESTRIAN if (root / MAPS[0]).is_dir() else OBJECT
    names = read_names(file)
    if len(names) != 1:
        raise UserError(f"{file}: has {len(names)} names, but instance maps hold objects of one class; keep one name")
    return names[0]


def _map_of(image: Path, folder: Path) -> Path | None:
    """Return the instance map of an image."""
    stem = image.with_suffix("").as_posix()
    paths = (folder / f"{stem}{suffix}.png" for suffix in SUFFIXES)
    return next((path for path in paths if path.is_file()), None)


def add_masks(path: Path, truth: Truth, on_problem: ProblemHandler) -> None:
    """Add the masks of an instance map to the objects of the last added image. An image may have no map."""
    if not path.is_file():
        return
    try:
        pixels = read_instance_map(path)
    except UserError as error:
        on_problem("malformed annotation", str(path), error)
        return
    for record, ordinal in zip(reversed(truth.data["annotations"]), reversed(truth.ordinals), strict=True):
        if record["image_id"] != len(truth.files):
            break
        if (pixels == ordinal).any():
            record["segmentation"] = dict(run_lengths(pixels == ordinal))


def read_instance_map(path: Path) -> np.ndarray:
    """Read an instance map as numbers of objects `[H, W]` int64.

    Raises:
        UserError: the file does not decode, or has colours.
    """
    try:
        with open_image(path) as image:
            pixels = np.asarray(image)
    except (OSError, SyntaxError, ValueError):
        raise UserError(f"{path}: does not decode: truncated, damaged or not an image; replace the file") from None
    if pixels.ndim != 2 or pixels.dtype.kind not in "bui":
        raise UserError(f"{path}: is a colour image; give each object a grey value or palette number of its own")
    return pixels.astype(np.int64)
