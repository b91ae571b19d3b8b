"""Functions on images for all tasks: decode files, convert a user's images to tensors, read sizes, place tiles."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias, Union

import cv2
import numpy as np
import PIL.Image
import PIL.TiffImagePlugin
import torch
from PIL import ImageOps
from torch import Tensor

from backbones.common.bits import WHOLE_BITS, upper_bits
from backbones.common.channels_last import to_tensor
from backbones.errors import UserError, counted

# A path, a PIL image, an array [H, W, C] or a tensor [C, H, W].
Image: TypeAlias = Union[str, "os.PathLike[str]", PIL.Image.Image, np.ndarray, Tensor]
ORIENTATION = 0x0112  # EXIF tag
MOST_PIXELS = 2**30  # OpenCV decodes no larger images
MOST_RESIZED = 2**27  # pixels of an image that a model gets
# Flags of OpenCV by divisor; their names say grey, but `IMREAD_COLOR_RGB` decides on the colours.
REDUCED = {
    1: 0,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}
FIX = "replace or remove it, or pass --on-bad-image skip"


# Files


def read_file(path: Path, *, fix: str = FIX) -> bytes:
    """Return a file's content.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {fix}") from None


def read_image(
    path: Path, *, apply_exif: bool = True, size: tuple[int, int] | None = None, fix: str = FIX, bits: int = 16
) -> np.ndarray:
    """Decode an image file to `[H, W, 3]` RGB uint8.

    Args:
        apply_exif: whether to rotate the image by its EXIF orientation. Boxes refer to rotated images, label maps to
            the pixels as they are stored.
        size: height and width according to the annotations. If only the unrotated image has this size, the annotations
            refer to it, and the image is not rotated.
        fix: what the error tells the user to do about a file that cannot be decoded.
        bits: see `decode_image`.

    Raises:
        UserError: the file is missing, damaged, no image, or not of the given size; or 16-bit values need more bits.
    """
    content = read_file(path, fix=fix)
    image = decode_image(content, apply_exif=apply_exif, bits=bits, name=str(path))
    if image is None:
        raise UserError(f"{path}: does not decode: truncated, damaged or not an image; {fix}")
    if size is None or image.shape[:2] == size:
        return image
    stored = decode_image(content, apply_exif=False, bits=bits, name=str(path)) if apply_exif else None
    if stored is None or stored.shape[:2] != size:
        raise UserError(
            f"{path}: is {image.shape[1]}x{image.shape[0]} pixels, but the annotations say {size[1]}x{size[0]}; "
            "fix the annotations or replace the image"
        )
    return stored


def is_jpeg(content: bytes) -> bool:
    """Return whether the bytes of a file begin like those of a JPEG image."""
    return content.startswith(b"\xff\xd8\xff")


def decode_image(
    content: bytes | np.ndarray,
    *,
    grey: bool = False,
    apply_exif: bool = True,
    bits: int = 16,
    reduce: int = 1,
    name: str = "image",
) -> np.ndarray | None:
    """Decode the bytes of an image file to uint8 `[H, W, 3]` RGB, or to `[H, W]` if `grey`.

    Args:
        grey: whether to convert to grey.
        apply_exif: whether to turn the image as its EXIF orientation says.
        bits: bits, 8 to 16, that the values of 16-bit images use; the upper eight of them are kept.
        reduce: 1, 2, 4 or 8, by which both sides of a JPEG image are divided in decoding, rounded up.
        name: the file's name, for messages.

    Returns:
        The pixels, or None if the content is damaged or no image.

    Raises:
        UserError: a 16-bit image holds a value beyond `bits`.
    """
    flags = cv2.IMREAD_GRAYSCALE if grey else cv2.IMREAD_COLOR_RGB
    flags |= 0 if apply_exif else cv2.IMREAD_IGNORE_ORIENTATION
    flags |= REDUCED[reduce]
    flags |= cv2.IMREAD_ANYDEPTH if bits < WHOLE_BITS else 0  # OpenCV itself keeps the upper 8 of 16 bits
    encoded = np.frombuffer(content, np.uint8) if isinstance(content, bytes) else content
    try:
        image = cv2.imdecode(encoded, flags) if len(encoded) else None
    except cv2.error:
        return None
    if image is None and _is_heif(encoded):
        return _decode_heif(encoded, grey=grey)
    if image is None or image.dtype == np.uint8:
        return image
    if image.dtype == np.uint16:
        return upper_bits(image, bits, name=name)
    # OpenCV converts images of floats and of 32 bits to bytes itself.
    return decode_image(content, grey=grey, apply_exif=apply_exif)


