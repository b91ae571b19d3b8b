"""Export of a run: write the file into a temporary folder, try it, compare it with the model, and move it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from backbones.common.files import atomic_file
from backbones.errors import UserError, counted
from backbones.weights.exported import ExportedFile
from tools.exports import files, int8
from tools.exports.evaluation import measure_loss
from tools.exports.exportable import Exportable, Inputs, Runner
from tools.exports.fastest import choose_fastest
from tools.exports.half import write_half
from tools.exports.images import image_files, image_folder
from tools.exports.models import load_exportable
from tools.exports.openvino_files import require_openvino, write_openvino
from tools.exports.options import ExportOptions, files_of
from tools.exports.raw_images import join_raw
from tools.exports.state_dict import run_library_model, write_state_dict
from tools.exports.trial import try_file


def export(options: ExportOptions, target: Path) -> dict[str, str]:
    """Export a run's model to `target`. If anything fails, no file is written and existing files are kept.

    Returns:
        Results by name: accepted sizes, number of checked images, largest difference, and what 8 or 16 bits change.

    Raises:
        UserError: the model cannot be exported, the file differs from the model, or it cannot be written.
    """
    if options.format in ("onnx", "openvino"):
        files.require_onnx(options.format)
    if options.format == "openvino":
        require_openvino()
    exportable = load_exportable(options.run, suppress=options.nms, raw=options.raw)
    paths = image_files(image_folder(options), options.images_needed)
    with TemporaryDirectory() as folder:
        written, found = _write(Path(folder) / f"written{target.suffix}", exportable, options, paths)
        target = target.with_suffix(written.suffix)
        options.require_new(target)  # another export may have been faster
        for path in files_of(written):
            with atomic_file(target.with_suffix(path.suffix)) as temporary:
                shutil.copyfile(path, temporary)
    return found | {"written to": str(target)}


@dataclass(frozen=True)
class _Export:
    """A model to export, and the images on which its file is compared with it.

    Attributes:
        images: image files.
        items: their inputs, of sizes that the file accepts where the images may be resized.
        accepts: returns whether the file accepts the sizes of inputs.
    """

    exportable: Exportable
    options: ExportOptions
    images: Sequence[Path]
    items: Sequence[Inputs]
    accepts: Callable[[Inputs], bool]

    def check(self, run: Runner) -> dict[str, str]:
        """Compare the file with the model: outputs, alone and in batches, and answers on images of several shapes.

        Args:
            run: runs the file.
        """
        exportable, count = self.exportable, self.options.checked
        where = f"the {self.options.format} file"
        largest, found = 0.0, {"checked on": counted(min(count, len(self.items)), "image")}
        if exportable.raw is None and exportable.batches:
            fitting = [item for item in self.items[:count] if self.accepts(item)]
            largest = files.compare(exportable, run, fitting, where=where).difference
        checked = exportable.check(run, list(self.images[:count]), where, self.accepts)
        return found | checked.found | {"difference": f"{max(largest, checked.difference):.1e}"}

    def check_file(self, path: Path) -> dict[str, str]:
        """Compare an ONNX or OpenVINO file with the model."""
        opened = ExportedFile(path)
        return self.check(lambda inputs: opened(*inputs))


def _write(
    path: Path, exportable: Exportable, options: ExportOptions, images: Sequence[Path]
) -> tuple[Path, dict[str, str]]:
    """Write the file and compare it with the model. Return its path, and results as `export` does."""
    items = [exportable.read(image) for image in images]
    if options.format == "torchvision":
        write_state_dict(path, exportable)
        work = _Export(exportable, options, images, items, _accepts_all)
        return path, exportable.notes | work.check(run_library_model(path, exportable))
    # Trace a large image: a side of a single cell would be taken for a constant.
    traced = _trace(exportable, max(items, key=lambda item: min(item[0].shape[-2:])), options)
    found = exportable.notes | {"sizes": str(traced.metadata(exportable)["sizes"])}
    found |= {} if traced.freedom.multiple else {"sizes": _only_size(traced, exportable)}
    _require_raw(traced, exportable)
    if exportable.resizable:
        items = [item if traced.accepts(item) else files.to_multiples(item, traced.freedom.multiple) for item in items]
    work = _Export(exportable, options, images, items, traced.accepts)
    if options.format == "torch-export":
        files.write_program(path, traced, exportable)
        return path, found | work.check(files.run_program(path))
    if options.fastest_on == "cpu":
        chosen, more = _write_fastest(path, traced, work)
        return chosen, found | more
    return path, found | _write_graph(path, traced, work)


def _write_graph(path: Path, traced: files.TracedModel, work: _Export) -> dict[str, str]:
    """Write an ONNX or OpenVINO file, in the chosen precision, and compare it with the model."""
    plain, exportable, options = path.with_name("fp32.onnx"), work.exportable, work.options
    files.write_onnx(plain, traced, exportable)
    small, report = plain, None
    if options.int8 != "no":
        small = path.with_name("int8.onnx")
        report = _quantise(small, plain, work)
    elif options.precision == "fp16":
        small = path.with_name("fp16.onnx")
        write_half(plain, small)
        report = _compare_bits(small, plain, work, range(len(work.items)))
    for file in dict.fromkeys((plain, small)):
        if exportable.raw is not None:
            join_raw(file, exportable.raw)
        try_file(file, exportable)
    if options.format == "openvino":
        write_openvino(small, path)
    elif small != path:
        shutil.copyfile(small, path)
    # The file itself is compared with PyTorch, unless its bits change its outputs by more than rounding.
    found = work.check_file(path if small is plain else plain) | (report.lines() if report else {})
    if small is plain:
        return found
    loss = measure_loss(options.run, path, most=options.most_loss)
    if report and not loss.known:
        report.require_agreement("--int8" if options.int8 != "no" else "--precision fp16")
    return found | loss.lines()


def _write_fastest(path: Path, traced: files.TracedModel, work: _Export) -> tuple[Path, dict[str, str]]:
    """Write ONNX and OpenVINO files in fp32 and 8 bits. Return the fastest that is as good as the run, and why."""
    plain, small = path.with_name("fp32.onnx"), path.with_name("int8.onnx")
    exportable, options, items = work.exportable, work.options, work.items
    files.write_onnx(plain, traced, exportable)
    int8.quantise(plain, small, exportable, items[options.checked :] or items, "static")
    candidates = {"onnxruntime fp32": plain, "onnxruntime int8": small}
    if find_spec("openvino"):
        for name, source in list(candidates.items()):
            candidates[name.replace("onnxruntime", "OpenVINO")] = source.with_suffix(".xml")
            write_openvino(source, source.with_suffix(".xml"))

    def prove(file: Path) -> dict[str, str]:
        if file.suffix == ".onnx":
            try_file(file, exportable)
        if file.stem == "fp32":
            return work.check_file(file)
        loss = measure_loss(options.run, file, most=options.most_loss)
        if not loss.known:
            raise UserError(f"its accuracy is not known: {loss.text}")
        return loss.lines()

    name, found = choose_fastest(candidates, items[0], prove)
    return candidates[name], found


def _accepts_all(inputs: Inputs) -> bool:
    """Return True: a library's own model accepts images of any size."""
    return True


