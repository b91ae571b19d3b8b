"""Reads projects of VIA 3, whose regions are lists of numbers, as the images and regions of VIA 2.

Source: https://gitlab.com/vgg/via/-/blob/master/via-3.x.y/CodeDoc.md
"""

from __future__ import annotations

from backbones.common.datasets import Record

CHECKBOX = 2  # type of an attribute with several values, separated by commas
# Number of a shape -> its name and the names of its numbers in VIA 2. The numbers of polygons and lines are x, y, ...
SHAPES = {
    1: ("point", ("cx", "cy")),
    2: ("rect", ("x", "y", "width", "height")),
    3: ("circle", ("cx", "cy", "r")),
    4: ("ellipse", ("cx", "cy", "rx", "ry")),
    5: ("polyline", ()),
    6: ("polyline", ()),
    7: ("polygon", ()),
    8: ("extreme_rect", ()),  # four points that touch the sides of the box
}


def images_of_project(data: Record) -> Record:
    """Return the images with their regions as VIA 2 has them. Malformed regions have a shape without a size."""
    attributes = {key: each for key, each in _records(data.get("attribute")).items() if each.get("aname")}
    images: dict[str, Record] = {
        key: {"filename": file.get("fname"), "regions": []} for key, file in _records(data.get("file")).items()
    }
    views = {key: view.get("fid_list") for key, view in _records(data.get("view")).items()}
    for record in _records(data.get("metadata")).values():
        files = views.get(str(record.get("vid")), [record.get("vid")])
        image = images.get(str(files[0])) if isinstance(files, list) and len(files) == 1 else None
        if image is not None and record.get("xy"):
            image["regions"].append(
                {"shape_attributes": _shape(record["xy"]), "region_attributes": _values(record.get("av"), attributes)}
            )
    return images


def _records(value: object) -> dict[str, Record]:
    return {key: each for key, each in value.items() if isinstance(each, dict)} if isinstance(value, dict) else {}


def _shape(numbers: object) -> Record:
    """Return the attributes of a shape as in VIA 2."""
    kind, *values = numbers if isinstance(numbers, list) else [None]
    name, parts = SHAPES.get(kind, ("", ())) if isinstance(kind, int) else ("", ())
    if parts:
        return {"name": name, **dict(zip(parts, values, strict=False))}
    points = {"all_points_x": values[0::2], "all_points_y": values[1::2]}
    return {"name": name or str(kind)[:20], **points}


def _values(given: object, attributes: dict[str, Record]) -> Record:
    """Return the values of a region by the names of the attributes. The keys of options become their titles."""
    found: Record = {}
    for key, value in (given if isinstance(given, dict) else {}).items():
        attribute = attributes.get(str(key))
        if attribute is None or not isinstance(value, str):
            continue
        options = attribute.get("options")
        titles = options if isinstance(options, dict) else {}
        keys = value.split(",") if attribute.get("type") == CHECKBOX else [value]
        chosen = [str(titles.get(each, each)) for each in keys if each.strip()]
        found[str(attribute["aname"])] = dict.fromkeys(chosen, True) if len(chosen) > 1 else (chosen or [""])[0]
    return found
