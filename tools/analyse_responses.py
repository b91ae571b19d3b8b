"""Measure responses and gradients in the layers of classification models, as in figure 7 of the ResNet paper.

    python tools/analyse_responses.py --backbones plain20,plain56,resnet20,resnet56 --data cifar10 --output DIR
    python tools/analyse_responses.py --runs runs/degradation/*-seed0 --data cifar10 --output DIR

Models of `--backbones` are measured with random weights, models of `--runs` with random and with trained weights. A
response is the output of a convolution after batch norm, before the nonlinearity or the addition. It is measured on one
batch of training images without augmentation, with the statistics of the batch. The command writes responses.csv,
responses.png and gradients.png into DIR.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the root, not tools/, whose names could shadow others

from backbones.common.device_options import DeviceOptions
from backbones.common.files import create_output
from backbones.errors import UserError, require
from tools.cli.arguments import POSITIONAL
from tools.cli.ending import run
from tools.cli.parsing import parse
from tools.cli.plugins import PluginOptions

OUTPUTS = ("responses.csv", "responses.png", "gradients.png")


@dataclass
class ResponseOptions:
    """Models, images and output.

    Args:
        output: folder for the table and the charts.
        backbones: registered names with commas between, for models with random weights.
        runs: run folders of train_cls.py; several may follow, as with `runs/*`.
        data: folder with train/CLASS/*; absent: the built-in shapes.
        images: number of images in the batch.
        size: side of the images in pixels; absent: the run's crop size, or the first image's shorter side.
        bits: bits that the values of 16-bit images use, 8 to 16; absent: those that the run recorded, else 16, and
            images of small values are refused.
        seed: seed of the random weights.
    """

    output: str
    backbones: str | None = None
    runs: list[str] | None = field(default=None, metadata=POSITIONAL)
    data: str | None = None
    images: int = 128
    size: int | None = None
    bits: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.images > 1, "images", self.images, "batch norm needs at least 2 for its statistics")
        require(self.size is None or self.size > 0, "size", self.size, "must be above 0")
        require(self.bits is None or 8 <= self.bits <= 16, "bits", self.bits, "must be 8 to 16")
        require(self.seed >= 0, "seed", self.seed, "must be 0 or above")
        require(self.backbones or self.runs, "backbones", self.backbones, "name models, or run folders with --runs")


@dataclass
class AnalyseResponsesOptions:
    """All options of the command."""

    responses: ResponseOptions
    device: DeviceOptions
    plugins: PluginOptions


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the models, then write the table and the charts."""
    groups = parse(AnalyseResponsesOptions, description=__doc__, argv=argv)
    options = groups.responses
    folder = create_folder(Path(options.output))

    from backbones.common.devices import usable_device
    from tools.analysis.models import measure_model, random_model, trained_model
    from tools.analysis.plots import draw_gradients, draw_responses, write_csv

    groups.plugins.load()
    names = [name.strip() for name in (options.backbones or "").split(",") if name.strip()]
    models = [*map(random_model, names), *(trained_model(Path(folder)) for folder in options.runs or ())]
    data, device = Path(options.data) if options.data else None, usable_device(groups.device.device)
    measured = [
        state
        for model in models
        for state in measure_model(
            model,
            data=data,
            images=options.images,
            size=options.size,
            bits=options.bits,
            seed=options.seed,
            device=device,
        )
    ]
    write_csv(folder / "responses.csv", measured)
    draw_responses(folder / "responses.png", measured)
    draw_gradients(folder / "gradients.png", measured)
    print(f"{', '.join(OUTPUTS)} are in {folder}")


def create_folder(folder: Path) -> Path:
    """Create the output folder. A folder that already holds an analysis is refused.

    Raises:
        UserError: if it holds an analysis already, or cannot be created.
    """
    existing = [name for name in OUTPUTS if (folder / name).exists()]
    if existing:
        raise UserError(f"--output {folder}: holds {existing[0]} already; move it away or name another folder")
    create_output(folder)
    return folder


if __name__ == "__main__":
    run(main)
