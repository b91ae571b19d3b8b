"""A finished run as the report sees it: what its folder holds, and where its data lies now."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from backbones.common.files import read_yaml
from backbones.errors import UserError
from tools.evaluation.reading import read_json
from tools.runs.log import read_lines

# An option that each training script alone has tells whose run it is.
TASKS = {"neck": "detection", "head": "segmentation", "test_crops": "classification"}


@dataclass(frozen=True)
class RunFolder:
    """What a run left behind.

    Attributes:
        name: what the report calls it, its own among the runs of one report.
        task: detection, segmentation or classification.
        config: all options; results: results.json; lines: of metrics.jsonl.
    """

    folder: Path
    name: str
    task: str
    config: dict[str, Any]
    results: dict[str, Any]
    lines: list[dict[str, Any]]

    @classmethod
    def read(cls, folder: Path, name: str = "") -> RunFolder:
        """Read a run folder.

        Raises:
            UserError: where it is no run folder, or one of a run without results.
        """
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; name a run folder, such as runs/det-20260101-120000")
        if not (folder / "config.yaml").is_file():
            raise UserError(f"{folder}: is no run folder (it has no config.yaml)")
        config = read_yaml(folder / "config.yaml")
        task = next((task for key, task in TASKS.items() if isinstance(config, dict) and key in config), None)
        if task is None:
            raise UserError(f"{folder / 'config.yaml'}: holds the options of no training script")
        if not (folder / "results.json").is_file():
            raise UserError(f"{folder}: has no results.json, the run is not finished; go on with --resume --output")
        results = read_json(folder / "results.json")
        if not isinstance(results, dict) or not isinstance(results.get("images"), int):
            raise UserError(f"{folder / 'results.json'}: not a run's results; measure again with --eval-only --resume")
        return cls(folder, name or folder.resolve().name, task, config, results, read_lines(folder / "metrics.jsonl"))

    def file(self, name: str) -> Path | None:
        """A file of the folder, None where it is absent."""
        path = self.folder / name
        return path if path.is_file() else None

    def locate(self, given: str) -> Path:
        """A path of the configuration: from here, or from where the run was started, as its own folder tells."""
        path = Path(given)
        if path.is_absolute() or path.exists():
            return path
        own = Path(str(self.config.get("output") or "")).parts
        here = self.folder.resolve()
        if own and here.parts[-len(own) :] == own and (there := Path(*here.parts[: -len(own)]) / path).exists():
            return there
        return path

    @property
    def data_name(self) -> str:
        """What to call the data in a sentence."""
        return str(self.config.get("data") or self.config.get("val_annotations") or "the built-in shapes")

    def data_root(self, given: str | None) -> Path | None:
        """The data set's folder: the one that the report was told, else the run's own; None for the shapes."""
        named = given or self.config.get("data")
        return None if named is None else self.locate(str(named))


def read_runs(folders: Sequence[str]) -> list[RunFolder]:
    """Runs of one task, each with a name of its own.

    Raises:
        UserError: for none, for a folder that stands twice, for no run, or for runs of different tasks.
    """
    if not folders:
        raise UserError("name one run folder, or several to compare: python tools/report.py runs/det-20260101-120000")
    paths = [Path(folder) for folder in folders]
    seen = [path.resolve() for path in paths]
    twice = next((path for place, path in enumerate(paths) if seen.index(path.resolve()) != place), None)
    if twice is not None:
        raise UserError(f"{twice}: is named twice; name each run once")
    runs = [RunFolder.read(path, name) for path, name in zip(paths, _names(seen), strict=True)]
    odd = next((run for run in runs if run.task != runs[0].task), None)
    if odd is not None:
        raise UserError(
            f"{odd.folder}: is a {odd.task} run, {runs[0].folder} a {runs[0].task} run; one report is of one task"
        )
    return runs


def common_folder(runs: Sequence[RunFolder]) -> Path:
    """The run's own folder; of several runs the nearest folder that holds them all."""
    if len(runs) == 1:
        return runs[0].folder
    return Path(os.path.commonpath([run.folder.resolve().parent for run in runs]))


def _names(paths: Sequence[Path]) -> list[str]:
    """Names that tell the runs apart: of the paths' ends what is not the same in all."""
    for length in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-length:]) for path in paths]
        if len(set(names)) == len(names):
            break
    if len(names) == 1:
        return names
    first = _shared(names)
    last = _shared([name[first:][::-1] for name in names])
    short = [name[first : len(name) - last] for name in names]
    return short if all(short) and len(set(short)) == len(short) else names


def _shared(names: Sequence[str]) -> int:
    """How many letters the names begin with alike, up to a separator, so that no word is cut."""
    columns = zip(*names, strict=False)
    alike = "".join(letters[0] for letters in takewhile(lambda letters: len(set(letters)) == 1, columns))
    return max(alike.rfind(mark) for mark in "-_/") + 1
