"""Label Studio's JSON and JSON-MIN: a list of tasks, and the images. Coordinates are percentages of the image.

Source: https://labelstud.io/guide/task_format and https://labelstud.io/guide/export
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from backbones.common.brush import decode_brush
from backbones.common.brush_files import BrushExport
from backbones.common.datasets import Record
from backbones.common.image_finder import ImageFinder
from backbones.common.label_studio import ANNOTATED, FURTHER, UNLABELLED, usable_annotations
from backbones.common.outlines import box_of_mask, run_lengths
from backbones.common.suffixes import IMAGE_SUFFIXES
from backbones.common.turning import box_of_ellipse, ellipse, turned
from backbones.errors import UserError
from detection.data.layouts.base import LAYOUTS, Reading
from detection.data.layouts.collector import NO_AREA, NO_NAME, Collector, as_number, box_around, numbers
from detection.data.layouts.files import FileLayout
from detection.data.layouts.json_files import read_json
from detection.data.layouts.sniffing import json_kind
from detection.data.truth import Truth

Shape = tuple[
    list[object], list[list[float]] | Record, bool
]  # box, polygons or run lengths, whether the box was turned
TURNED = "turned boxes replaced by the box around them"


@LAYOUTS.register("label-studio")
class LabelStudioLayout(FileLayout):
    """Label Studio's own JSON."""

    name = "label-studio"
    form = "Label Studio's JSON and images"
    file = "a JSON or JSON-MIN file of Label Studio"
    suffixes = (".json",)
    joins = True

    def reads(self, path: Path) -> bool:
        return json_kind(path) == "label-studio"

    def matches(self, root: Path) -> bool:
        """Return whether a folder has this layout, and no masks in files that its tasks lack."""
        return super().matches(root) and BrushExport.of(root) is None

    def read_file(self, path: Path, images: Path, how: Reading, *, others: list[Path]) -> Truth:
        return _read(path, self.images_in(images), how).finish(splits=self.classes_of_each((path, *others)))

    def classes_in(self, path: Path) -> list[str]:
        return sorted({*_names(path)})


def _read(path: Path, images: ImageFinder, how: Reading) -> Collector:
    records = Collector("label-studio", path, images, how, "result")
    for number, task in enumerate(_tasks(path), 1):
        results = _results(task, records.note)
        if results is None:
            records.note(UNLABELLED)
            continue
        size = next((sides for result in results if (sides := _size(result))), ())
        record = records.add_image(_image(task), path, size=size, where=f"task {task.get('id', number)}")
        if record is not None:
            _add_results(results, record, records)
    return records


def _add_results(results: list[Record], image: Record, records: Collector) -> None:
    """Add the labelled regions of an image. A region's geometry and its label may be two results of one id."""
    labelled = {result.get("id") for result in results if _labels(result)}
    for ordinal, result in enumerate(results, 1):
        shape = _shape(result, image["width"], image["height"])
        if shape is None:
            if not result.get("value", {}).keys() & {"choices", "text", "rating", "number", "taxonomy"}:
                records.note(NO_AREA)
            continue
        labels = _labels(result)
        if not labels and result.get("id") not in labelled:
            records.note(NO_NAME)
        if isinstance(shape, str):
            records.refuse(ordinal, shape)
            continue
        box, outline, is_turned = shape
        if is_turned and labels:
            records.note(TURNED)
        for label in labels:
            records.add_object(label, box, ordinal, outline=outline)