def _is_heif(encoded: np.ndarray) -> bool:
    """Return whether the bytes of a file begin like those of a HEIC photo."""
    head = encoded[4:12].tobytes()
    return head[:4] == b"ftyp" and head[4:] in (b"heic", b"heix", b"hevc", b"mif1", b"msf1")


def _register_heif() -> None:
    """Let PIL read HEIC photos, if `pillow-heif` is installed."""
    if find_spec("pillow_heif"):
        import pillow_heif

        pillow_heif.register_heif_opener()


def _decode_heif(encoded: np.ndarray, *, grey: bool) -> np.ndarray | None:
    """Decode a HEIC photo with `pillow-heif`, if it is installed, turned as the file says."""
    try:
        _register_heif()
        with PIL.Image.open(io.BytesIO(encoded.tobytes())) as photo:
            return np.array(photo.convert("L" if grey else "RGB"))
    except (OSError, ValueError, SyntaxError):
        return None


def open_image(path: Path) -> PIL.Image.Image:
    """Open an image with PIL. Only the header is read; the pixels are not decoded yet.

    Raises:
        UserError: the image has more than `MOST_PIXELS` pixels. PIL's own errors also occur.
    """
    # PIL warns above its limit and raises an error above twice the limit.
    PIL.Image.MAX_IMAGE_PIXELS = MOST_PIXELS // 2
    if path.suffix.lower() in (".heic", ".heif"):
        _register_heif()
    try:
        return PIL.Image.open(path)
    except PIL.Image.DecompressionBombError:
        raise UserError(f"{path}: has more than {MOST_PIXELS} pixels; cut the image into smaller ones") from None


def image_size(path: Path, *, apply_exif: bool) -> tuple[int, int]:
    """Return height and width according to a file's header.

    Args:
        apply_exif: whether to return the size after rotation by the EXIF orientation.

    Raises:
        UserError: the file is missing, no image, or too large.
    """
    try:
        with open_image(path) as image:
            orientation = image.getexif().get(ORIENTATION, 1)
            # OpenCV turns TIFF files in any case; PIL reports their size turned or not, depending on its version.
            is_tiff = isinstance(image, PIL.TiffImagePlugin.TiffImageFile)
            width, height = (image.tag_v2[256], image.tag_v2[257]) if is_tiff else image.size
            swapped = (apply_exif or is_tiff) and orientation in (5, 6, 7, 8)
            return (width, height) if swapped else (height, width)
    except UserError:
        raise
    except Exception as error:  # PIL raises many kinds of exceptions, such as SyntaxError and struct.error
        words = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: does not decode ({words}); {FIX}") from None


def complete_size(record: dict[str, Any], folder: Path) -> bool:
    """If an image's record of a COCO file has no width or no height, read both from its file. Return whether it did.

    Args:
        record: with a valid `file_name`; changed in place.
        folder: of the image.

    Raises:
        UserError: the file is missing, no image, or too large.
    """
    if record.get("width") is not None and record.get("height") is not None:
        return False
    record["height"], record["width"] = image_size(folder / record["file_name"], apply_exif=True)
    return True


# What a user passes to `predict`


