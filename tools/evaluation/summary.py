"""Computes COCO's twelve metrics from arrays of precision and recall, and formats them as tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

import numpy as np

from backbones.errors import counted

IouType = Literal["bbox", "segm", "boundary"]  # what the IoU compares: boxes, masks, or masks and their boundaries
PREFIXES: dict[IouType, str] = {"bbox": "", "segm": "segm_", "boundary": "boundary_"}  # of metrics' names in results
TITLES: dict[IouType, str] = {"bbox": "boxes", "segm": "masks", "boundary": "mask boundaries"}
BOXES: tuple[IouType, ...] = ("bbox",)
AREAS = {"all": "any size", "small": "below 32^2 px", "medium": "from 32^2 to 96^2 px", "large": "above 96^2 px"}
LIMITS = (1, 10, 100)  # detections per image and class
LIMIT = 100  # of these counts in AP and in recall by size, as COCO does
AP_METRICS: dict[
    str, tuple[int | None, str]
] = {  # index of the IoU threshold in .50, .55, ... .95 (None: mean of all), area range
    "AP": (None, "all"),
    "AP50": (0, "all"),
    "AP75": (5, "all"),
    "APs": (None, "small"),
    "APm": (None, "medium"),
    "APl": (None, "large"),
}
AR_METRICS: dict[str, tuple[int | None, str]] = {  # detections per image and class, area range
    "AR1": (1, "all"),
    "AR10": (10, "all"),
    "AR100": (100, "all"),
    "ARs": (None, "small"),  # None: the limit of AP
    "ARm": (None, "medium"),
    "ARl": (None, "large"),
}
COUNTS = {"images": "image", "boxes": "box", "detections": "detection"}  # in the first line of the table
FEW_CLASSES = 5  # most frequent and worst ones that are printed after a run
METRICS = (*AP_METRICS, *AR_METRICS)


class ClassMetrics(TypedDict, total=False):
    """The metrics of one class; None if the class has no objects.

    Boxes, masks and boundaries have metrics if they were evaluated. VOC's metrics need protocol "voc".
    """

    id: int  # of the category
    AP: float | None
    AP50: float | None
    segm_AP: float | None
    segm_AP50: float | None
    boundary_AP: float | None
    boundary_AP50: float | None
    images: int  # images with the class
    boxes: int  # without crowds
    VOC07: float | None
    VOC12: float | None


def area_of(metric: str) -> str:
    """Return the object sizes that a metric covers, as a key of AREAS: "small" for APs, "all" for AP."""
    return (AP_METRICS | AR_METRICS)[metric][1] if metric in METRICS else "all"


def limits_of(most: int) -> list[int]:
    """Return the numbers of detections per image and class at which recall is measured: `most`, and COCO's below."""
    return sorted({min(limit, most) for limit in LIMITS} | {most})


def metric_names(most: int) -> tuple[str, ...]:
    """Return the names of the metrics: COCO's twelve, and the recall at `most` detections if it is not among them."""
    return METRICS if most in LIMITS else (*METRICS, f"AR{most}")


def summarize(precision: np.ndarray, recall: np.ndarray, most: int = LIMIT) -> dict[str, float | None]:
    """Compute all metrics that `metric_names` lists. A metric without ground truth is None.

    Args:
        precision: [T, R, K, A, M] over IoU thresholds, recall points, classes, areas, limits; -1: undefined.
        recall: [T, K, A, M].
        most: detections per image and class that count in AP. The axis M has the values of `limits_of(most)`.
    """
    figures: dict[str, float | None] = {}
    limits = limits_of(most)
    for name, (threshold, area) in AP_METRICS.items():
        values = precision[..., _area_index(area), -1]
        figures[name] = _mean(values if threshold is None else values[threshold])
    for name, (limit, area) in AR_METRICS.items():
        figures[name] = _mean(recall[..., _area_index(area), limits.index(min(limit or most, most))])
    if most not in LIMITS:
        figures[f"AR{most}"] = _mean(recall[..., _area_index("all"), -1])
    return figures


def per_class(
    precision: Mapping[IouType, np.ndarray],
    categories: Mapping[int, str],
    counts: Mapping[int, tuple[int, int]],
) -> dict[str, ClassMetrics]:
    """Return AP and AP50 of each class by its name, in the order of ids.

    Args:
        precision: [T, R, K, A, M] for each kind of IoU.
        categories: names by category id; see `class_keys` for a name that several categories have.
        counts: numbers of images and objects of each category.
    """
    return {
        name: {
            "id": category,
            **_class_metrics(precision, index),
            "images": counts[category][0],
            "boxes": counts[category][1],
        }
        for index, (category, name) in enumerate(class_keys(categories).items())
    }


