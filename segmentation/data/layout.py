"""Finds the files of data sets with label maps.

The layouts are images/SPLIT and labels/SPLIT (or images and labels without splits), Pascal VOC's folders, which CVAT
writes too, and label maps beside their images, such as 0.jpg and 0_mask.png.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from backbones.common.datasets import existing_split, leads_out
from backbones.common.listing import Listing, describe_passed_over, list_files, subfolders, visible, walk
from backbones.common.suffixes import ARRAY_SUFFIX, IMAGE_SUFFIXES, PIXEL_SUFFIXES
from backbones.errors import UserError
from segmentation.data.classes import VOC_CLASSES, Classes
from segmentation.data.labels import holds_two_greys
from segmentation.data.undivided import one_split

VOC_LISTS = Path("ImageSets", "Segmentation")
LONGEST_NAME = 1000  # characters of a path below JPEGImages
CVAT_SPLIT = "default"  # name of CVAT's list of a task without subsets
LABEL_FOLDERS = ("labels", "masks", "annotations")
CLASS_LISTS = ("classes.txt", "labelmap.txt")  # the second one is CVAT's
# Suffixes of label maps. JPEG and WebP change the values of pixels.
LABEL_SUFFIXES = (*(s for s in IMAGE_SUFFIXES if s in (".png", ".bmp", ".tif", ".tiff", ".gif", ".pgm")), ARRAY_SUFFIX)
# Words at the end of a label map's name that its image does not have: 0_mask.png belongs to 0.jpg.
ENDING = re.compile(r"[_.-](masks?|labels?|seg|segmentation|gt|L)$")


@dataclass(frozen=True)
class LabelLayout:
    """Folders and image names of one split of a data set with label maps.

    Attributes:
        root: folder of the data set.
        split: name of the split in the data set.
        images: folder of the split's images; VOC has one for all splits.
        labels: folder of the split's label maps; VOC has one for all splits.
        names: names of the images of the split; None for all in `images`.
        is_whole: whether the data set has this split only.
        is_mixed: whether the label maps lie beside their images, with an ending such as `_mask`.
    """

    root: Path
    split: str
    images: Path
    labels: Path
    names: tuple[str, ...] | None = None
    is_whole: bool = False
    is_mixed: bool = False

    @classmethod
    def of(cls, root: Path, split: str) -> LabelLayout:
        """Find a split in a data set of label maps.

        Args:
            split: name of the split; for "val", other usual names of the validation split are accepted too.

        Raises:
            UserError: a folder or the list of the split does not exist.
        """
        labels = _label_root(root)
        if labels is not None:
            return cls._of_folders(root, labels, split)
        if (root / VOC_LISTS).is_dir():
            return cls._of_lists(root, split)
        name = existing_split(split, lambda name: is_mixed(root / name))
        folder = root / name if is_mixed(root / name) else one_split(root, split)
        return cls(root, name, folder, folder, is_whole=folder == root, is_mixed=True)

    @classmethod
    def _of_folders(cls, root: Path, labels: Path, split: str) -> LabelLayout:
        name = existing_split(split, lambda name: (root / "images" / name).is_dir())
        if not (root / "images" / name).is_dir() and _has_images(root / "images"):
            one_split(root, split)
            return cls(root, name, root / "images", labels, is_whole=True)
        for folder in (root / "images" / name, labels / name):
            if not folder.is_dir():
                raise UserError(
                    f"{folder}: no such folder ({folder.parent} holds {what_lies_in(folder.parent)}); a "
                    "data set needs images/SPLIT and labels/SPLIT"
                )
        return cls(root, name, root / "images" / name, labels / name)

    @classmethod
    def _of_lists(cls, root: Path, split: str) -> LabelLayout:
        name = existing_split(split, lambda name: (root / VOC_LISTS / f"{name}.txt").is_file())
        lists = sorted(visible(root / VOC_LISTS, "*.txt"))
        if [each.stem for each in lists] == [CVAT_SPLIT] and name != CVAT_SPLIT:
            one_split(root, split)
            name = CVAT_SPLIT
        names = _listed(root / VOC_LISTS / f"{name}.txt", name)
        return cls(root, name, root / "JPEGImages", root / "SegmentationClass", names)

    def list_images(self) -> Listing:
        """List the images of `self.images`, and count its other files.

        Raises:
            UserError: there are no images.
        """
        found = list_files(self.images, PIXEL_SUFFIXES)
        if self.is_mixed:
            maps = {file for files in _beside(self.images).values() for file in files}
            found = Listing(tuple(file for file in found.files if file not in maps), found.passed_over)
        if not found.files:
            raise UserError(
                f"{self.images}: contains {what_lies_in(self.images)}, but no images "
                f"({', '.join(PIXEL_SUFFIXES)}); add images"
            )
        return found

    def passed_over(self) -> Mapping[str, int]:
        """Return the number of files by suffix in the split's folders that are not read."""
        if self.is_mixed:
            return list_files(self.images, (*PIXEL_SUFFIXES, *LABEL_SUFFIXES)).passed_over
        labels = list_files(self.labels, LABEL_SUFFIXES).passed_over
        return Counter(list_files(self.images, PIXEL_SUFFIXES).passed_over) + Counter(labels)

    def pairs(self) -> list[tuple[Path, Path | None]]:
        """Return the image files of the split, each with its label map, or with None if it has no label map.

        Raises:
            UserError: there are no images, a listed one is missing, or several label maps have the name of an image.
        """
        labels = _beside(self.labels) if self.is_mixed else _by_name(self.labels)
        images = self.list_images().files
        if self.names is not None:
            images = _named(images, self.names, self)
        return [(image, _label_of(image.relative_to(self.images), labels)) for image in images]

    def all_label_maps(self) -> list[Path]:
        """Return the label maps of all splits."""
        if self.is_mixed:
            return [file for files in _beside(self.root).values() for file in files]
        folder = self.labels if self.names is not None or self.is_whole else self.labels.parent
        return list(list_files(folder, LABEL_SUFFIXES).files)

    def classes(self) -> Classes:
        """Return the classes in `classes.txt` or `labelmap.txt`.

        In VOC's layout without these files, they are VOC's. In other layouts, label maps of two grey values, 0 and 255
        or 0 and 1, have the classes background and foreground.

        Raises:
            UserError: the file is malformed, or is missing and needed.
        """
        path = class_list(self.root)
        if path is None and self.names is not None:
            return Classes.named(VOC_CLASSES)
        if path is None and holds_two_greys(self.all_label_maps()):
            return Classes.named(("background", "foreground"))
        return Classes.read(path or self.root / CLASS_LISTS[0])


