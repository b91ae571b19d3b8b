"""Table and plot of an experiment, from run folders written by hand."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import size_of
from PIL import Image

from backbones.errors import UserError
from tools.experiments.cell_runs import CellRun
from tools.experiments.cells import Cell
from tools.experiments.charts import draw_costs, draw_differences, draw_learning
from tools.experiments.curves import curve, draw_curves, mean_curve
from tools.experiments.differences import Difference
from tools.experiments.groups import group_runs, varying_axes
from tools.experiments.tables import write_tables
from tools.experiments.task_comparison import TaskComparison
from tools.runs.log import seconds_per_step
from tools.runs.metrics import TASK_METRICS

TASK = TASK_METRICS["classification"]
COST = {"parameters": 272_474, "macs": 40_551_424, "peak_memory": 3 * 2**29}


def line(step: int, time: float, **values: Any) -> dict[str, Any]:
    return {"step": step, "time": time, **values}


# 0.1 s a step; evaluations of 5 s after steps 40 and 80.
LINES = [
    line(20, 100.0, loss=2.3),
    line(40, 102.0, loss=2.0),
    line(40, 107.0, epoch=1, top1=0.4, train_top1=0.5),
    line(60, 109.0, loss=1.8),
    line(80, 111.0, loss=1.6),
    line(80, 116.0, epoch=2, top1=0.6, train_top1=0.75),
]


def run(
    net: str,
    seed: int,
    results: dict[str, Any] | None,
    lines: list[dict[str, Any]] = LINES,
    error: str | None = None,
    fraction: float = 1.0,
) -> CellRun:
    config = {"backbone": net, "seed": seed, "batch_size": 64, "fraction": fraction}
    name = f"{net}-fraction{fraction}-seed{seed}"
    return CellRun(Cell(name, "train_cls", (), config, {}), Path(name), results, lines, error)


def test_speed_and_minutes_leave_evaluations_and_pauses_apart():
    assert seconds_per_step(LINES) == pytest.approx(0.1)
    whole = run("a", 0, {})
    assert whole.images_per_second() == pytest.approx(640)  # 64 images in 0.1 s
    # 20 steps before the first line, 60 logged ones, two evaluations: 2 + 6 + 10 s
    assert whole.minutes() == pytest.approx(18 / 60)
    paused = [*LINES[:3], *({**entry, "time": entry["time"] + 3600} for entry in LINES[3:])]
    assert run("a", 0, {}, paused).minutes() == pytest.approx(18 / 60)
    assert run("a", 0, {}, LINES[:1]).images_per_second() is None
    assert run("a", 0, {}, LINES[:1]).minutes() is None


def test_results_that_are_none_are_refused(tmp_path: Path):
    (tmp_path / "results.json").write_text("[1]")
    with pytest.raises(UserError, match=r"results\.json: is not the results file of a run"):
        CellRun.read(tmp_path, Cell("", "train_cls", (), {}, {}))


def test_seeds_are_averaged(tmp_path: Path):
    runs = [
        run("a", 0, {"top1": 0.90, "top5": 0.99, "train_top1": 1.0, **COST}),
        run("b", 0, {"top1": 0.80, "top5": None}),
        run("a", 1, {"top1": 0.92, "top5": 0.98, "train_top1": 1.0, **COST, "peak_memory": 2**30}),
        run("a", 2, None, []),
    ]
    found = group_runs(runs, ["backbone", "seed"])
    text = write_tables(tmp_path, [TaskComparison("", TASK, found)])
    head, _, first, second = text.splitlines()[:4]
    assert head.startswith(
        "| backbone | n | top-1 error % | top-5 error % | training error % | parameters (M) | GFLOPs |"
    )
    # Errors 10 and 8: mean 9, deviation sqrt((1 + 1) / 1) = 1.41; 1 and 2: mean 1.5, deviation 0.71.
    assert first == "| a | 2 of 3 | 9.00 ± 1.41 | 1.50 ± 0.71 | 0.00 ± 0.00 | 0.27 | 0.041 | 640.0 | 1.50 | 0.3 |"
    assert second == "| b | 1 | 20.00 |  |  |  |  | 640.0 |  | 0.3 |"
    rows = list(csv.DictReader((tmp_path / "table.csv").read_text().splitlines()))
    assert float(rows[0]["top-1 error % mean"]) == pytest.approx(9)
    assert float(rows[0]["top-1 error % std"]) == pytest.approx(2**0.5)
    assert (rows[0]["n"], rows[0]["planned"]) == ("2", "3")
    assert rows[1]["top-1 error % std"] == rows[1]["top-5 error % mean"] == ""
    assert float(rows[0]["memory (GiB)"]) == 1.5  # the larger of 1.5 and 1


def test_detection_is_judged_by_ap(tmp_path: Path):
    results = {"AP": 0.304, "AP50": 0.5, "AP75": None}
    text = write_tables(
        tmp_path, [TaskComparison("", TASK_METRICS["detection"], group_runs([run("a", 0, results)], ["backbone"]))]
    )
    assert "| a | 1 | 30.40 | 50.00 |  |" in text
    assert "| images/s | minutes |" in text and "GFLOPs |" not in text  # a column without a value is left out


def test_only_axes_that_vary_name_a_group():
    found = group_runs([run("a", 0, None), run("b", 0, None)], ["backbone", "batch_size", "seed"])
    assert varying_axes(found) == ["backbone"]
    assert [group.name(varying_axes(found)) for group in found] == ["a", "b"]
    assert group_runs([], ["backbone"]) == varying_axes([]) == []


def test_curves():
    points = curve(run("a", 0, None), TASK.primary, "epochs")
    assert points == [(1, pytest.approx(60)), (2, pytest.approx(40))]
    assert [place for place, _ in curve(run("a", 0, None), TASK.primary, "iterations")] == [40, 80]
    assert mean_curve([points, [(1, 20.0)], []]) == [(1, pytest.approx(40))]  # (60 + 20) / 2; epoch 2 is not common
    assert mean_curve([[], []]) == []


@pytest.mark.parametrize("x", ["epochs", "iterations"])
def test_plain_and_residual_nets_get_panels(tmp_path: Path, x):
    nets = ["plain20", "plain56", "resnet20", "resnet56"]
    path = tmp_path / "curves.png"
    one = group_runs([run(nets[0], seed, None) for seed in (0, 1)], ["backbone", "seed"])
    four = group_runs([run(net, seed, None) for net in nets for seed in (0, 1)], ["backbone", "seed"])
    assert draw_curves(path, one, TASK, x=x)
    narrow = size_of(path)[0]
    assert draw_curves(path, four, TASK, x=x)
    assert size_of(path)[0] > 1.5 * narrow
    assert [entry.name for entry in tmp_path.iterdir()] == ["curves.png"]


def test_nothing_to_draw_is_no_picture(tmp_path: Path):
    assert not draw_curves(tmp_path / "curves.png", group_runs([run("a", 0, None, [])], ["backbone"]), TASK)
    assert not (tmp_path / "curves.png").exists()


def difference(**changed: Any) -> Difference:
    values: dict[str, Any] = {"axis": "backbone", "first": "a", "other": "b", "rest": {}, "metric": "top1"}
    values |= {"scores": ((80.0, 81.0), (83.0, 84.0)), "images": (1.0, 5.0), "both": (-1.0, 7.0)}
    return Difference(**(values | changed))


def test_failed_cells_and_differences_stand_in_all_tables(tmp_path: Path):
    runs = [run("a", 0, {"top1": 0.9}), run("a", 1, None, [], "error: --data x: no such folder"), run("b", 0, None, [])]
    chapter = TaskComparison("cells", TASK, group_runs(runs, ["backbone", "seed"]), [difference()])
    text = write_tables(tmp_path, [chapter, TaskComparison("more", TASK, group_runs(runs[:1], ["backbone"]))])
    assert text.startswith("## cells\n")
    assert "\n## more\n" in text
    assert "| a | 1 of 2, 1 failed | 10.00 |" in text
    assert "| b | 0 of 1 |" in text
    assert "- `a-fraction1.0-seed1` failed: error: --data x: no such folder" in text
    assert "- backbone b over a: +3.0 top1, 95% interval -1.0 to +7.0, 2 seeds; not distinguishable" in text
    rows = list(csv.DictReader((tmp_path / "table.csv").read_text().splitlines()))
    assert [(row["task"], row["n"], row["failed"]) for row in rows] == [
        ("cells", "1", "1"),
        ("cells", "0", "0"),
        ("more", "1", "0"),
    ]
    first, _ = json.loads((tmp_path / "table.json").read_text())
    assert [each["error"] for each in first["groups"][0]["runs"]] == [None, "error: --data x: no such folder"]
    assert first["groups"][0]["metrics"]["top-1 error %"] == {"mean": pytest.approx(10), "std": None}
    assert first["groups"][0]["data"] == {"fraction": 1.0}
    assert first["differences"][0]["distinguishable"] is False


def test_long_labels_of_differences_leave_two_thirds_of_the_chart(tmp_path: Path):
    def left_edge(axis: str) -> float:
        """Draw one difference; return the column of the vertical axis, as a fraction of the width."""
        whole = TaskComparison(
            "", TASK, group_runs([run("a", 0, {"top1": 0.9})], ["backbone"]), [difference(axis=axis)]
        )
        assert draw_differences(tmp_path / "d.png", [whole])
        grey = np.asarray(Image.open(tmp_path / "d.png").convert("L"))
        # The axis is the first column that is dark over half the height; #888888 is 136.
        return int(np.flatnonzero((grey < 180).mean(0) > 0.3)[0]) / grey.shape[1]

    assert left_edge("backbone") < left_edge("backbone and weights " * 8) <= 1 / 3


def test_pictures_of_shares_differences_and_costs(tmp_path: Path):
    runs = [run(net, 0, {"top1": top1, **COST}, fraction=f) for net, f, top1 in [("a", 0.5, 0.6), ("a", 1.0, 0.7)]]
    whole = TaskComparison("one", TASK, group_runs(runs, ["backbone", "fraction"]), [difference()])
    assert draw_learning(tmp_path / "learning.png", [whole])
    assert draw_differences(tmp_path / "differences.png", [whole, whole])
    single = size_of(tmp_path / "differences.png")[1]
    assert draw_differences(tmp_path / "differences.png", [whole])
    assert size_of(tmp_path / "differences.png")[1] < single
    assert not draw_costs(tmp_path / "costs.png", [whole])  # all cost the same
    other = [*runs, run("b", 0, {"top1": 0.8, **COST, "parameters": 10**6})]
    assert draw_costs(tmp_path / "costs.png", [TaskComparison("", TASK, group_runs(other, ["backbone", "fraction"]))])
    bare = TaskComparison("", TASK, group_runs(runs[:1], ["backbone", "fraction"]))
    assert not draw_learning(tmp_path / "none.png", [bare])
    assert not draw_differences(tmp_path / "none.png", [bare])
    assert not (tmp_path / "none.png").exists()
