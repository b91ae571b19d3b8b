"""Images as people have them (files, PIL images, arrays, tensors) as tensors of pixels."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from backbones.errors import UserError

if TYPE_CHECKING:
    import PIL.Image

Image = Any  # a path, a PIL image, an array [H, W, C] or a tensor [C, H, W]


def pixels_of(
    image: Image,
    read: Callable[[Path], np.ndarray],
    *,
    in_channels: int = 3,
    turn: bool,
    any_floats: bool = False,
) -> Tensor:
    """Pixels `[C, H, W]`, uint8 or float32.

    Args:
        image: a file's path, a PIL image, an array `[H, W, C]` (RGB) or `[H, W]`, or a tensor `[C, H, W]`; arrays and
            tensors are uint8, or floats in 0..1.
        read: decodes a file to `[H, W, C]`.
        in_channels: channels that the net takes.
        turn: whether PIL images are turned as their EXIF orientation says, as `read` does with files.
        any_floats: take floats beyond 0..1 as well: those of a net that was trained on such.

    Raises:
        UserError: for a file that does not decode, no image, another number of channels, another type of numbers.
    """
    what = f"an image of type {type(image).__name__}"
    if isinstance(image, (str, os.PathLike)):
        pixels = _of_array(read(Path(image)))
        what = str(image)
    elif isinstance(image, np.ndarray):
        pixels = _of_array(image)
    elif isinstance(image, Tensor):
        pixels = image.detach()
    elif hasattr(image, "getexif"):
        pixels = _of_array(_of_pil(image, grey=in_channels == 1, turn=turn))
    else:
        raise UserError(f"{what}: expected a path, a PIL image, an array [H, W, C] or a tensor [C, H, W]")
    return _checked(pixels, what, in_channels, any_floats)


def _of_array(array: np.ndarray) -> Tensor:
    array = array[..., None] if array.ndim == 2 else array
    if array.ndim != 3 or array.dtype.kind not in "buif":
        raise UserError(
            f"an array {list(array.shape)} of {array.dtype}: expected [H, W, C] of uint8, or floats in 0..1"
        )
    if array.dtype.kind != "f" and array.dtype != np.uint8:
        raise UserError(f"an array of {array.dtype}: expected uint8, or floats in 0..1")
    values = array if array.dtype == np.uint8 else array.astype(np.float32)
    return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)))


def _of_pil(image: Any, *, grey: bool, turn: bool) -> np.ndarray:
    from PIL import ImageOps

    try:
        image = ImageOps.exif_transpose(image) if turn else image
        if image.mode.startswith("I;16"):  # which PIL would clip, not scale
            image = _eight_bits(image)
        if image.mode in ("I", "F"):
            raise UserError(f"a PIL image of mode {image.mode}: its numbers have no known range; convert it to RGB")
        return np.asarray(image.convert("L" if grey else "RGB"))
    except (OSError, SyntaxError) as error:
        name = getattr(image, "filename", "") or "a PIL image"
        raise UserError(f"{name}: does not decode ({error})") from None


def _eight_bits(image: Any) -> Any:
    from PIL import Image

    return Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))


def _checked(pixels: Tensor, what: str, in_channels: int, any_floats: bool) -> Tensor:
    if pixels.ndim != 3 or not pixels.numel():
        raise UserError(f"{what}: has the shape {list(pixels.shape)}; expected an image of some pixels, [C, H, W]")
    if pixels.shape[0] != in_channels:
        raise UserError(f"{what}: has {pixels.shape[0]} channels; the net takes {in_channels}")
    if pixels.dtype == torch.uint8:
        return pixels
    if not pixels.dtype.is_floating_point:
        raise UserError(f"{what}: holds {str(pixels.dtype).removeprefix('torch.')}; expected uint8, or floats in 0..1")
    low, high = pixels.min().item(), pixels.max().item()
    if not (any_floats or (low >= 0 and high <= 1)):
        raise UserError(f"{what}: holds floats from {low:.3g} to {high:.3g}; expected 0..1, or uint8 of 0..255")
    return pixels.float()


MOST_PIXELS = 2**30  # OpenCV decodes no larger pictures


def open_picture(path: Path) -> PIL.Image.Image:
    """A picture, its pixels not yet decoded.

    Raises:
        UserError: where it has more pixels than anything here decodes; the errors of PIL besides.
    """
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = MOST_PIXELS // 2  # PIL warns from here on, and takes twice as many for an attack
    try:
        return Image.open(path)
    except Image.DecompressionBombError:
        raise UserError(f"{path}: has more than {MOST_PIXELS} pixels; cut it into smaller pictures") from None


def picture_size(path: Path, *, turned: bool) -> tuple[int, int]:
    """Height and width of a picture by its header.

    Args:
        turned: as its EXIF orientation says; else as its pixels lie.

    Raises:
        UserError: where the file is missing, no picture, or too large for one.
    """
    try:
        with open_picture(path) as picture:
            swapped = turned and picture.getexif().get(0x0112, 1) in (5, 6, 7, 8)
            return (picture.width, picture.height) if swapped else (picture.height, picture.width)
    except UserError:
        raise
    except Exception as error:  # PIL lets many kinds out, such as SyntaxError and struct.error
        words = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{path}: does not decode ({words}); replace or remove it, or pass --on-bad-image skip"
        ) from None


def starts(length: int, window: int, overlap: float) -> list[int]:
    """Where windows begin that each repeat a share `overlap` of their neighbour, or more.

    They are evenly spread; the last one ends with the side. A side that is no longer than the window has one.
    """
    if length <= window:
        return [0]
    steps = -(-(length - window) // max(1, int(window * (1 - overlap))))
    return [round(step * (length - window) / steps) for step in range(steps + 1)]
