"""Darknet's layout and its relatives: images and label files in one folder, and a list of class names.

CVAT's YOLO 1.1 has `obj.data`, `obj.names`, `train.txt` and `obj_train_data/`; labelImg `classes.txt`; Roboflow
`SPLIT/_darknet.labels`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from backbones.common.listing import files_of, is_file, subfolders, visible
from backbones.errors import UserError
from detection.data.layouts.base import LAYOUTS, Reading, Sign
from detection.data.layouts.images import UNSPLIT, files_below, folders_of_splits, has_images
from detection.data.layouts.places import Place, PlacedLayout
from detection.data.layouts.yolo import read_yolo
from detection.data.layouts.yolo_places import LISTS, LabelledImages, pairs_of_folder, pairs_of_list
from detection.data.truth import Truth, read_names, read_text

CLASS_FILES = ("obj.names", "classes.txt", "_darknet.labels", "predefined_classes.txt", "classes.names")
SPLITS: tuple[str, ...] = ("train", "valid", "val", "test")
UNLABELLED = "images without a label file, which are left out"


@LAYOUTS.register("darknet")
class DarknetLayout(PlacedLayout):
    """Images and label files in one folder, in a folder for each split, or in lists."""

    name = "darknet"
    form = "Darknet's or labelImg's images with *.txt in one folder, and obj.names or classes.txt"
    file = "images and label files *.txt beside them"

    def signs(self, root: Path) -> Iterator[Sign]:
        yield f"{', '.join(CLASS_FILES[:3])} or a file *.data", _class_file(root) is not None
        yield self.file, bool(_places(root))

    def places(self, root: Path) -> dict[str, Place]:
        return {split: (place, root) for split, place in _places(root).items()}

    def read_place(self, root: Path, split: str, places: Mapping[str, Place], how: Reading) -> Truth:
        place, classes = places[split][0], _class_file(root)
        if classes is None:
            raise UserError(f"--data {root}: has no list of classes; add {CLASS_FILES[0]} or {CLASS_FILES[1]}")
        if place.is_file():
            return read_yolo("darknet", pairs_of_list(place, root, how), read_names(classes), how)
        return read_yolo("darknet", _labelled(pairs_of_folder(place, how, labels=place)), read_names(classes), how)


def _labelled(found: LabelledImages) -> LabelledImages:
    """Leave out and count the images without a label file: a tool that saves on demand did not label them."""
    files = {name: label for name, label in found.files.items() if label.is_file()}
    if len(files) < len(found.files):
        found.notes[UNLABELLED] += len(found.files) - len(files)
    found.passed_over[".txt"] = 0
    found.files = files
    return found


def _places(root: Path) -> dict[str, Path]:
    """Return the list or the folder of images of each split."""
    data = _data(root)
    lists = {key: root / Path(data[key].replace("\\", "/")).name for key in SPLITS if key in data}
    lists = {key: path for key, path in lists.items() if is_file(path)}
    if not lists and any(visible(root, "obj_*_data/")):
        lists = {name: root / f"{name}.txt" for name in SPLITS if (root / f"{name}.txt").is_file()}
    if lists:
        return lists
    folders = {folder.name: folder for folder in folders_of_splits(root) if _has_pairs(folder)}
    whole = next((folder for folder in (root / "obj_train_data", root / "data", root) if _has_pairs(folder)), None)
    return folders or ({} if whole is None else {UNSPLIT: whole})


def _has_pairs(folder: Path) -> bool:
    """Return whether a folder holds images and label files beside them, which hold numbers.

    The files may lie in folders below, such as one for each scene.
    """
    labels = [path for path in files_below(folder, ".txt") if path.stem not in LISTS][:50]
    return any(_is_label(path) and has_images(path.parent) for path in labels)


def _is_label(path: Path) -> bool:
    try:
        words = path.read_text(encoding="utf-8-sig").split()
        return not words or min(float(word) for word in words[:5]) >= 0
    except (OSError, ValueError):
        return False


def _class_file(root: Path) -> Path | None:
    """Return the list of class names.

    Raises:
        UserError: folders below have different lists.
    """
    data = _data(root)
    named = [root / Path(data["names"].replace("\\", "/")).name] if "names" in data else []
    folders = [root, *folders_of_splits(root), root / "obj_train_data", root / "data"]
    places = [*named, *(folder / name for folder in folders for name in CLASS_FILES)]
    found = next((path for path in places if is_file(path)), None)
    return found or _common_list([path for folder in subfolders(root) if is_file(path := folder / "classes.txt")])


def _common_list(paths: Sequence[Path]) -> Path | None:
    """Return the first of several lists of classes, which labelImg writes into each folder of images."""
    for path in paths[1:]:
        if read_names(path) != read_names(paths[0]):
            raise UserError(f"{path}: lists other classes than {paths[0]}; give both folders the same list and numbers")
    return paths[0] if paths else None


def _data(root: Path) -> dict[str, str]:
    """Return the entries `key = value` of the file `*.data`; {} if there is none."""
    path = next(iter(files_of(root, ".data")), None)
    if path is None:
        return {}
    pairs = (line.partition("=") for line in read_text(path).splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs if value.strip() and "\0" not in value}