def is_label_folder(root: Path) -> bool:
    """Return whether a folder has label maps as files, in one of the layouts of this module."""
    if not root.is_dir():
        return False
    folders = (root, *subfolders(root))
    return _label_root(root) is not None or (root / VOC_LISTS).is_dir() or any(map(is_mixed, folders))


def label_layout_name(root: Path) -> str:
    """Return the name of the layout of a folder that `is_label_folder` accepts."""
    if _label_root(root) is not None:
        return "folders"
    if (root / VOC_LISTS).is_dir():
        return "cvat" if (root / CLASS_LISTS[1]).is_file() else "voc"
    return "beside"


def label_splits(root: Path) -> list[str]:
    """Return the names of the splits of a folder that `is_label_folder` accepts; [] if it is not divided."""
    name = label_layout_name(root)
    if name == "folders":
        return [folder.name for folder in subfolders(root / "images")]
    if name == "beside":
        return [folder.name for folder in subfolders(root) if is_mixed(folder)]
    lists = sorted(each.stem for each in visible(root / VOC_LISTS, "*.txt"))
    return [] if lists == [CVAT_SPLIT] else lists


def is_mixed(folder: Path) -> bool:
    """Return whether a folder holds images with label maps beside them, such as 0.jpg and 0_mask.png."""
    return folder.is_dir() and any(map(_is_map_beside, visible(folder, "*")))


def class_list(root: Path) -> Path | None:
    """Return the file that lists the classes, or None if there is none."""
    return next((root / name for name in CLASS_LISTS if (root / name).is_file()), None)


def what_lies_in(folder: Path) -> str:
    """Describe the content of a folder for an error: its folders and the number of files by suffix."""
    if not folder.is_dir():
        return "nothing: it does not exist"
    entries = sorted(visible(folder, "*"))
    folders = [f"{entry.name}/" for entry in entries if entry.is_dir()]
    shown = [*folders[:5], *([f"{len(folders) - 5} more folders"] if len(folders) > 5 else [])]
    files = describe_passed_over(Counter(entry.suffix.lower() for entry in entries if not entry.is_dir()))
    return ", ".join([*shown, *([files] if files else [])]) or "nothing"


