"""Former faults of experiments: odd matrices, lost reasons, interrupts that were ignored."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from conftest import Launched, fork_trainings

from backbones.errors import UserError
from tools import compare
from tools.experiments import jobs
from tools.experiments.cell_runs import CellRun
from tools.experiments.cells import Cell, make_cells
from tools.experiments.jobs import Job
from tools.experiments.plan import Plan, matrix_of


def plan(*matrices: dict) -> Plan:
    return Plan("train_det", (), tuple(matrix_of(each, "matrix") for each in matrices))


def test_a_matrix_without_options_is_refused():
    with pytest.raises(UserError, match="matrix: lists no option to vary"):  # its run would fill the output folder
        plan({})


def test_values_of_one_name_are_refused():
    with pytest.raises(UserError, match="two of the values 1, '1' have the same name"):
        plan({"weights": {1: "a.pth", "1": "b.pth"}})


def test_a_run_that_two_parts_of_an_experiment_write_differently_counts_once():
    usual = make_cells(plan({"backbone": ["resnet18"], "seed": [0]}))[0].config["norm"]
    base, further = {"backbone": ["resnet18"], "seed": [0, 1]}, {"backbone": ["resnet18"], "seed": [0, 1]}
    made = make_cells(plan(base, {**further, "norm": [usual, "group"]}))
    assert [(cell.label("norm"), cell.config["seed"]) for cell in made] == [
        *[(usual, seed) for seed in (0, 1)],
        *[("group", seed) for seed in (0, 1)],
    ]


@pytest.mark.parametrize(("end", "reason"), [("kill -KILL $$", "killed by SIGKILL"), ("exit 3", "status 3")])
def test_a_training_that_ends_without_a_word_has_a_reason_in_later_tables(end: str, reason: str, tmp_path: Path):
    cell, log = Cell("a", "train_det", (), {}, {}), tmp_path / "a.log"
    log.write_text("== begins at noon\nerror: of an earlier start\n== begins at one\n")
    job = Job(cell, 0, subprocess.Popen(["sh", "-c", end]), log)
    job.process.wait()
    told = job.error()
    assert reason in str(told)
    assert CellRun.read(tmp_path / "a", cell).error == told == job.error()


@pytest.mark.parametrize(("ignored", "status"), [(False, 6), (True, 7)])
def test_trainings_are_interrupted_also_where_ctrl_c_is_ignored(ignored: bool, status: int, tmp_path: Path):
    """As in scripts that run in the background, whose programs inherit that SIGINT is ignored."""
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN if ignored else signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a shell cannot trap what it inherits as ignored
        script = "trap 'exit 6' INT; trap 'exit 7' TERM; echo ready; while true; do sleep 0.1; done"
        process = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, start_new_session=True)
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        jobs._stop([Job(Cell("a", "train_det", (), {}, {}), 0, process, tmp_path / "a.log")])
        assert process.returncode == status
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGTERM, before[1])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_rehearsal_obeys_signals_and_leaves_no_process(
    number: signal.Signals, small_shapes: Path, launch: Callable[..., Launched], tmp_path: Path
):
    options = {"data": str(small_shapes), "weights": "none", "freeze": 0, "norm": "batch", "workers": 0}
    matrix = {"backbone": ["resnet18"], "fraction": [0.99], "seed": list(range(40))}
    file = tmp_path / "e.yaml"
    file.write_text(yaml.safe_dump({"script": "train_det", "options": options, "matrix": matrix}))
    reading, writing = os.pipe()
    with open(reading) as told, open(writing, "w") as log:
        experiment = launch(
            "compare.py", file, "--output", tmp_path / "out", cwd=tmp_path, first=fork_trainings, log=log
        )
        log.close()
        line = next(line for line in told if line.startswith(("rehearsing", "error")))
        assert line.startswith("rehearsing")
        time.sleep(1)  # the rehearsing processes have begun, or are about to
        os.kill(experiment.process.pid, number)
        rest = told.read()  # which waits for all that write there
    experiment.process.join(60)
    assert experiment.process.exitcode == 130
    assert "Traceback" not in rest
    assert not (tmp_path / "out").exists()


def test_a_log_that_cannot_be_written_fails_its_cell_alone(tmp_path: Path, capsys):
    (tmp_path / "out" / "resnet18.log").mkdir(parents=True)
    words = ["--script", "train_det", "--backbones", "resnet18", "--rehearse", "false"]
    with pytest.raises(SystemExit) as status:
        compare.main([*words, "--output", str(tmp_path / "out")])
    assert status.value.code == 1
    assert "resnet18.log: Is a directory; move it away" in capsys.readouterr().err
    assert (tmp_path / "out" / "table.md").is_file()


def test_an_output_that_cannot_be_created_is_refused_before_the_rehearsal(tmp_path: Path, capsys):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--output .*file/out: cannot be created \(.*file is a file\)"):
        compare.main(["--script", "train_det", "--backbones", "resnet18", "--output", str(tmp_path / "file" / "out")])
    assert "rehearsing" not in capsys.readouterr().out
