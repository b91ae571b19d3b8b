"""Trackers: the events of a run, files and services that take them, and trackers that break or hang."""

from __future__ import annotations

import csv
import importlib
import json
import multiprocessing
import os
import re
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from conftest import CIFAR, write_classes

from backbones.errors import UserError
from tools import train_cls
from tools.engine import tracking
from tools.engine.options import RunOptions
from tools.engine.trackers import open_trackers
from tools.engine.tracking import RunEnd, RunStart, Tracker

QUICK = (*CIFAR, "--batch-size", 4, "--threads", 1, "--workers", 0, "--train-eval", 0, "--crop-size", 32)
CHECKPOINTS = ["last.safetensors", "best.safetensors"]


class Spy(Tracker):
    """Records all events."""

    events: list[tuple[Any, ...]]

    def __init__(self) -> None:
        Spy.events = []

    def on_start(self, start: RunStart) -> None:
        self.events.append(("start", start.options["epochs"], start.step))

    def on_log(self, step: int, values: dict[str, Any]) -> None:
        self.events.append(("log", step, sorted(values)))

    def on_evaluate(self, step: int, results: dict[str, Any]) -> None:
        self.events.append(("evaluate", step, results["top1"]))

    def on_checkpoint(self, step: int, path: Path) -> None:
        self.events.append(("checkpoint", step, path.name))

    def on_end(self, end: RunEnd) -> None:
        self.events.append(("end", end.status, end.results.get("top1")))


class Broken(Tracker):
    """Raises what a library might, at the first logged values."""

    def on_log(self, step: int, values: dict[str, Any]) -> None:
        raise SystemExit("server says\nno")


class Hanging(Tracker):
    """Never returns from its first event."""

    def on_start(self, start: RunStart) -> None:
        threading.Event().wait()


def test_a_training_tells_its_trackers_and_outlives_the_broken_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    builders = {**tracking.TRACKERS._builders, "spy": Spy, "broken": Broken, "hanging": Hanging}
    monkeypatch.setattr(tracking.TRACKERS, "_builders", builders)
    monkeypatch.setattr(tracking, "END_SECONDS", 2.0)
    monkeypatch.setattr(tracking, "FORK_SECONDS", 0.1)  # that the loader's worker waits for the hanging one
    write_classes(tmp_path / "data", count=2)
    run = tmp_path / "run"
    names = ("--track", "spy", "--track", "csv,broken", "--track", "hanging")
    words = ("--data", tmp_path / "data", *QUICK, "--workers", 1, "--epochs", 1, "--output", run, *names)
    train_cls.main([*map(str, words)])
    results = json.loads((run / "results.json").read_text())
    assert Spy.events == [
        ("start", 1, 0),
        ("checkpoint", 0, "last.safetensors"),
        ("log", 2, ["loss", "loss_cls", "lr"]),
        ("evaluate", 2, results["top1"]),
        ("checkpoint", 2, "best.safetensors"),
        ("checkpoint", 2, "last.safetensors"),
        ("end", "finished", results["top1"]),
    ]
    warnings = re.findall(r"warning: --track [^\r\n]*", capsys.readouterr().err)  # beside the progress bar
    assert sorted(warnings) == [
        "warning: --track broken: failed (SystemExit: server says); the run goes on without it",
        "warning: --track hanging: does not respond; the run ends without it, 6 events were not taken",
    ]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    logged = {(line["step"], line["split"], k): v for line in lines for k, v in line.items() if isinstance(v, float)}
    with (run / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = {(int(row["step"]), row["split"], row["name"]): float(row["value"]) for row in rows}
    assert {key: value for key, value in logged.items() if key[2] != "time"}.items() <= found.items()
    assert found[2, "final", "final/top1"] == results["top1"]
    assert not (run / "tensorboard").exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_process_forked_while_a_tracker_imports_imports_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "slow_to_import.py").write_text("import time\nbegun.set()\ntime.sleep(0.5)\n")
    monkeypatch.syspath_prepend(tmp_path)
    begun = threading.Event()
    monkeypatch.setattr("builtins.begun", begun, raising=False)

    class Importing(Tracker):
        def on_start(self, start: RunStart) -> None:
            importlib.import_module("slow_to_import")

    trackers = tracking.Trackers({"importing": Importing()})
    trackers.start(RunStart(folder=tmp_path, options={}))
    assert begun.wait(20)
    child = multiprocessing.get_context("fork").Process(target=importlib.import_module, args=("slow_to_import",))
    child.start()
    child.join(20)
    status = child.exitcode
    child.kill()
    child.join()
    trackers.end(RunEnd(status="finished", step=0, results={}))
    assert status == 0
    monkeypatch.delitem(sys.modules, "slow_to_import")


