"""Write a trained net as a file that other programs run: ONNX, torch.export's, or torchvision's layout.

    python tools/export.py --run runs/cls-20260101-120000
    python tools/export.py --run runs/seg-20260101-120000 --format torch-export --output net.pt2
    python tools/export.py --run runs/cls-20260101-120000 --int8 static --images imagenet/val
    python tools/export.py --run runs/cls-20260101-120000 --format torchvision

Before it gets its name the file is run on real images of `--images` (by default the run's own validation images), one
by one and in batches, beside the PyTorch net; where they differ no file is left. Sizes, mean, deviation and classes
travel inside: as JSON in ONNX's `metadata_props`, as `metadata.json` in torch.export's. Classifiers and segmentation
nets take any number of images of many sizes, detectors one image of one size.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the root, not tools/, whose names could shadow others

from backbones.common.files import atomic_file
from backbones.errors import UserError, require
from tools.cli.ending import run
from tools.cli.parsing import parse
from tools.cli.plugins import PluginOptions

if TYPE_CHECKING:
    from tools.exports.exportable import Exportable, Inputs

SUFFIXES = {"onnx": ".onnx", "torch-export": ".pt2", "torchvision": ".pth"}
CHECKED = 5  # images at least


@dataclass
class ExportOptions:
    """What to write.

    Args:
        run: folder of a finished run, or its model.safetensors.
        format: onnx; torch-export, for PyTorch without our code; torchvision, the state dict of torchvision's or timm's
            own net, for classifiers.
        output: the file; absent: model with the format's suffix, in the run's folder.
        overwrite: replace `output` where it exists.
        images: folder of real images to check the file on, and to calibrate 8 bits; absent: the run's own data.
        checked: how many of them to check.
        size: side of a detector's input in pixels; absent: its longest side.
        int8: quantise the ONNX file: static (calibrated) or dynamic; prints size, latency and the answers kept.
        calibration: images to calibrate with, at most half of those there are.
        measured: further images to measure the 8-bit file on.
    """

    run: str
    format: Literal["onnx", "torch-export", "torchvision"] = "onnx"
    output: str | None = None
    overwrite: bool = False
    images: str | None = None
    checked: int = CHECKED
    size: int | None = None
    int8: Literal["no", "static", "dynamic"] = "no"
    calibration: int = 64
    measured: int = 200

    def __post_init__(self) -> None:
        require(self.checked >= CHECKED, "checked", self.checked, f"must be {CHECKED} or more")
        require(self.calibration > 0, "calibration", self.calibration, "must be above 0")
        require(self.measured >= CHECKED, "measured", self.measured, f"must be {CHECKED} or more")
        require(self.int8 == "no" or self.format == "onnx", "int8", self.int8, "is for --format onnx")
        require(self.size is None or self.size % 32 == 0 < self.size, "size", self.size, "must be a multiple of 32")

    @property
    def wanted(self) -> int:
        """How many images to read."""
        calibration = self.calibration if self.int8 == "static" else 0
        return max(self.checked, self.measured + calibration if self.int8 != "no" else 0)


@dataclass
class Options:
    """The script's option groups."""

    export: ExportOptions
    plugins: PluginOptions


def main(argv: Sequence[str] | None = None) -> None:
    """Load, write under a temporary name, compare, rename."""
    groups = parse(Options, description=__doc__.splitlines()[0], argv=argv)
    options = groups.export
    target = output(options)

    from tools.exports.files import require_onnx
    from tools.exports.nets import exportable, image_files

    if options.format == "onnx":
        require_onnx()
    groups.plugins.load()
    net = exportable(options.run, size=options.size)
    paths = image_files(_images(options, net), options.wanted)
    with atomic_file(target) as temporary:
        try:
            facts = write(temporary, net, options, paths)
        finally:
            _plain(temporary).unlink(missing_ok=True)
    for name, value in facts.items():
        print(f"{name:<12} {value}")
    print(f"written to {target}")


