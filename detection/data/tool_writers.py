"""Writes detection data sets in the formats of CVAT, LabelMe, Label Studio, VIA, Open Images and Roboflow.

Each split is a folder with its annotation file and its images, so that the splits may share file names.
"""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from backbones.common.brush import encode_brush
from backbones.common.datasets import Record
from backbones.common.files import write_json
from backbones.common.labelme_masks import encode_mask
from backbones.common.outlines import box_of_mask, run_lengths
from detection.data.layouts.coco_files import ROBOFLOW
from detection.data.truth import Truth
from detection.data.writers import (
    Lost,
    Writer,
    by_image,
    class_names,
    count_difficult,
    count_lost_fields,
    link_image,
    refuse_box,
    refuse_other_size,
    stems_of,
)
from detection.data.written_masks import WrittenMasks

OPEN_IMAGES_HEADER = (
    *("ImageID", "Source", "LabelName", "Confidence", "XMin", "XMax", "YMin", "YMax"),
    *("IsOccluded", "IsTruncated", "IsGroupOf", "IsDepiction", "IsInside"),
)


def write_roboflow(folder: Path, split: str, truth: Truth, *, drop: bool, masks: bool) -> Lost:
    """Write a split as Roboflow's COCO JSON: `SPLIT/_annotations.coco.json` beside the images."""
    for image in truth.data["images"]:
        link_image(truth, image, folder / _roboflow_name(split))
    count_difficult(truth)
    write_json(folder / _roboflow_name(split) / ROBOFLOW, truth.data, indent=None)
    return Lost()


def write_cvat(folder: Path, split: str, truth: Truth, *, drop: bool, masks: bool) -> Lost:
    """Write a split as CVAT for images 1.1: `SPLIT/annotations.xml` and `SPLIT/images/`."""
    names, lost = class_names(truth), Lost()
    written = WrittenMasks(masks, lost)
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    labels = ElementTree.SubElement(ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task"), "labels")
    for name in names.values():
        ElementTree.SubElement(ElementTree.SubElement(labels, "label"), "name").text = name
    for number, (image, things) in enumerate(_objects(truth, lost, keeps=("occluded",))):
        attributes = {name: str(image[key]) for name, key in (("name", "file_name"), ("width", "width"))}
        attributes |= {"id": str(number), "height": str(image["height"])}
        element = ElementTree.SubElement(root, "image", attributes)
        for record in things:
            common = {"label": names[record["category_id"]], "source": "manual", "z_order": "0"}
            common["occluded"] = str(int(record.get("occluded") == "1"))
            polygon = written.polygon(record)
            mask = None if polygon else _wanted_mask(written, record, image)
            x, y, width, height = record["bbox"]
            if polygon:
                points = ";".join(f"{a!r},{b!r}" for a, b in zip(polygon[0::2], polygon[1::2], strict=True))
                ElementTree.SubElement(element, "polygon", {**common, "points": points})
            elif mask is not None:
                ElementTree.SubElement(element, "mask", {**common, **_cvat_mask(mask)})
            else:
                sides = {"xtl": x, "ytl": y, "xbr": x + width, "ybr": y + height}
                corners = {key: repr(float(value)) for key, value in sides.items()}
                ElementTree.SubElement(element, "box", {**common, **corners})
        link_image(truth, image, folder / split / "images")
    written.note(truth)
    ElementTree.indent(root)
    (folder / split / "annotations.xml").write_bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))
    return +lost


def write_labelme(folder: Path, split: str, truth: Truth, *, drop: bool, masks: bool) -> Lost:
    """Write a split for LabelMe: a JSON file beside each image in `SPLIT/`."""
    names, lost, stems = class_names(truth), Lost(), stems_of(truth)
    written = WrittenMasks(masks, lost)
    for image, things in _objects(truth, lost):
        shapes: list[Record] = []
        for record in things:
            shape: Record = {"label": names[record["category_id"]], "group_id": None, "description": "", "flags": {}}
            shapes.append({**shape, **_labelme_shape(record, image, written)})
        path = folder / split / f"{stems[image['id']]}.json"
        content: Record = {
            "version": "5.5.0",
            "flags": {},
            "shapes": shapes,
            "imagePath": Path(image["file_name"]).name,
        }
        content |= {"imageData": None, "imageHeight": image["height"], "imageWidth": image["width"]}
        link_image(truth, image, folder / split)
        write_json(path, content)
    written.note(truth)
    return +lost