def class_keys(categories: Mapping[int, str]) -> dict[int, str]:
    """Return a unique name of each category by id. If several categories have a name, the id is added to it."""
    counts = Counter(categories.values())
    return {key: f"{name} (id {key})" if counts[name] > 1 else name for key, name in categories.items()}


def _class_metrics(precision: Mapping[IouType, np.ndarray], index: int) -> ClassMetrics:
    found: dict[str, float | None] = {}
    for iou, values in precision.items():
        found[f"{PREFIXES[iou]}AP"] = _mean(values[:, :, index, 0, -1])
        found[f"{PREFIXES[iou]}AP50"] = _mean(values[0, :, index, 0, -1])
    return found  # type: ignore[return-value]


def iou_types_of(results: Mapping[str, Any]) -> list[IouType]:
    """Return which kinds of IoU the metrics of a run, or of one of its classes, contain."""
    return [iou for iou, prefix in PREFIXES.items() if f"{prefix}AP" in results]


def format_table(results: Mapping[str, Any], *, per_class: bool = False) -> str:
    """Format the metrics as a text table in percent, followed by reasons and warnings.

    Args:
        per_class: add one line per class.
    """
    names = metric_names(results.get("max_detections", LIMIT))
    lines = [
        ", ".join(counted(results[key], noun) for key, noun in COUNTS.items()),
        "  ".join(f"{name:>5}" for name in names),
    ]
    ious = iou_types_of(results)
    for iou in ious:
        values = "  ".join(f"{_percent(results[PREFIXES[iou] + name]):>5}" for name in names)
        lines.append(values if ious == ["bbox"] else f"{values}  {TITLES[iou]}")
    if "VOC07" in results:
        figures = f"{_percent(results['VOC07'])} (11 points), {_percent(results['VOC12'])} (all points)"
        lines.append(f"Pascal VOC's mAP at IoU 0.5: {figures}")
    if lvis := [name for name in results if name.startswith("LVIS_")]:
        lines.append("LVIS: " + ", ".join(f"{name[5:]} {_percent(results[name])}" for name in lvis))
    lines += _reason_lines(results["reasons"])
    lines += [f"warning: {text}" for text in results["warnings"]]
    return "\n".join(lines + (_class_lines(results["per_class"], list(results["per_class"])) if per_class else []))


def class_summary(classes: Mapping[str, ClassMetrics]) -> str:
    """Format the metrics of the most frequent and of the worst classes as a text table; of all if there are few.

    Classes without ground truth are left out.
    """
    known = {name: entry for name, entry in classes.items() if _main_ap(entry) is not None}
    if len(known) <= 2 * FEW_CLASSES:
        return "\n".join(_class_lines(known, list(known))[1:])
    frequent = sorted(known, key=lambda name: -known[name]["boxes"])[:FEW_CLASSES]
    worst = sorted(known, key=lambda name: _main_ap(known[name]) or 0.0)[:FEW_CLASSES]
    header, *lines = _class_lines(known, [*frequent, *worst])[1:]
    shown = ["most frequent:", *lines[:FEW_CLASSES], "worst:", *lines[FEW_CLASSES:]]
    return "\n".join([header, *shown, f"results.json has all {len(classes)} classes"])


def _main_ap(entry: ClassMetrics) -> float | None:
    """Return the AP of a class by the first kind of IoU that was evaluated."""
    return entry[f"{PREFIXES[iou_types_of(entry)[0]]}AP"]  # type: ignore[literal-required]


def _reason_lines(reasons: Mapping[str, str]) -> list[str]:
    """Return a line of text for each distinct reason, beginning with the metrics that the reason explains."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        by_reason.setdefault(reason, []).append(name)
    return [f"{', '.join(names)}: {reason}" for reason, names in by_reason.items()]


def _class_lines(classes: Mapping[str, ClassMetrics], names: Sequence[str]) -> list[str]:
    width = max([len(name) for name in names] + [5])
    prefixes = [PREFIXES[iou] for iou in (iou_types_of(classes[names[0]]) if names else BOXES)]
    metrics = [f"{prefix}{name}" for prefix in prefixes for name in ("AP", "AP50")]
    columns = {name: name.replace("_", " ") for name in metrics}
    header = "  ".join(f"{title:>5}" for title in columns.values())
    lines = ["", f"{'class':<{width}}  {header}  images    boxes"]
    for name in names:
        values: Mapping[str, Any] = classes[name]
        figures = "  ".join(f"{_percent(values[key]):>{max(5, len(title))}}" for key, title in columns.items())
        lines.append(f"{name:<{width}}  {figures}  {values['images']:>6}  {values['boxes']:>7}")
    return lines


def _percent(value: float | None) -> str:
    return "n/a" if value is None else f"{100 * value:.1f}"


def _area_index(area: str) -> int:
    return list(AREAS).index(area)


def _mean(values: np.ndarray) -> float | None:
    defined = values[values > -1]
    return float(np.mean(defined)) if defined.size else None