def label_key(path: Path) -> Path:
    """Return the path of a label map without its file suffix and without an ending such as `_mask`."""
    return path.with_name(ENDING.sub("", path.stem))


def _label_root(root: Path) -> Path | None:
    """Return the folder of label maps next to `images`, or None. In YOLO's layout, `labels` contains text files."""
    if not (root / "images").is_dir():
        return None
    for folder in (root / name for name in LABEL_FOLDERS):
        # COCO's folder of JSON files may also hold images of panoptic segments.
        if not folder.is_dir() or any(visible(folder, "*.json")):
            continue
        if any(file.suffix.lower() in LABEL_SUFFIXES for file in walk(folder)):
            return folder
    return None


def _has_images(folder: Path) -> bool:
    """Return whether images lie in a folder itself."""
    return any(entry.suffix.lower() in PIXEL_SUFFIXES for entry in visible(folder, "*"))


def _is_map_beside(file: Path) -> bool:
    """Return whether a file is a label map by its ending, and lies beside its image."""
    if file.suffix.lower() not in LABEL_SUFFIXES or not ENDING.search(file.stem):
        return False
    image = label_key(file)
    suffixes = (*PIXEL_SUFFIXES, *map(str.upper, PIXEL_SUFFIXES))  # cameras write DSC_0001.JPG
    return any(image.with_name(f"{image.name}{suffix}").is_file() for suffix in suffixes)


def _beside(folder: Path) -> Mapping[Path, list[Path]]:
    """Return the label maps that lie beside their images, by the images' relative paths without suffix."""
    found: dict[Path, list[Path]] = {}
    for file in list_files(folder, LABEL_SUFFIXES).files:
        if _is_map_beside(file):
            found.setdefault(label_key(file.relative_to(folder)), []).append(file)
    return found


def _by_name(folder: Path) -> Mapping[Path, list[Path]]:
    """Return a folder's label maps by relative path without suffix, with and without an ending such as `_mask`."""
    found: dict[Path, list[Path]] = {}
    for file in list_files(folder, LABEL_SUFFIXES).files:
        below = file.relative_to(folder)
        for key in {below.with_suffix(""), label_key(below)}:
            found.setdefault(key, []).append(file)
    return found


def _label_of(image: Path, labels: Mapping[Path, list[Path]]) -> Path | None:
    """Return an image's label map: the file of the same name, or the only one with an ending such as `_mask`."""
    name = image.with_suffix("")
    found = labels.get(name, [])
    same = [file for file in found if file.stem == name.name]
    chosen = same or found
    if len(chosen) > 1:
        raise UserError(f"{chosen[0]} and {chosen[1].name}: are both label maps of {image}; remove one of them")
    return chosen[0] if chosen else None


def _listed(path: Path, split: str) -> tuple[str, ...]:
    """Read the image names of a split from Pascal VOC's list."""
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: cannot be read ({error}); write the names of the images of {split} into it, one per line"
        ) from None
    if not names:
        raise UserError(f"{path}: lists no images; write one image name per line")
    wrong = next((name for name in names if "\0" in name or len(name) > LONGEST_NAME), None)
    if wrong:
        raise UserError(f"{path}: lists {wrong[:40]!r}..., which no file can be named; fix the list")
    outside = next((name for name in names if leads_out(name)), None)
    if outside:
        raise UserError(f"{path}: lists {outside[:80]}, which leads out of JPEGImages; fix the list")
    return tuple(names)


def _named(images: tuple[Path, ...], names: tuple[str, ...], layout: LabelLayout) -> tuple[Path, ...]:
    """Return the image files that a list names, in the list's order. A missing image is reported when it is read."""
    by_name = {image.relative_to(layout.images).with_suffix("").as_posix(): image for image in images}
    if not any(name in by_name for name in names):
        raise UserError(
            f"{layout.images}: contains none of the {len(names)} images that {layout.split}.txt lists, "
            f"such as {names[0][:80]} (the folder holds {what_lies_in(layout.images)}); add the images"
        )
    return tuple(by_name.get(name, layout.images / f"{name}.jpg") for name in names)
