"""Data sets in the exact forms that annotation tools export: two images with three boxes of two classes.

`a.jpg` has a dog at columns 10 to 30 and rows 5 to 35, and a cat in the whole image; `b.png` has a dog at columns 20
to 50 and rows 10 to 20. Each function writes a folder, and the images into it.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from label_exports import brush, mask_of_labelme
from PIL import Image

SIZE = (60, 40)  # width and height of the images
# Class and box (left, top, width, height) of each object.
OBJECTS: dict[str, list[tuple[str, tuple[int, int, int, int]]]] = {
    "a.jpg": [("dog", (10, 5, 20, 30)), ("cat", (0, 0, 60, 40))],
    "b.png": [("dog", (20, 10, 30, 10))],
}
Exporter = Callable[[Path], None]
EXPORTS: dict[str, tuple[str, Exporter]] = {}  # name of the export -> name of the layout, and the function


def export(name: str, layout: str) -> Callable[[Exporter], Exporter]:
    """Return a decorator that adds a function to `EXPORTS`."""

    def add(write: Exporter) -> Exporter:
        EXPORTS[name] = layout, write
        return write

    return add


def picture(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    cv2.imwrite(str(path), pixels)


def pictures(folder: Path) -> None:
    for seed, name in enumerate(OBJECTS):
        picture(folder / name, seed)


def text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")


def litter(root: Path) -> None:
    """Add what macOS, Windows and network drives leave in a folder, in archives and on shared disks."""
    for path in sorted(root.rglob("*")):
        below = path.relative_to(root)
        if path.is_dir():
            (root / "__MACOSX" / below).mkdir(parents=True, exist_ok=True)
            continue
        for folder in (path.parent, root / "__MACOSX" / below.parent):
            text(folder / f"._{path.name}", "\0\5\26\7\0\2\0\0Mac OS X")
        text(path.parent / "@eaDir" / path.name / "thumbnail.jpg", "x")
        for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
            text(path.parent / name, "x")


# --- COCO ---


def coco(names: dict[str, str] | None = None, *, first: int = 1, parent: str | None = None) -> dict[str, Any]:
    """Return the COCO records.

    Args:
        names: file names by image.
        first: id of the first category.
        parent: name of Roboflow's super-category, which has no boxes.
    """
    categories: list[dict[str, Any]] = [] if parent is None else [{"id": 0, "name": parent, "supercategory": "none"}]
    numbers = {name: number for number, name in enumerate(("cat", "dog"), first)}
    categories += [{"id": number, "name": name, "supercategory": parent or ""} for name, number in numbers.items()]
    images, annotations = [], []
    for place, (name, objects) in enumerate(OBJECTS.items(), 1):
        images.append({"id": place, "file_name": (names or {}).get(name, name), "width": SIZE[0], "height": SIZE[1]})
        for label, box in objects:
            record = {"id": len(annotations), "image_id": place, "category_id": numbers[label], "bbox": list(box)}
            annotations.append({**record, "area": box[2] * box[3], "iscrowd": 0, "segmentation": []})
    return {"info": {}, "licenses": [], "categories": categories, "images": images, "annotations": annotations}


def write_coco(path: Path, **options: Any) -> None:
    text(path, json.dumps(coco(**options)))


@export("cvat-coco", "coco")
def cvat_coco(root: Path) -> None:
    write_coco(root / "annotations" / "instances_default.json")
    pictures(root / "images")


@export("cvat-coco-folder", "coco")
def cvat_coco_folder(root: Path) -> None:
    write_coco(root / "annotations" / "instances_default.json")
    pictures(root / "images" / "default")


@export("datumaro-coco", "coco")
def datumaro_coco(root: Path) -> None:
    for split in ("train", "val"):
        write_coco(root / "annotations" / f"instances_{split}.json")
        pictures(root / "images" / split)


@export("roboflow-coco", "coco-roboflow")
def roboflow_coco(root: Path) -> None:
    for split in ("train", "valid", "test"):
        write_coco(root / split / "_annotations.coco.json", parent="animals")
        pictures(root / split)
    text(root / "README.roboflow.txt", "exported\n")


@export("roboflow-coco-one-class-twice", "coco-roboflow")
def roboflow_coco_twice(root: Path) -> None:
    for split in ("train", "valid"):
        write_coco(root / split / "_annotations.coco.json", parent="dog")
        pictures(root / split)


@export("fiftyone-coco", "coco-json")
def fiftyone_coco(root: Path) -> None:
    write_coco(root / "labels.json")
    pictures(root / "data")


@export("label-studio-coco", "coco-json")
def label_studio_coco(root: Path) -> None:
    write_coco(root / "result.json", names={name: f"images/{name}" for name in OBJECTS}, first=0)
    pictures(root / "images")


@export("supervisely-coco", "coco-json")
def supervisely_coco(root: Path) -> None:
    for split in ("train", "val"):
        write_coco(root / split / "annotations" / "instances.json")
        pictures(root / split / "images")


@export("coco-files-of-splits", "coco-json")
def coco_files_of_splits(root: Path) -> None:
    for split in ("train", "val"):
        write_coco(root / f"{split}.json")
    pictures(root / "images")


# --- Pascal VOC ---


def xml(name: str, *, folder: str = "images", path: str | None = None) -> str:
    """Return an annotation as labelImg writes it."""
    things = "".join(
        f"\t<object>\n\t\t<name>{label}</name>\n\t\t<pose>Unspecified</pose>\n\t\t<truncated>0</truncated>\n"
        f"\t\t<difficult>0</difficult>\n\t\t<bndbox>\n\t\t\t<xmin>{x + 1}</xmin>\n\t\t\t<ymin>{y + 1}</ymin>\n"
        f"\t\t\t<xmax>{x + w}</xmax>\n\t\t\t<ymax>{y + h}</ymax>\n\t\t</bndbox>\n\t</object>\n"
        for label, (x, y, w, h) in OBJECTS[name]
    )
    return (
        f"<annotation>\n\t<folder>{folder}</folder>\n\t<filename>{name}</filename>\n\t<path>{path or name}</path>\n"
        "\t<source>\n\t\t<database>Unknown</database>\n\t</source>\n"
        f"\t<size>\n\t\t<width>{SIZE[0]}</width>\n\t\t<height>{SIZE[1]}</height>\n\t\t<depth>3</depth>\n\t</size>\n"
        f"\t<segmented>0</segmented>\n{things}</annotation>\n"
    )


def write_xml(folder: Path) -> None:
    for name in OBJECTS:
        text(folder / f"{Path(name).stem}.xml", xml(name))


@export("labelimg-voc", "voc-xml")
def labelimg_voc(root: Path) -> None:
    write_xml(root)
    pictures(root)


@export("roboflow-voc", "voc-xml")
def roboflow_voc(root: Path) -> None:
    for split in ("train", "valid"):
        write_xml(root / split)
        pictures(root / split)
    text(root / "README.roboflow.txt", "exported\n")


@export("kaggle-voc", "voc-xml")
def kaggle_voc(root: Path) -> None:
    write_xml(root / "annotations")
    pictures(root / "images")


@export("oxford-pets", "voc-xml")
def oxford_pets(root: Path) -> None:
    """Boxes of heads in `xmls`, and label maps and lists of breeds, which are no boxes."""
    write_xml(root / "annotations" / "xmls")
    pictures(root / "images")
    for name in OBJECTS:
        picture(root / "annotations" / "trimaps" / f"{Path(name).stem}.png")
    text(root / "annotations" / "trainval.txt", "a 1 1 1\nb 2 2 1\n")
    text(root / "annotations" / "README", "OXFORD-IIIT PET Dataset\n")


@export("voc-without-lists", "voc-xml")
def voc_without_lists(root: Path) -> None:
    write_xml(root / "Annotations")
    pictures(root / "JPEGImages")


@export("cvat-voc", "voc")
def cvat_voc(root: Path) -> None:
    write_xml(root / "Annotations")
    pictures(root / "JPEGImages")
    text(root / "ImageSets" / "Main" / "default.txt", "a\nb\n")
    text(root / "labelmap.txt", "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:128,0,0::\ndog:0,128,0::\n")


@export("vocdevkit", "voc")
def vocdevkit(root: Path) -> None:
    home = root / "VOCdevkit" / "VOC2007"
    write_xml(home / "Annotations")
    pictures(home / "JPEGImages")
    for name, lines in {"train": "a\nb\n", "val": "a\nb\n", "dog_train": "a  1\nb  1\n"}.items():
        text(home / "ImageSets" / "Main" / f"{name}.txt", lines)


# --- YOLO ---


def label_lines(name: str) -> str:
    """Return the lines of a label file: class 0 is the cat, 1 the dog."""
    numbers = {"cat": 0, "dog": 1}
    boxes = (
        (numbers[label], (x + w / 2) / SIZE[0], (y + h / 2) / SIZE[1], w / SIZE[0], h / SIZE[1])
        for label, (x, y, w, h) in OBJECTS[name]
    )
    return "".join(" ".join(map(str, box)) + "\n" for box in boxes)


def write_labels(folder: Path) -> None:
    for name in OBJECTS:
        text(folder / f"{Path(name).stem}.txt", label_lines(name))


@export("roboflow-yolo", "yolo")
def roboflow_yolo(root: Path) -> None:
    for split in ("train", "valid"):
        pictures(root / split / "images")
        write_labels(root / split / "labels")
    text(
        root / "data.yaml",
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\nnc: 2\nnames: ['cat', 'dog']\n\n"
        "roboflow:\n  workspace: me\n  project: animals\n  version: 1\n",
    )


@export("fiftyone-yolo", "yolo")
def fiftyone_yolo(root: Path) -> None:
    for split in ("train", "val"):
        pictures(root / "images" / split)
        write_labels(root / "labels" / split)
    text(
        root / "dataset.yaml",
        f"names:\n  0: cat\n  1: dog\npath: {root}\ntrain: ./images/train/\nval: ./images/val/\n",
    )


@export("ultralytics-lists", "yolo")
def ultralytics_lists(root: Path) -> None:
    """CVAT's and Ultralytics' lists of images in place of folders."""
    for split in ("train", "val"):
        pictures(root / "images" / split)
        write_labels(root / "labels" / split)
        text(root / f"{split}.txt", "".join(f"images/{split}/{name}\n" for name in OBJECTS))
    text(root / "data.yaml", "path: ./\ntrain: train.txt\nval: val.txt\nnames:\n  0: cat\n  1: dog\n")


@export("yolo-of-another-machine", "yolo")
def yolo_of_another_machine(root: Path) -> None:
    for split in ("train", "val"):
        pictures(root / "images" / split)
        write_labels(root / "labels" / split)
    text(
        root / "data.yml",
        "path: /home/somebody/datasets/animals\ntrain: images/train\nval: images/val\nnames: [cat, dog]\n",
    )


@export("label-studio-yolo", "yolo")
def label_studio_yolo(root: Path) -> None:
    pictures(root / "images")
    write_labels(root / "labels")
    text(root / "classes.txt", "cat\ndog\n")
    text(root / "notes.json", json.dumps({"categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}]}))


@export("yolo-with-names-of-darknet", "yolo")
def yolo_with_names_of_darknet(root: Path) -> None:
    for split in ("train", "valid"):
        write_labels(root / split / "labels")
        pictures(root / split / "images")
    text(root / "obj.names", "cat\ndog\n")


@export("yolo-predictions", "yolo")
def yolo_predictions(root: Path) -> None:
    """Lines with a confidence, as Ultralytics' `save_txt=True save_conf=True` writes them."""
    pictures(root / "images")
    for name in OBJECTS:
        lines = label_lines(name).splitlines()
        text(root / "labels" / f"{Path(name).stem}.txt", "".join(f"{line} 0.875\n" for line in lines))
    text(root / "data.yaml", "names:\n  0: cat\n  1: dog\n")


