"""The table of headline metrics."""

from __future__ import annotations

import pytest

from tools.runs.metrics import TASK_METRICS, Metric


def test_a_metric_is_a_fraction_or_an_error_in_percent():
    values = {"top1": 0.75, "AP": 1, "absent": None, "flag": True}
    assert Metric("top1", "").fraction(values) == 0.75
    assert Metric("top1", "", as_error=True).percent(values) == pytest.approx(25)
    assert Metric("AP", "").percent(values) == 100
    assert [Metric(key, "").percent(values) for key in ("absent", "flag", "none")] == [None, None, None]


def test_each_place_shows_its_metrics():
    shown = {
        task: [[metric.key for metric in group] for group in (each.validation, each.table, each.curves, each.summary)]
        for task, each in TASK_METRICS.items()
    }
    top, box, mask = ["top1", "top5"], ["AP", "AP50", "AP75"], ["mIoU", "pixel_accuracy"]
    trained = [*top, "train_top1"]
    assert shown == {
        "classification": [top, trained, trained, trained],
        "detection": [box, box, box, [*box, "AR100"]],
        "segmentation": [mask, mask, [*mask, "mean_accuracy"], [*mask, "mean_accuracy"]],
    }
