"""Score a COCO results file against COCO annotations.

python tools/eval_coco.py --annotations instances_val2017.json --detections detections.json
python tools/eval_coco.py --annotations GT.json --detections DT.json --evaluator pycocotools --output results.json
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the root, not tools/, whose names could shadow others

from backbones.errors import UserError
from tools.cli.ending import run
from tools.cli.parsing import parse


@dataclass
class ScoreOptions:
    """What to score.

    Args:
        annotations: ground truth, a COCO instances JSON.
        detections: results JSON: a list of image_id, category_id, bbox [x, y, width, height], score.
        evaluator: what matches boxes; pycocotools is the slow reference with the same figures.
        protocol: whose figures to compute beside COCO's: Pascal VOC's (crowds are difficult objects) or LVIS's.
        output: JSON file for the figures, the same as a run's results.json.
        overwrite: replace `output` where it exists.
    """

    annotations: str
    detections: str
    evaluator: Literal["hotcoco", "pycocotools"] = "hotcoco"
    protocol: Literal["coco", "voc", "lvis"] = "coco"
    output: str | None = None
    overwrite: bool = False


@dataclass
class Options:
    """The script's option groups."""

    score: ScoreOptions


def main(argv: Sequence[str] | None = None) -> None:
    """Read, score, print, write."""
    options = parse(Options, description=__doc__.splitlines()[0], argv=argv).score

    from backbones.common.files import write_json
    from tools.evaluation.evaluator import CocoEvaluator, format_table

    if options.output and Path(options.output).exists() and not options.overwrite:
        raise UserError(f"--output {options.output}: exists already; name another file or pass --overwrite")
    if options.output and not Path(options.output).absolute().parent.is_dir():
        raise UserError(f"--output {options.output}: its folder does not exist; create it first")
    evaluator = CocoEvaluator(options.annotations, engine=options.evaluator, protocol=options.protocol)
    evaluator.load(options.detections)
    results = evaluator.compute()
    print(format_table(results, per_class=True))
    if options.output:
        write_json(Path(options.output), results)


if __name__ == "__main__":
    run(main)
