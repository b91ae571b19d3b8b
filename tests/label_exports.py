"""Data sets of label maps in the exact forms that tools export: two images whose right half is class 1."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Exporter = Callable[[Path], None]
LABEL_EXPORTS: dict[str, Exporter] = {}  # functions that write a data set into a folder, by the name of the export


def export(name: str) -> Callable[[Exporter], Exporter]:
    """Return a decorator that adds a function to `LABEL_EXPORTS`."""

    def add(write: Exporter) -> Exporter:
        LABEL_EXPORTS[name] = write
        return write

    return add


HALF = np.repeat([[0, 0, 0, 1, 1, 1]], 4, axis=0).astype(np.uint8)  # 6 x 4 pixels: the right half is class 1


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def photo(path: Path) -> None:
    save(path, np.full((4, 6, 3), 90, np.uint8))


@export("flat")
def flat(root: Path) -> None:
    for name in ("a b", "c"):
        photo(root / "images" / f"{name}.jpg")
        save(root / "masks" / f"{name}.png", 255 * HALF)


@export("beside")
def beside(root: Path) -> None:
    for name in ("a b", "c"):
        photo(root / f"{name}.jpg")
        save(root / f"{name}_mask.png", 255 * HALF)


@export("cvat")
def cvat(root: Path) -> None:
    """CVAT's "Segmentation mask 1.1": colours in labelmap.txt, a list named default.txt."""
    lines = ("# label:color_rgb:parts:actions", "background:0,0,0::", "foreground:10,200,30::")
    for name in ("a b", "c"):
        photo(root / "JPEGImages" / f"{name}.jpg")
        save(root / "SegmentationClass" / f"{name}.png", HALF[..., None] * np.array([10, 200, 30], np.uint8))
        save(root / "SegmentationObject" / f"{name}.png", HALF[..., None] * np.array([128, 0, 0], np.uint8))
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    (root / "ImageSets/Segmentation/default.txt").write_text("a b\nc\n")
    (root / "labelmap.txt").write_text("\n".join(lines))


def shape(label: str, points: list[list[float]], kind: str = "polygon") -> dict[str, Any]:
    fields = {"group_id": None, "description": "", "shape_type": kind, "flags": {}, "mask": None}
    return {"label": label, "points": points, **fields}


RIGHT = [[2.6, -5.0], [9.0, -5.0], [9.0, 9.0], [2.6, 9.0]]  # beyond the image on three sides


