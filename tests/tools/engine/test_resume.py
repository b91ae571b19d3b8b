"""Runs that are killed, stopped and resumed: each ends with the bits of the run that nobody disturbed."""

from __future__ import annotations

import itertools
import json
import os
import re
import resource
import shutil
import signal
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from conftest import CIFAR, Launched
from safetensors.torch import load_file

from classification.data.shard_writer import make_shards
from tools import train_cls
from tools.cli import ending
from tools.engine import checkpoint
from tools.engine.run_folder import LAST
from tools.processes.stopping import STATUS

# Augmentation, mixing, a moving average, live norm and sampling: whatever a resumed run could get wrong. 12 steps each.
COMMON = ("--epochs", 2, "--threads", 1, "--checkpoint-every", 2, "--eval-steps", 4, "--ema", 0.8, "--keep-checkpoints",
          3)  # fmt: skip
CLS = (*CIFAR, "--batch-size", 8, "--mixup", 0.4, "--cutmix", 1, "--train-eval", 6, "--val-loss")
DET = ("--backbone", "timm/test_resnet", "--weights", "none", "--min-size", 64, "--max-size", 64, "--fpn-channels", 16,
       "--head-channels", 16, "--proposals", 100, "--rois-per-image", 32, "--batch-size", 4, "--optimizer", "adamw",
       "--short-sides", "[48, 64]", "--augment", "strong", "--lr", 0.001, "--val-loss", "--deterministic",
       "--masks", "--mask-channels", 8, "--mask-size", 14)  # fmt: skip