def _shape(result: Record, width: int, height: int) -> Shape | str | None:
    """Return the shape of a result in pixels, None if it has no box, or what is wrong with it."""
    value = result["value"]
    if isinstance(value.get("rle"), list):
        return _stroke(value["rle"], (height, width))
    angle = as_number(value.get("rotation") or 0) or 0.0
    if "points" in value:
        points = numbers(value["points"])
        if points is None or len(points) < 6 or len(points) % 2:
            return [None], [], False
        scaled = [point * (height if index % 2 else width) / 100 for index, point in enumerate(points)]
        return [*box_around(scaled)], [scaled], False
    if {"radiusX", "radiusY"} <= value.keys():
        names, factors = ("x", "y", "radiusX", "radiusY"), (width, height) * 2
    elif {"x", "y", "width", "height"} <= value.keys() and result.get("type") not in ("keypointlabels", "brushlabels"):
        names, factors = ("x", "y", "width", "height"), (width, height) * 2
    else:
        return None
    sides = [as_number(value[name]) for name in names]
    known = [side * factor / 100 for side, factor in zip(sides, factors, strict=True) if side is not None]
    if len(known) < 4:
        return [None], [], False
    if "radiusX" in names:
        x, y, across, down = known
        frame = [x - across, y - down, 2 * across, 2 * down]
        return [*box_of_ellipse(frame, angle)], [ellipse(frame, angle)], bool(angle)
    if not angle:
        return [*known], [], False
    corners = turned(known, angle, (known[0], known[1]))  # Label Studio turns a rectangle around its first corner
    return [*box_around(corners)], [corners], True


def _stroke(runs: list[float], size: tuple[int, int]) -> Shape | str | None:
    """Return box and run lengths of a stroke of the brush in an image of size (height, width)."""
    try:
        mask = decode_brush(runs, size)
    except ValueError as error:
        return f"the stroke of its brush is malformed ({error}); export it again"
    return ([*box_of_mask(mask)], dict(run_lengths(mask)), False) if mask.any() else None


def _results(task: Record, note: Callable[[str], None]) -> list[Record] | None:
    """Return the results of a task's annotation; None if nobody annotated the task. Others are counted with `note`."""
    given = task.get("annotations", task.get("completions"))
    if given is None:  # JSON-MIN: the values are entries of the task
        lists = [value for value in task.values() if isinstance(value, list) and all(map(_is_minimal, value))]
        return (
            [{"value": value, **_sides_of(value)} for part in lists for value in part]
            if lists or ANNOTATED in task
            else None
        )
    usable = usable_annotations(given)
    if not usable:
        return None
    for _ in usable[1:]:
        note(FURTHER)
    results = usable[0].get("result")
    results = results if isinstance(results, list) else []
    return [result for result in results if isinstance(result, dict) and isinstance(result.get("value"), dict)]


def _is_minimal(value: object) -> bool:
    return isinstance(value, dict) and {"x", "y", "points", "rle"} & value.keys() != set()


def _sides_of(value: Record) -> Record:
    return {name: value[name] for name in ("original_width", "original_height") if name in value}


def _size(result: Record) -> tuple[object, ...]:
    sides = (result.get("original_width"), result.get("original_height"))
    return sides if all(sides) else ()


def _labels(result: Record) -> list[object]:
    """Return the class names of a result, which stand in the list that is named as its type, or in `labels`."""
    value = result["value"]
    return next((list(names) for key, names in value.items() if key.endswith("labels") and isinstance(names, list)), [])


def _names(path: Path) -> list[str]:
    """Return the class names in a file."""
    results: list[Record] = []
    for task in _tasks(path):
        results += _results(task, lambda _: None) or []
    found = (label for result in results for label in _labels(result))
    return [label.strip() for label in found if isinstance(label, str) and label.strip()]


def _image(task: Record) -> object:
    """Return the name of a task's image: the first value that has the suffix of an image."""
    data = task["data"] if isinstance(task.get("data"), dict) else task
    texts = [value for value in data.values() if isinstance(value, str)]
    named = (text for text in texts if text.partition("&")[0].lower().endswith(IMAGE_SUFFIXES))
    return next(named, data.get("image"))


def _tasks(path: Path) -> Iterator[Record]:
    data = read_json(path)
    if not isinstance(data, list) or not all(isinstance(task, dict) for task in data):
        raise UserError(f"{path}: is not a list of tasks; export it from Label Studio as JSON")
    yield from data