@export("cvat-yolo", "darknet")
def cvat_yolo(root: Path) -> None:
    pictures(root / "obj_train_data")
    write_labels(root / "obj_train_data")
    text(root / "obj.names", "cat\ndog\n")
    text(root / "obj.data", "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n")
    text(root / "train.txt", "".join(f"data/obj_train_data/{name}\n" for name in OBJECTS))


@export("labelimg-yolo", "darknet")
def labelimg_yolo(root: Path) -> None:
    pictures(root)
    write_labels(root)
    text(root / "classes.txt", "cat\ndog\n")


@export("labelimg-yolo-in-labels", "yolo")
def labelimg_yolo_in_labels(root: Path) -> None:
    """Labels in a folder of their own, into which labelImg writes its list of classes too."""
    pictures(root / "images")
    write_labels(root / "labels")
    text(root / "labels" / "classes.txt", "cat\ndog\n")


@export("cvat-yolo-tracks", "yolo")
def cvat_yolo_tracks(root: Path) -> None:
    """CVAT's "Ultralytics YOLO Detection Track": a line ends with the number of its track."""
    pictures(root / "images" / "train")
    for name in OBJECTS:
        lines = "".join(f"{line} {track}\n" for track, line in enumerate(label_lines(name).splitlines(), 4))
        text(root / "labels" / "train" / f"{Path(name).stem}.txt", lines)
    text(root / "train.txt", "".join(f"data/images/train/{name}\n" for name in OBJECTS))
    text(root / "data.yaml", "names:\n  0: cat\n  1: dog\npath: .\ntrain: train.txt\n")


