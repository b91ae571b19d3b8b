"""The model card of a run, and the copy of its weights that may leave the machine."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from backbones.trained import Trained
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


def card(trained: Trained, *, repository: str, licence: str, results: dict[str, Any]) -> str:
    """The README.md of a repository: data, recipe, figures, licence, how to load.

    Args:
        results: of the run's `results.json`; may be empty.
    """
    meta, config = public(trained.meta), public(trained.config)
    names = meta.get("classes") or meta.get("category_names") or []
    head = {
        "license": licence,
        "library_name": "resnet-transfer",
        "pipeline_tag": PIPELINES[trained.task],
        "tags": ["resnet", trained.task],
    }
    metrics = TASK_METRICS[trained.task].validation
    figures = {each.key: value for each in metrics if (value := each.fraction(results)) is not None}
    shown = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    start = config.get("weights") or meta["model"].get("weights") or "none"
    sections = {
        "Data": f"Trained on `{config.get('data') or 'built-in shapes'}`, {len(names)} classes: {shown}.\n\n"
        f"Input: `{json.dumps(meta['input'])}`",
        "Recipe": f"Began from weights `{start}`.\n\n" + _table({k: config[k] for k in RECIPE if k in config}),
        "Figures": _table(figures) if figures else "The run left none.",
        "Licence": f"`{licence}`" + (": not stated by the owner." if licence == "unknown" else ""),
        "Load": f'```python\nimport {trained.task}\n\nnet = {trained.task}.load("hf:{repository}")\n'
        f'net("image.jpg")\n\nimport backbones\n\nbackbones.build("{meta["model"]["backbone"]}", '
        f'weights="hf:{repository}")\n```',
    }
    front = "\n".join(f"{name}: {json.dumps(value)}" for name, value in head.items())  # JSON is YAML
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items())
    return f"---\n{front}\n---\n\n# {meta['model']['backbone']}, {trained.task}\n\n{body}\n"


def public(value: Any) -> Any:
    """JSON values whose paths have lost their folders: those say who and where, and mean nothing elsewhere."""
    if isinstance(value, dict):
        return {name: public(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [public(each) for each in value]
    is_path = isinstance(value, str) and (os.path.isabs(value) or value.startswith(("~", ".")) or os.path.exists(value))
    return Path(value).name if is_path and os.sep in value else value


def write_public(trained: Trained, path: Path) -> None:
    """A copy of the weights whose header names no folder of this machine."""
    from safetensors.torch import load_file

    from tools.engine.checkpoint import write_safetensors

    header = {"meta": json.dumps(public(trained.meta)), "config": json.dumps(public(trained.config))}
    write_safetensors(path, load_file(trained.path), header)


def _table(rows: dict[str, Any]) -> str:
    lines = [f"| {name} | {round(v, 4) if isinstance(v, float) else v} |" for name, v in rows.items() if v is not None]
    return "\n".join(["| | |", "|---|---|", *lines])