def _require_raw(traced: files.TracedModel, exportable: Exportable) -> None:
    """Refuse `--raw` for a segmentation model that accepts certain sizes only.

    Raises:
        UserError: torch could not trace the model for all sizes.
    """
    if exportable.raw is not None and traced.problem and exportable.multiple == 1:
        raise UserError(
            f"--raw: torch can trace this model for images of {traced.sizes} only ({traced.problem}); leave it out"
        )


def _only_size(traced: files.TracedModel, exportable: Exportable) -> str:
    """Describe the only size of images that the file accepts.

    Raises:
        UserError: the model is a detector, whose images cannot be brought to one size.
    """
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


def _compare_bits(path: Path, plain: Path, work: _Export, images: Sequence[int]) -> int8.BitsReport:
    """Compare a file of 8 or 16 bits with the fp32 file, on the images at some indices."""
    labels = [work.exportable.label(work.images[number]) for number in images]
    return int8.measure(work.exportable, plain, path, [work.items[number] for number in images], labels)


def _quantise(path: Path, plain: Path, work: _Export) -> int8.BitsReport:
    """Write the 8-bit file, and measure it on images other than those that calibrated it."""
    options, items = work.options, work.items
    assert options.int8 != "no"
    # Spread the calibration images over the folders of the classes.
    count = min(options.calibration, len(items) // 2) if options.int8 == "static" else 0
    calibrating = {number * len(items) // count for number in range(count)}
    measured = [number for number in range(len(items)) if number not in calibrating]
    int8.quantise(plain, path, work.exportable, [items[number] for number in sorted(calibrating)], options.int8)
    return _compare_bits(path, plain, work, measured)
