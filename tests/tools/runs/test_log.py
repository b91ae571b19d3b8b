"""metrics.jsonl: lines that a kill cut short, and times without interruptions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tools.runs.log import read_lines, seconds_evaluated, seconds_per_step, seconds_trained

# 0.1 s per step; evaluations of 5 s after steps 40 and 80.
LINES = [
    {"step": 20, "time": 100.0, "loss": 2.3},
    {"step": 40, "time": 102.0, "loss": 2.0},
    {"step": 40, "time": 107.0, "epoch": 1},
    {"step": 60, "time": 109.0, "loss": 1.8},
    {"step": 80, "time": 111.0, "loss": 1.6},
    {"step": 80, "time": 116.0, "epoch": 2},
]


def test_a_line_torn_by_a_kill_is_left_out(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    assert read_lines(path) == []
    path.write_text("".join(json.dumps(entry) + "\n" for entry in LINES[:2]) + '{"step": 6')
    assert read_lines(path) == LINES[:2]


def test_interruptions_do_not_count():
    paused = [*LINES[:3], *({**line, "time": line["time"] + 3600} for line in LINES[3:])]
    for lines in (LINES, paused):
        assert seconds_per_step(lines) == pytest.approx(0.1)
        assert seconds_trained(lines, 0.1) == pytest.approx(6)  # 60 steps
        assert seconds_evaluated(lines) == pytest.approx(10)
    assert seconds_per_step(LINES[:1]) is None