def write_label_studio(folder: Path, split: str, truth: Truth, *, drop: bool, masks: bool) -> Lost:
    """Write a split as Label Studio's JSON: `SPLIT/tasks.json` and `SPLIT/images/`."""
    names, lost, tasks = class_names(truth), Lost(), []
    written = WrittenMasks(masks, lost)
    for number, (image, things) in enumerate(_objects(truth, lost), 1):
        results = [
            {"id": f"r{place}", "from_name": "label", "to_name": "image", "image_rotation": 0}
            | {"original_width": image["width"], "original_height": image["height"]}
            | _label_studio_shape(record, image, names[record["category_id"]], written)
            for place, record in enumerate(things)
        ]
        address = f"/data/local-files/?d={image['file_name']}"
        annotation = {"id": number, "result": results, "was_cancelled": False, "ground_truth": False}
        tasks.append({"id": number, "data": {"image": address}, "annotations": [annotation], "predictions": []})
        link_image(truth, image, folder / split / "images")
    written.note(truth)
    write_json(folder / split / "tasks.json", tasks)
    return +lost


def write_via(folder: Path, split: str, truth: Truth, *, drop: bool, masks: bool) -> Lost:
    """Write a split as a project of VIA 2: `SPLIT/via_project.json` and the images."""
    names, lost, images = class_names(truth), Lost(), {}
    written = WrittenMasks(masks, lost)
    for image, things in _objects(truth, lost):
        regions = []
        for record in things:
            polygon = written.polygon(record)
            if not polygon and (masks or record.get("segmentation")):
                polygon = written.traced(record, image)
            x, y, width, height = record["bbox"]
            shape: Record = {"name": "rect", "x": x, "y": y, "width": width, "height": height}
            if polygon:
                shape = {"name": "polygon", "all_points_x": polygon[0::2], "all_points_y": polygon[1::2]}
            title = names[record["category_id"]]
            regions.append({"shape_attributes": shape, "region_attributes": {"class": title}})
        link_image(truth, image, folder / split)
        size = (folder / split / image["file_name"]).stat().st_size
        entry = {"filename": image["file_name"], "size": size, "regions": regions, "file_attributes": {}}
        images[f"{image['file_name']}{size}"] = entry
    written.note(truth)
    options = dict.fromkeys(names.values(), "")
    attributes = {"region": {"class": {"type": "dropdown", "description": "", "options": options}}, "file": {}}
    project: Record = {"_via_settings": {"core": {"filepath": {}, "default_filepath": ""}, "project": {"name": split}}}
    project |= {"_via_img_metadata": images, "_via_attributes": attributes, "_via_data_format_version": "2.0.10"}
    write_json(folder / split / "via_project.json", {**project, "_via_image_id_list": list(images)})
    return +lost


def write_open_images(folder: Path, split: str, truth: Truth, *, drop: bool, masks: bool) -> Lost:
    """Write a split as Open Images' CSV files: `SPLIT-annotations-bbox.csv`, `class-descriptions.csv` and `SPLIT/`.

    A crowd is a group. The files do not list images without objects.
    """
    names, lost, stems = class_names(truth), Lost(), stems_of(truth)
    labels = {key: f"/m/{number}" for number, key in enumerate(names)}
    rows: list[list[str]] = []
    for image, indices in by_image(truth):
        refuse_other_size(truth, image)
        lost["images without objects"] += not indices
        for index in indices:
            record = truth.data["annotations"][index]
            lost["outlines"] += bool(record.get("segmentation"))
            count_lost_fields(record, lost, keeps=("occluded", "truncated"))
            x, y, width, height = record["bbox"]
            sides = [x / image["width"], (x + width) / image["width"]]
            sides += [y / image["height"], (y + height) / image["height"]]
            if not all(-1 <= side <= 2 for side in sides):
                refuse_box(truth, index, "reaches too far", lost, drop)
                continue
            flags = [str(record.get(key, "0")) for key in ("occluded", "truncated")] + [str(record["iscrowd"] or 0)]
            start = [stems[image["id"]], "xclick", labels[record["category_id"]], "1"]
            rows.append([*start, *map(repr, map(float, sides)), *flags, "0", "0"])
        if indices:
            link_image(truth, image, folder / split)
    folder.mkdir(parents=True, exist_ok=True)
    _write_csv(folder / f"{split}-annotations-bbox.csv", [OPEN_IMAGES_HEADER, *rows])
    _write_csv(folder / "class-descriptions.csv", [(labels[key], name) for key, name in names.items()])
    return +lost


