"""COCO files with other names than COCO's own: those of Roboflow, FiftyOne, Label Studio and others.

Roboflow writes `SPLIT/_annotations.coco.json` beside the images, FiftyOne `labels.json` and `data/`, Label Studio
`result.json` and `images/`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from backbones.common.datasets import Record, read_coco
from detection.data.layouts.base import LAYOUTS, Reading
from detection.data.layouts.files import FileLayout
from detection.data.layouts.other_tools import describe_other_tool
from detection.data.layouts.sniffing import json_kind
from detection.data.truth import Truth

ROBOFLOW = "_annotations.coco.json"


class _CocoFileLayout(FileLayout):
    suffixes = (".json",)

    def read_file(self, path: Path, images: Path, how: Reading, *, others: list[Path]) -> Truth:
        return read_coco_file(path, images, others=others)


@LAYOUTS.register("coco-roboflow")
class RoboflowCocoLayout(_CocoFileLayout):
    """Roboflow's COCO JSON."""

    name = "coco-roboflow"
    form = f"Roboflow's SPLIT/{ROBOFLOW} beside the images"
    file = ROBOFLOW

    def reads(self, path: Path) -> bool:
        return path.name == ROBOFLOW


@LAYOUTS.register("coco-json")
class CocoJsonLayout(_CocoFileLayout):
    """A COCO file of any name for each split."""

    name = "coco-json"
    form = "a COCO file SPLIT.json, labels.json or result.json, and images in images or data"
    file = "a COCO file"

    def reads(self, path: Path) -> bool:
        others = path.parent.name == "annotations" and any(path.parent.glob("instances_*.json"))
        is_coco = not others and path.name != ROBOFLOW and json_kind(path) == "coco"
        return is_coco and describe_other_tool(path) is None


def read_coco_file(path: Path, images: Path, *, others: Iterable[Path] = ()) -> Truth:
    """Read a COCO file of any name. The unused super-category of Roboflow's files is left out and counted.

    Args:
        others: files of the other splits. A category that they use is kept.

    Raises:
        UserError: the file cannot be read.
    """
    truth = Truth.of_coco(path, images)
    if path.name != ROBOFLOW:
        return truth
    used = _used(truth.data).union(*(_used(read_coco(file)) for file in others))
    unused = _unused_parents(truth.data, used)
    if not unused:
        return truth
    kept = [record for record in truth.data["categories"] if record not in unused]
    result = Truth("coco-roboflow", path, images, {**truth.data, "categories": kept})
    for record in unused:
        result.notes[f"unused super-category {record['name']} left out"] += 1
    return result


def _used(data: Record) -> set[object]:
    """Return the ids of the categories that have an annotation."""
    records = data.get("annotations")
    ids = [a.get("category_id") for a in records if isinstance(a, dict)] if isinstance(records, list) else []
    return {each for each in ids if isinstance(each, int)}


def _unused_parents(data: Record, used: set[object]) -> list[Record]:
    """Return the categories without annotations that other categories name as their super-category."""
    records = data.get("categories")
    known = [r for r in records if isinstance(r, dict)] if isinstance(records, list) else []
    return [
        record
        for record in known
        if isinstance(record.get("name"), str)
        and record.get("id") not in used
        and any(other is not record and other.get("supercategory") == record["name"] for other in known)
    ]
