"""Reads the tracks of "CVAT for video 1.1": an element <track> for each object, with a shape for each frame.

CVAT writes every frame of a track, also between its keyframes, and the frames as `images/frame_000000.PNG`. The first
frame after a track's end repeats its last shape with `outside="1"`.
Source: https://docs.cvat.ai/docs/other/xml_format
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from xml.etree.ElementTree import Element

from backbones.errors import UserError
from detection.data.layouts.collector import Collector

OUTSIDE = "shapes of tracks in frames where the object is not visible (outside), which are left out"
NO_FRAME = "shapes of tracks in frames without an image file, which are left out"
_NUMBER = re.compile(r"(\d+)\.\w+$")


def images_of_tracks(root: Element, path: Path, records: Collector) -> Iterator[Element]:
    """Yield an element <image> for each image file of a frame, with the visible shapes of all tracks.

    Args:
        root: the element <annotations>.
        path: its file, for messages.
        records: finder of the image files; counts the shapes that are left out.

    Raises:
        UserError: the tracks belong to several tasks, a track leaves out frames, or the images have no numbers.
    """
    tracks = root.findall("track")
    if len({track.get("task_id") for track in tracks}) > 1:
        raise UserError(f"{path}: holds tracks of several tasks; export each task for itself")
    files = _files_of_frames(root, path, records)
    images = {frame: Element("image", {"id": str(frame), "name": file}) for frame, file in files.items()}
    for track in tracks:
        shapes = {_frame(shape, track, path): shape for shape in track if "frame" in shape.attrib}
        _require_every_frame(track, shapes, sorted(images), path)
        for frame, shape in shapes.items():
            if shape.get("outside") == "1":
                records.note(OUTSIDE)
            elif frame not in images:
                records.note(NO_FRAME)
            else:
                images[frame].append(Element(shape.tag, {**shape.attrib, "label": track.get("label", "")}))
    yield from images.values()


def _frame(shape: Element, track: Element, path: Path) -> int:
    text = shape.get("frame", "")
    if not text.isdecimal():
        raise UserError(f"{path}: track {track.get('id')}: frame {text[:40]!r} is not a whole number; fix the file")
    return int(text)


def _require_every_frame(track: Element, shapes: dict[int, Element], frames: list[int], path: Path) -> None:
    """Refuse a track without a shape in a frame between two of its keyframes: its object would be missing there."""
    listed = sorted(shapes)
    for before, after in pairwise(listed):
        gap = next((frame for frame in frames if before < frame < after), None)
        if gap is not None and shapes[before].get("outside") != "1":
            raise UserError(
                f"{path}: track {track.get('id')} has no shape in frame {gap}, between frames {before} and {after}; "
                "export every frame, as CVAT does, or remove the images of such frames"
            )


def _files_of_frames(root: Element, path: Path, records: Collector) -> dict[int, str]:
    """Return the image file of each frame: by the number at the end of its name, or else by its position."""
    files = sorted(records.images.files)
    numbers = {int(match[1]): file for file in files if (match := _NUMBER.search(file))}
    frames = _frames(root)
    if len(numbers) == len(files) and (frames is None or numbers.keys() <= set(frames)):
        return dict(sorted(numbers.items()))
    if frames is not None and len(frames) == len(files):
        return dict(zip(frames, files, strict=True))
    count = "" if frames is None else f" of {len(frames)} frames"
    raise UserError(
        f"{path}: holds tracks{count}, but the names of the {len(files)} images in {records.images.folder} do not end "
        "with the numbers of frames; name them frame_000000.png and so on, or export the task as CVAT for images 1.1"
    )


def _frames(root: Element) -> range | None:
    """Return the numbers of the frames of the task; None if the file does not tell them."""
    size, start, stop = (_whole(root.findtext(f"meta/*/{name}")) for name in ("size", "start_frame", "stop_frame"))
    step = _whole((root.findtext("meta/*/frame_filter") or "").partition("step=")[2]) or 1
    start = start or 0
    if stop is not None:
        return range(start, stop + 1, step)
    return None if size is None else range(start, start + size * step, step)


def _whole(text: str | None) -> int | None:
    return int(text) if text and text.strip().isdecimal() and len(text) < 10 else None
