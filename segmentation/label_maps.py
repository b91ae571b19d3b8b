"""Reads and writes the predicted label maps of a split as a zip of PNGs, named by image index and image name."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import numpy as np

from backbones.common.files import atomic_file
from backbones.errors import UserError

NAME = "predictions.zip"


def write_maps(folder: Path, maps: Mapping[int, bytes], file_of: Callable[[int], Path]) -> None:
    """Write label maps to a file in a run folder. Equal maps give an equal file.

    Args:
        maps: dict from an image's index in the split to the PNG of its label map.
        file_of: returns the file of the image with a given index.
    """
    # The archive is not compressed, because PNGs are.
    with atomic_file(folder / NAME) as temporary, zipfile.ZipFile(temporary, "w") as file:
        for row in sorted(maps):
            name = f"{row:06d}-{file_of(row).stem}.png".encode("utf-8", "replace").decode("utf-8")
            # A ZipInfo has a constant date, unlike a plain name.
            file.writestr(zipfile.ZipInfo(name), maps[row])


def read_maps(path: Path) -> dict[tuple[int, str], np.ndarray]:
    """Read label maps `[H, W]` uint8; the keys of the dict are index and name of each image.

    Raises:
        UserError: the file was not written by `write_maps`, or is damaged.
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
        raise UserError(
            f"{path}: does not hold a run's predictions ({error}); evaluate again with --eval-only"
        ) from None
    return found
