"""Types and masks of the shapes of LabelMe. A mask is a PNG as base64 text, with the corners of its box.

Source: https://github.com/wkentaro/labelme (`labelme/utils/shape.py`)
"""

from __future__ import annotations

import base64
import binascii
import io

import numpy as np
from PIL import Image

from backbones.common.outlines import blank, box_of_mask

POLYGONS = ("polygon", "oriented_rectangle", "rotation")  # types of shapes; the last one is X-AnyLabeling's


def decode_mask(text: object, corners: tuple[float, float, float, float], size: tuple[int, int]) -> np.ndarray:
    """Return the mask `[H, W]` bool of a shape in an image of size (height, width).

    Args:
        text: value of `mask` in the JSON file.
        corners: x and y of the first and of the last pixel of the box.

    Raises:
        ValueError: the text is no PNG, or does not have the size of the box, or the box is not inside the image.
    """
    left, top, right, bottom = map(int, corners)
    if not (0 <= left <= right < size[1] and 0 <= top <= bottom < size[0]):
        raise ValueError("the box of its mask is not inside the image")
    try:
        content = base64.b64decode(text if isinstance(text, str) else "", validate=True)
        with Image.open(io.BytesIO(content)) as image:
            if image.size != (right + 1 - left, bottom + 1 - top):
                raise ValueError(f"its mask has {image.width}x{image.height} pixels, other than its box")
            pixels = np.asarray(image.convert("L"))
    except (binascii.Error, OSError, SyntaxError, Image.DecompressionBombError):
        raise ValueError("its mask is no image") from None
    whole = blank(size)
    whole[top : bottom + 1, left : right + 1] = pixels > 0
    return whole


def encode_mask(mask: np.ndarray) -> tuple[str, list[list[int]]]:
    """Return a mask `[H, W]` bool with at least one pixel as text, and the first and the last point of its box."""
    left, top, width, height = box_of_mask(mask)
    part = np.ascontiguousarray(mask[top : top + height, left : left + width])
    buffer = io.BytesIO()
    Image.fromarray(part.astype(np.uint8) * 255).convert("1").save(buffer, "PNG")
    text = base64.b64encode(buffer.getvalue()).decode()
    return text, [[left, top], [left + width - 1, top + height - 1]]