TOOL_WRITERS: dict[str, Writer] = {
    "coco-roboflow": write_roboflow,
    "cvat": write_cvat,
    "labelme": write_labelme,
    "label-studio": write_label_studio,
    "via": write_via,
    "open-images": write_open_images,
}


def _objects(truth: Truth, lost: Lost, *, keeps: Collection[str] = ()) -> Iterable[tuple[Record, list[Record]]]:
    """Yield each image with its annotations. Crowds are left out and counted, because the tools cannot mark them.

    Args:
        keeps: fields of VOC's objects that the tool can hold; the others are counted.
    """
    for image, indices in by_image(truth):
        records = [truth.data["annotations"][index] for index in indices]
        kept = [record for record in records if not record.get("iscrowd")]
        lost["crowds or difficult objects"] += len(records) - len(kept)
        for record in kept:
            count_lost_fields(record, lost, keeps=keeps)
        yield image, kept


def _wanted_mask(written: WrittenMasks, record: Record, image: Record) -> np.ndarray | None:
    """Return the mask of an annotation; None if it has no outline and none is asked for, or if it cannot be held."""
    return written.mask(record, image) if written.wanted or record.get("segmentation") else None


def _cvat_mask(mask: np.ndarray) -> dict[str, str]:
    """Return CVAT's attributes of a mask `[H, W]`: its box, and the lengths of runs in the rows of the box."""
    left, top, width, height = box_of_mask(mask)
    part = mask[top : top + height, left : left + width]
    runs = run_lengths(part.T)["counts"]  # COCO's run lengths go down the columns
    sides = {"left": left, "top": top, "width": width, "height": height}
    return {"rle": ", ".join(map(str, runs)), **{name: str(side) for name, side in sides.items()}}


def _labelme_shape(record: Record, image: Record, written: WrittenMasks) -> Record:
    """Return type and points of a shape, and its mask."""
    polygon = written.polygon(record)
    mask = None if polygon else _wanted_mask(written, record, image)
    if mask is not None:
        text, corners = encode_mask(mask)
        return {"shape_type": "mask", "points": corners, "mask": text}
    x, y, width, height = record["bbox"]
    points = polygon or [x, y, x + width, y + height]
    pairs = [list(pair) for pair in zip(points[0::2], points[1::2], strict=True)]
    return {"shape_type": "polygon" if polygon else "rectangle", "points": pairs}


def _label_studio_shape(record: Record, image: Record, name: str, written: WrittenMasks) -> Record:
    """Return type and value of a result. Coordinates are percentages of the image's sides."""
    across, down = 100 / image["width"], 100 / image["height"]
    polygon, (x, y, width, height) = written.polygon(record), record["bbox"]
    mask = None if polygon else _wanted_mask(written, record, image)
    if mask is not None:
        return {"type": "brushlabels", "value": {"format": "rle", "rle": encode_brush(mask), "brushlabels": [name]}}
    if polygon:
        points = [[a * across, b * down] for a, b in zip(polygon[0::2], polygon[1::2], strict=True)]
        return {"type": "polygonlabels", "value": {"points": points, "closed": True, "polygonlabels": [name]}}
    value = {"x": x * across, "y": y * down, "width": width * across, "height": height * down, "rotation": 0}
    return {"type": "rectanglelabels", "value": {**value, "rectanglelabels": [name]}}


def _roboflow_name(split: str) -> str:
    return "valid" if split == "val" else split


def _write_csv(path: Path, rows: Iterable[Iterable[str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