@export("darknet-scenes", "darknet")
def darknet_scenes(root: Path) -> None:
    """Images and labels in a folder for each scene, with labelImg's list of classes in each."""
    for scene, name in enumerate(OBJECTS):
        picture(root / f"scene{scene}" / name, scene)
        text(root / f"scene{scene}" / f"{Path(name).stem}.txt", label_lines(name))
        text(root / f"scene{scene}" / "classes.txt", "cat\ndog\n")


@export("roboflow-darknet", "darknet")
def roboflow_darknet(root: Path) -> None:
    for split in ("train", "valid"):
        pictures(root / split)
        write_labels(root / split)
        text(root / split / "_darknet.labels", "cat\ndog\n")


# --- the tools' own formats ---


def cvat_boxes(name: str) -> str:
    return "".join(
        f'    <box label="{label}" source="manual" occluded="0" xtl="{x}.00" ytl="{y}.00" xbr="{x + w}.00" '
        f'ybr="{y + h}.00" z_order="0">\n      <attribute name="tame">true</attribute>\n    </box>\n'
        for label, (x, y, w, h) in OBJECTS[name]
    )


def cvat_xml(owner: str = "task", subsets: tuple[str, ...] = ("",)) -> str:
    """Return CVAT's XML with the images once for each subset."""
    labels = "".join(
        f"<label><name>{name}</name><color>#33ddff</color><type>any</type><attributes></attributes></label>"
        for name in ("cat", "dog")
    )
    images = ""
    for subset in subsets:
        for name in OBJECTS:
            mark, folder = (f' subset="{subset}" task_id="7"', f"{subset}/") if subset else ("", "")
            images += f'  <image id="{images.count("<image")}" name="{folder}{name}"{mark} width="60" height="40">\n'
            images += f"{cvat_boxes(name)}  </image>\n"
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n  <meta>\n'
        f"    <{owner}><id>7</id><name>animals</name><labels>{labels}</labels></{owner}>\n"
        f"    <dumped>2024-01-01 00:00:00+00:00</dumped>\n  </meta>\n{images}</annotations>\n"
    )


