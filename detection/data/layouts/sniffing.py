"""Tells from the first bytes of a JSON file which tool wrote the file, without reading all of a large file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from backbones.common.label_studio import ANNOTATED

JsonKind = Literal["coco", "createml", "label-studio", "labelme", "via"]

VIA_3 = {"project", "config", "attribute", "file"}  # first keys of a project of VIA 3
HEAD = 2**16  # bytes
_TOKEN = re.compile(r'"((?:[^"\\]|\\.)*)"(\s*:)?|[{}\[\]]', re.DOTALL)
_OPEN = re.compile(r'"[^"]*$')  # a text, such as an image as base64, that goes on after the head


def json_kind(path: Path) -> JsonKind | None:
    """Return the kind of a JSON file of annotations by its keys; None for other files."""
    text = head_of(path).lstrip("\ufeff \t\r\n")
    outer, inner = _keys(text)
    if text.startswith("["):
        if inner >= {"image", "annotations"} and not inner & {"data", "id"}:
            return "createml"
        marks = {"annotations", "completions", "predictions", "rectanglelabels", "label", ANNOTATED}
        return "label-studio" if inner & marks and inner & {"data", "image", "annotations", "id"} else None
    if not text.startswith("{"):
        return None
    if (
        outer >= VIA_3
        or {"_via_settings", "_via_img_metadata"} & outer
        or ({"filename", "regions"} <= inner and not outer & {"images", "shapes"})
    ):
        return "via"
    if "shapes" in outer or {"imagePath", "imageData"} & outer:
        return "labelme"
    return "coco" if {"images", "annotations"} & outer else None


def head_of(path: Path) -> str:
    """Return the first bytes of a file as text; "" if the file cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(HEAD).decode("utf-8", errors="replace")
    except OSError:
        return ""


def _keys(text: str) -> tuple[set[str], set[str]]:
    """Return the keys at the first and the second level of nesting."""
    depth, found = 0, (set[str](), set[str]())
    for match in _TOKEN.finditer(_OPEN.sub("", text) if text.count('"') % 2 else text):
        word = match[0]
        if word in "{[":
            depth += 1
        elif word in "}]":
            depth -= 1
        elif match[2] and depth in (1, 2):
            found[depth - 1].add(match[1])
    return found