def pixels_of(
    image: Image,
    read: Callable[[Path], np.ndarray],
    *,
    in_channels: int = 3,
    apply_exif: bool,
    any_floats: bool = False,
    bits: int = 16,
) -> Tensor:
    """Return an image's pixels `[C, H, W]`: uint8 0..255, or float32 0..1 if floats were given.

    Args:
        image: a file's path, a PIL image, an array `[H, W, C]` (RGB) or `[H, W]`, or a tensor `[C, H, W]`. Arrays and
            tensors are uint8 0..255 or floats 0..1.
        read: decodes a file to `[H, W, C]`.
        in_channels: number of channels of the model's input.
        apply_exif: whether to rotate PIL images by their EXIF orientation, as `read` does with files.
        bits: bits that the values of 16-bit PIL images use.
        any_floats: accept floats outside 0..1 and return them unchanged, for a model that was trained on such arrays.

    Raises:
        UserError: the file does not decode, the value is no image, or its channels or numbers are of another kind.
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
        pixels = _of_array(_of_pil(image, grey=in_channels == 1, apply_exif=apply_exif, bits=bits))
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
    return to_tensor(values)


def _of_pil(image: PIL.Image.Image, *, grey: bool, apply_exif: bool, bits: int) -> np.ndarray:
    try:
        image = ImageOps.exif_transpose(image) if apply_exif else image
        if image.mode.startswith("I;16"):  # PIL would clip 16 bits instead of scaling them
            pixels = np.asarray(image).astype(np.uint16)
            image = PIL.Image.fromarray(upper_bits(pixels, bits, name="a PIL image"))
        if image.mode in ("I", "F"):
            raise UserError(
                f"a PIL image of mode {image.mode}: the value range of this mode is unknown; convert the image to RGB"
            )
        return np.asarray(image.convert("L" if grey else "RGB"))
    except (OSError, SyntaxError) as error:
        name = getattr(image, "filename", "") or "a PIL image"
        raise UserError(f"{name}: does not decode ({error}); replace it") from None


def _checked(pixels: Tensor, what: str, in_channels: int, any_floats: bool) -> Tensor:
    if pixels.ndim != 3 or not pixels.numel():
        raise UserError(f"{what}: has the shape {list(pixels.shape)}; expected [C, H, W] with at least one pixel")
    if pixels.shape[0] != in_channels:
        raise UserError(f"{what}: has {counted(pixels.shape[0], 'channel')}; the model needs {in_channels}")
    if pixels.dtype == torch.uint8:
        return pixels
    if not pixels.dtype.is_floating_point:
        raise UserError(f"{what}: holds {str(pixels.dtype).removeprefix('torch.')}; expected uint8, or floats in 0..1")
    low, high = pixels.min().item(), pixels.max().item()
    if not (any_floats or (low >= 0 and high <= 1)):
        raise UserError(f"{what}: holds floats from {low:.3g} to {high:.3g}; expected 0..1, or uint8 of 0..255")
    return pixels.float()


def require_resizable(image: Image, pixels: Tensor, *, short_side: int) -> None:
    """Refuse an image so thin that it would fill the memory when its shorter side is enlarged to `short_side` pixels.

    Args:
        image: the image as the user passed it, for the message.
        pixels: its pixels `[C, H, W]`.

    Raises:
        UserError: the resized image would have more than `MOST_RESIZED` pixels.
    """
    height, width = pixels.shape[-2:]
    if height * width * (short_side / min(height, width)) ** 2 > MOST_RESIZED:
        name = image if isinstance(image, (str, os.PathLike)) else "an image"
        raise UserError(
            f"{name}: is {width}x{height} pixels, too thin to be resized to a short side of {short_side} "
            "pixels; crop the image"
        )


# Tiles of large images


def tile_starts(length: int, tile: int, overlap: float) -> list[int]:
    """Return the positions along one side of an image at which tiles begin.

    The tiles are evenly spread, and the last one ends with the side. A side that is not longer than the tile has
    one tile.

    Args:
        length: length of the side in pixels.
        tile: length of a tile in pixels.
        overlap: fraction of a tile that its neighbour repeats at least, 0..1.
    """
    if length <= tile:
        return [0]
    steps = -(-(length - tile) // max(1, int(tile * (1 - overlap))))
    return [round(step * (length - tile) / steps) for step in range(steps + 1)]