SEG = ("--recipe", "shapes", "--backbone", "timm/test_resnet", "--crop-size", 48, "--augment", "train",
       "--batch-size", 4, "--loss", "dice", "--aux", "true", "--val-loss", "--deterministic")  # fmt: skip


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 training and 6 validation pictures of three classes."""
    root, random = tmp_path_factory.mktemp("data") / "pictures", np.random.default_rng(0)
    for split, name, number in itertools.product(("train", "val"), "abc", range(16)):
        (root / split / name).mkdir(parents=True, exist_ok=True)
        if split == "train" or number < 2:
            content = cv2.imencode(".jpg", random.integers(0, 256, (34, 40, 3), dtype=np.uint8))[1]
            (root / split / name / f"{number}.jpg").write_bytes(content.tobytes())
    return root


@pytest.fixture(scope="module")
def shards(pictures: Path) -> Path:
    make_shards(pictures, pictures.with_name("shards"), shard_size=20)
    return pictures.with_name("shards")


def log_all() -> None:
    """Have this process log the losses of every step."""
    from tools.engine import loop

    loop.LOG_EVERY = 1


def signal_at(step: int, number: int) -> None:
    """Have this process send itself a signal after its n-th optimizer step."""
    from tools.engine import loop

    log_all()
    taken, update = itertools.count(1), loop.update_weights

    def update_and_look(*given: Any, **options: Any) -> None:
        update(*given, **options)
        if next(taken) == step:
            os.kill(os.getpid(), number)

    loop.update_weights = update_and_look


def signal_in_evaluation(number: int) -> None:
    """Have this process send itself a signal in its first evaluation."""
    log_all()

    def look(module: torch.nn.Module, _: Any) -> None:
        if not module.training:
            hook.remove()
            os.kill(os.getpid(), number)

    hook = torch.nn.modules.module.register_module_forward_pre_hook(look)


def ended(run: Launched) -> str:
    """Wait until a run ends without an error; return its output."""
    status, printed, errors = run.end()
    assert status == 0, errors
    return printed


def lines(folder: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "time"} for line in found]


def require_equal(one: Path, other: Path) -> None:
    """Refuse two finished runs that differ in a bit of weights, checkpoints, log, figures or predictions."""
    states = [checkpoint.load(folder / LAST) for folder in (one, other)]
    for name in ("training", "random", "meta"):
        assert_same(states[0][name], states[1][name], name)
    assert_same(load_file(one / "model.safetensors"), load_file(other / "model.safetensors"), "model")
    assert lines(one) == lines(other)
    figures = [json.loads((folder / "results.json").read_text()) for folder in (one, other)]
    assert all(each.pop("peak_memory") > 0 for each in figures) and figures[0] == figures[1]
    for name in ("predictions.csv", "predictions.zip", "detections.json"):
        assert (one / name).is_file() == (other / name).is_file()
        assert not (one / name).is_file() or (one / name).read_bytes() == (other / name).read_bytes()


def assert_same(one: Any, other: Any, where: str) -> None:
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype and torch.equal(one, other), where
    elif isinstance(one, (dict, list, tuple)):
        pairs = one.items() if isinstance(one, dict) else enumerate(one)
        assert len(one) == len(other), where
        for key, value in pairs:
            assert_same(value, other[key], f"{where}: {key}")
    else:
        assert one == other, where


@pytest.mark.parametrize(
    ("task", "straight", "killed"), [("cls", 2, 0), ("shards", 0, 0), ("det", 2, 0), ("seg", 0, 2)]
)
def test_killed_within_an_epoch_and_resumed_a_run_ends_with_the_bits_of_the_straight_one(
    request, launch, small_shapes: Path, tmp_path: Path, task: str, straight: int, killed: int
):
    """SIGKILL after the seventh of twelve steps; the last checkpoint is that of the sixth. Workers load, or not."""
    script = f"train_{task.replace('shards', 'cls')}.py"
    data = (
        small_shapes
        if task in ("det", "seg")
        else request.getfixturevalue("shards" if task == "shards" else "pictures")
    )
    words = ("--data", data, *COMMON, *{"det": DET, "seg": SEG}.get(task, CLS))
    # The killed run keeps decoded images, the straight one does not; the resumed one does, or not.
    cache = ("--cache", "disk", "--cache-gib", 0.1) if task != "shards" else ()
    first = launch(script, *words, "--workers", straight, "--output", "straight", cwd=tmp_path, first=log_all)
    hurt = launch(
        script,
        *words,
        "--workers",
        killed,
        "--output",
        "killed",
        *cache,
        cwd=tmp_path,
        first=partial(signal_at, 7, signal.SIGKILL),
    )
    status, _, errors = hurt.end()
    assert status == -signal.SIGKILL, errors
    assert checkpoint.load(tmp_path / "killed" / LAST)["training"]["step"] == 6
    assert bool(list(tmp_path.glob("killed/decoded/*.npy"))) == bool(cache)
    resumed = ("--resume", "--workers", straight, "--output", "killed", *(("--cache", "none") if task == "cls" else ()))
    assert "not bit-exact" not in ended(launch(script, *resumed, cwd=tmp_path, first=log_all))
    ended(first)
    require_equal(tmp_path / "straight", tmp_path / "killed")
    logged = lines(tmp_path / "straight")
    assert [line["step"] for line in logged if "epoch" in line] == [4, 6, 8, 12]
    assert [line["step"] for line in logged if "loss" in line] == list(range(1, 13))
    assert not (tmp_path / "killed" / "decoded").exists()
    assert sorted(file.name for file in (tmp_path / "killed" / "checkpoint").iterdir()) == [
        "best.safetensors", "last-1.safetensors", "last-2.safetensors", "last.safetensors"
    ]  # fmt: skip


def test_a_run_that_signals_stop_again_and_again_ends_with_the_bits_of_the_straight_one(
    launch, pictures: Path, tmp_path: Path
):
    """SIGTERM within a step, at the end of an epoch and in an evaluation: each start saves, says how to go on, ends."""
    words = ("--data", pictures, *COMMON, *CLS, "--workers", 0, "--patience", 3)
    straight = launch("train_cls.py", *words, "--output", "straight", cwd=tmp_path, first=log_all)
    hurts = {
        3: partial(signal_at, 3, signal.SIGTERM),
        4: partial(signal_in_evaluation, signal.SIGUSR1),  # that of step 4, made again
        6: partial(signal_at, 2, signal.SIGTERM),  # the end of the epoch is evaluated later
        12: partial(signal_at, 6, signal.SIGUSR1),
    }
    for step, hurt in hurts.items():
        workers = 2 if step == 4 else 0
        again = (*words, "--workers", 2) if step == 3 else ("--resume", "--keep-checkpoints", 1, "--workers", workers)
        status, _, errors = launch("train_cls.py", *again, "--output", "my run", cwd=tmp_path, first=hurt).end()
        assert status == STATUS, errors
        assert "Traceback" not in errors
        assert errors.splitlines()[-1].endswith("; continue with --resume --output 'my run'")
        assert checkpoint.load(tmp_path / "my run" / LAST)["training"]["step"] == step
    ended(launch("train_cls.py", "--resume", "--output", "my run", cwd=tmp_path, first=log_all))
    ended(straight)
    require_equal(tmp_path / "straight", tmp_path / "my run")


def start_two(launch, port: int, *words: Any, cwd: Path, firsts: tuple[Any, Any]) -> list[Launched]:
    """A run on two processes, as torchrun starts them."""
    world = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [
        launch("train_cls.py", *words, cwd=cwd, first=first, RANK=str(rank), LOCAL_RANK=str(rank), **world)
        for rank, first in enumerate(firsts)
    ]


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_a_signal_to_one_process_stops_all_after_the_same_step_and_one_process_goes_on(
    launch, pictures: Path, tmp_path: Path, port: int
):
    words = ("--data", pictures, *COMMON, *CLS, "--workers", 0, "--output", "run")
    two = start_two(launch, port, *words, cwd=tmp_path, firsts=(log_all, partial(signal_at, 2, signal.SIGTERM)))
    for rank, run in enumerate(two):
        status, _, errors = run.end()
        assert (status, "Traceback" in errors) == (STATUS, False), errors
        # The step in which the processes exchanged it; one of them tells.
        assert ("stopped after step 3; continue with" in errors) == (rank == 0)
    state = checkpoint.load(tmp_path / "run" / LAST)
    assert (state["training"]["step"], len(state["random"])) == (3, 2)
    printed = ended(launch("train_cls.py", "--resume", "--output", "run", cwd=tmp_path, first=log_all))
    assert (
        "the run was started on 2 processes and continues on 1: " in printed
        and "so the result is not bit-exact" in printed
    )
    assert [line["step"] for line in lines(tmp_path / "run") if "loss" in line] == list(range(1, 13))


def spoil(kind: str) -> None:
    """Have this process find no number in its third loss, or in the gradient of it; the fourth pass repeats it."""
    from classification.model import Classifier

    taken, losses = itertools.count(1), Classifier.losses

    def spoiled(*given: Any) -> dict[str, torch.Tensor]:
        (loss,) = losses(*given).values()
        if next(taken) in (3, 4):
            loss.register_hook(lambda gradient: gradient * float("nan"))
            loss = loss * float("nan") if kind == "loss" else loss
        return {"loss_cls": loss}

    Classifier.losses = spoiled


@pytest.mark.parametrize(("kind", "shown"), [("loss", "nan"), ("gradient", r"\d")])
def test_a_loss_or_gradient_that_is_not_finite_on_one_process_stops_all_and_keeps_its_batch(
    launch, pictures: Path, tmp_path: Path, port: int, kind: str, shown: str
):
    words = ("--data", pictures, *CLS, "--workers", 0, "--epochs", 1, "--output", "run")
    two = start_two(launch, port, *words, cwd=tmp_path, firsts=(None, partial(spoil, kind)))
    for rank, run in enumerate(two):
        status, _, errors = run.end()
        assert (status, "Traceback" in errors) == (2, False), errors
        found = [line for line in errors.splitlines() if line.startswith("error: ")]
        assert len(found) == (rank == 0)  # one of them tells
        for line in found:
            assert re.search(f"the {kind} is not finite at step 3 of process 1: loss_cls {shown}.*; lr ", line)
            assert "find the cause with: python tools/replay.py run/nonfinite-step-3-rank-1.safetensors" in line
    assert [file.name for file in (tmp_path / "run").glob("nonfinite*")] == ["nonfinite-step-3-rank-1.safetensors"]


def limit_files(size: int) -> None:
    """Have the system refuse this process files above a size in bytes, as it refuses all on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


