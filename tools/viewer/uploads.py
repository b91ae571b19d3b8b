"""Reads uploaded images, with limits on size, pixels and type."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator

import numpy as np
import PIL.Image
from PIL import ImageOps

MOST_BYTES = 20 << 20  # of an upload
MOST_PIXELS = 40_000_000  # of an image
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")


class UploadError(Exception):
    """An upload that cannot be used.

    Attributes:
        status: HTTP status of the answer.
    """

    def __init__(self, text: str, status: int = 415) -> None:
        super().__init__(text)
        self.status = status


async def limited(chunks: AsyncIterator[bytes], length: str | None) -> bytes:
    """Return the body of a request.

    Args:
        length: header Content-Length, which is not trusted.

    Raises:
        UploadError: it is larger than `MOST_BYTES`; the rest is not read.
    """
    if length is not None and length.isdigit() and int(length) > MOST_BYTES:
        raise _too_large()
    content = bytearray()
    async for chunk in chunks:
        content += chunk
        if len(content) > MOST_BYTES:
            raise _too_large()
    return bytes(content)


def decode(content: bytes) -> np.ndarray:
    """Return an uploaded image as pixels `[H, W, 3]` RGB uint8, turned as its EXIF orientation says.

    Raises:
        UploadError: it is empty, of another type, damaged, or has more than `MOST_PIXELS` pixels.
    """
    if not content:
        raise UploadError("The file is empty.", 400)
    try:
        # Only the header is read here: the size is checked before any pixel is decoded.
        with PIL.Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise UploadError(f"The image has more than {MOST_PIXELS // 1_000_000} million pixels.", 413)
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except UploadError:
        raise
    except PIL.Image.DecompressionBombError:
        raise UploadError(f"The image has more than {MOST_PIXELS // 1_000_000} million pixels.", 413) from None
    except Exception:  # PIL raises errors of many kinds
        raise UploadError(f"This is no image of a known type ({', '.join(FORMATS)}), or it is damaged.") from None


def _too_large() -> UploadError:
    return UploadError(f"The file has more than {MOST_BYTES >> 20} MB.", 413)