@export("cvat-images", "cvat")
def cvat_images(root: Path) -> None:
    text(root / "annotations.xml", cvat_xml())
    pictures(root / "images")


@export("cvat-jobs", "cvat")
def cvat_jobs(root: Path) -> None:
    """The jobs of a task, each exported for itself."""
    head, *images = cvat_xml().removesuffix("</annotations>\n").split("  <image ")
    for job, image in enumerate(images, 1):
        text(root / f"job_{job}.xml", f"{head}  <image {image}</annotations>\n")
    pictures(root / "images")


@export("cvat-project", "cvat")
def cvat_project(root: Path) -> None:
    text(root / "annotations.xml", cvat_xml("project", ("Train", "Validation")))
    for subset in ("Train", "Validation"):
        pictures(root / "images" / subset)


@export("cvat-video", "cvat")
def cvat_video(root: Path) -> None:
    """Two frames; after its end, a track repeats its last shape with `outside="1"`."""
    shapes: dict[str, list[str]] = {}
    for frame, name in enumerate(OBJECTS):
        for label, (x, y, w, h) in OBJECTS[name]:
            sides = f'xtl="{x}.00" ytl="{y}.00" xbr="{x + w}.00" ybr="{y + h}.00" z_order="0"'
            shapes.setdefault(label, []).append(f'<box frame="{frame}" keyframe="1" outside="0" occluded="0" {sides}/>')
    shapes["cat"].append(shapes["cat"][0].replace('frame="0"', 'frame="1"', 1).replace('outside="0"', 'outside="1"'))
    tracks = "".join(
        f'  <track id="{number}" label="{label}" source="manual">\n    {"".join(boxes)}\n  </track>\n'
        for number, (label, boxes) in enumerate(shapes.items())
    )
    frames = "<size>2</size><mode>interpolation</mode><start_frame>0</start_frame><stop_frame>1</stop_frame>"
    head, _, rest = cvat_xml().partition("  <image")
    text(root / "annotations.xml", f"{head.replace('<labels>', f'{frames}<labels>')}{tracks}</annotations>\n")
    assert "</annotations>" in rest
    pictures(root / "images")


@export("createml-roboflow", "createml")
def createml_roboflow(root: Path) -> None:
    for split in ("train", "valid"):
        text(root / split / "_annotations.createml.json", json.dumps([createml(name) for name in OBJECTS]))
        pictures(root / split)


@export("createml-labelimg", "createml")
def createml_labelimg(root: Path) -> None:
    for name in OBJECTS:
        text(root / f"{Path(name).stem}.json", json.dumps([{**createml(name), "verified": False}]))
    pictures(root)


def createml(name: str) -> dict[str, Any]:
    """Return the entry of an image, whose boxes are given by centre and size."""
    boxes = [
        {"label": label, "coordinates": {"x": x + w / 2, "y": y + h / 2, "width": w, "height": h}}
        for label, (x, y, w, h) in OBJECTS[name]
    ]
    return {"image": name, "annotations": boxes}


