"""Rank backbones and starts for a data set before training, by features of the frozen backbones.

    python tools/rank_backbones.py --data DATA --backbones "resnet18,resnet50,timm/tf_efficientnet_lite0"
    python tools/rank_backbones.py --data DATA --backbones "resnet18=none,resnet18=runs/cls/model.safetensors"
    python tools/rank_backbones.py --data DATA --backbones "resnet*" --against runs/study
    torchrun --nproc_per_node 2 tools/rank_backbones.py --data DATA --backbones "resnet18,resnet34"

The data set may have class folders, boxes or label maps, in any layout that the training commands read. Each backbone
computes features of the training images once: pooled images, RoIAlign of the true boxes and of background, or cells of
label maps. LogME (You et al. 2021), a linear probe and k nearest neighbours score the features. The command writes
ranking.md, ranking.json, ranking.png and the features into a folder.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the root, not tools/, whose names could shadow others

from backbones.common.device_options import DeviceOptions
from backbones.common.files import create_output
from backbones.errors import UserError, require
from tools.cli.ending import run
from tools.cli.parsing import parse
from tools.cli.plugins import PluginOptions


@dataclass
class RankOptions:
    """Data, candidates and output.

    Args:
        data: folder of the data set, or a file that names its images, such as a CSV file or YOLO's data.yaml.
        backbones: names or patterns with commas between; NAME=WEIGHTS has weights of its own.
        weights: weights of the other names, with commas between; each name is ranked with each. none is random.
        weights_from: program that made the weights files, such as detectron2 or moco, as --weights-from of a training
            has it; FILE=PROGRAM names that of one file, with commas between.
        task: what the data are labelled for; auto recognises it.
        ignore_index: number in label maps of pixels that do not count.
        images: number of training images, spread evenly over the data set.
        size: short side of the images in pixels; absent: 224 for classification, 320 otherwise.
        levels: feature maps to join; absent: the last one for classification, c4 and c5 otherwise.
        by: the score that ranks.
        output: folder for the results; absent: runs/ranking.
        overwrite: replace the results in the output folder. Its features are used again in any case.
        against: folder of a finished study of tools/compare.py, to compare the ranking with its results.
        seed: seed of random weights, background boxes, folds and resamples.
    """

    data: str
    backbones: str
    weights: str = "imagenet"
    weights_from: str | None = None
    task: Literal["auto", "classification", "detection", "segmentation"] = "auto"
    ignore_index: int = 255
    images: int = 300
    size: int | None = None
    levels: list[str] | None = None
    by: Literal["logme", "probe", "knn"] = "logme"
    output: str = "runs/ranking"
    overwrite: bool = False
    against: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.images > 1, "images", self.images, "must be above 1")
        require(self.size is None or self.size >= 32, "size", self.size, "must be at least 32")
        require(self.seed >= 0, "seed", self.seed, "must be 0 or above")


@dataclass
class RankGroups:
    """The option groups of the command."""

    ranking: RankOptions
    device: DeviceOptions
    plugins: PluginOptions


def main(argv: Sequence[str] | None = None) -> None:
    """Rank the candidates; print and write the results."""
    groups = parse(RankGroups, description=__doc__, argv=argv)
    options = groups.ranking

    # torch and matplotlib are imported only after parsing, so that --help is quick.
    from tools.processes import distributed
    from tools.ranking import outputs
    from tools.ranking.candidates import candidates
    from tools.ranking.data import open_data
    from tools.ranking.ranking import rank

    groups.plugins.load()
    device = distributed.start(device_name=groups.device.device)
    try:
        names = candidates(options.backbones, options.weights, options.weights_from)
        study = outputs.read_study(Path(options.against)) if options.against else None
        if study is not None:
            outputs.require_covered(names, study)
        task = None if options.task == "auto" else options.task
        data = open_data(Path(options.data), options.images, task, ignore_index=options.ignore_index)
        pooled = data.task == "classification"
        size = options.size or (224 if pooled else 320)
        levels = options.levels or ([] if pooled else ["c4", "c5"])
        folder = distributed.on_main(lambda: _create(Path(options.output), options.overwrite))
        found = rank(
            data,
            names,
            by=options.by,
            levels=levels,
            size=size,
            seed=options.seed,
            cache=folder / "features",
            device=device,
        )
        if not distributed.is_main():
            return
        print(outputs.table(found))
        agreement = None if study is None else outputs.agree(found, study, seed=options.seed)
        facts = {"data": options.data, "task": data.task, "images": len(data.names), "size": size, "levels": levels}
        outputs.write(folder, found, facts, agreement)
        if agreement:
            print(outputs.describe(agreement, found.by))
        print(f"ranking.md, ranking.json and ranking.png are in {folder}")
    finally:
        distributed.stop()


def _create(folder: Path, overwrite: bool) -> Path:
    """Create the output folder. A folder with results is refused unless they may be replaced."""
    if (folder / "ranking.json").exists() and not overwrite:
        raise UserError(f"--output {folder}: ranking.json exists already; pass --overwrite, or name another folder")
    create_output(folder)
    return folder


if __name__ == "__main__":
    run(main)
