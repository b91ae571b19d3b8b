"""What people name on a command line (images, folders, globs, videos), as a stream of pictures.

Videos are decoded by OpenCV, which is installed anyway and brings its own FFmpeg (H.264, HEVC, VP9, MPEG-4, ...):
another decoder would be a second copy of FFmpeg.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from torch.utils.data import Dataset

from backbones.common.datasets import PIXEL_SUFFIXES
from backbones.common.loading import loader
from backbones.errors import UserError
from tools.processes.stopping import protect_workers

VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")
FEW = 8  # images for which starting workers does not pay
AHEAD = 2  # images that each worker reads in advance
SHORTEST = 0.95  # share of a video's frames, as it counts them, from which it is whole: its count is an estimate


@dataclass(frozen=True)
class Input:
    """A file to look at.

    Attributes:
        path: the file.
        name: where its results go: the path below the folder that was named, or else the file's name.
    """

    path: Path
    name: str

    @property
    def is_video(self) -> bool:
        return self.path.suffix.lower() in VIDEOS


@dataclass
class Picture:
    """An image, or a frame of a video.

    Attributes:
        source: the input that it is of.
        place: the input's place among all.
        frame: number in the video from 0; None of an image.
        content: what the reader made of it; None where it cannot be read.
        problem: why it cannot be; "" where it can.
    """

    source: Input
    place: int
    frame: int | None
    content: Any
    problem: str = ""


@dataclass(frozen=True)
class Video:
    """What a video says of itself."""

    fps: float
    frames: int


def find_inputs(words: Iterable[str]) -> tuple[list[Input], list[str]]:
    """The files that are named, each once whatever its spelling, and what is wrong with the other words."""
    inputs: dict[str, Input] = {}
    problems: list[str] = []
    for word in words:
        found = _found(word)
        if isinstance(found, str):
            problems.append(found)
        else:
            for each in found:
                inputs.setdefault(os.path.abspath(each.path), each)
    return list(inputs.values()), problems


def stream(inputs: list[Input], read: Callable[[Any], Any], *, workers: int) -> Iterator[Picture]:
    """All pictures in the inputs' order; those that cannot be read say why.

    Args:
        read: turns a path or an array `[H, W, 3]` into a picture's content, or raises a UserError; it runs in `workers`
            processes for images.
    """
    start = 0
    while start < len(inputs):
        end = start
        while end < len(inputs) and not inputs[end].is_video:
            end += 1
        if end > start:
            yield from _images(inputs[start:end], start, read, workers)
        else:
            end += 1
            yield from _frames(inputs[start], start, read)
        start = end


def look(path: Path) -> Video:
    """A video's figures.

    Raises:
        UserError: where it cannot be decoded.
    """
    capture = _open(path)
    fps, frames = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
    capture.release()
    return Video(fps if 0 < fps < 1000 else 25.0, max(0, int(frames)))


def count(inputs: Iterable[Input]) -> int:
    """Pictures in all, by what videos say of themselves."""
    total = 0
    for each in inputs:
        try:
            total += look(each.path).frames if each.is_video else 1
        except UserError:
            total += 1
    return total


def _found(word: str) -> list[Input] | str:
    """The inputs of a word, or what is wrong with it."""
    path = Path(word)
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file() and not _is_hidden(p.relative_to(path)))
        known = [file for file in files if file.suffix.lower() in PIXEL_SUFFIXES + VIDEOS]
        kinds = ", ".join((*PIXEL_SUFFIXES, *VIDEOS))
        if not known:
            return f"{word}: holds no images or videos ({kinds})"
        return [Input(file, str(file.relative_to(path))) for file in known]
    if path.is_file():
        if path.suffix.lower() not in PIXEL_SUFFIXES + VIDEOS:
            return f"{word}: is no image or video by its name; expected {', '.join((*PIXEL_SUFFIXES, *VIDEOS))}"
        return [Input(path, path.name)]
    if any(letter in word for letter in "*?["):
        matches = sorted(glob.glob(word, recursive=True))
        files = [Path(match) for match in matches if Path(match).suffix.lower() in PIXEL_SUFFIXES + VIDEOS]
        return [Input(file, file.name) for file in files] or f"{word}: no image or video has such a name"
    if path.exists():
        return f"{word}: is a pipe or a device, which cannot be read twice; save what it holds as a file"
    return f"{word}: no such file or folder"


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


class _Images(Dataset):
    def __init__(self, inputs: list[Input], start: int, read: Callable[[Any], Any]) -> None:
        self.inputs, self.start, self.read = inputs, start, read

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, place: int) -> Picture:
        each = self.inputs[place]
        return _read(each, self.start + place, None, each.path, self.read)


def _images(inputs: list[Input], start: int, read: Callable[[Any], Any], workers: int) -> Iterator[Picture]:
    workers = 0 if len(inputs) < FEW else workers
    # One by one: a batch of photographs from each worker would fill the memory.
    pictures = loader(
        _Images(inputs, start, read),
        workers=workers,
        collate=_as_it_is,
        batch_size=None,
        prefetch_factor=AHEAD if workers else None,
    )
    protect_workers(pictures)
    yield from pictures


def _as_it_is(picture: Picture) -> Picture:
    return picture


def _read(source: Input, place: int, frame: int | None, image: Any, read: Callable[[Any], Any]) -> Picture:
    try:
        return Picture(source, place, frame, read(image))
    except UserError as error:
        text = " ".join(str(error).split())
        return Picture(source, place, frame, None, text if str(source.path) in text else f"{source.path}: {text}")


def _frames(source: Input, place: int, read: Callable[[Any], Any]) -> Iterator[Picture]:
    try:
        capture = _open(source.path)
    except UserError as error:
        yield Picture(source, place, 0, None, str(error))
        return
    wanted, frame = capture.get(cv2.CAP_PROP_FRAME_COUNT), 0
    try:
        while (image := _next(capture)) is not None:
            picture = _read(source, place, frame, image, read)
            yield picture
            if picture.problem:  # that of all frames
                return
            frame += 1
    finally:
        capture.release()
    if not frame or frame < SHORTEST * wanted - 1:
        told = f"only {frame} of {wanted:.0f} frames decode" if frame else "has no frame that decodes"
        yield Picture(source, place, frame, None, f"{source.path}: {told}; the file is cut short or damaged")


def _open(path: Path) -> cv2.VideoCapture:
    _be_quiet()
    capture = cv2.VideoCapture(str(path))
    if not capture.isOpened():
        raise UserError(f"{path}: cannot be decoded as a video; convert it, to H.264 in .mp4, say")
    return capture


def _next(capture: cv2.VideoCapture) -> np.ndarray | None:
    """The next frame `[H, W, 3]` RGB, turned as the video says."""
    there, frame = capture.read()
    return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB) if there else None


def _be_quiet() -> None:
    """Keep FFmpeg's and OpenCV's own words off the screen: ours say what is wrong."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