def label_studio_tasks(*, minimal: bool = False, address: str = "/data/local-files/?d=my%20set/{}") -> list[Any]:
    """Return the tasks of Label Studio's JSON or JSON-MIN."""
    tasks: list[Any] = []
    for number, (name, objects) in enumerate(OBJECTS.items(), 1):
        values = [
            {
                **{"x": 100 * x / SIZE[0], "y": 100 * y / SIZE[1]},
                **{"width": 100 * w / SIZE[0], "height": 100 * h / SIZE[1]},
                **{"rotation": 0, "rectanglelabels": [label]},
            }
            for label, (x, y, w, h) in objects
        ]
        sides = {"original_width": SIZE[0], "original_height": SIZE[1]}
        if minimal:
            tasks.append({"image": address.format(name), "id": number, "label": [{**v, **sides} for v in values]})
            tasks[-1] |= {"annotator": 1, "annotation_id": number, "lead_time": 3.5}
            continue
        common = {**sides, "image_rotation": 0, "from_name": "label", "to_name": "image", "type": "rectanglelabels"}
        results = [{**common, "value": value, "id": f"r{place}"} for place, value in enumerate(values)]
        annotation = {"id": number, "completed_by": 1, "result": results, "was_cancelled": False}
        tasks.append({"id": number, "annotations": [annotation], "predictions": []})
        tasks[-1]["data"] = {"image": address.format(name)}
    return tasks


@export("label-studio-json", "label-studio")
def label_studio_json(root: Path) -> None:
    text(root / "project-1-at-2024-01-01-00-00-abcdef01.json", json.dumps(label_studio_tasks()))
    pictures(root / "images")


@export("label-studio-json-min", "label-studio")
def label_studio_min(root: Path) -> None:
    tasks = label_studio_tasks(minimal=True, address="/data/upload/1/1f3c9a2b-{}")
    text(root / "project-1.json", json.dumps(tasks))
    pictures(root)


@export("label-studio-projects", "label-studio")
def label_studio_projects(root: Path) -> None:
    """Two projects, each with one of the images."""
    for number, task in enumerate(label_studio_tasks(), 1):
        text(root / f"project-{number}-at-2024-01-01-00-00-abcdef01.json", json.dumps([task]))
    pictures(root / "images")


@export("label-studio-brush-png", "label-studio-png")
def label_studio_brush_png(root: Path) -> None:
    """The brush as PNG files, a JSON file of the tasks without annotations, and the images."""
    for task, name in enumerate(OBJECTS, 3):
        for index, (label, _, mask) in enumerate(masks(name)):
            path = root / f"task-{task}-annotation-9-by-1-brush-{label}-{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), 255 * mask)
        picture(root / "images" / name, task)
    tasks = [{"id": task, "data": {"image": name}} for task, name in enumerate(OBJECTS, 3)]
    text(root / "tasks.json", json.dumps(tasks))


def masks(name: str) -> list[tuple[str, tuple[int, int, int, int], np.ndarray]]:
    """Return class, box and mask of each object of an image, which has all pixels of its box."""
    found = []
    for label, (x, y, w, h) in OBJECTS[name]:
        mask = np.zeros((SIZE[1], SIZE[0]), np.uint8)
        mask[y : y + h, x : x + w] = 1
        found.append((label, (x, y, w, h), mask))
    return found


@export("label-studio-brush", "label-studio")
def label_studio_brush(root: Path) -> None:
    """Strokes of the brush in Label Studio's JSON."""
    tasks = label_studio_tasks()
    for task in tasks:
        name = task["data"]["image"].rpartition("/")[2]
        for result, (label, _, mask) in zip(task["annotations"][0]["result"], masks(name), strict=True):
            result["type"] = "brushlabels"
            result["value"] = {"format": "rle", "rle": brush(mask), "brushlabels": [label]}
    text(root / "project-2.json", json.dumps(tasks))
    pictures(root)


@export("labelme-masks", "labelme")
def labelme_masks(root: Path) -> None:
    """Masks of LabelMe's AI tools."""
    pictures(root)
    for name in OBJECTS:
        shapes = [
            {**mask_of_labelme(mask[y : y + h, x : x + w], x, y), "label": label}
            for label, (x, y, w, h), mask in masks(name)
        ]
        content = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": name, "imageData": None}
        content |= {"imageHeight": SIZE[1], "imageWidth": SIZE[0]}
        text(root / f"{Path(name).stem}.json", json.dumps(content))


