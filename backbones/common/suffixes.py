"""Suffixes of the files that hold pixels."""

from __future__ import annotations

from importlib.util import find_spec

import cv2

# Suffixes of the image files that can be decoded; which decoders OpenCV has depends on how it was built.
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".ppm", ".pgm", ".pbm", ".pnm"),
    *(suffix for suffix in (".webp", ".tif", ".tiff", ".gif", ".avif", ".jp2") if cv2.haveImageWriter(f"a{suffix}")),
    *((".heic", ".heif") if find_spec("pillow_heif") else ()),
)
ARRAY_SUFFIX = ".npy"  # an array [H, W] or [H, W, bands], which classifiers read
PIXEL_SUFFIXES = (*IMAGE_SUFFIXES, ARRAY_SUFFIX)
