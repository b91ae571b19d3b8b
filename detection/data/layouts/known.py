"""All layouts of detection data: the built-in ones, and those that plugins register.

    @detection.register_layout("csv", matches=lambda root: (root / "boxes.csv").is_file())
    def read_csv(root, split):
        return root / "images", {"images": [...], "annotations": [...], "categories": [...]}

Every command that opens detection data then reads the folders that `matches` accepts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

# The built-in layouts register themselves, before any plugin can.
from detection.data.layouts import (
    coco,
    coco_files,
    createml,
    cvat,
    darknet,
    hugging_face,
    instance_maps,
    label_studio,
    label_studio_png,
    labelme,
    open_images,
    supervisely,
    table,
    via,
    voc,
    voc_folders,
    yolo,
)
from detection.data.layouts.base import LAYOUTS, Layout, Reading, Sign
from detection.data.truth import Record, Truth

BUILT_IN = (
    coco.CocoLayout.name,
    voc.VocLayout.name,
    yolo.YoloLayout.name,
    coco_files.RoboflowCocoLayout.name,
    coco_files.CocoJsonLayout.name,
    voc_folders.VocFoldersLayout.name,
    darknet.DarknetLayout.name,
    cvat.CvatLayout.name,
    createml.CreateMlLayout.name,
    labelme.LabelMeLayout.name,
    label_studio.LabelStudioLayout.name,
    label_studio_png.LabelStudioPngLayout.name,
    via.ViaLayout.name,
    open_images.OpenImagesLayout.name,
    table.TableLayout.name,
    hugging_face.HuggingFaceLayout.name,
    supervisely.SuperviselyLayout.name,
    instance_maps.InstanceMapsLayout.name,
)


class LayoutReader(Protocol):
    """Interface of a plugin's function that reads a split of a data set."""

    def __call__(self, root: Path, split: str) -> tuple[Path, Record]:
        """Return the image folder, and `images`, `annotations` and `categories` as in COCO's instances files.

        The records are checked afterwards as those of COCO's files are.

        Raises:
            UserError: the split does not exist, or a file is malformed.
        """


def register_layout(
    name: str, *, matches: Callable[[Path], bool], splits: Callable[[Path], Sequence[str]] | None = None
) -> Callable[[LayoutReader], LayoutReader]:
    """Return a decorator that registers a `LayoutReader` under `name`.

    Args:
        name: name of the layout; those of the built-in layouts are taken.
        matches: whether a folder has this layout. Registered layouts are tried before the built-in ones.
        splits: names of a data set's splits; absent: train and val.

    Raises:
        ValueError: the name is already registered.
    """
    if name in BUILT_IN:
        raise ValueError(f"layout {name!r} is built in; choose another name")

    def add(read: LayoutReader) -> LayoutReader:
        LAYOUTS.register(name)(lambda: PluginLayout(name, matches, splits or (lambda root: ("train", "val")), read))
        return read

    return add


class PluginLayout(Layout):
    """A plugin's layout, made of three functions: one recognises a folder, one lists splits, and one reads a split."""

    form = "the layout of a plugin"

    def __init__(
        self,
        name: str,
        accepts: Callable[[Path], bool],
        list_splits: Callable[[Path], Sequence[str]],
        read_split: LayoutReader,
    ) -> None:
        self.name = name
        self._accepts, self._list_splits, self._read_split = accepts, list_splits, read_split

    def signs(self, root: Path) -> Iterator[Sign]:
        yield f"what the plugin of layout {self.name} looks for", self._accepts(root)

    def splits(self, root: Path) -> list[str]:
        return sorted(self._list_splits(root))

    def read(self, root: Path, split: str, how: Reading) -> Truth:
        folder, data = self._read_split(root, split)
        return Truth(self.name, root, folder, data)


def layouts() -> list[Layout]:
    """Return all layouts in the order in which they are tried: those of plugins come first."""
    plugins = [name for name in LAYOUTS.names() if name not in BUILT_IN]
    return [LAYOUTS[name]() for name in (*plugins, *BUILT_IN)]
