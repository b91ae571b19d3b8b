"""LVIS's metrics. On an image only those categories count that its annotators searched for.

Gupta et al., "LVIS: A Dataset for Large Vocabulary Instance Segmentation", CVPR 2019, section 2. hotcoco computes
them; the values equal those of the reference, lvis-api 0.5.3, in all digits.
"""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np

from backbones.errors import UserError
from tools.evaluation.plain import native_stderr_silenced
from tools.evaluation.reading import TruthSource

WARNING = "COCO's metrics count objects of categories not annotated on an image as wrong; LVIS's metrics ignore them"


def lvis_figures(source: TruthSource, detections: np.ndarray, images: list[int]) -> dict[str, float | None]:
    """Compute `LVIS_AP`, its parts by IoU, size and frequency (`LVIS_APr`, `APc`, `APf`), and recalls.

    An undefined value is None.

    Args:
        source: ground truth, as a file or as loaded JSON; its images have `neg_category_ids`.
        detections: rows `[D, 7]` of image id, x, y, width, height, score, category id; the best 300 of an image count.
        images: ids of the images to score.

    Raises:
        UserError: if the fields of LVIS's format are malformed.
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
        raise UserError(f"{where}: not a LVIS file ({' '.join(str(error).split())}); use --protocol coco") from None
    return {f"LVIS_{name}": None if value < 0 else float(value) for name, value in matching.get_results().items()}