def output(options: ExportOptions) -> Path:
    """Where the file goes.

    Raises:
        UserError: where something is there already, or its folder is not.
    """
    source = Path(options.run)
    folder = source if source.is_dir() else source.parent
    name = "model.int8.onnx" if options.int8 != "no" else f"model{SUFFIXES[options.format]}"
    target = Path(options.output) if options.output else folder / name
    if target.exists() and not options.overwrite:
        raise UserError(f"--output {target}: exists already; name another file or pass --overwrite")
    if not target.absolute().parent.is_dir():
        raise UserError(f"--output {target}: its folder does not exist; create it first")
    return target


def write(path: Path, net: Exportable, options: ExportOptions, paths: Sequence[Path]) -> dict[str, Any]:
    """Write the file and compare it with the net; what was found.

    Raises:
        UserError: where the two differ.
    """
    from tools.exports import files

    items = [net.read(each) for each in paths]
    checked, name = items[: options.checked], f"the {options.format} file"
    if options.format == "torchvision":
        from tools.exports.state_dict import run_torchvision, write_torchvision

        write_torchvision(path, net)
        difference = files.compare(net, run_torchvision(path, net), checked, where=name)
        return {"checked on": f"{len(checked)} images", "difference": f"{difference:.1e}"}
    if options.format == "torch-export" and net.metadata["task"] == "detection":
        # torch.export's own file asserts that boxes are found in every image.
        raise UserError("--format torch-export: cannot hold a detector's changing numbers of boxes; take onnx")
    made = files.program(net, items[0])
    if options.format == "torch-export":
        files.write_program(path, made, net)
        difference = files.compare(net, files.run_program(path), checked, where=name)
    else:
        plain = _plain(path) if options.int8 != "no" else path
        files.write_onnx(plain, made, net)
        difference = files.compare(net, files.run_onnx(plain), checked, where=name)
    facts = {"sizes": net.metadata["sizes"], "checked on": f"{len(checked)} images", "difference": f"{difference:.1e}"}
    return facts | (_int8(path, net, options, paths, items) if options.int8 != "no" else {})


def _int8(
    path: Path, net: Exportable, options: ExportOptions, paths: Sequence[Path], items: Sequence[Inputs]
) -> dict[str, Any]:
    from tools.exports import int8

    assert options.int8 != "no"
    count = min(options.calibration, len(items) // 2) if options.int8 == "static" else 0
    seen = {number * len(items) // count for number in range(count)}  # spread over the classes' folders
    kept = [number for number in range(len(items)) if number not in seen]  # an image that calibrated would flatter
    int8.quantise(_plain(path), path, net, [items[number] for number in sorted(seen)], options.int8)
    labels = [net.label(paths[number]) for number in kept]
    found = int8.report(net, _plain(path), path, [items[number] for number in kept], labels)
    words = {
        "MB": " -> ".join(f"{size / 1e6:.1f}" for size in found["bytes"]),
        "ms an image": " -> ".join(f"{ms:.2f}" for ms in found["ms"]),
        "agreement": f"{found['agreement']:.2%} of {found['images']} images",
    }
    return words | ({"top-1": " -> ".join(f"{share:.2%}" for share in found["top1"])} if "top1" in found else {})


def _plain(path: Path) -> Path:
    """The fp32 file that an 8-bit one is made from."""
    return path.with_name(f"{path.name}.fp32")


def _images(options: ExportOptions, net: Exportable) -> Path:
    """The folder of real images.

    Raises:
        UserError: where the run's own are not at hand.
    """
    if options.images:
        folder = Path(options.images)
        if not folder.is_dir():
            raise UserError(f"--images {folder}: no such folder")
        return folder
    from backbones.trained import find

    config = find(options.run).config
    data = config.get("data")
    if data is None and config.get("val_images"):
        data = config["val_images"]
    if data is None:
        from tools.synthetic import crops, shapes

        return (crops if net.metadata["task"] == "classification" else shapes).prepare()
    if not Path(data).is_dir():
        raise UserError(f"{options.run}: its data, {data}, is not here; name a folder of real images by --images")
    return Path(data)


if __name__ == "__main__":
    run(main)
