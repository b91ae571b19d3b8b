"""Reads the images and videos that the command line names, as one stream of images in order.

OpenCV decodes videos. It is installed anyway and brings its own FFmpeg (H.264, HEVC, VP9, MPEG-4, ...); another decoder
would install FFmpeg a second time.
"""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeAlias, TypeVar

import cv2
import numpy as np
from torch.utils.data import Dataset

from backbones.common.listing import describe_passed_over, is_hidden, list_files
from backbones.common.loading import loader
from backbones.common.suffixes import PIXEL_SUFFIXES
from backbones.errors import UserError
from tools.prediction import remote
from tools.processes.stopping import protect_workers

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")
SUFFIXES = (*PIXEL_SUFFIXES, *VIDEO_SUFFIXES)
FEW = 8  # fewer images are read without workers, whose start takes longer
AHEAD = 2  # images that each worker reads in advance
COMPLETE = (
    0.95  # least fraction of a video's frames that must decode; the number of frames in its header is an estimate
)
# Milliseconds that FFmpeg waits for a stream.
OPEN_TIMEOUT = (cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, 10_000)
READ_TIMEOUT = (cv2.CAP_PROP_READ_TIMEOUT_MSEC, 10_000)
DEFAULT_FPS = 25.0  # of a video whose header has no plausible rate

Content = TypeVar("Content")
Read: TypeAlias = Callable[["Path | np.ndarray"], Content]


@dataclass(frozen=True)
class InputFile:
    """An image, a video, or a stream of a camera or network to predict on.

    Attributes:
        path: the file, or the local copy of a download.
        name: path of the file relative to the folder named on the command line, or its file name. Names its results.
        origin: address or "-" of a copy, or a stream; "" for a file that the user named.
        live: number of a camera, or address of a stream; None for files.
        stride: only every frame of this number is predicted.
    """

    path: Path
    name: str
    origin: str = ""
    live: int | str | None = None
    stride: int = 1

    @property
    def is_video(self) -> bool:
        """Whether this is a video by its suffix, or a stream."""
        return self.live is not None or self.path.suffix.lower() in VIDEO_SUFFIXES

    @property
    def shown(self) -> str:
        """The input in messages and results: the path, the address or the camera."""
        return self.origin or str(self.path)


@dataclass
class LoadedImage(Generic[Content]):
    """An image, or a frame of a video, that was read or could not be read.

    Attributes:
        source: file of the image or video.
        index: index of the file among all inputs.
        frame: index of the frame in the video; None for an image.
        content: result of the reader; None if the image cannot be read.
        problem: reason why the image cannot be read, else "".
    """

    source: InputFile
    index: int
    frame: int | None
    content: Content | None
    problem: str = ""


@dataclass(frozen=True)
class VideoHeader:
    """Frames per second and number of frames of a video, according to its header."""

    fps: float
    frames: int


@dataclass(frozen=True)
class FoundInputs:
    """The files that the command line names.

    Attributes:
        files: images and videos; a file that is named several times is found once.
        problems: messages about names for which no file was found.
        passed_over: number of files, by suffix, that folders and globs contain but that are not images or videos.
    """

    files: list[InputFile]
    problems: list[str]
    passed_over: Mapping[str, int]


def find_inputs(names: Iterable[str], downloads: Path, *, stride: int = 1) -> FoundInputs:
    """Find the images and videos that command-line arguments name.

    Args:
        names: the arguments: images, videos, folders, globs, addresses, "-" for an image on standard input, and
            numbers of cameras.
        downloads: existing folder for copies of what is no local file.
        stride: of videos and streams, predict only every frame of this number.
    """
    inputs: dict[str, InputFile] = {}
    problems: list[str] = []
    passed_over: Counter[str] = Counter()
    for name in names:
        try:
            for each in _find(name, passed_over, downloads):
                inputs.setdefault(each.origin or os.path.abspath(each.path), replace(each, stride=stride))
        except UserError as error:
            problems.append(str(error))
    return FoundInputs(list(inputs.values()), problems, passed_over)


