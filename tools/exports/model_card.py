"""Writes the model card of a run, and a copy of its weights without the paths of this machine."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from itertools import chain
from pathlib import Path

from safetensors.torch import load_file

from backbones.errors import counted, first_names
from backbones.trained import TrainedFile
from tools.engine.checkpoint import write_safetensors
from tools.runs.metrics import TASK_METRICS

PIPELINES = {
    "classification": "image-classification",
    "detection": "object-detection",
    "segmentation": "image-segmentation",
}
RECIPE = (
    *("epochs", "batch_size", "optimizer", "base_lr", "lr", "weight_decay", "schedule", "warmup", "ema", "augment"),
    *("precision", "seed"),
)
SHOWN_CLASSES = 20


def model_card(trained: TrainedFile, *, repository: str, licence: str, results: Mapping[str, object]) -> str:
    """Return a model card, the README.md of a repository: data, recipe, metrics, licence, and loading code.

    Args:
        repository: "owner/name".
        licence: licence of the weights, as the hub spells it.
        results: the run's results.json; may be empty.
    """
    backbone, task = trained.meta["model"]["backbone"], trained.task
    sections = {
        "Data": _data(trained),
        "Recipe": _recipe(trained),
        "Metrics": _metrics(task, results),
        "Licence": f"`{licence}`" + (": not stated by the owner." if licence == "unknown" else ""),
        "Load": f'```python\nimport {task}\n\nmodel = {task}.load("hf:{repository}")\nmodel("image.jpg")\n\n'
        f'import backbones\n\nbackbones.build("{backbone}", weights="hf:{repository}")\n```',
    }
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items())
    return f"---\n{_front_matter(trained, licence)}\n---\n\n# {backbone}, {task}\n\n{body}\n"


def _front_matter(trained: TrainedFile, licence: str) -> str:
    """Return the YAML header that the hub reads. Its values are written as JSON, which is valid YAML."""
    with_masks = bool(trained.meta["model"].get("masks"))
    values = {
        "license": licence,
        "library_name": "resnet-transfer",
        "pipeline_tag": PIPELINES["segmentation" if with_masks else trained.task],
        "tags": ["resnet", trained.task, *["instance-segmentation"] * with_masks],
    }
    return "\n".join(f"{name}: {json.dumps(value)}" for name, value in values.items())


def _data(trained: TrainedFile) -> str:
    names = trained.meta.get("classes") or trained.meta.get("category_names") or []
    data = public(trained.config.get("data")) or "built-in shapes"
    shown = first_names(names, SHOWN_CLASSES)
    classes = counted(len(names), "class")
    return f"Trained on `{data}`, {classes}: {shown}.\n\nInput: `{json.dumps(public(trained.meta['input']))}`"


def _recipe(trained: TrainedFile) -> str:
    start = public(trained.config.get("weights") or trained.meta["model"].get("weights")) or "none"
    values = {name: public(trained.config[name]) for name in RECIPE if name in trained.config}
    return f"Trained from weights `{start}`.\n\n{_table(values)}"


def _metrics(task: str, results: Mapping[str, object]) -> str:
    known = TASK_METRICS[task]
    others = (each.validation for key, each in known.alternatives.items() if key in results)
    metrics = (*known.validation, *chain.from_iterable(others))
    found = {each.key: value for each in metrics if (value := each.fraction(results)) is not None}
    return _table(found) if found else "The run has no metrics."


def _table(rows: Mapping[str, object]) -> str:
    """Return a Markdown table of names and values, without the values that are None."""
    lines = [f"| {name} | {round(v, 4) if isinstance(v, float) else v} |" for name, v in rows.items() if v is not None]
    return "\n".join(["| | |", "|---|---|", *lines])


def public(value: object) -> object:
    """Return JSON values in which each path is shortened to its file name, because others do not have our folders."""
    if isinstance(value, dict):
        return {name: public(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [public(each) for each in value]
    if not isinstance(value, str) or os.sep not in value:
        return value
    is_path = os.path.isabs(value) or value.startswith(("~", ".")) or os.path.exists(value)
    return Path(value).name if is_path else value


def write_public(trained: TrainedFile, path: Path) -> None:
    """Write a copy of the weights whose header names no folder of this machine."""
    header = {"meta": json.dumps(public(trained.meta)), "config": json.dumps(public(trained.config))}
    write_safetensors(path, load_file(trained.path), header)
