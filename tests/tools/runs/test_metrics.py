"""The table of headline metrics."""

from __future__ import annotations

import pytest

from backbones.errors import UserError
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
        "classification": [top, trained, trained, [*trained, "balanced_accuracy", "macro_f1"]],
        "detection": [box, box, box, [*box, "AR100", "segm_AP", "segm_AP50", "segm_AP75"]],
        "segmentation": [mask, mask, [*mask, "mean_accuracy"], [*mask, "mean_accuracy"]],
    }


def test_runs_with_masks_can_be_compared_by_the_ap_of_masks():
    metrics = TASK_METRICS["detection"].by("segm_AP")
    assert metrics.primary.key == "segm_AP" and metrics.axis == "mask AP %"
    assert [metric.key for metric in metrics.table] == ["segm_AP", "segm_AP50", "segm_AP75", "AP"]
    assert TASK_METRICS["detection"].by("AP") is TASK_METRICS["detection"]
    assert TASK_METRICS["detection"].measured([{"AP": 0.5, "segm_AP": 0.4}]) is TASK_METRICS["detection"]
    with pytest.raises(UserError, match="--metric segm_AP: the task is compared by mIoU; choose one of these"):
        TASK_METRICS["segmentation"].by("segm_AP")


def test_runs_with_several_classes_an_image_have_metrics_of_their_own():
    usual = TASK_METRICS["classification"]
    several = usual.measured([{}, {"mAP": 0.5, "macro_f1": 0.4}])
    assert [metric.key for metric in several.table] == ["mAP", "macro_f1", "micro_f1", "exact_match", "train_mAP"]
    assert several is usual.by("mAP")
    for results in ([], [{}], [{"top1": None, "macro_f1": 0.4}], [{"mAP": 0.5}, {"top1": 0.5}]):
        assert usual.measured(results) is usual
