"""Writes detections as files: COCO's results, CSV, a YOLO text or a VOC XML for each image, masks and crops."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, Protocol, TypeAlias
from xml.etree import ElementTree

import cv2
import numpy as np
from torch import Tensor

from backbones.common.contours import single_polygon
from backbones.common.encoding import encode_jpeg
from backbones.common.files import JsonObject, write_json, write_text
from backbones.errors import UserError, counted
from detection.data.annotations import CategoryMap
from detection.data.voc_writer import annotation_element, object_element
from detection.masks import decode
from detection.results import Detections
from tools.prediction.naming import NumberedImage
from tools.prediction.outputs import QUALITY, write_bytes
from tools.prediction.tasks import to_array

CSV_COLUMNS = ("image", "frame", "name", "label", "score", "left", "top", "right", "bottom")
Image = NumberedImage[Tensor]
MasksAs: TypeAlias = Literal["rle", "polygons", "png"]


class Form(Protocol):
    """Interface of one form of the results."""

    def add(self, image: Image, found: Detections) -> None:
        """Take the detections of an image."""

    def finish(self) -> list[str]:
        """Write what was not written yet; return a line of text for each file: its name and its content."""


class CocoForm:
    """COCO's results in predictions.json, and the images and categories in images.json."""

    def __init__(self, folder: Path, categories: CategoryMap, masks_as: MasksAs) -> None:
        self.folder, self.categories, self.masks_as = folder, categories, masks_as
        self.rows: list[JsonObject] = []
        self.images: list[JsonObject] = []

    def add(self, image: Image, found: Detections) -> None:
        rows = found.to_coco(image.number)
        for number, row in enumerate(rows):
            if self.masks_as == "polygons" and (polygon := single_polygon(_mask(found, number))):
                row["segmentation"] = [polygon]  # a mask without a pixel has no polygon and stays a run-length code
            elif self.masks_as == "png":
                row["mask"] = number + 1
                del row["segmentation"]
        self.rows += rows  # all at once: an interrupt leaves no image with some of its boxes
        self.images.append(image_row(image))

    def finish(self) -> list[str]:
        known = self.categories
        categories = [{"id": key, "name": name} for key, name in zip(known.ids, known.names, strict=True)]
        images = sorted(self.images, key=lambda row: row["id"])
        rows = sorted(self.rows, key=lambda row: (row["image_id"], -row["score"]))
        write_json(self.folder / "predictions.json", rows, indent=None)
        write_json(self.folder / "images.json", {"images": images, "categories": categories}, indent=None)
        return [
            f"predictions.json ({counted(len(rows), 'box')}, COCO's results format)",
            "images.json (images and categories)",
        ]


class CsvForm:
    """A line for each box in predictions.csv."""

    def __init__(self, folder: Path, categories: CategoryMap, masks_as: MasksAs) -> None:
        self.folder = folder
        self.lines: list[tuple[int, list[object]]] = []

    def add(self, image: Image, found: Detections) -> None:
        # A file name may hold bytes that are not UTF-8, which a text file cannot hold.
        shown = image.source.shown.encode("utf-8", "backslashreplace").decode("utf-8")
        frame = "" if image.frame is None else image.frame
        self.lines += [(image.number, [shown, frame, *_cells(row)]) for row in found.rows()]

    def finish(self) -> list[str]:
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(CSV_COLUMNS)
        writer.writerows(line for _, line in sorted(self.lines, key=lambda pair: pair[0]))
        write_text(self.folder / "predictions.csv", text.getvalue())
        return [f"predictions.csv ({counted(len(self.lines), 'box')})"]


