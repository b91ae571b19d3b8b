"""Export of a run: write the file under a temporary name, try it, compare it with the model, and rename it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from backbones.common.files import atomic_file
from backbones.errors import UserError, counted
from tools.exports import files, int8
from tools.exports.exportable import Exportable, Inputs
from tools.exports.images import image_files, image_folder
from tools.exports.models import load_exportable
from tools.exports.options import ExportOptions
from tools.exports.state_dict import run_library_model, write_state_dict
from tools.exports.trial import try_file


def export(options: ExportOptions, target: Path) -> dict[str, str]:
    """Export a run's model to `target`. If anything fails, no file is written and an existing file is kept.

    Returns:
        Results by name: accepted sizes, number of checked images, largest difference, and the 8-bit report.

    Raises:
        UserError: the model cannot be exported, the file differs from the model, or it cannot be written.
    """
    if options.format == "onnx":
        files.require_onnx()
    exportable = load_exportable(options.run)
    paths = image_files(image_folder(options), options.images_needed)
    with atomic_file(target) as temporary, TemporaryDirectory() as folder:
        # The fp32 file from which an 8-bit file is made.
        plain = temporary if options.int8 == "no" else Path(folder) / "fp32.onnx"
        return _write(temporary, plain, exportable, options, paths)


def _write(
    path: Path, plain: Path, exportable: Exportable, options: ExportOptions, images: Sequence[Path]
) -> dict[str, str]:
    """Write the file and compare it with the model; results and errors as in `export`."""
    items = [exportable.read(image) for image in images]
    found = dict(exportable.notes)
    if options.format == "torchvision":
        write_state_dict(path, exportable)
        run = run_library_model(path, exportable)
    else:
        # Trace a large image: a side of a single cell would be taken for a constant.
        traced = _trace(exportable, max(items, key=lambda item: min(item[0].shape[-2:])), options)
        found["sizes"] = traced.sizes
        if options.format == "torch-export":
            files.write_program(path, traced, exportable)
            run = files.run_program(path)
        else:
            files.write_onnx(plain, traced, exportable)
            try_file(plain, exportable)
            run = files.run_onnx(plain)
    where = f"the {options.format} file"
    if exportable.check is None:
        checked = files.compare(exportable, run, items[: options.checked], where=where)
    else:
        checked = exportable.check(run, list(images[: options.checked]), where)
    found |= {"checked on": counted(min(options.checked, len(items)), "image"), **checked.found}
    found |= {"difference": f"{checked.difference:.1e}"}
    return found if options.int8 == "no" else found | _quantise(path, plain, exportable, options, images, items).lines()


def _trace(exportable: Exportable, example: Inputs, options: ExportOptions) -> files.TracedModel:
    if options.format == "torch-export" and exportable.metadata["task"] == "detection":
        # A traced detector asserts that it finds a box in every image.
        raise UserError("--format torch-export: cannot hold a detector's changing numbers of boxes; use --format onnx")
    return files.trace(exportable, example)


def _quantise(
    path: Path,
    plain: Path,
    exportable: Exportable,
    options: ExportOptions,
    images: Sequence[Path],
    items: Sequence[Inputs],
) -> int8.Int8Report:
    """Write the 8-bit file, and measure it on images other than those that calibrated it."""
    assert options.int8 != "no"
    # Spread the calibration images over the folders of the classes.
    count = min(options.calibration, len(items) // 2) if options.int8 == "static" else 0
    calibrating = {number * len(items) // count for number in range(count)}
    measured = [number for number in range(len(items)) if number not in calibrating]
    calibration = [items[number] for number in sorted(calibrating)]
    int8.quantise(plain, path, exportable, calibration, options.int8)
    try_file(path, exportable)
    labels = [exportable.label(images[number]) for number in measured]
    return int8.measure(exportable, plain, path, [items[number] for number in measured], labels)
