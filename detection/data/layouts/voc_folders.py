"""Pascal VOC's XML files without its lists: Kaggle's, labelImg's and Roboflow's folders.

The XML files lie beside the images, or in a folder such as `annotations` beside the folder of the images.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from detection.data.layouts.base import LAYOUTS, Reading
from detection.data.layouts.images import (
    UNSPLIT,
    files_below,
    folders_of_splits,
    has_images,
    image_folder,
)
from detection.data.layouts.other_tools import describe_other_tool
from detection.data.layouts.places import Place, PlacedLayout
from detection.data.layouts.sniffing import head_of
from detection.data.layouts.voc import VocLayout, VocPlaces, read_voc_files
from detection.data.truth import FolderImages, Truth

FOLDERS = ("annotations", "Annotations", "annots", "labels", "xmls", "xml", "annotations/xmls")  # the last: Oxford's
UNLABELLED = "images without an XML file, which are left out"


@LAYOUTS.register("voc-xml")
class VocFoldersLayout(PlacedLayout):
    """Folders of VOC's XML files without lists."""

    name = "voc-xml"
    form = "VOC's XML files beside the images or in annotations"
    file = "VOC's XML files in annotations or beside the images"

    def places(self, root: Path) -> dict[str, Place]:
        return _folders(root)

    def matches(self, root: Path) -> bool:
        """Return whether a folder has this layout, and no lists as VOC's own has."""
        return super().matches(root) and not VocLayout().matches(root)

    def read_place(self, root: Path, split: str, places: Mapping[str, Place], how: Reading) -> Truth:
        annotations, images = places[split]
        others = {path for folder, _ in places.values() for path in _xml(folder)}
        listed = root / "classes.txt"
        own = VocPlaces("voc-xml", annotations, annotations, images, listed if listed.is_file() else None, others)
        names = sorted(path.relative_to(annotations).with_suffix("").as_posix() for path in _xml(annotations))
        truth = read_voc_files(own, names, how)
        used = {image["file_name"] for image in truth.data["images"]}
        unlabelled = sum(name not in used for files in FolderImages.of(images).by_stem.values() for name in files)
        if unlabelled:
            truth.notes[UNLABELLED] += unlabelled
        return truth


def _folders(root: Path) -> dict[str, Place]:
    """Return the folders of the XML files and of the images of each split."""
    found = {folder.name: pair for folder in folders_of_splits(root) if (pair := _pair(folder))}
    if found:
        return found
    for name in FOLDERS:  # annotations/SPLIT and images/SPLIT
        images = image_folder(root)
        found = {f.name: (f, images / f.name) for f in folders_of_splits(root / name) if _is_voc(f)}
        if found and all(folder.is_dir() for _, folder in found.values()):
            return found
    pair = _pair(root)
    return {UNSPLIT: pair} if pair else {}


def _pair(root: Path) -> Place | None:
    for folder in (root, *(root / name for name in FOLDERS)):
        if _is_voc(folder):
            beside = any(map(has_images, {folder, _xml(folder)[0].parent}))
            return folder, folder if beside else image_folder(root)
    return None


def _is_voc(folder: Path) -> bool:
    """Return whether a folder holds XML files of VOC; the first few are tried."""
    return any(map(_is_voc_file, _xml(folder)[:3]))


def _is_voc_file(path: Path) -> bool:
    head = head_of(path)
    return "<annotation" in head and "<annotations" not in head and describe_other_tool(path) is None


def _xml(folder: Path) -> list[Path]:
    return files_below(folder, ".xml")
