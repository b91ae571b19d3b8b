"""Pictures opened by PIL, for what OpenCV does not tell: sizes from headers, palettes, orientations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from backbones.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

MOST_PIXELS = 2**30  # OpenCV decodes no larger pictures


def open_picture(path: Path) -> Image.Image:
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
