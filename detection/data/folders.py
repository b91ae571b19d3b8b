"""Opens splits of detection data sets in any known layout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from backbones.common.category_options import EVERY_CATEGORY, CategoryOptions
from backbones.common.datasets import existing_split
from backbones.common.listing import inner_folder
from backbones.errors import UserError
from detection.data.annotations import CocoAnnotations
from detection.data.layouts.base import LAYOUTS, InnerLayout, Layout, Reading
from detection.data.layouts.coco_files import read_coco_file
from detection.data.layouts.files import FileLayout
from detection.data.layouts.known import BUILT_IN, layouts
from detection.data.layouts.other_tools import describe_other_tool, refuse_other_tool
from detection.data.layouts.table import refuse_unknown_columns
from detection.data.truth import ProblemHandler, Truth, raise_problem
from detection.options import DetectionDataOptions

NEAREST = 3  # layouts that the error about an unknown layout describes


def layout_of(root: Path, name: str | None = None) -> Layout | None:
    """Return the layout of a folder, or None if the layout is unknown.

    Args:
        root: folder of the data set.
        name: name of the layout, which the folder must have; None to recognise the layout. A plugin's layout takes
            precedence over the built-in ones.

    Raises:
        UserError: the folder has several layouts, or not the named one, or the named layout does not exist.
    """
    home, found = _search(root, name)
    if not found and name is not None:
        _require_signs(LAYOUTS[name](), home)
    if home != root:
        found = [InnerLayout(layout, home) for layout in found]
    if len(found) > 1 and found[0].name in BUILT_IN:
        names = " and ".join(layout.name for layout in found)
        raise UserError(f"--data {root}: has the layouts {names}; choose one of them with --layout {found[0].name}")
    return found[0] if found else None


def home_of(root: Path, name: str | None = None) -> Path:
    """Return the folder of the data set that `root` names: itself, or the only folder in it; see `inner_folder`.

    Args:
        name: name of the layout; None for any.
    """
    return _search(root, name)[0]


def known_layout(root: Path, name: str | None = None) -> Layout:
    """Return the layout of a folder. See `layout_of` for the arguments.

    Raises:
        UserError: the folder does not exist, its layout is unknown, or an error of `layout_of`. The text names the tool
            that wrote the folder, the columns of its CSV file, or the nearest layouts.
    """
    if not root.exists():
        raise UserError(f"--data {root}: no such folder; check the path")
    layout = layout_of(root, name)
    if layout is None:
        refuse_annotation_file(root)
        refuse_other_tool(root)
        refuse_unknown_columns(root)
        raise UserError(f"--data {root}: unknown layout; {describe_nearest(root)}")
    return layout


def refuse_annotation_file(root: Path) -> None:
    """Refuse a file of annotations where the folder of a data set is expected.

    Raises:
        UserError: `root` is a JSON file.
    """
    if root.suffix.lower() == ".json" and root.is_file():
        raise UserError(
            f"--data {root}: is an annotation file, not the folder of a data set; name the file with --annotations, "
            "and the folder of its images with --images"
        )


def describe_nearest(root: Path) -> str:
    """Return what a folder lacks to have the layouts that are nearest to its own."""
    signs = {layout: list(layout.signs(root)) for layout in layouts()}
    order = sorted(signs, key=lambda layout: -sum(found for _, found in signs[layout]) / len(signs[layout]))
    parts = (
        f"{layout.form} (lacks {' and '.join(text for text, found in signs[layout] if not found)})"
        for layout in order[:NEAREST]
    )
    return f"expected {'; '.join(parts)}"


def splits_of(root: Path, layout: str | None = None) -> list[str]:
    """Return the names of the splits of a data set; `["train"]` if the data set is not split.

    Raises:
        UserError: the layout is unknown.
    """
    return known_layout(root, layout).splits(root)


def has_layout(root: Path, layout: str | None = None) -> bool:
    """Return whether a data set exists and has a known layout.

    Raises:
        UserError: the folder has several layouts, or not the named one.
    """
    return root.exists() and layout_of(root, layout) is not None


def offers_split(root: Path, name: str, layout: str | None = None) -> bool:
    """Return whether a data set has a split, under this or another usual name.

    A folder that does not exist, and one of an unknown layout, have all splits here: opening them tells what is wrong.

    Raises:
        UserError: the folder has several layouts, or not the named one.
    """
    known = layout_of(root, layout) if root.exists() else None
    return known is None or known.has_split(root, existing_split(name, lambda each: known.has_split(root, each)))


def open_split(
    root: Path,
    split: str,
    *,
    layout: str | None = None,
    absent_images: Literal["error", "keep"] = "error",
    bad_boxes: Literal["error", "drop"] = "error",
    on_problem: ProblemHandler = raise_problem,
    masks: bool = False,
) -> Truth:
    """Read the records of a split. `CocoAnnotations.of` checks them afterwards.

    Args:
        root: folder of the data set.
        split: name of the split, such as "train".
        layout: name of the layout; None to recognise the layout.
        absent_images, bad_boxes, on_problem, masks: see `Reading`.

    Raises:
        UserError: the layout is unknown, there is no such split, or, by default, a record is malformed.
    """
    known = known_layout(root, layout)
    split = existing_split(split, lambda name: known.has_split(root, name))
    return known.read(root, split, Reading(absent_images, bad_boxes, on_problem, masks))


def read_annotations(
    data: DetectionDataOptions,
    split: Literal["train", "val"],
    *,
    absent_images: Literal["keep", "error"] = "error",
    masks: bool | Literal["where present"] = False,
    categories: CategoryOptions = EVERY_CATEGORY,
) -> CocoAnnotations:
    """Read and check the annotations of one split. The options name the data set.

    Args:
        data: names files, or a folder. The caller replaces a missing folder by that of the built-in shapes.
        absent_images: whether a missing image file is an error.
        masks: whether to read the objects' masks too. "where present" reads them, but keeps objects without one.
        categories: classes to merge, rename and choose.

    Raises:
        UserError: files are missing or malformed, an object has no mask, or the layout of the folder is unknown.
    """
    how, files = Reading(absent_images, data.bad_boxes, masks=bool(masks)), _files(data)
    if split in files:
        others = [path for other, (path, _) in files.items() if other != split]
        truth = open_file(*files[split], how, others=others)
    elif data.annotations is not None:
        raise UserError(
            f"--annotations {data.annotations}: has no split {split}; divide it with --val-fraction 0.2, or name the "
            f"files of {split} with --{split}-annotations and --{split}-images"
        )
    elif data.data is not None:
        name = getattr(data, f"{split}_split")
        truth = open_split(
            Path(data.data),
            name,
            layout=data.layout,
            absent_images=absent_images,
            bad_boxes=data.bad_boxes,
            masks=bool(masks),
        )
    else:
        raise UserError(f"--data: is missing; name a folder, or an annotation file with --{split}-annotations")
    return CocoAnnotations.of(
        truth.with_categories(categories),
        bad_boxes=data.bad_boxes,
        absent_images=absent_images,
        allow_outside=data.allow_outside,
        without_mask="keep" if masks == "where present" else data.without_mask if masks else None,
    )


def open_file(path: Path, images: Path, how: Reading, *, others: Sequence[Path] = ()) -> Truth:
    """Read an annotation file with its images: a COCO file, or a file of a tool that writes one file for all images.

    Args:
        others: annotation files of other splits, which may name further classes.

    Raises:
        UserError: the file cannot be read, or `how.on_problem` raises the error of a record.
    """
    layout = file_layout(path)
    if layout is None:
        if text := describe_other_tool(path):
            raise UserError(text)
        return read_coco_file(path, images, others=others)
    return layout.read_file(path, images, how, others=list(others))


def file_layout(path: Path) -> FileLayout | None:
    """Return the layout of a single annotation file; None for COCO files and files that no layout knows."""
    files = (
        layout for layout in layouts() if isinstance(layout, FileLayout) and path.suffix.lower() in layout.suffixes
    )
    return next((layout for layout in files if layout.reads(path)), None)


def list_layouts(name: str | None) -> None:
    """Print all layouts and end the command if `name` is "list"."""
    if name == "list":
        width = max(len(layout.name) for layout in layouts())
        print("\n".join(f"{layout.name:{width}}  {layout.form}" for layout in layouts()))
        raise SystemExit(0)


def _files(data: DetectionDataOptions) -> dict[str, tuple[Path, Path]]:
    """Return the annotation file and the image folder of each split for which options name them."""
    given = {
        "train": (data.train_annotations or data.annotations, data.train_images or data.images),
        "val": (data.val_annotations, data.val_images),
    }
    return {split: (Path(file), Path(folder)) for split, (file, folder) in given.items() if file and folder}


def _search(root: Path, name: str | None) -> tuple[Path, list[Layout]]:
    """Return the folder of the data set that `root` names, and the layouts that it has; see `home_of`."""
    wanted = layouts() if name is None else [LAYOUTS[name]()]
    found: list[Layout] = []

    def holds(folder: Path) -> bool:
        found[:] = [layout for layout in wanted if layout.matches(folder)]
        return bool(found)

    return inner_folder(root, holds), found


def _require_signs(layout: Layout, root: Path) -> None:
    """Refuse a folder that has not the layout that the user named."""
    lacks = [text for text, found in layout.signs(root) if not found]
    if lacks:
        raise UserError(f"--layout {layout.name}: {root} lacks {' and '.join(lacks)}; name another layout or folder")
