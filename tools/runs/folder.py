"""Reads finished run folders, and finds the data sets of the runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from pathlib import Path

from backbones.common.bits import WHOLE_BITS
from backbones.common.data_split import SPLITS_FILE, DataSplit
from backbones.common.files import JsonObject, read_yaml
from backbones.common.run_files import CONFIG_FILE, LOG_FILE, RESULTS_FILE, resume_options
from backbones.errors import UserError, no_folder
from tools.evaluation.reading import read_json
from tools.runs.log import read_lines
from tools.runs.results import with_present_form

TASK_OPTIONS = {"neck": "detection", "head": "segmentation", "test_crops": "classification"}  # each unique to its task


@dataclass(frozen=True)
class RunFolder:
    """A finished run with the content of its folder.

    Attributes:
        name: short name, unique among the runs that were read together.
        task: detection, segmentation or classification.
        config: all options of the run.
        results: content of results.json, in its present form.
        lines: lines of metrics.jsonl, in their present form.
    """

    folder: Path
    name: str
    task: str
    config: JsonObject
    results: JsonObject
    lines: list[JsonObject]

    @classmethod
    def read(cls, folder: Path, name: str = "") -> RunFolder:
        """Read a run folder.

        Args:
            name: by default the folder's name.

        Raises:
            UserError: if it is not a run folder, or its run has no results.
        """
        if not folder.is_dir():
            raise UserError(f"{folder}: {no_folder(folder)}; name a run folder, such as runs/det-20260101-120000")
        if not (folder / CONFIG_FILE).is_file():
            raise UserError(f"{folder}: is not a run folder (it has no config.yaml); name a folder that a run wrote")
        config = read_yaml(folder / CONFIG_FILE)
        task = next((task for key, task in TASK_OPTIONS.items() if isinstance(config, dict) and key in config), None)
        if task is None:
            path = folder / CONFIG_FILE
            raise UserError(f"{path}: does not hold the options of a training run; name a folder that a run wrote")
        if not (folder / RESULTS_FILE).is_file():
            raise UserError(
                f"{folder}: has no results.json, because its run is not finished; continue it with "
                f"{resume_options(folder)}"
            )
        results = read_json(folder / RESULTS_FILE)
        if not isinstance(results, dict) or not isinstance(results.get("images"), int):
            path = folder / RESULTS_FILE
            raise UserError(f"{path}: does not hold the results of a run; evaluate again with --eval-only --resume")
        lines = [with_present_form(line, task) for line in read_lines(folder / LOG_FILE)]
        return cls(folder, name or folder.resolve().name, task, config, with_present_form(results, task), lines)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes that the run was evaluated on, in the order of their numbers."""
        return tuple(self.results.get("per_class") or ())

    @property
    def is_multi_label(self) -> bool:
        """Whether this is the run of a classifier of several classes an image, which has mAP in place of top-1."""
        return self.task == "classification" and "mAP" in self.results

    def file(self, name: str) -> Path | None:
        """Return the path of a file in the run folder; None if it does not exist."""
        path = self.folder / name
        return path if path.is_file() else None

    def locate(self, given: str) -> Path:
        """Return where a path that the run's config.yaml names is now.

        A relative path is looked up in the current folder. If it is not there, it is looked up in the folder where the
        run was started. That folder is known if the path of the run folder still ends with the option `output`.
        """
        path = Path(given)
        if path.is_absolute() or path.exists():
            return path
        output = Path(str(self.config.get("output") or "")).parts
        here = self.folder.resolve()
        if output and here.parts[-len(output) :] == output:
            from_start = Path(*here.parts[: -len(output)]) / path
            if from_start.exists():
                return from_start
        return path

    @cached_property
    def split(self) -> DataSplit | None:
        """The split of the training images, if the data have no validation split."""
        path = self.file(SPLITS_FILE)
        return DataSplit.read(path) if path else None

    @property
    def bits(self) -> int:
        """Bits that the values of the run's 16-bit images use."""
        return int(self.config.get("bits") or WHOLE_BITS)

    @property
    def data_name(self) -> str:
        """Name of the run's data set: folder or annotation file from its options, or "the built-in shapes"."""
        return str(self.config.get("data") or self.config.get("val_annotations") or "the built-in shapes")

    def data_root(self, given: str | None) -> Path | None:
        """Return the folder of the data set: `given`, or the one in the run's options; None for the built-in shapes."""
        named = given or self.config.get("data")
        return None if named is None else self.locate(str(named))


def read_runs(folders: Sequence[str]) -> list[RunFolder]:
    """Read runs of the same task, and give each a short unique name.

    Raises:
        UserError: for no folder, a duplicate folder, a folder without a finished run, or runs of different tasks.
    """
    if not folders:
        raise UserError("name one run folder, or several to compare: python tools/report.py runs/det-20260101-120000")
    paths = [Path(folder) for folder in folders]
    resolved = [path.resolve() for path in paths]
    duplicate = next((path for index, path in enumerate(paths) if resolved.index(path.resolve()) != index), None)
    if duplicate is not None:
        raise UserError(f"{duplicate}: is named twice; name each run once")
    runs = [RunFolder.read(path, name) for path, name in zip(paths, unique_names(resolved), strict=True)]
    first = runs[0]
    other = next((run for run in runs if run.task != first.task), None)
    if other is not None:
        raise UserError(
            f"{other.folder}: is a {other.task} run, but {first.folder} is a {first.task} run; name runs of one task"
        )
    return runs


def common_folder(runs: Sequence[RunFolder]) -> Path:
    """Return the folder of a single run, or the nearest folder that contains all of several runs."""
    if len(runs) == 1:
        return runs[0].folder
    return Path(os.path.commonpath([run.folder.resolve().parent for run in runs]))


def unique_names(paths: Sequence[Path]) -> list[str]:
    """Return short unique names for absolute paths: their last parts, without a beginning and end that all share."""
    # Use as many parts of the paths as make the names unique.
    for length in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-length:]) for path in paths]
        if len(set(names)) == len(names):
            break
    if len(names) == 1:
        return names
    # Cut what all names begin and end with.
    start = _common_start(names)
    end = _common_start([name[start:][::-1] for name in names])
    short = [name[start : len(name) - end] for name in names]
    return short if all(short) and len(set(short)) == len(short) else names


def _common_start(names: Sequence[str]) -> int:
    """Return how many letters at the start all names share, up to a separator, so that no word is cut."""
    columns = zip(*names, strict=False)
    common = "".join(letters[0] for letters in takewhile(lambda letters: len(set(letters)) == 1, columns))
    return max(common.rfind(separator) for separator in "-_/") + 1
