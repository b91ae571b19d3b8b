"""The recipes and experiments that the package holds: found by name, and listed with their first comment."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from backbones.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
TASKS = ("classification", "detection", "segmentation")


def packaged(kind: str, task: str = "*") -> list[Path]:
    """Return the YAML files of a kind ("recipes" or "experiments"), of one task or of all."""
    tasks = TASKS if task == "*" else (task,)
    return [path for name in tasks for path in sorted((ROOT / name / kind).glob("*.yaml"))]


def experiment_file(name: str) -> Path:
    """Return the file of an experiment: an existing file, or a packaged experiment without folder and suffix.

    Raises:
        UserError: neither exists; the message names near packaged experiments.
    """
    path = Path(name)
    if path.is_file():
        return path
    known = {each.stem: each for each in packaged("experiments")}
    stem = "/".join(path.parts[-3:]).removesuffix(".yaml")
    for each in known.values():  # by its name, or by its folder in a checkout: detection/experiments/transfer.yaml
        if stem in (each.stem, "/".join(each.parts[-3:]).removesuffix(".yaml")):
            return each
    near = ", ".join(get_close_matches(path.stem, known, 3, 0.5)) or ", ".join(known)
    raise UserError(
        f"{name}: is neither a file nor a packaged experiment; name a YAML file or one of the packaged experiments: "
        f"{near}; --list describes them"
    )


def config_file(task: str, name: str) -> str:
    """Return the file that a value of `--config` names: itself, or the packaged recipe of a task with this name."""
    if not Path(name).is_file():
        name = {path.stem: str(path) for path in packaged("recipes", task)}.get(name, name)
    return name


def describe(kind: str, task: str = "*") -> str:
    """Return a line for each packaged file of a kind: its name and its first comment."""
    files = packaged(kind, task)
    width = max(len(path.stem) for path in files)
    lines = []
    for name in TASKS:
        own = [path for path in files if path.parts[-3] == name]
        lines += [f"{kind} of {name}"] * bool(own) + [f"  {path.stem:<{width}}  {_comment(path)}" for path in own]
    return "\n".join(lines)


def _comment(path: Path) -> str:
    with path.open(encoding="utf-8") as file:
        return file.readline().removeprefix("#").strip()
