"""Options of compare.py. This module imports nothing heavy, so that `--help` is quick."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from backbones.common.files import require_creatable
from backbones.errors import require
from tools.cli.arguments import POSITIONAL


@dataclass
class CompareOptions:
    """Experiment to run: its file, or a training command with the options to vary.

    Args:
        output: folder of the runs, the tables and the charts.
        experiment: YAML file of the experiment, or the name of one that the package holds, such as transfer.
        script: instead of a file: the training command; arguments after a bare `--` go to it.
        backbones: instead of a file: names, separated by commas.
        seeds: instead of a file: numbers, separated by commas.
        draws: instead of a file: numbers, separated by commas, of the draws of the training images that --fraction,
            --shots or --train-list after the bare `--` makes. Results are averaged over draws and seeds.
        folds: instead of a file: number of folds of a cross-validation, for data without a validation split. Each
            fold is one run, and differences are paired by fold.
        jobs: runs to train at the same time; they divide the cores among them, and each gets a GPU.
        rehearse: before training, run a few steps of each cell, to see that it runs and how long it takes.
        table_only: train nothing; write the tables and charts of the existing runs.
        x: horizontal axis of the curves.
        metric: metric by which runs are compared, as results.json names it, such as segm_AP for runs with masks; by
            default the task's main metric.
    """

    output: str
    experiment: str | None = field(default=None, metadata=POSITIONAL)
    script: Literal["train_cls", "train_det", "train_seg"] | None = None
    backbones: str | None = None
    seeds: str | None = None
    draws: str | None = None
    folds: int | None = None
    jobs: int = 1
    rehearse: bool = True
    table_only: bool = False
    x: Literal["epochs", "iterations"] = "epochs"
    metric: str | None = None

    def __post_init__(self) -> None:
        require(self.folds is None or self.folds >= 2, "folds", self.folds, "must be 2 or above")
        require(self.jobs > 0, "jobs", self.jobs, "must be above 0")
        require_creatable(Path(self.output))  # a rehearsal, which takes minutes, comes before anything is written
        named = [name for name in ("script", "backbones", "seeds", "draws", "folds") if getattr(self, name) is not None]
        require(
            not (self.experiment and named),
            "experiment",
            self.experiment,
            f"this file already describes the whole experiment; leave --{' --'.join(named)} out",
        )
        require(
            self.experiment or self.script, "script", self.script, "name a training command, or give an experiment file"
        )
