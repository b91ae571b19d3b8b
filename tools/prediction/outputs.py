"""Writes drawn results, a JPEG for each image and a video for each video, in threads while the model predicts."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from backbones.common.encoding import LARGEST, encode_jpeg
from backbones.errors import UserError
from tools.prediction.inputs import InputFile, read_header
from tools.prediction.sound import MISSING, add_sound, can_add_sound

CODEC = "vp09"  # VP9, which every browser plays and OpenCV writes; browsers refuse MPEG-4 part 2 ("mp4v")
QUALITY = 92  # of JPEGs
MOST_PENDING = 16  # pictures that wait to be drawn or written


@dataclass(frozen=True)
class _PendingPicture:
    """A drawn image on which a thread still works."""

    path: Path
    source: InputFile
    is_frame: bool
    job: Future[np.ndarray]


class PictureWriter:
    """Draws images and writes them into a folder. As a context manager, it waits at the end until all are written.

    Args:
        enabled: whether to draw at all.
        threads: number of threads that draw.

    Attributes:
        notes: lines for the user on what was left out, complete at the end.
    """

    def __init__(self, folder: Path, *, enabled: bool, threads: int = 2) -> None:
        self.folder, self.enabled = folder, enabled
        self.pool = ThreadPoolExecutor(threads)
        self.pending: deque[_PendingPicture] = deque()
        self.videos: dict[Path, tuple[InputFile, cv2.VideoWriter]] = {}
        self.notes: list[str] = []

    def __enter__(self) -> PictureWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None) -> None:
        try:
            while self.pending and kind is None:
                self._finish_first()
        finally:
            self.pool.shutdown(cancel_futures=True)
            for opened in self.videos.values():
                opened[1].release()
        if kind is None:
            self.notes += self._add_sound()

    def add(self, name: str, source: InputFile, draw: Callable[[], np.ndarray], *, is_frame: bool) -> None:
        """Draw an image and write it, in a thread. The frames of a video must be added in order.

        Args:
            name: path below the folder, without suffix.
            draw: returns the drawn image `[H, W, 3]` RGB uint8; called in a thread.
            is_frame: whether the image is a frame of a video.
        """
        if not self.enabled:
            return
        path = self.folder / f"{name}{'.mp4' if is_frame else '.jpg'}"
        job = self.pool.submit(draw) if is_frame else self.pool.submit(_draw_and_write, draw, path)
        self.pending.append(_PendingPicture(path, source, is_frame, job))
        while len(self.pending) > MOST_PENDING:
            self._finish_first()

    def _add_sound(self) -> list[str]:
        """Add the sound of the sources to the drawn videos; return why videos have none."""
        if not self.videos or not can_add_sound():
            return [MISSING] if self.videos else []
        found = (add_sound(path, source.path) for path, (source, _) in self.videos.items() if source.live is None)
        return [problem for problem in found if problem]

    def _finish_first(self) -> None:
        picture = self.pending.popleft()
        image = picture.job.result()
        if not picture.is_frame and max(image.shape[:2]) > LARGEST:
            self.notes.append(f"{picture.path}: is reduced, because a JPEG has at most {LARGEST:,} pixels a side")
        if picture.is_frame:  # the frames of a video must be written in order, so this thread writes them
            self._write_frame(picture.path, picture.source, image)

    def _write_frame(self, path: Path, source: InputFile, image: np.ndarray) -> None:
        height, width = (side - side % 2 for side in image.shape[:2])  # the codec needs even sides
        if path not in self.videos:
            path.parent.mkdir(parents=True, exist_ok=True)
            codec = cv2.VideoWriter.fourcc(*CODEC)
            video = cv2.VideoWriter(str(path), codec, read_header(source).fps, (width, height))
            self.videos[path] = (source, video)
            if not video.isOpened():
                raise UserError(f"{path}: cannot be written as a video of {width}x{height}; pass --draw false")
        self.videos[path][1].write(cv2.cvtColor(image[:height, :width], cv2.COLOR_RGB2BGR))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file; create its folder if necessary.

    Raises:
        UserError: if it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        reason = error.strerror or os.strerror(error.errno or 0)
        raise UserError(f"{path}: cannot be written ({reason}); name another folder with --output") from None


def _draw_and_write(draw: Callable[[], np.ndarray], path: Path) -> np.ndarray:
    image = draw()
    step = -(-max(image.shape[:2]) // LARGEST)
    write_bytes(path, encode_jpeg(image[::step, ::step], QUALITY))
    return image
