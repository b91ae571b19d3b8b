"""Estimates by hand, and the document that holds them."""

from __future__ import annotations

import pytest
from conftest import ROOT

from tools.benchmarks.budget import BudgetOptions, Job, hours, reduce, ring_bytes, step


def test_estimates_by_hand():
    rows = {row[0]: row for row in hours(BudgetOptions()).rows}
    # 90,000 steps x 0.210 s = 18,900 s = 5.25 h on eight GPUs
    assert float(rows["Faster R-CNN R50-FPN 1x"][3] or 0) == pytest.approx(5.25, abs=0.06)
    # 90 x 1,281,167 / 1200 / 3600 = 26.7 h
    assert rows["ResNet-50, 90 epochs"][2] == "26.7"
    assert ring_bytes(1, 4) == 6e6  # 2 x 3/4 x 4 MB


def test_a_step_is_the_gpus_time_and_what_nothing_hides():
    job = Job("net", 1e6, 64, 100.0, 1.0, weights=100.0)
    few = step(job, 64, 64, BudgetOptions(network=10.0, hop=10.0))  # one image each: 10 ms, 6.7 of them backward
    # 787.5 MB at 10 GB/s are 78.75 ms; two all-reduces and a broadcast are 5 x 63 hops
    assert few == pytest.approx({"GPU": 10.0, "all-reduce": 78.75 - 20 / 3, "latency": 3.15})
    many = step(job, 64, 64 * 12, BudgetOptions(network=10.0, hop=10.0))
    assert many == pytest.approx({"GPU": 120.0, "all-reduce": 0.0, "latency": 3.15})
    assert step(job, 8, 64, BudgetOptions(network=0.1))["all-reduce"] == 0.0  # within a machine: NVLink


def test_the_document_holds_what_the_tool_prints():
    text = (ROOT / "docs" / "SCALE.md").read_text(encoding="utf-8")
    for table in (hours(BudgetOptions()), reduce(BudgetOptions())):
        assert table.markdown() in text