def test_a_failed_run_is_told_apart_from_a_finished_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tracking.TRACKERS, "_builders", {**tracking.TRACKERS._builders, "spy": Spy})
    write_classes(tmp_path / "data", count=2)
    words = ("--data", tmp_path / "data", *QUICK, "--lr", 1e30, "--epochs", 9, "--output", tmp_path / "run")
    with pytest.raises(UserError, match="not finite"):
        train_cls.main([*map(str, (*words, "--track", "spy"))])
    assert Spy.events[-1] == ("end", "failed", None)


def test_unknown_trackers_and_absent_packages_are_refused(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(UserError, match=r"mlfow.*mlflow"):
        open_trackers(["mlfow"])
    monkeypatch.setattr("tools.engine.trackers.find_spec", lambda name: None)
    for name in ("mlflow", "wandb"):
        with pytest.raises(UserError, match=rf"--track {name}: its package is not installed; pip install .*\[track\]"):
            open_trackers([name])
    assert RunOptions(track=["csv,tensorboard", "none"]).track == ["csv", "tensorboard"]


def test_a_tracker_that_cannot_be_made_is_left_out(monkeypatch: pytest.MonkeyPatch, capsys):
    def unreachable() -> Tracker:
        raise OSError("cannot connect")

    monkeypatch.setattr(tracking.TRACKERS, "_builders", {**tracking.TRACKERS._builders, "remote": unreachable})
    open_trackers(["remote", "csv"])
    warning = "warning: --track remote: failed (OSError: cannot connect); the run goes on without it\n"
    assert capsys.readouterr().err == warning


def test_a_continued_csv_file_loses_what_the_checkpoint_lacks(tmp_path: Path):
    def lines_after(start: RunStart) -> list[str]:
        trackers = open_trackers(["csv"])
        trackers.start(start)
        trackers.log(start.step + 10, {"loss": 0.5, "note": "a text"}, split="train")
        trackers.log(start.step + 10, {"AP": 0.25}, split="val")
        trackers.end(RunEnd("stopped", start.step + 10, {}))
        rows = (tmp_path / "metrics.csv").read_text().splitlines()
        return [",".join(part for place, part in enumerate(row.split(",")) if place != 1) for row in rows]

    first = ["step,split,name,value", "10,train,loss,0.5", "10,val,AP,0.25"]
    assert lines_after(RunStart(tmp_path, {})) == first
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("30,1,train,loss,9\r\n10,1,tr")  # of a killed run
    second = ["20,train,loss,0.5", "20,val,AP,0.25"]
    assert lines_after(RunStart(tmp_path, {}, step=10, measured=10)) == [*first, *second]
    assert lines_after(RunStart(tmp_path, {}, step=10, measured=5)) == [*first[:2], *second]


def track(name: str, folder: Path) -> None:
    """Send the events of a run that is stopped once and continued."""
    folder.mkdir(exist_ok=True)
    (folder / "results.json").write_text("{}")
    for step, status in ((10, "stopped"), (20, "finished")):
        trackers = open_trackers([name])
        trackers.start(RunStart(folder, {"lr": 0.1, "thaw": None, "milestones": [0.6, 0.9]}, step=step - 10))
        trackers.log(step, {"loss": 1 / step, "lr": 0.1}, split="train")
        trackers.log(step, {"AP": step / 100, "epoch": 1.0}, split="val")
        trackers.end(RunEnd(status, step, {"AP": 0.5, "images": 3}))


def test_mlflow_gets_the_run_in_a_local_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)  # MLflow's own store is in the working directory
    monkeypatch.setattr(tracking, "END_SECONDS", 120.0)
    track("mlflow", tmp_path / "run")
    assert "warning" not in capsys.readouterr().err
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("resnet-transfer").experiment_id])
    assert (run.info.status, run.info.run_name) == ("FINISHED", "run")
    assert run.data.params["lr"] == "0.1" and run.data.params["milestones"] == "[0.6, 0.9]"
    assert run.data.metrics["val/AP"] == 0.2 and run.data.metrics["final/AP"] == 0.5
    assert [point.value for point in client.get_metric_history(run.info.run_id, "train/loss")] == [0.1, 0.05]
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["results.json"]


def test_wandb_gets_the_run_in_its_offline_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setattr(tracking, "END_SECONDS", 120.0)
    track("wandb", tmp_path / "run")
    assert "warning" not in capsys.readouterr().err
    (known,) = json.loads((tmp_path / "run" / "tracking.json").read_text()).values()
    files = list((tmp_path / "run" / "wandb").rglob("*.wandb"))
    assert len(files) == 2 and all(known in file.name for file in files)  # both parts are one run
    assert all(b"val/AP" in file.read_bytes() for file in files)
