"""Metrics of detection: COCO, Pascal VOC and LVIS."""

from typing import TYPE_CHECKING

from backbones.common.lazy import lazy

if TYPE_CHECKING:
    from tools.evaluation.evaluator import CocoEvaluator
    from tools.evaluation.summary import format_table

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        "evaluator": ["CocoEvaluator"],
        "summary": ["format_table"],
    },
)
