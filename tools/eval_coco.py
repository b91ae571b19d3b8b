"""Score a COCO results file against COCO annotations.

    python tools/eval_coco.py --annotations instances_val2017.json --detections detections.json
    python tools/eval_coco.py --annotations GT.json --detections DT.json --evaluator pycocotools --output results.json
    python tools/eval_coco.py --annotations GT.json --detections masks.json --iou segm

The results may come from any detector: COCO's format of results is all that counts.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the root, not tools/, whose names could shadow others

from backbones.common.files import write_json
from backbones.errors import UserError, require
from tools.cli.ending import run
from tools.cli.parsing import parse

NAMES = "images.json"  # written by predict.py beside its predictions


@dataclass
class ScoreOptions:
    """Annotations and results to score, and where to write the metrics.

    Args:
        annotations: ground truth, a COCO instances JSON.
        detections: results JSON: a list of image_id, category_id, bbox [x, y, width, height], score, or of image_id,
            category_id, segmentation, score for masks. If images.json of predict.py lies beside it, images and
            categories are matched by name.
        iou: what is compared: bbox the boxes, segm the masks, boundary the masks and their boundaries (Boundary AP).
        evaluator: library that matches detections; pycocotools is the slow reference with equal metrics.
        protocol: further metrics: voc adds Pascal VOC's (crowds count as difficult objects), lvis adds LVIS's.
        max_detections: number of detections per image and class that count; COCO's number is 100. Another number adds
            the recall at that number.
        output: JSON file for the metrics, with the content of a run's results.json.
        overwrite: replace an existing `output`.
    """

    annotations: str
    detections: str
    iou: Literal["bbox", "segm", "boundary"] = "bbox"
    evaluator: Literal["hotcoco", "pycocotools"] = "hotcoco"
    protocol: Literal["coco", "voc", "lvis"] = "coco"
    max_detections: int = 100
    output: str | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        require(self.max_detections > 0, "max_detections", self.max_detections, "must be above 0")


@dataclass
class EvalOptions:
    """The option groups of the command."""

    score: ScoreOptions


def main(argv: Sequence[str] | None = None) -> None:
    """Read both files, compute the metrics, print and write them."""
    options = parse(EvalOptions, description=__doc__, argv=argv).score

    from tools.evaluation import CocoEvaluator, format_table  # imports NumPy

    if options.output and Path(options.output).exists() and not options.overwrite:
        raise UserError(f"--output {options.output}: the file exists; name another file or add --overwrite")
    if options.output and not Path(options.output).absolute().parent.is_dir():
        raise UserError(f"--output {options.output}: its folder does not exist; create the folder first")
    evaluator = CocoEvaluator(
        options.annotations,
        engine=options.evaluator,
        protocol=options.protocol,
        max_detections=options.max_detections,
        iou_types=(options.iou,),
    )
    names = Path(options.detections).with_name(NAMES)
    evaluator.load(options.detections, names=names if names.is_file() else None)
    results = evaluator.compute()
    print(format_table(results, per_class=True))
    if options.output:
        write_json(Path(options.output), results)


if __name__ == "__main__":
    run(main)
