"""Reads results.json of any version of the toolkit: the metrics of each class have one form in all tasks."""

from __future__ import annotations

from collections.abc import Sequence

from backbones.common.files import JsonObject
from tools.evaluation.summary import class_keys

# The metric of a class that earlier versions wrote as a bare number.
BARE_METRICS = {"classification": "recall", "segmentation": "IoU"}


def with_present_form(values: JsonObject, task: str) -> JsonObject:
    """Return results, or a line of metrics.jsonl, in which `per_class` maps the name of each class to its metrics.

    Earlier versions wrote a list with an entry for each class of a detector, and one number for each class of the
    other tasks.
    """
    found = values.get("per_class")
    if isinstance(found, list):
        return {**values, "per_class": _of_list(found)}
    if isinstance(found, dict) and task in BARE_METRICS:
        metric = BARE_METRICS[task]
        entries = {name: entry if isinstance(entry, dict) else {metric: entry} for name, entry in found.items()}
        return {**values, "per_class": entries}
    return values


def _of_list(entries: Sequence[JsonObject]) -> JsonObject:
    names = class_keys({entry["id"]: str(entry["name"]) for entry in entries})
    return {names[entry["id"]]: {name: value for name, value in entry.items() if name != "name"} for entry in entries}
