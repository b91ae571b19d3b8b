"""Export a trained model for other programs: ONNX, OpenVINO, torch.export, or torchvision's or timm's state dict.

    python tools/export.py --run runs/cls-20260101-120000
    python tools/export.py --run runs/seg-20260101-120000 --format torch-export --output model.pt2
    python tools/export.py --run runs/cls-20260101-120000 --int8 static --images imagenet/val
    python tools/export.py --run runs/det-20260101-120000 --raw          # bytes in, boxes in their pixels out
    python tools/export.py --run runs/det-20260101-120000 --format openvino
    python tools/export.py --run runs/cls-20260101-120000 --for cpu      # the fastest file that is as good as the run
    python tools/export.py --run runs/cls-20260101-120000 --format torchvision

The file is compared with the PyTorch model on real images (`--images`, by default the run's validation images), one by
one and in batches. A file that differs is removed. The file holds sizes, mean, std and classes: as JSON in ONNX's
`metadata_props`, as `metadata.json` in torch.export's files. Files accept any number of images of many sizes.
`predict.py --model` runs them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the root, not tools/, whose names could shadow others

from tools.cli.ending import run
from tools.cli.parsing import parse
from tools.cli.plugins import PluginOptions
from tools.exports.options import ExportOptions


@dataclass
class ExportCommandOptions:
    """The command's option groups."""

    export: ExportOptions
    plugins: PluginOptions


def main(argv: Sequence[str] | None = None) -> None:
    """Export the model, compare the file with PyTorch, and print the results."""
    options = parse(ExportCommandOptions, description=__doc__, argv=argv)
    target = options.export.target()

    from tools.exports.writing import export  # imports torch

    options.plugins.load()
    for name, value in export(options.export, target).items():
        print(f"{name:<12} {value}")


if __name__ == "__main__":
    run(main)
