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
