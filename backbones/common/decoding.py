"""Decodes images, and files with any number of channels (bands): `.npy` arrays and TIFF files."""

from __future__ import annotations

import io
import tokenize
from pathlib import Path

import numpy as np
import tifffile

from backbones.common.images import decode_image, read_file
from backbones.common.shrinking import ShrinkFactor, reduction
from backbones.common.suffixes import ARRAY_SUFFIX
from backbones.errors import UserError, counted, first_line

TIFF_SUFFIXES = (".tif", ".tiff")


def decode(
    content: bytes, name: str, in_channels: int, bits: int = 16, *, shrink: ShrinkFactor | None = None
) -> np.ndarray:
    """Decode a file's bytes to pixels `[H, W, in_channels]`: uint8, or float32 for arrays that are not uint8.

    Images become grey for one channel and RGB for three, and are turned as their EXIF orientation says. Arrays of 16
    bits are scaled to 0..1; floating arrays keep their values.

    Args:
        content: the file's bytes.
        name: the file's name, for its suffix and for messages.
        in_channels: number of channels that the pixels must have.
        bits: bits that the values of 16-bit images use; see `backbones.common.images.decode_image`.
        shrink: returns for the size (height, width) of a JPEG image by what both sides may be divided: a power of two.
            The decoder divides by at most 8, which saves most of its time. By default images are decoded whole.

    Raises:
        UserError: the file does not decode, has another number of channels, or holds NaN or infinite numbers.
    """
    if _is_array(name):
        pixels = _decode_array(content, name)
    elif in_channels not in (1, 3) and is_tiff(name):
        pixels = _decode_tiff(content, name)
    else:
        pixels = _decode_image(content, name, in_channels, bits, reduction(content, shrink) if shrink else 1)
    if pixels.shape[2] != in_channels:
        raise UserError(
            f"{name}: has {counted(pixels.shape[2], 'channel')}, not {in_channels}; use --in-channels {pixels.shape[2]}"
        )
    if pixels.dtype == np.uint8:
        return pixels
    # Compare kind and width: an array of the other byte order does not have the type `np.uint16`.
    scale = 65535 if pixels.dtype.kind == "u" and pixels.dtype.itemsize == 2 else 1
    values = (pixels / scale).astype(np.float32)
    if not np.isfinite(values).all():
        raise UserError(f"{name}: contains NaN, or numbers too large for 32-bit floats; fix or remove the file")
    return values


def decode_raw(content: bytes, name: str) -> np.ndarray:
    """Decode a file's bytes without conversion: an image to `[H, W, 3]` uint8, an array to `[H, W, bands]`.

    Raises:
        UserError: the file does not decode.
    """
    if _is_array(name):
        return _decode_array(content, name)
    if is_tiff(name) and _tiff_bands(content, name) not in (1, 3, 4):
        return _decode_tiff(content, name)
    return _decode_image(content, name, 3)


def channels_of(path: Path) -> int:
    """Return the number of channels that a file is read with by default.

    That is an array's own number, the number of bands of a TIFF file with two or more than four bands, and three for
    other images.
    """
    if _is_array(path.name):
        return _decode_array(read_file(path), str(path)).shape[2]
    bands = _tiff_bands(read_file(path), str(path)) if is_tiff(path.name) else 3
    return 3 if bands in (1, 4) else bands


def is_tiff(name: str) -> bool:
    """Return whether a file is a TIFF file by its suffix."""
    return name.lower().endswith(TIFF_SUFFIXES)


def is_bands(name: str, in_channels: int) -> bool:
    """Return whether a file is read as bands, with values that are not colours."""
    return _is_array(name) or (in_channels not in (1, 3) and is_tiff(name))


def _is_array(name: str) -> bool:
    return name.lower().endswith(ARRAY_SUFFIX)


def _decode_image(content: bytes, name: str, in_channels: int, bits: int = 16, reduce: int = 1) -> np.ndarray:
    if in_channels not in (1, 3):
        raise UserError(
            f"{name}: the model needs {in_channels} channels, but an image file has 1 or 3; store the "
            "channels as a .npy array or a TIFF file"
        )
    image = decode_image(content, grey=in_channels == 1, bits=bits, reduce=reduce, name=name)
    if image is None:
        raise UserError(f"{name}: does not decode: truncated, damaged or not an image; replace or remove the file")
    return image.reshape(*image.shape[:2], in_channels)


def _tiff_bands(content: bytes, name: str) -> int:
    """Return the number of bands of a TIFF file; 3 if it does not decode, which reading the image reports."""
    try:
        return _decode_tiff(content, name).shape[2]
    except UserError:
        return 3


def _decode_tiff(content: bytes, name: str) -> np.ndarray:
    """Decode a TIFF file to `[H, W, bands]`; the bands are samples of a pixel, planes or pages."""
    try:
        with tifffile.TiffFile(io.BytesIO(content)) as file:
            series = file.series[0]
            array, axes = series.asarray(), series.axes
    except Exception as error:  # tifffile raises many kinds of exceptions for damaged files
        text = first_line(error)
        raise UserError(
            f"{name}: does not decode as TIFF ({text}); save it without compression, or replace it"
        ) from None
    if array.ndim not in (2, 3) or not {"Y", "X"} <= set(axes) or array.dtype.kind not in "uif" or not array.size:
        raise UserError(f"{name}: has the axes {axes} of {array.dtype}; expected a TIFF file of bands of one image")
    array = np.moveaxis(array, (axes.index("Y"), axes.index("X")), (0, 1))
    return array.reshape(*array.shape[:2], -1)


def _decode_array(content: bytes, name: str) -> np.ndarray:
    try:
        # Do not use `np.load`: it also reads archives and pickles.
        array = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError, OSError, MemoryError, tokenize.TokenError):  # damaged headers raise the last two
        raise UserError(
            f"{name}: does not decode: truncated, damaged or not an array; replace or remove the file"
        ) from None
    if array.ndim not in (2, 3) or array.dtype.kind not in "uif":
        raise UserError(f"{name}: expected an array [H, W] or [H, W, bands] of numbers; fix or remove the file")
    if not array.size:
        raise UserError(f"{name}: is an empty array of shape {list(array.shape)}; replace or remove the file")
    return array.reshape(*array.shape[:2], -1)