Train = Callable[..., tuple[Any, str]]


@pytest.fixture
def train(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Train:
    """Trains a classifier in this process, in the folder of the test. Gives the exit status and what stderr shows."""
    monkeypatch.chdir(tmp_path)

    def call(*words: Any) -> tuple[Any, str]:
        capsys.readouterr()
        try:
            ending.run(lambda: train_cls.main([*map(str, words)]))
        except SystemExit as end:
            return end.code, capsys.readouterr().err
        return 0, capsys.readouterr().err

    return call


def test_a_disk_that_fills_up_ends_the_run_with_a_line_and_a_whole_checkpoint(
    launch, train: Train, pictures: Path, tmp_path: Path
):
    """The first checkpoint has no momentum yet and fits: 1.5 MB; the second one, 3.0 MB, does not."""
    words = ("--data", pictures, *CIFAR, "--batch-size", 8, "--epochs", 1, "--workers", 0)
    words = (*words, "--output", "run")
    status, _, errors = launch("train_cls.py", *words, cwd=tmp_path, first=partial(limit_files, 2_000_000)).end()
    assert (status, "Traceback" in errors) == (2, False), errors
    assert "error: run/checkpoint/last.safetensors: cannot be written" in errors
    assert sorted(file.name for file in (tmp_path / "run" / "checkpoint").iterdir()) == [
        "best.safetensors", "last.safetensors"
    ]  # fmt: skip
    status, errors = train("--resume", "--output", "run")
    assert status == 0, errors


def test_other_options_other_data_and_absent_weights_are_refused(train: Train, pictures: Path, tmp_path: Path):
    status, errors = train("--data", pictures, *CLS, "--workers", 0, "--epochs", 1, "--output", "run")
    assert status == 0, errors
    other = tmp_path / "other"
    shutil.copytree(pictures, other)
    (other / "train" / "a").rename(other / "train" / "d")
    (other / "val" / "a").rename(other / "val" / "d")
    fewer = tmp_path / "fewer"
    shutil.copytree(pictures, fewer)
    for file in (fewer / "train" / "a").iterdir():
        file.unlink() if file.stem != "0" else None
    cases = [
        (("--seed", 3, "--epochs", 5), "(--seed was 0, now 3); leave them out"),
        (("--data", other), f"--data was {pictures}, now {other}"),
    ]
    for more, said in cases:
        status, errors = train("--resume", "--output", "run", *more)
        assert status == 2 and said in errors, errors
    for folder, said in (
        (other, "the classes of the data differ from those of the run"),
        (fewer, "the train images differ from those of the run"),
    ):
        pictures.rename(tmp_path / "away")
        shutil.copytree(folder, pictures)
        try:
            status, errors = train("--resume", "--output", "run")
        finally:
            shutil.rmtree(pictures)
            (tmp_path / "away").rename(pictures)
        assert status == 2 and said in errors, errors
    status, errors = train("--resume")
    assert status == 2 and "no runs/cls-*" in errors
    start = tmp_path / "start.safetensors"
    (tmp_path / "run" / "model.safetensors").rename(start)
    status, errors = train(
        "--data", pictures, *CLS, "--weights", start.name, "--workers", 0, "--epochs", 1, "--output", "second"
    )
    assert status == 0, errors
    start.unlink()
    status, errors = train("--resume", "--output", "second", "--epochs", 2)
    assert status == 2 and f"--weights {start.name}: the run began with these weights, which no longer exist" in errors
    assert "put them back, or resume in the folder where the run began" in errors


def test_the_checkpoint_before_serves_where_the_last_one_is_damaged(train: Train, pictures: Path, tmp_path: Path):
    words = ("--data", pictures, *CLS, "--workers", 0, "--epochs", 1, "--checkpoint-every", 2, "--output", "run")
    assert train(*words)[0] == 0
    figures = (tmp_path / "run" / "results.json").read_bytes()
    last = tmp_path / "run" / LAST
    last.write_bytes(last.read_bytes()[:-1000])
    (tmp_path / "run" / "checkpoint" / ".last.safetensors.tmp").write_bytes(b"left by a kill")
    status, errors = train("--resume", "--output", "run")
    assert status == 0, errors
    assert "warning: run/checkpoint/last.safetensors: is not a complete safetensors file" in errors
    assert "continuing from last-1.safetensors, which is older" in errors
    again = json.loads((tmp_path / "run" / "results.json").read_bytes())
    assert {**again, "peak_memory": 0} == {**json.loads(figures), "peak_memory": 0}
    assert not list((tmp_path / "run").rglob(".*.tmp"))
    for file in checkpoint.generations(last):
        file.write_bytes(b"")
    status, errors = train("--resume", "--output", "run")
    assert status == 2 and "error: run/checkpoint/last.safetensors: no undamaged checkpoint (" in errors
