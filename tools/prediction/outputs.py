"""Where drawn pictures go: a JPEG for an image, a video for a video; drawn in threads, while the net computes."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from backbones.errors import UserError
from tools.prediction.inputs import Input, Picture, look

CODE = "mp4v"  # MPEG-4: every build of OpenCV writes it
QUALITY = 92  # of JPEGs
PENDING = 16  # pictures that wait to be drawn or written


class Drawn:
    """A folder of drawn pictures; use it as a context, whose end waits for them.

    Args:
        enabled: otherwise nothing is drawn.
    """

    def __init__(self, folder: Path, *, enabled: bool, threads: int = 2) -> None:
        self.folder, self.enabled = folder, enabled
        self.pool = ThreadPoolExecutor(threads)
        self.pending: deque[tuple[Path, bool, Input, Future[np.ndarray]]] = deque()
        self.videos: dict[Path, cv2.VideoWriter] = {}

    def __enter__(self) -> Drawn:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None) -> None:
        try:
            while self.pending and kind is None:
                self._finish()
        finally:
            self.pool.shutdown(cancel_futures=True)
            for video in self.videos.values():
                video.release()

    def add(self, name: str, picture: Picture, draw: Callable[[], np.ndarray]) -> None:
        """Draw `[H, W, 3]` RGB uint8 for a picture, under a name without suffix; frames of a video come in order."""
        if not self.enabled:
            return
        is_frame = picture.frame is not None
        path = self.folder / f"{name}{'.mp4' if is_frame else '.jpg'}"
        job = self.pool.submit(draw if is_frame else _drawn, *(() if is_frame else (draw, path)))
        self.pending.append((path, is_frame, picture.source, job))
        while len(self.pending) > PENDING:
            self._finish()

    def _finish(self) -> None:
        path, is_frame, source, job = self.pending.popleft()
        image = job.result()
        if is_frame:
            self._write(path, source, image)

    def _write(self, path: Path, source: Input, image: np.ndarray) -> None:
        height, width = (side - side % 2 for side in image.shape[:2])
        if path not in self.videos:
            path.parent.mkdir(parents=True, exist_ok=True)
            code = cv2.VideoWriter.fourcc(*CODE)
            self.videos[path] = cv2.VideoWriter(str(path), code, look(source.path).fps, (width, height))
            if not self.videos[path].isOpened():
                raise UserError(f"{path}: cannot be written as a video of {width}x{height}; pass --draw false")
        self.videos[path].write(cv2.cvtColor(image[:height, :width], cv2.COLOR_RGB2BGR))


def write_picture(path: Path, image: np.ndarray) -> None:
    """Write `[H, W, 3]` RGB, whose suffix says how.

    Raises:
        UserError: where it cannot be written.
    """
    there, content = cv2.imencode(path.suffix, image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    assert there, path
    write_bytes(path, content.tobytes())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file, and its folder where that is missing.

    Raises:
        UserError: where it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or os.strerror(error.errno or 0)})") from None


def _drawn(draw: Callable[[], np.ndarray], path: Path) -> np.ndarray:
    image = draw()
    write_picture(path, image)
    return image
