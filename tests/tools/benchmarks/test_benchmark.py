"""Benchmarks: figures by hand, the order of turns, memory of fresh processes, and the command on tiny models."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import let_signals_through, size_of
from torchvision.ops import nms

import backbones
import classification
from backbones.errors import UserError
from tools import benchmark
from tools.benchmarks.classify import ClassifyBenchmark, MeasuredClassifier, expand, usual_size
from tools.benchmarks.machine import copy_rate, matmul_rate
from tools.benchmarks.models import ModelJob
from tools.benchmarks.options import CLASSIFIERS, ClassifyOptions, Mode, TimingAndMemory
from tools.benchmarks.output import BarChart, BenchmarkReport, ResultTable, write
from tools.benchmarks.peak import in_fresh_process, peak_memory
from tools.benchmarks.rounds import Implementation, measure, rate, ratio, rotated
from tools.benchmarks.settings import Setting, Way, settings
from tools.benchmarks.speed import SpeedRow, compare
from tools.benchmarks.waits import count_waits
from tools.engine.run_folder import create_results

FP32 = Way("fp32", True)
LOCKS: list[Any] = []  # of a fresh process
TINY = ("--size", 32, "--batch", 2, "--rounds", 2, "--turn", 0, "--threads", 1, "--memory", "false")


def test_medians_and_ratios_by_hand():
    # The machine was ten times slower in the second round, for both: the ratios 1.5, 1.5, 2.5 do not show it.
    ours, theirs = [0.2, 2.0, 0.2], [0.3, 3.0, 0.5]
    assert ratio(ours, theirs) == pytest.approx(1.5)
    assert rate(ours, items=16) == pytest.approx(80)  # 16 / 0.2
    assert rate([0.1, 0.3, 0.2, 0.4], items=1) == pytest.approx(4)  # the median of an even number: 0.25


def test_rounds_begin_with_the_next_implementation():
    assert [rotated("abc", number) for number in range(4)] == [
        ["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"], ["a", "b", "c"],
    ]  # fmt: skip


def test_every_implementation_has_one_turn_a_round_besides_the_warm_up():
    calls: list[str] = []
    compared = [Implementation(name, partial(partial, calls.append, name)) for name in "ab"]
    seconds = measure(compared, rounds=3, turn=0)
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3}


def test_short_steps_are_repeated_until_they_fill_a_turn():
    calls: list[int] = []

    def step() -> None:
        calls.append(0)
        time.sleep(0.001)

    measure([Implementation("a", lambda: step)], rounds=2, turn=0.05)
    assert 2 + 2 * 2 <= len(calls) <= 2 + 2 * 50  # sleeping takes at least what was asked for


def test_figures_of_a_setting_by_hand():
    job = partial(ModelJob, spec=MeasuredClassifier("n", 32, 8), mode="train", weights=None)
    stock = Way("fp32", False)
    jobs = {(name, way): job(library=name, way=way) for name, way in (("ours", FP32), ("timm", FP32), ("timm", stock))}
    seconds = {
        "ours: fp32, channels_last": [0.5, 1.0],
        "timm: fp32, channels_last": [1.0, 2.0],
        "timm: fp32, contiguous": [2.0, 3.0],
        "ours compiled: fp32, channels_last": [0.25, 0.8],
    }
    peaks = dict(zip(seconds, (10, 20, None, None)))
    compiled = [job(library="ours", way=FP32, compiled=True)]
    rates = {"fp32": 1000.0}
    found = compare(Setting("stock", FP32, stock), jobs, seconds, peaks, work=6e9, rates=rates, compiled=compiled)
    assert found == {
        "images_per_second": pytest.approx(8 / 0.75),
        "floor_share": pytest.approx(8 / 0.75 * 6e9 / 1e12),
        "peer_floor_share": {"timm": pytest.approx(8 / 2.5 * 6e9 / 1e12)},
        "ratio": {"timm": pytest.approx(3.5)},  # the median of 4 and 3
        "peak_bytes": {"ours": 10, "timm": None},
        "compiled": pytest.approx(1.625),  # the median of 2 and 1.25
    }
    found = compare(Setting("equal fp32", FP32, FP32), jobs, seconds, peaks, work=6e9, rates=rates)
    assert found["ratio"] == {"timm": 2.0} and found["compiled"] is None


def test_settings_of_a_precision():
    both = settings("both")
    assert [setting.name for setting in both] == ["equal bf16", "equal fp32", "stock"]
    assert both[2].peers == Way("fp32", False)
    assert settings("fp32")[0] == Setting("equal fp32", FP32, FP32)
    assert settings("auto")[0].ours == settings("auto")[-1].ours  # ours as it comes
    assert both[1].title() == "equal settings (fp32, channels_last)"


@pytest.mark.parametrize(("libraries", "same", "starred"), ((["timm"], True, 0), (["timm"], False, 1), ([], False, 0)))
def test_models_of_another_layout_are_marked(libraries: list[str], same: bool, starred: int, monkeypatch):
    monkeypatch.setattr(MeasuredClassifier, "peers", libraries)
    figures = {"images_per_second": 8.0, "floor_share": 0.5, "ratio": {}, "peak_bytes": {"ours": 2_000_000}}
    row = SpeedRow(MeasuredClassifier("n", 32, 8, macs=2_000_000_000), 1_500_000, 0.0 if same else None)
    row.modes = {"infer": {"seconds": {}, "peak_bytes": {}, "settings": {"equal fp32": figures}}}  # type: ignore[typeddict-item]
    benchmark = ClassifyBenchmark(ClassifyOptions("resnet18", mode="infer"), TimingAndMemory("unused"))
    benchmark.settings = [Setting("equal fp32", FP32, FP32)]
    made = benchmark.report([row])
    (cells,) = made.tables[0].rows
    name = "n \\*" if starred else "n"
    assert cells == [name, "32", "8", "1.50", "2.000", "8.0", "50%", None, None, "2", None, None]
    assert len(made.notes) == 1 + starred
    assert not made.charts


def test_names_and_wildcards():
    assert expand("resnet50, resnet18,resnet50") == ["resnet50", "resnet18"]
    assert expand("torchvision/vgg1?") == [
        "torchvision/vgg11",
        "torchvision/vgg13",
        "torchvision/vgg16",
        "torchvision/vgg19",
    ]
    with pytest.raises(UserError, match="--nets"):
        expand("nonsense*")
    with pytest.raises(UserError, match="--nets"):
        ClassifyOptions(",")


def test_peers_and_sizes_of_models():
    measured = partial(MeasuredClassifier.measured, batch=2)
    assert MeasuredClassifier("resnet18", 224, 2).peers == ["torchvision", "timm"]
    assert MeasuredClassifier("torchvision/alexnet", 224, 2).peers == ["torchvision"]
    assert MeasuredClassifier("timm/inception_resnet_v2", 224, 2).peers == ["timm"]
    assert measured("resnet18", size=None) == measured("resnet18", size=224)
    assert usual_size("torchvision/inception_v3", None) == usual_size("timm/inception_resnet_v2", None) == 299
    assert measured("resnet20", size=None).size == 32
    known = measured("resnet18", size=64)
    assert known.parameters() == 11_689_512
    assert known.macs == pytest.approx(1.814e9 * (64 / 224) ** 2, rel=0.01)


def test_all_three_libraries_get_the_same_weights(tmp_path: Path):
    path = tmp_path / "weights.pth"
    resnet18 = MeasuredClassifier("resnet18", 32, 2)
    assert resnet18.share_weights(path) == 0
    assert resnet18.build("timm", path).fc.weight.equal(torch.load(path)["fc.weight"])
    with pytest.raises(UserError, match="does not fit"):
        MeasuredClassifier("resnet34", 32, 2).build("timm", path)


def test_a_model_that_computes_something_else_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    original = classification.build

    def halved(*args: Any, **options: Any) -> torch.nn.Module:
        net = original(*args, **options)
        return net.requires_grad_(False).apply(lambda m: m.weight.mul_(0.5) if isinstance(m, torch.nn.Linear) else m)

    monkeypatch.setattr(classification, "build", halved)
    difference = MeasuredClassifier("resnet18", 32, 2).share_weights(tmp_path / "weights.pth")
    assert difference == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("mode", ("train", "infer"))
def test_a_step_trains_or_leaves_the_model_alone(mode: Mode, monkeypatch: pytest.MonkeyPatch):
    net = classification.build("resnet18", 1000)
    monkeypatch.setattr(MeasuredClassifier, "build", lambda *args: net)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    ModelJob("ours", MeasuredClassifier("resnet18", 32, 2), FP32, mode, None).prepare()()
    same = all(value.equal(before[name]) for name, value in net.state_dict().items())
    assert same == (mode == "infer")
    assert net.training == (mode == "train")


def test_the_machine_is_rated():
    assert matmul_rate(torch.float32, side=256) > 1e8  # a hundred million operations a second: any machine
    assert copy_rate(1 << 20) > 1e7


def allocate(megabytes: int) -> Any:
    """Return a step that holds so many megabytes for a moment, beside a tenth of them all the time."""
    held = torch.ones(megabytes * 100_000 // 4)

    def step() -> float:
        return float(torch.ones(megabytes * 1_000_000 // 4)[0] + held[0])

    return step


def die() -> Any:
    os._exit(9)


def test_peak_memory_is_of_one_implementation_alone():
    torch.ones(100_000_000)  # 400 MB of this process, which no fresh one inherits
    small, large = (peak_memory(Implementation("c", partial(allocate, size)), threads=1) or 0 for size in (60, 200))
    assert 66e6 < small < 90e6
    assert 220e6 < large < 244e6


def named_semaphore() -> str:
    """Create a lock that other processes could use, as tqdm does; return the name of its semaphore."""
    LOCKS.append(multiprocessing.get_context("spawn").RLock())
    return LOCKS[-1]._semlock.name


@pytest.mark.skipif(sys.platform == "win32", reason="semaphores have no names there")
def test_fresh_processes_leave_no_semaphores_behind():
    from _multiprocessing import sem_unlink

    name = in_fresh_process(named_semaphore)
    with pytest.raises(FileNotFoundError):
        sem_unlink(name)


def test_an_implementation_that_dies_has_no_peak():
    assert peak_memory(Implementation("c", die), threads=1) is None


def test_tables_and_charts_show_gaps(tmp_path: Path):
    table = ResultTable("Title", ["net", "vs"], [["a", "1.00"], ["bcde", None]])
    assert table.markdown().splitlines() == [
        "### Title", "", "| net  | vs   |", "| ---- | ---- |", "| a    | 1.00 |", "| bcde | -    |",
    ]  # fmt: skip
    machine: Any = {
        "date": "d", "cpu": "p", "cores": 2, "flags": ["fma"], "gpu": None, "threads": 1,
        "versions": {"python": "3"}, "matmul_gflops": {"fp32": 50.0}, "copy_gbytes": 10.0,
    }  # fmt: skip
    found = BenchmarkReport({"nets": []}, ["Note."], [table], [BarChart("Training", ["a", "b"], {"timm": [1.2, None]})])
    write(tmp_path, "c", machine, found, complete=False)
    assert {entry.name for entry in tmp_path.iterdir()} == {"results.json", "table.md"}
    assert "Not complete" in (tmp_path / "table.md").read_text()
    write(tmp_path, "c", machine, found, complete=True)
    assert "Not complete" not in (tmp_path / "table.md").read_text()
    assert size_of(tmp_path / "chart.png")[1] > 300


def test_the_script_from_end_to_end(launch, tmp_path: Path):
    words = ("classify", "--nets", "resnet18", *TINY, "--output", tmp_path / "b")
    status, printed, errors = launch("benchmark.py", *words, cwd=tmp_path, first=hurry).end()
    assert status == 0, errors
    assert {entry.name for entry in (tmp_path / "b").iterdir()} == {"table.md", "results.json", "chart.png"}
    text = (tmp_path / "b" / "table.md").read_text()
    assert text.strip() in printed
    assert [line[4:13] for line in text.splitlines() if line.startswith("### ")] == ["Training,"] * 2 + [
        "Inference"
    ] * 2
    results = json.loads((tmp_path / "b" / "results.json").read_text())
    assert results["complete"] and results["threads"] == 1
    (row,) = results["nets"]
    assert (row["net"], row["size"], row["logit_difference"]) == ("resnet18", 32, 0)
    stock = row["train"]["settings"]["stock"]
    assert set(stock["ratio"]) == {"torchvision", "timm"}
    ours = next(values for name, values in row["train"]["seconds"].items() if name.startswith("ours"))
    assert stock["images_per_second"] == pytest.approx(2 / ((ours[0] + ours[1]) / 2))


def hurry() -> None:
    """Let Ctrl-C reach this process, and have it measure the machine's speed for a moment only."""
    from tools.benchmarks import machine

    let_signals_through()
    machine.SEARCH_SECONDS = 0.01