def labelme_file(path: Path, shapes: list[dict[str, Any]], **fields: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": f"{path.stem}.jpg", "imageData": None}
    photo(path.with_suffix(".jpg"))
    path.write_text(json.dumps({**content, "imageHeight": 4, "imageWidth": 6, **fields}))


@export("labelme")
def labelme(root: Path) -> None:
    root.mkdir()
    labelme_file(root / "a b.json", [shape("foreground", RIGHT)])
    turned = shape("foreground", [[3, 0], [6, 0], [6, 2], [3, 2]], "oriented_rectangle")
    labelme_file(root / "c.json", [turned, mask_of_labelme(HALF[2:, 3:], 3, 2)])


def mask_of_labelme(bitmap: np.ndarray, left: int, top: int) -> dict[str, Any]:
    """A shape of LabelMe's AI tools: a PNG of 1 bit in the box whose last pixel is the second point."""
    buffer = io.BytesIO()
    Image.fromarray(bitmap.astype(bool)).save(buffer, "PNG")
    corner = [left + bitmap.shape[1] - 1, top + bitmap.shape[0] - 1]
    found = shape("foreground", [[left, top], corner], "mask")
    return {**found, "mask": base64.b64encode(buffer.getvalue()).decode()}


def bits(value: int, count: int) -> list[int]:
    return [value >> place & 1 for place in range(count)][::-1]


def brush(mask: np.ndarray) -> list[int]:
    """Return a mask as the brush stores it: RGBA pixels, first a run of single values, then runs of equal ones."""
    values = np.repeat(mask.ravel().astype(int) * 255, 4).tolist()
    stream = [*bits(len(values), 32), *bits(7, 5), *(bit for width in (2, 3, 7, 15) for bit in bits(width, 4))]
    stream += [0, *bits(0, 2), *bits(2, 3), *(bit for value in values[:3] for bit in bits(value, 8))]
    place = 3
    while place < len(values):
        end = next((i for i in range(place, len(values)) if values[i] != values[place]), len(values))
        index, width = (2, 8) if end - place <= 256 else (3, 16)
        stream += [1, *bits(index, 2), *bits(end - place - 1, width), *bits(values[place], 8)]
        place = end
    stream += [0] * (-len(stream) % 8)
    return np.packbits(stream).tolist()


def task(number: int, image: str, *results: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    size = {"original_width": 6, "original_height": 4, "image_rotation": 0}
    found = [
        {**size, "value": value, "id": "x", "from_name": "tag", "to_name": "image", "type": kind}
        for kind, value in results
    ]
    annotations = [{"id": number, "was_cancelled": True, "result": []}, {"id": 9, "was_cancelled": False}]
    annotations[1]["result"] = found
    return {"id": number, "annotations": annotations, "predictions": [], "data": {"image": image}}


@export("label-studio")
def label_studio(root: Path) -> None:
    photo(root / "images" / "a b.jpg")
    photo(root / "images" / "c.jpg")
    stroke = {"format": "rle", "rle": brush(HALF), "brushlabels": ["foreground"]}
    box = {"x": 50, "y": 0, "width": 50, "height": 100, "rotation": 0, "rectanglelabels": ["foreground"]}
    tasks = [
        task(1, "/data/upload/1/1a2b3c4d-a%20b.jpg", ("brushlabels", stroke)),
        task(2, "/data/local-files/?d=photos/c.jpg", ("rectanglelabels", box)),
    ]
    (root / "project-1-at-2026-01-01.json").write_text(json.dumps(tasks))


@export("label-studio-png")
def label_studio_png(root: Path) -> None:
    """The brush as PNG beside the images, one of which the project's tasks name and one has the task's number."""
    photo(root / "images" / "a b.jpg")
    photo(root / "images" / "c.jpg")
    for number, alpha in ((7, 255), (12, 100)):
        save(root / f"task-{number}-annotation-{number}-by-me@x.org-tag-foreground-0.png", alpha * HALF)
    tasks = [{"id": 7, "data": {"image": "/data/upload/1/1a2b3c4d-a%20b.jpg"}, "annotations": [], "predictions": []}]
    tasks += [{"id": 12, "data": {"image": "s3://set/c.jpg"}, "annotations": [], "predictions": []}]
    (root / "tasks.json").write_text(json.dumps(tasks))


def folders(root: Path) -> None:
    for split in ("train", "val"):
        photo(root / "images" / split / "a.png")
        save(root / "labels" / split / "a.png", HALF)
    (root / "classes.txt").write_text("background\nforeground\n")


def voc(root: Path) -> None:
    for name in ("a", "b"):
        photo(root / "JPEGImages" / f"{name}.jpg")
        save(root / "SegmentationClass" / f"{name}.png", HALF)
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    for split, name in (("train", "a"), ("val", "b")):
        (root / f"ImageSets/Segmentation/{split}.txt").write_text(f"{name}\n")


def coco(root: Path) -> None:
    outline = [[3, 0, 6, 0, 6, 4, 3, 4]]
    record = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [3, 0, 3, 4], "area": 12, "iscrowd": 0}
    lists: dict[str, Any] = {"images": [{"id": 1, "file_name": "a.jpg", "width": 6, "height": 4}]}
    lists |= {"annotations": [{**record, "segmentation": outline}], "categories": [{"id": 1, "name": "foreground"}]}
    (root / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        photo(root / split / "a.jpg")
        (root / f"annotations/instances_{split}.json").write_text(json.dumps(lists))


DIVIDED: dict[str, Exporter] = {"folders": folders, "voc": voc, "coco": coco}  # with a training and a validation split
