"""Encodes images as JPEG files."""

from __future__ import annotations

import cv2
import numpy as np


def encode_jpeg(image: np.ndarray, quality: int) -> bytes:
    """Encode an image `[H, W, 3]` RGB uint8 as a JPEG.

    Args:
        quality: 0..100 as in libjpeg.
    """
    # A copy in OpenCV's order of colours: the encoder needs three times as long for a view of reversed colours.
    done, content = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise RuntimeError(f"OpenCV cannot encode an image of shape {image.shape}")
    return content.tobytes()
