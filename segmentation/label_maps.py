"""Predicted label maps of a split as one file: a zip of PNGs, by the image's place and name."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import numpy as np

from backbones.errors import UserError

NAME = "predictions.zip"


def write_maps(folder: Path, maps: Mapping[int, bytes], file_of: Callable[[int], Path]) -> None:
    """Write PNGs as `NAME` into a run folder, by way of a temporary name; equal maps give equal bytes.

    Args:
        maps: PNG content by the image's place in the split.
        file_of: the image's file.
    """
    temporary = folder / f".{NAME}.tmp"
    with zipfile.ZipFile(temporary, "w") as file:  # PNGs are compressed already
        for row in sorted(maps):
            name = f"{row:06d}-{file_of(row).stem}.png".encode("utf-8", "replace").decode("utf-8")
            file.writestr(zipfile.ZipInfo(name), maps[row])
    os.replace(temporary, folder / NAME)


def read_maps(path: Path) -> dict[tuple[int, str], np.ndarray]:
    """Label maps `[H, W]` uint8 by place and name.

    Raises:
        UserError: where the file is not what `write_maps` wrote.
    """
    found = {}
    try:
        with zipfile.ZipFile(path) as file:
            for entry in file.namelist():
                row, _, name = entry.partition("-")
                labels = cv2.imdecode(np.frombuffer(file.read(entry), np.uint8), cv2.IMREAD_UNCHANGED)
                if labels is None or labels.ndim != 2:
                    raise ValueError(f"{entry} is no label map")
                found[int(row), name.removesuffix(".png")] = labels
    except (OSError, ValueError, zipfile.BadZipFile, cv2.error) as error:
        raise UserError(f"{path}: is not a run's predictions ({error}); measure again with --eval-only") from None
    return found