@export("labelme", "labelme")
def labelme(root: Path) -> None:
    """Write a JSON file beside each image, with paths as on Windows and opposite corners in any order."""
    pictures(root)
    for name, objects in OBJECTS.items():
        shapes = [
            {
                **{"label": label, "points": [[x + w, y + h], [x, y]], "group_id": None, "description": ""},
                **{"shape_type": "rectangle", "flags": {}},
            }
            for label, (x, y, w, h) in objects
        ]
        content = {"version": "5.4.1", "flags": {}, "shapes": shapes, "imagePath": f"..\\pictures\\{name}"}
        content |= {"imageData": None, "imageHeight": SIZE[1], "imageWidth": SIZE[0]}
        text(root / f"{Path(name).stem}.json", json.dumps(content, indent=2))


def via_regions(name: str) -> list[dict[str, Any]]:
    return [
        {
            "shape_attributes": {"name": "rect", "x": x, "y": y, "width": w, "height": h},
            "region_attributes": {"class": label},
        }
        for label, (x, y, w, h) in OBJECTS[name]
    ]


@export("via-project", "via")
def via_project(root: Path) -> None:
    images = {
        f"{name}1234": {"filename": name, "size": 1234, "regions": via_regions(name), "file_attributes": {}}
        for name in OBJECTS
    }
    attributes = {"region": {"class": {"type": "dropdown", "options": {"cat": "", "dog": ""}}}, "file": {}}
    project = {"_via_settings": {"project": {"name": "animals"}}, "_via_img_metadata": images}
    project |= {"_via_attributes": attributes, "_via_data_format_version": "2.0.10"}
    text(root / "via_project_1Jan2024_10h0m.json", json.dumps(project))
    pictures(root)


@export("via-annotators", "via")
def via_annotators(root: Path) -> None:
    """Two annotators, who loaded all images and labelled one each; one of them also saved a CSV file."""
    for labelled in OBJECTS:
        images = {
            f"{name}99": {"filename": name, "size": 99, "regions": via_regions(name) if name == labelled else []}
            for name in OBJECTS
        }
        text(root / f"via_export_json_{Path(labelled).stem}.json", json.dumps(images))
    lines = ["filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes"]
    for number, region in enumerate(via_regions("a.jpg")):
        parts = (json.dumps(region[part]).replace('"', '""') for part in ("shape_attributes", "region_attributes"))
        lines.append(f'a.jpg,99,"{{}}",2,{number},' + ",".join(f'"{part}"' for part in parts))
    text(root / "via_export_csv.csv", "\n".join(lines) + "\n")
    pictures(root)


@export("via-3", "via")
def via_3(root: Path) -> None:
    """A project of VIA 3: regions are lists of numbers, of which the first names the shape."""
    files = {str(number): {"fid": number, "fname": name, "type": 2, "loc": 1} for number, name in enumerate(OBJECTS, 1)}
    regions = [
        {"vid": str(number), "flg": 0, "z": [], "xy": [2, *box], "av": {"1": {"cat": "k0", "dog": "k1"}[label]}}
        for number, name in enumerate(OBJECTS, 1)
        for label, box in OBJECTS[name]
    ]
    project = {
        "project": {"pid": "__VIA_PROJECT_ID__", "pname": "pets", "data_format_version": "3.1.1"},
        "config": {"file": {"loc_prefix": {"1": "", "2": "", "3": "", "4": ""}}},
        "attribute": {"1": {"aname": "kind", "type": 4, "options": {"k0": "cat", "k1": "dog"}}},
        "file": files,
        "metadata": {f"{number}_aB": region for number, region in enumerate(regions)},
        "view": {number: {"fid_list": [number]} for number in files},
    }
    text(root / "via_project_1Jan2026.json", json.dumps(project))
    pictures(root)


@export("via-regions-of-splits", "via")
def via_regions_of_splits(root: Path) -> None:
    """Write the annotations as VIA 1 does, with numbered regions, in the folder of each split."""
    for split in ("train", "val"):
        images = {
            f"{name}99": {
                **{"fileref": "", "size": 99, "filename": name, "base64_img_data": "", "file_attributes": {}},
                "regions": {str(number): region for number, region in enumerate(via_regions(name))},
            }
            for name in OBJECTS
        }
        text(root / split / "via_region_data.json", json.dumps(images))
        pictures(root / split)


