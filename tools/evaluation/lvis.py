"""LVIS's figures: only categories that an image was searched for count on it.

Gupta et al., "LVIS: A Dataset for Large Vocabulary Instance Segmentation", CVPR 2019, section 2. hotcoco computes them,
and gives the figures of the reference, lvis-api 0.5.3, to all digits.
"""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np

from backbones.errors import UserError
from tools.evaluation.reading import native_stderr_silenced

WARNING = "COCO's figures count objects that nobody was to annotate as wrong; LVIS's figures do not"


def lvis_figures(source: Path | dict[str, Any], detections: np.ndarray, images: list[int]) -> dict[str, float | None]:
    """`LVIS_AP`, its parts by IoU, size and frequency (`LVIS_APr`, `APc`, `APf`) and recalls; None where undefined.

    Args:
        source: ground truth, a file or its content, whose images have `neg_category_ids`.
        detections: rows `[D, 7]` of image id, x, y, width, height, score, category id; 300 an image count.
        images: ids to score.

    Raises:
        UserError: where LVIS's own fields are malformed.
    """
    from hotcoco import COCO, LVISEval

    if not images:
        return {}
    try:
        with native_stderr_silenced(), contextlib.redirect_stdout(io.StringIO()):
            truth = COCO(str(source) if isinstance(source, Path) else source)
            matching = LVISEval(truth, truth.load_res(detections), "bbox")
            matching.params.img_ids = images
            matching.run()
    except (ValueError, TypeError, KeyError, OSError) as error:
        where = source if isinstance(source, Path) else "annotations"
        raise UserError(f"{where}: is no LVIS file ({' '.join(str(error).split())}); choose --protocol coco") from None
    return {f"LVIS_{name}": None if value < 0 else float(value) for name, value in matching.get_results().items()}