class YoloForm:
    """A text file for each image: number of the class from 0, box or polygon as fractions of the sides, score.

    A box is its centre and its size, a polygon its corners.
    """

    def __init__(self, folder: Path, categories: CategoryMap, masks_as: MasksAs) -> None:
        self.folder, self.categories, self.masks_as = folder / "yolo", categories, masks_as

    def add(self, image: Image, found: Detections) -> None:
        height, width = image.content.shape[1:]
        lines = []
        for number, each in enumerate(found):
            left, top, right, bottom = each.box
            place = [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
            if self.masks_as == "polygons":
                corners = [left, top, right, top, right, bottom, left, bottom]
                place = single_polygon(_mask(found, number)) or corners  # a mask without a pixel has no polygon
            fractions = [value / (height if at % 2 else width) for at, value in enumerate(place)]
            label = self.categories.ids.index(each.label)
            lines.append(" ".join([str(label), *(f"{value:.6f}" for value in (*fractions, each.score))]))
        path = self.folder / "labels" / f"{result_name(image)}.txt"
        write_bytes(path, "".join(f"{line}\n" for line in lines).encode())

    def finish(self) -> list[str]:
        write_bytes(self.folder / "classes.txt", "".join(f"{name}\n" for name in self.categories.names).encode())
        place = "x, y, x, y, ..." if self.masks_as == "polygons" else "centre x, centre y, width, height"
        return [f"yolo/labels/ (class, {place}, score)", "yolo/classes.txt"]


class VocForm:
    """An XML file for each image, in Pascal VOC's layout with a score for each object."""

    def __init__(self, folder: Path, categories: CategoryMap, masks_as: MasksAs) -> None:
        self.folder = folder / "voc"

    def add(self, image: Image, found: Detections) -> None:
        row = image_row(image)
        root = annotation_element({**row, "file_name": Path(row["file_name"]).name})
        for record, each in zip(found.to_coco(), found, strict=True):
            thing = object_element(record, each.name)
            ElementTree.SubElement(thing, "score").text = f"{each.score:.5f}"
            root.append(thing)
        ElementTree.indent(root, "\t")
        write_bytes(self.folder / f"{result_name(image)}.xml", ElementTree.tostring(root, encoding="utf-8"))

    def finish(self) -> list[str]:
        return ["voc/ (Pascal VOC's XML files, with scores)"]


class CropsForm:
    """The part of the image in each box, as crops/CLASS/NAME-NUMBER.jpg."""

    def __init__(self, folder: Path, categories: CategoryMap, masks_as: MasksAs) -> None:
        self.folder, self.count = folder / "crops", 0

    def add(self, image: Image, found: Detections) -> None:
        for number, (each, crop) in enumerate(zip(found, found.crops(to_array(image.content)), strict=True)):
            path = self.folder / safe_name(each.name) / f"{result_name(image)}-{number}.jpg"
            write_bytes(path, encode_jpeg(np.asarray(crop), QUALITY))
            self.count += 1

    def finish(self) -> list[str]:
        return [f"crops/ ({counted(self.count, 'JPEG')}, by class)"]


class MaskForm:
    """A PNG for each image, as masks/NAME.png: pixels hold the number of their detection in the image, 0 for none.

    The number is the `mask` of the detection in COCO's results. Where masks overlap, the one of the higher score shows.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder / "masks", 0

    def add(self, image: Image, found: Detections) -> None:
        numbers = np.zeros(image.content.shape[1:], np.uint8 if len(found) < 256 else np.uint16)
        for number in np.argsort(found.scores.numpy(), kind="stable").tolist():
            numbers[_mask(found, number)] = number + 1
        done, content = cv2.imencode(".png", numbers)
        assert done
        write_bytes(self.folder / f"{result_name(image)}.png", content.tobytes())
        self.count += 1

    def finish(self) -> list[str]:
        return [f"masks/ ({counted(self.count, 'PNG')}; pixels hold the number of their detection)"]


FORMS: dict[str, Callable[[Path, CategoryMap, MasksAs], Form]] = {
    "coco": CocoForm,
    "csv": CsvForm,
    "yolo": YoloForm,
    "voc": VocForm,
    "crops": CropsForm,
}


def open_forms(names: Sequence[str], folder: Path, categories: CategoryMap, *, masks_as: MasksAs = "rle") -> list[Form]:
    """Return the chosen forms, each once; coco if none is chosen. Masks as PNGs are a form of their own."""
    forms = [FORMS[name](folder, categories, masks_as) for name in dict.fromkeys(names or ["coco"])]
    return [*forms, MaskForm(folder)] if masks_as == "png" else forms


def require_forms(names: Sequence[str], possible: Sequence[str], task: str) -> None:
    """Refuse forms that a task does not have.

    Raises:
        UserError: naming the first such form.
    """
    for name in names:
        if name not in possible:
            raise UserError(f"--save {name}: {task} models write {', '.join(possible)}; leave {name} out")


def image_row(image: Image) -> JsonObject:
    """Return an image's record in COCO's form."""
    height, width = image.content.shape[1:]
    row = {"id": image.number, "file_name": image.source.shown, "width": width, "height": height}
    return row if image.frame is None else {**row, "frame": image.frame}


def _mask(found: Detections, number: int) -> np.ndarray:
    """Return the mask `[H, W]` bool of a detection."""
    assert found.outlines is not None
    return decode(found.outlines.codes[number : number + 1], found.outlines.size)[0].numpy()


def result_name(image: Image) -> str:
    """Return the path of an image's results without suffix; a frame of a video has its number."""
    return image.name if image.frame is None else f"{image.name}/{image.frame:06d}"


def safe_name(name: str) -> str:
    """Return a class name as the name of a folder."""
    kept = re.sub(r"[^\w\-. ]", "_", name).strip(". ")
    return kept or "_"


def _cells(row: JsonObject) -> list[object]:
    """Return the cells of a box in CSV: name, label, score of five decimals, corners of three."""
    corners = (f"{row[side]:.3f}" for side in ("left", "top", "right", "bottom"))
    return [row["name"], row["label"], f"{row['score']:.5f}", *corners]