@export("via-csv", "via")
def via_csv(root: Path) -> None:
    pictures(root)
    with (root / "via_export_csv.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        header = "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes"
        writer.writerow(header.split(","))
        for name in OBJECTS:
            for number, region in enumerate(via_regions(name)):
                parts = [json.dumps(region[part]) for part in ("shape_attributes", "region_attributes")]
                writer.writerow([name, 1234, "{}", len(OBJECTS[name]), number, *parts])


OPEN_IMAGES = (
    "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside"
)
LABELS = {"cat": "/m/01yrx", "dog": "/m/0bt9lr"}


def open_images_lines() -> str:
    lines = [OPEN_IMAGES]
    for name, objects in OBJECTS.items():
        for label, (x, y, w, h) in objects:
            sides = (x / SIZE[0], (x + w) / SIZE[0], y / SIZE[1], (y + h) / SIZE[1])
            lines.append(f"{Path(name).stem},xclick,{LABELS[label]},1,{','.join(map(str, sides))},0,0,0,0,0")
    return "\n".join(lines) + "\n"


@export("open-images", "open-images")
def open_images(root: Path) -> None:
    for split in ("train", "validation"):
        text(root / f"{split}-annotations-bbox.csv", open_images_lines())
        pictures(root / split)
    text(root / "class-descriptions-boxable.csv", "/m/01yrx,cat\n/m/0bt9lr,dog\n/m/011k07,Tortoise\n")


@export("fiftyone-open-images", "open-images")
def fiftyone_open_images(root: Path) -> None:
    for split in ("train", "validation"):
        text(root / split / "labels" / "detections.csv", open_images_lines())
        text(root / split / "metadata" / "classes.csv", "/m/01yrx,cat\n/m/0bt9lr,dog\n")
        pictures(root / split / "data")


@export("roboflow-tensorflow", "table")
def roboflow_tensorflow(root: Path) -> None:
    for split in ("train", "valid"):
        pictures(root / split)
        lines = ["filename,width,height,class,xmin,ymin,xmax,ymax"]
        for name, objects in OBJECTS.items():
            lines += [f"{name},60,40,{label},{x},{y},{x + w},{y + h}" for label, (x, y, w, h) in objects]
        text(root / split / "_annotations.csv", "\n".join(lines) + "\n")


def write_table(path: Path, between: str, folder: str) -> None:
    """Write a CSV file of boxes with another character between the cells, and the images' paths of another machine."""
    lines = [between.join(("filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax"))]
    for name, objects in OBJECTS.items():
        for label, (x, y, w, h) in objects:
            lines.append(between.join(map(str, (f"{folder}{name}", *SIZE, label, x, y, x + w, y + h))))
    text(path, "\n".join(lines) + "\n")


@export("spreadsheet-semicolons", "table")
def spreadsheet_semicolons(root: Path) -> None:
    write_table(root / "boxes.csv", ";", "/home/somebody/pets/images/")
    pictures(root / "images")


@export("spreadsheet-tabs", "table")
def spreadsheet_tabs(root: Path) -> None:
    write_table(root / "boxes.tsv", "\t", "C:\\Users\\somebody\\pets\\")
    pictures(root / "images")


def rows() -> list[tuple[str, str, tuple[int, int, int, int]]]:
    """Return image, class and box of each object."""
    return [(name, label, box) for name, objects in OBJECTS.items() for label, box in objects]


@export("keras-retinanet", "table")
def keras_retinanet(root: Path) -> None:
    """Write the files of the README of keras-retinanet, which have no header."""
    for split in ("train", "val"):
        lines = [f"images/{name},{x},{y},{x + w},{y + h},{label}" for name, label, (x, y, w, h) in rows()]
        text(root / f"{split}_annotations.csv", "\n".join(lines) + "\n")
    text(root / "classes.csv", "cat,0\ndog,1\n")
    pictures(root / "images")


@export("roboflow-retinanet", "table")
def roboflow_retinanet(root: Path) -> None:
    for split in ("train", "valid"):
        lines = [f"{name},{x},{y},{x + w},{y + h},{label}" for name, label, (x, y, w, h) in rows()]
        text(root / split / "_annotations.csv", "\n".join(lines) + "\n")
        text(root / split / "_classes.csv", "cat,0\ndog,1\n")
        pictures(root / split)


@export("makesense-csv", "table")
def makesense_csv(root: Path) -> None:
    lines = ["label_name,bbox_x,bbox_y,bbox_width,bbox_height,image_name,image_width,image_height"]
    lines += [f"{label},{','.join(map(str, box))},{name},60,40" for name, label, box in rows()]
    text(root / "labels_my-project-name_2024-01-01-10-00-00.csv", "\n".join(lines) + "\n")
    pictures(root / "images")


@export("makesense-csv-old", "table")
def makesense_csv_old(root: Path) -> None:
    lines = [f"{label},{','.join(map(str, box))},{name},60,40" for name, label, box in rows()]
    text(root / "labels_my-project-name.csv", "\n".join(lines) + "\n")
    pictures(root)


@export("automl-csv", "table")
def automl_csv(root: Path) -> None:
    """Write the file of Google's AutoML and Vertex AI: sets in capitals, fractions, and empty cells."""
    lines = [
        f"{part},gs://bucket/pets/{name},{label},{x / 60},{y / 40},,,{(x + w) / 60},{(y + h) / 40},,"
        for part in ("TRAIN", "VALIDATION")
        for name, label, (x, y, w, h) in rows()
    ]
    text(root / "import.csv", "\n".join(lines) + "\n")
    pictures(root)


@export("table-of-splits", "table")
def table_of_splits(root: Path) -> None:
    lines = ["Image_ID;Split;Label;X;Y;W;H;Width;Height"]
    for part in ("train", "val"):
        lines += [f"{Path(name).stem};{part};{label};{';'.join(map(str, box))};60;40" for name, label, box in rows()]
    text(root / "boxes.csv", "\n".join(lines) + "\n")
    pictures(root / "images")


# --- Supervisely ---


def supervisely_shape(kind: str, box: tuple[int, int, int, int]) -> dict[str, Any]:
    """Return an object's shape of the box's size: a rectangle, polygon or bitmap."""
    x, y, w, h = box
    if kind == "bitmap":  # as the tool's own library packs it: a palette of two colours, of which 0 is transparent
        image = Image.fromarray(np.ones((h, w), np.uint8))
        image.putpalette([0, 0, 0, 255, 255, 255])
        buffer = io.BytesIO()
        image.save(buffer, format="PNG", transparency=0, optimize=0)
        data = base64.b64encode(zlib.compress(buffer.getvalue())).decode()
        return {"geometryType": kind, "bitmap": {"data": data, "origin": [x, y]}}
    corners = [[x, y], [x + w, y + h]] if kind == "rectangle" else [[x, y], [x + w, y], [x + w, y + h], [x, y + h]]
    return {"geometryType": kind, "points": {"exterior": corners, "interior": []}}


def supervisely_set(folder: Path, kind: str) -> None:
    for name, objects in OBJECTS.items():
        things = [
            {
                **{"id": place, "classId": 1, "description": "", "labelerLogin": "me", "tags": []},
                **{"classTitle": label, **supervisely_shape(kind, box)},
            }
            for place, (label, box) in enumerate(objects)
        ]
        size = {"height": SIZE[1], "width": SIZE[0]}
        content = {"description": "", "tags": [], "size": size, "objects": things}
        text(folder / "ann" / f"{name}.json", json.dumps(content))
    pictures(folder / "img")


def supervisely_meta(root: Path) -> None:
    classes = [{"title": title, "shape": "any", "color": "#FF0000", "geometry_config": {}} for title in ("cat", "dog")]
    classes.append({"title": "nose", "shape": "point", "color": "#00FF00"})
    text(root / "meta.json", json.dumps({"classes": classes, "tags": [], "projectType": "images"}))


@export("supervisely", "supervisely")
def supervisely(root: Path) -> None:
    for number, kind in enumerate(("rectangle", "polygon")):
        supervisely_set(root / ("train", "val")[number], kind)
    supervisely_meta(root)


@export("supervisely-bitmaps", "supervisely")
def supervisely_bitmaps(root: Path) -> None:
    supervisely_set(root / "ds1", "bitmap")
    supervisely_meta(root)


# --- Hugging Face ---

HUGGING_FACE_CARD = """---
license: mit
dataset_info:
  features:
  - name: image
    dtype: image
  - name: objects
    sequence:
    - name: bbox
      sequence: float32
      length: 4
    - name: categories
      dtype:
        class_label:
          names:
            '0': cat
            '1': dog
---

# Pets
"""


@export("hugging-face", "hugging-face")
def hugging_face(root: Path) -> None:
    for split in ("train", "validation"):
        lines = [
            {
                "file_name": name,
                "objects": {
                    "bbox": [list(map(float, box)) for _, box in objects],
                    "categories": [["cat", "dog"].index(label) for label, _ in objects],
                },
            }
            for name, objects in OBJECTS.items()
        ]
        text(root / "data" / split / "metadata.jsonl", "".join(f"{json.dumps(line)}\n" for line in lines))
        pictures(root / "data" / split)
    text(root / "README.md", HUGGING_FACE_CARD)


@export("hugging-face-named", "hugging-face")
def hugging_face_named(root: Path) -> None:
    """Write classes as names, and a dictionary for each object."""
    lines = [
        {
            **{"image_id": number, "file_name": name, "width": SIZE[0], "height": SIZE[1]},
            "objects": [{"id": place, "bbox": box, "category": label} for place, (label, box) in enumerate(objects)],
        }
        for number, (name, objects) in enumerate(OBJECTS.items())
    ]
    text(root / "metadata.jsonl", "".join(f"{json.dumps(line)}\n" for line in lines))
    pictures(root)
