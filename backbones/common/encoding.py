"""Encodes images as JPEG files."""

from __future__ import annotations

import cv2
import numpy as np

from backbones.errors import UserError

LARGEST = 65_500  # pixels of a side, libjpeg's limit


def encode_jpeg(image: np.ndarray, quality: int) -> bytes:
    """Encode an image `[H, W, 3]` RGB uint8 as a JPEG.

    Args:
        quality: 0..100 as in libjpeg.

    Raises:
        UserError: the image is larger than a JPEG can be.
    """
    if max(image.shape[:2]) > LARGEST:
        raise UserError(
            f"a picture of {image.shape[1]}x{image.shape[0]} pixels: a JPEG has at most {LARGEST:,} pixels a side; "
            "divide the image"
        )
    # A copy in OpenCV's order of colours: the encoder needs three times as long for a view of reversed colours.
    done, content = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise RuntimeError(f"OpenCV cannot encode an image of shape {image.shape}")
    return content.tobytes()
