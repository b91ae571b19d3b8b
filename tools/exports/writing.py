"""Export of a run: write the file under a temporary name, try it, compare it with the model, and rename it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from backbones.common.files import atomic_file
from backbones.errors import UserError, counted
from tools.exports import files, int8
from tools.exports.exportable import Exportable, Inputs, Runner
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
    traced, found = None, dict(exportable.notes)
    if options.format == "torchvision":
        write_state_dict(path, exportable)
        run = run_library_model(path, exportable)
    else:
        # Trace a large image: a side of a single cell would be taken for a constant.
        traced = _trace(exportable, max(items, key=lambda item: min(item[0].shape[-2:])), options)
        found["sizes"] = _described_sizes(traced, exportable)
        if exportable.resizable:
            items = [
                item if traced.accepts(item) else files.to_multiples(item, traced.freedom.multiple) for item in items
            ]
        if options.format == "torch-export":
            files.write_program(path, traced, exportable)
            run = files.run_program(path)
        else:
            files.write_onnx(plain, traced, exportable)
            try_file(plain, exportable)
            run = files.run_onnx(plain)
    accepts = traced.accepts if traced else _accepts_all
    found |= _check(exportable, run, items, images, options, accepts)
    return found if options.int8 == "no" else found | _quantise(path, plain, exportable, options, images, items).lines()


def _accepts_all(inputs: Inputs) -> bool:
    """Return True: a library's own model accepts images of any size."""
    return True


def _check(
    exportable: Exportable,
    run: Runner,
    items: Sequence[Inputs],
    images: Sequence[Path],
    options: ExportOptions,
    accepts: Callable[[Inputs], bool],
) -> dict[str, str]:
    """Compare the file with the model: outputs, alone and in batches, and answers on images of several shapes."""
    where, count = f"the {options.format} file", options.checked
    largest, found = 0.0, {"checked on": counted(min(count, len(items)), "image")}
    if exportable.batches:
        fitting = [item for item in items[:count] if accepts(item)]
        largest = files.compare(exportable, run, fitting, where=where).difference
    if exportable.check is not None:
        checked = exportable.check(run, list(images[:count]), where, accepts)
        largest, found = max(largest, checked.difference), found | checked.found
    return found | {"difference": f"{largest:.1e}"}


def _described_sizes(traced: files.TracedModel, exportable: Exportable) -> str:
    """Describe the image sizes that the file accepts.

    Raises:
        UserError: a detector can only be traced for one size, to which its images cannot be brought.
    """
    if traced.freedom.multiple:
        return traced.sizes
    if not exportable.batches:
        raise UserError(
            f"torch cannot trace this detector for images of any size ({traced.problem}); export a detector of another "
            "backbone or neck, or use detection.load in Python"
        )
    return f"{traced.sizes}, because torch cannot trace the model for other sizes ({traced.problem})"


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