def stream(inputs: Sequence[InputFile], read: Read[Content], *, workers: int) -> Iterator[LoadedImage[Content]]:
    """Yield all images and frames in the order of the inputs. If one cannot be read, its `problem` says why.

    Args:
        read: turns a path or an array `[H, W, 3]` into the content, or raises a UserError.
        workers: processes that read images; frames are read in this process.
    """
    start = 0
    while start < len(inputs):
        # Read neighbouring images together, and each video alone.
        end = start
        while end < len(inputs) and not inputs[end].is_video:
            end += 1
        if end > start:
            yield from _read_images(inputs[start:end], start, read, workers)
        else:
            end += 1
            yield from _read_frames(inputs[start], start, read)
        start = end


def read_header(source: InputFile) -> VideoHeader:
    """Read the header of a video, and divide rate and frames by the stride. A stream has the usual rate.

    Raises:
        UserError: if it cannot be decoded.
    """
    fps, frames = DEFAULT_FPS, 0.0
    if source.live is None:  # a camera that is in use cannot be opened again
        capture = _open_video(source)
        fps, frames = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
        capture.release()
    fps = fps if 0 < fps < 1000 else DEFAULT_FPS
    return VideoHeader(fps / source.stride, -(-max(0, int(frames)) // source.stride))


def count_images(inputs: Iterable[InputFile]) -> int | None:
    """Return the number of images and video frames; None with a stream, which has no end.

    The number of frames comes from the videos' headers.
    """
    total = 0
    for each in inputs:
        if each.live is not None:
            return None
        try:
            total += read_header(each).frames if each.is_video else 1
        except UserError:
            total += 1
    return total


def _find(name: str, passed_over: Counter[str], downloads: Path) -> list[InputFile]:
    """Find the images and videos that one command-line argument names.

    Args:
        passed_over: counts by suffix, to which the other files of a folder or glob are added.
        downloads: folder for copies.

    Raises:
        UserError: if no image or video is found.
    """
    path = Path(name)
    if path.is_dir():
        listing = list_files(path, SUFFIXES)
        if not listing.files:
            others = describe_passed_over(listing.passed_over)
            found = f" ({', '.join(SUFFIXES)}), but {others}" if others else ", because it is empty"
            raise UserError(f"{name}: holds no images or videos{found}; name another folder")
        passed_over.update(listing.passed_over)
        return [InputFile(file, str(file.relative_to(path))) for file in listing.files]
    if path.is_file():
        if not _has_known_suffix(path):
            raise UserError(f"{name}: is not an image or video by its suffix; expected {', '.join(SUFFIXES)}")
        return [InputFile(path, path.name)]
    is_address = bool(remote.scheme_of(name))  # whose query begins with "?"
    if not is_address and any(letter in name for letter in "*?["):
        matches = [path for path in map(Path, sorted(glob.glob(name, recursive=True))) if not is_hidden(path.name)]
        known = [InputFile(file, file.name) for file in matches if _has_known_suffix(file)]
        if not known:
            raise UserError(f"{name}: matches no image or video; check the pattern")
        passed_over.update(file.suffix.lower() for file in matches if file.is_file() and not _has_known_suffix(file))
        return known
    if not is_address and path.exists():
        raise UserError(f"{name}: is a pipe or a device, which cannot be read twice; save its content as a file")
    return [_without_file(name, downloads)]


def _without_file(name: str, downloads: Path) -> InputFile:
    """Return the input of an address, of standard input or of a camera.

    Raises:
        UserError: the name is none of these, or there is no image.
    """
    scheme = remote.scheme_of(name)
    if scheme in remote.FETCHED:
        fetched = remote.fetch(name, downloads, SUFFIXES)
        return InputFile(fetched.path, fetched.name, name)
    if scheme in remote.LIVE:
        return InputFile(Path(name), "stream", name, live=name)
    if scheme:
        known = ", ".join((*remote.FETCHED, *remote.LIVE))
        raise UserError(f"{name}: addresses of {scheme} are not supported; use one of {known}, or name a file")
    if name == remote.STDIN:
        fetched = remote.read_stdin(downloads)
        return InputFile(fetched.path, fetched.name, name)
    if name.isascii() and name.isdigit():
        return InputFile(Path(name), f"camera-{name}", f"camera {name}", live=int(name))
    raise UserError(f"{name}: no such file or folder; check the path")


def _has_known_suffix(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


class _ImageFiles(Dataset, Generic[Content]):
    """Dataset of images for a data loader. `start` is the index of the first image among all inputs."""

    def __init__(self, inputs: Sequence[InputFile], start: int, read: Read[Content]) -> None:
        self.inputs, self.start, self.read = inputs, start, read

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> LoadedImage[Content]:
        source = self.inputs[index]
        return _load(source, self.start + index, None, source.path, self.read)


def _read_images(
    inputs: Sequence[InputFile], start: int, read: Read[Content], workers: int
) -> Iterator[LoadedImage[Content]]:
    workers = 0 if len(inputs) < FEW else workers
    # Load the images one by one: a batch of photographs from each worker would fill the memory.
    images = loader(
        _ImageFiles(inputs, start, read),
        workers=workers,
        collate=_unchanged,
        batch_size=None,
        prefetch_factor=AHEAD if workers else None,
    )
    protect_workers(images)
    yield from images


def _unchanged(image: LoadedImage[Content]) -> LoadedImage[Content]:
    """Return the image unchanged. A data loader's default collate function would convert its arrays to tensors."""
    return image


def _load(
    source: InputFile, index: int, frame: int | None, image: Path | np.ndarray, read: Read[Content]
) -> LoadedImage[Content]:
    try:
        return LoadedImage(source, index, frame, read(image))
    except UserError as error:
        text = " ".join(str(error).split()).replace(str(source.path), source.shown)
        return LoadedImage(source, index, frame, None, text if source.shown in text else f"{source.shown}: {text}")


def _read_frames(source: InputFile, index: int, read: Read[Content]) -> Iterator[LoadedImage[Content]]:
    try:
        capture = _open_video(source)
    except UserError as error:
        yield LoadedImage(source, index, 0, None, str(error))
        return
    expected, frame = capture.get(cv2.CAP_PROP_FRAME_COUNT), 0
    try:
        while (pixels := _next_frame(capture)) is not None:
            image = _load(source, index, frame, pixels, read)
            yield image
            if image.problem:  # all frames have the same one
                return
            frame += 1
            while frame % source.stride and capture.grab():
                frame += 1
    finally:
        capture.release()
    # A video that is cut short ends early without an error.
    if not frame or frame < COMPLETE * expected - 1:
        decoded = f"only {frame} of {expected:.0f} frames decode" if frame else "has no frame that decodes"
        fix = "check the connection" if source.live is not None else "the file is cut short or damaged, replace it"
        problem = f"{source.shown}: {decoded}; {fix}"
        yield LoadedImage(source, index, frame, None, problem)


def _open_video(source: InputFile) -> cv2.VideoCapture:
    _silence_decoder()
    if isinstance(source.live, int):
        capture = cv2.VideoCapture(source.live)
        problem = "there is no such camera, or it is in use; cameras count from 0"
    elif source.live is not None:
        capture = cv2.VideoCapture(source.live, cv2.CAP_FFMPEG, [*OPEN_TIMEOUT, *READ_TIMEOUT])
        problem = "the stream cannot be opened; check the address and that its server runs"
    else:
        capture = cv2.VideoCapture(str(source.path))
        problem = "cannot be decoded as a video; convert the video, for example to H.264 in .mp4"
    if not capture.isOpened():
        raise UserError(f"{source.shown}: {problem}")
    return capture


def _next_frame(capture: cv2.VideoCapture) -> np.ndarray | None:
    """Return the next frame `[H, W, 3]` RGB uint8, rotated as the header says; None after the last frame."""
    has_frame, frame = capture.read()
    return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB) if has_frame else None


def _silence_decoder() -> None:
    """Suppress the messages of FFmpeg and OpenCV on the terminal; ours name the file and the problem."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
