"""Exports a run: writes the file under a temporary name, compares it with the model, and renames it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from backbones.common.files import atomic_file
from backbones.errors import UserError
from tools.exports import files, int8
from tools.exports.exportable import Exportable, Inputs
from tools.exports.images import image_files, image_folder
from tools.exports.models import load_exportable
from tools.exports.options import ExportOptions
from tools.exports.state_dict import run_library_model, write_state_dict


def export(options: ExportOptions, target: Path) -> dict[str, str]:
    """Export a run's model to `target`. If anything fails, no file is written and an existing file is kept.

    Returns:
        Results by name: accepted sizes, number of checked images, largest difference, and the 8-bit report.

    Raises:
        UserError: the model cannot be exported, the file differs from the model, or it cannot be written.
    """
    if options.format == "onnx":
        files.require_onnx()
    exportable = load_exportable(options.run, size=options.size)
    paths = image_files(image_folder(options), options.images_needed)
    with atomic_file(target) as temporary:
        try:
            return _write(temporary, exportable, options, paths)
        finally:
            _fp32(temporary).unlink(missing_ok=True)


def _write(path: Path, exportable: Exportable, options: ExportOptions, images: Sequence[Path]) -> dict[str, str]:
    """Write the exported file and compare it with the model. Results and errors are those of `export`."""
    items = [exportable.read(image) for image in images]
    found: dict[str, str] = {}
    if options.format == "torchvision":
        write_state_dict(path, exportable)
        run = run_library_model(path, exportable)
    else:
        traced = _trace(exportable, items[0], options)
        found["sizes"] = traced.sizes
        if options.format == "torch-export":
            files.write_program(path, traced, exportable)
            run = files.run_program(path)
        else:
            plain = path if options.int8 == "no" else _fp32(path)
            files.write_onnx(plain, traced, exportable)
            run = files.run_onnx(plain)
    checked = items[: options.checked]
    difference = files.compare(exportable, run, checked, where=f"the {options.format} file")
    found |= {"checked on": f"{len(checked)} images", "difference": f"{difference:.1e}"}
    return found if options.int8 == "no" else found | _quantise(path, exportable, options, images, items).lines()


def _trace(exportable: Exportable, example: Inputs, options: ExportOptions) -> files.TracedModel:
    if options.format == "torch-export" and exportable.metadata["task"] == "detection":
        # A traced detector asserts that it finds a box in every image.
        raise UserError("--format torch-export: cannot hold a detector's changing numbers of boxes; use --format onnx")
    return files.trace(exportable, example)


def _quantise(
    path: Path, exportable: Exportable, options: ExportOptions, images: Sequence[Path], items: Sequence[Inputs]
) -> int8.Int8Report:
    """Write the 8-bit file, and measure it on images other than those that calibrated it."""
    assert options.int8 != "no"
    # Spread the calibration images over the folders of the classes.
    count = min(options.calibration, len(items) // 2) if options.int8 == "static" else 0
    calibrating = {number * len(items) // count for number in range(count)}
    measured = [number for number in range(len(items)) if number not in calibrating]
    calibration = [items[number] for number in sorted(calibrating)]
    int8.quantise(_fp32(path), path, exportable, calibration, options.int8)
    labels = [exportable.label(images[number]) for number in measured]
    return int8.measure(exportable, _fp32(path), path, [items[number] for number in measured], labels)


def _fp32(path: Path) -> Path:
    """Return the path of the temporary fp32 file from which the 8-bit file is made."""
    return path.with_name(f"{path.name}.fp32")
