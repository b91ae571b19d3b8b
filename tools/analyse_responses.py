"""Measure how strongly the layers of classification nets answer, and their gradients: figure 7 of the ResNet paper.

    python tools/analyse_responses.py --backbones plain20,plain56,resnet20,resnet56 --data cifar10 --output DIR
    python tools/analyse_responses.py --runs runs/degradation/*-seed0 --data cifar10 --output DIR

A net of `--backbones` is measured with random weights; one of `--runs` both so and trained. Responses are the outputs
of the convolutions after batch norm and before the nonlinearity or the addition, on one batch of training images
without augmentation, with the batch's own statistics. DIR gets responses.csv, responses.png and gradients.png.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the root, not tools/, whose names could shadow others

from backbones.errors import UserError, require
from tools.cli.arguments import POSITIONAL
from tools.cli.ending import run
from tools.cli.parsing import parse
from tools.cli.plugins import PluginOptions

if TYPE_CHECKING:
    from classification.model import Classifier
    from tools.analysis.plots import Measured

MADE = ("responses.csv", "responses.png", "gradients.png")
NET_OPTIONS = ("in_channels", "norm", "shortcut")  # options of a run that shape its net


@dataclass
class ResponseOptions:
    """What to measure.

    Args:
        output: folder for the table and the pictures.
        backbones: registered names with commas between, for nets with random weights.
        runs: run folders of train_cls.py; several may follow, as `runs/*` does.
        data: folder with train/CLASS/*; absent: the built-in shapes.
        images: in the batch.
        size: side of the images in pixels; absent: the run's crop, or the first image's shorter side.
        seed: of random weights.
    """

    output: str
    backbones: str | None = None
    runs: list[str] | None = field(default=None, metadata=POSITIONAL)
    data: str | None = None
    images: int = 128
    size: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.images > 1, "images", self.images, "batch norm needs at least 2 for its statistics")
        require(self.size is None or self.size > 0, "size", self.size, "must be above 0")
        require(self.seed >= 0, "seed", self.seed, "must be 0 or above")
        require(self.backbones or self.runs, "backbones", self.backbones, "name nets, or run folders with --runs")


@dataclass
class Options:
    """Everything the script is told."""

    responses: ResponseOptions
    plugins: PluginOptions


@dataclass(frozen=True)
class Net:
    """A net to measure.

    Attributes:
        name: what legend and table call it.
        weights: file of its trained weights, or None for a net that stays random.
        classes: number of them, or None for that of the data.
        given: what it was trained on: `crop_size`, `mean` and `std`, where it says so.
    """

    name: str
    backbone: str
    options: dict[str, Any]
    weights: Path | None = None
    classes: int | None = None
    given: dict[str, Any] = field(default_factory=dict)


def main(argv: Sequence[str] | None = None) -> None:
    """Parse, measure, draw."""
    groups = parse(Options, description=__doc__.splitlines()[0], argv=argv)
    options = groups.responses
    folder = open_folder(Path(options.output))

    from tools.analysis.plots import draw_gradients, draw_responses, write_csv

    groups.plugins.load()
    names = [name.strip() for name in (options.backbones or "").split(",") if name.strip()]
    nets = [Net(name, name, {}) for name in names] + [read_run(Path(entry)) for entry in options.runs or ()]
    measured = [state for net in nets for state in measure_net(net, options)]
    write_csv(folder / "responses.csv", measured)
    draw_responses(folder / "responses.png", measured)
    draw_gradients(folder / "gradients.png", measured)
    print(f"{', '.join(MADE)} are in {folder}")


def open_folder(folder: Path) -> Path:
    """Create the output folder.

    Raises:
        UserError: where it holds an analysis already, or cannot be created.
    """
    there = [name for name in MADE if (folder / name).exists()]
    if there:
        raise UserError(f"--output {folder}: holds {there[0]} already; move it away or name another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {folder}: cannot be created ({error.strerror}); name another folder") from None
    return folder


def read_run(folder: Path) -> Net:
    """The net of a finished run, by the header of its weights.

    Raises:
        UserError: for a folder without weights, or those of another task.
    """
    from tools.engine.checkpoint import read_safetensors

    path = folder / "model.safetensors"
    if not path.is_file():
        raise UserError(f"--runs {folder}: has no model.safetensors; finish the run, or name another folder")
    header, tensors = read_safetensors(path)
    config = json.loads(header.get("config", "{}"))
    if "backbone" not in config or "fc.weight" not in tensors:
        raise UserError(f"{path}: not the net of a classification run; name a run folder of train_cls.py")
    given = json.loads(header.get("meta", "{}")).get("input", {})
    config = {**config, "in_channels": given.get("in_channels")}
    shape = {name: config[name] for name in NET_OPTIONS if config.get(name) not in (None, "auto")}
    return Net(folder.name, config["backbone"], shape, path, len(tensors["fc.weight"]), given)


def measure_net(net: Net, options: ResponseOptions) -> list[Measured]:
    """A net with random weights and, where it has some, with trained ones.

    Raises:
        UserError: where the run was trained on other classes than the data has.
    """
    from tools.analysis.batch import read_batch
    from tools.analysis.plots import INITIAL, TRAINED, Measured
    from tools.analysis.responses import measure
    from tools.engine.checkpoint import read_safetensors

    data = Path(options.data) if options.data else None
    backbone = build(net, net.classes or 1, seed=options.seed).backbone
    size = options.size or net.given.get("crop_size")
    images, labels, classes = read_batch(data, options.images, size=size, backbone=backbone)
    if net.classes not in (None, classes):
        raise UserError(
            f"{net.name}: was trained on {net.classes} classes, {data or 'shapes'} has {classes}; name its data"
        )
    model = build(net, classes, seed=options.seed)
    measured = [Measured(net.name, INITIAL, measure(model, images, labels))]
    if net.weights:
        model.load_state_dict(read_safetensors(net.weights)[1])
        measured.append(Measured(net.name, TRAINED, measure(model, images, labels)))
    return measured


def build(net: Net, classes: int, *, seed: int) -> Classifier:
    """The net with random weights, the same for the same seed."""
    import torch

    import classification

    torch.manual_seed(seed)
    model = classification.build(net.backbone, classes, weights=None, **net.options)
    for name in ("mean", "std"):  # a run may have taken those of its data
        setattr(model.backbone, name, tuple(net.given.get(name, getattr(model.backbone, name))))
    return model


if __name__ == "__main__":
    run(main)