def test_ctrl_c_leaves_whole_files_or_none(launch, tmp_path: Path):
    words = ("classify", "--nets", "resnet18,resnet34", *TINY, "--mode", "infer", "--output", tmp_path / "b")
    run = launch("benchmark.py", *words, cwd=tmp_path, first=hurry)
    deadline = time.monotonic() + 60
    while not (tmp_path / "b" / "table.md").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(run.process.pid, signal.SIGINT)
    status, _, errors = run.end()
    assert status == 130
    assert "Traceback" not in errors
    assert {entry.name for entry in (tmp_path / "b").iterdir()} == {"table.md", "results.json"}
    assert not json.loads((tmp_path / "b" / "results.json").read_text())["complete"]


@pytest.mark.parametrize(
    ("words", "text"),
    (
        ((), "no benchmark is named; begin with one of classify, detect"),
        (("clasify",), "clasify: is not a benchmark"),
        (("classify", "--nets", "resnet81"), "did you mean resnet18"),
        (("classify", "--nets", "torchvision/inception_v3", "--size", "16"), "--size 16 --batch 16"),
        (("classify", "--mode", "training"), "--mode training: must be train"),
        (("classify", "--precision", "fp8"), "--precision"),
        (("classify", "--rounds", "0"), "--rounds 0: must be above 0"),
        (("classify", "--compile", "--mode", "infer"), "--compile: is for training; add train to --mode"),
        (("classify", "--batch", "0"), "--batch 0: must be above 0"),
    ),
)
def test_user_errors_are_named(words: tuple[str, ...], text: str, tmp_path: Path):
    output = ("--output", str(tmp_path / "new")) if words else ()
    with pytest.raises(UserError, match=text.replace("(", r"\(")) as caught:
        benchmark.main([*words, *output])
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_a_folder_that_holds_files_is_refused(tmp_path: Path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="holds files already; name a new folder"):
        benchmark.main(["classify", "--nets", "resnet18", "--output", str(tmp_path)])
    with pytest.raises(UserError, match="cannot be created"):
        create_results(tmp_path / "mine.txt" / "below")


def test_the_default_models_are_known_and_each_named_once():
    named = CLASSIFIERS.split(",")
    assert len(set(named)) == len(named)
    assert all(backbones.names(name) == [name] for name in named)


def test_waits_for_a_gpu_by_hand():
    values, mask = torch.arange(6.0), torch.arange(6) > 2

    def step() -> None:
        values[mask]  # its size is the number of True
        values[mask] = 0.0  # a masked fill
        values[mask] = torch.ones(3)
        float(values.sum())
        torch.where(mask)
        torch.where(mask, values, 0)  # has the size of the mask
        values[torch.tensor([0, 1])].topk(1)
        values.tolist()
        nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1), 0.5)

    found = count_waits(step)
    assert found == {"test_benchmark.py:step": 5, "boxes.py:nms": 1}
    with torch.inference_mode():
        assert count_waits(step) == found
