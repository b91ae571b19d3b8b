"""Chooses the annotation of a task of Label Studio that counts, of those of several annotators."""

from __future__ import annotations

from backbones.common.datasets import Record

UNLABELLED = "tasks without an annotation, which are left out"
ANNOTATED = "annotation_id"  # key of an annotated task in JSON-MIN, also of one without a result
FURTHER = "further annotations of the same task, which are left out"


def usable_annotations(annotations: object) -> list[Record]:
    """Return the annotations of a task that were not cancelled; the first one counts.

    It is the one that is marked as the ground truth, or else the first in the file.
    """
    given = annotations if isinstance(annotations, list) else []
    usable = [each for each in given if isinstance(each, dict) and not each.get("was_cancelled")]
    return sorted(usable, key=lambda each: not each.get("ground_truth"))
