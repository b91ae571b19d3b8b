"""Reads Label Studio's brush as PNG or NumPy files, one for each stroke; see `backbones.common.brush_files`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from backbones.common.brush_files import BrushExport, BrushMask
from backbones.common.outlines import run_lengths
from segmentation.data.painted import OutlinedImage, PaintedLabels, Shape
from segmentation.data.undivided import one_split


def is_label_studio_png(root: Path) -> bool:
    """Return whether a folder holds masks of Label Studio's brush in files, and no JSON file with the same strokes."""
    return root.is_dir() and BrushExport.of(root) is not None


def read_label_studio_png(root: Path, split: str, *, bits: int | None) -> PaintedLabels:
    """Open the only split. Later strokes cover earlier ones.

    Raises:
        UserError: another split is wanted, a mask does not decode, or the image of a task is not found.
    """
    one_split(root, split)
    export = BrushExport(root)
    images = [_image(root / name, masks) for name, masks in export.by_image().items()]
    return PaintedLabels(images, names=export.labels, where=str(root), bits=bits, left_out=export.notes)


def _image(path: Path, masks: Sequence[BrushMask]) -> OutlinedImage:
    shapes = [Shape(mask.label, "runs", run_lengths(mask.read())["counts"]) for mask in masks]
    return OutlinedImage(path, None, shapes, str(masks[0].path))
