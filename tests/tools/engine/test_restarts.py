"""Processes that die under torchrun: the others end with it, or all begin anew and go on from the last checkpoint.

This file is also the script that stands for torchrun.
"""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Group, Launched, write_classes

# Two steps an epoch: the process dies at the first of the second epoch, after the checkpoint of step 2.
WORDS = ("--data", "data", "--recipe", "cifar", "--batch-size", 6, "--epochs", 2, "--threads", 1)
OPTIONS = (*WORDS, "--workers", 0, "--precision", "fp32", "--output", "run")
DIES = 3  # the step at which process 1 kills itself, once


def train(*words: str) -> None:
    """Run tools/train_cls.py; process 1 is killed at a step that no process has reached before."""
    from tools import train_cls
    from tools.cli import ending
    from tools.engine import loop
    from tools.processes import distributed

    update = loop.update_weights

    def die_once(training: Any, **options: Any) -> None:
        update(training, **options)
        if distributed.rank() == 1 and training.step == DIES and not Path("died").exists():
            Path("died").touch()
            os.kill(os.getpid(), signal.SIGKILL)

    loop.update_weights = die_once
    ending.run(lambda: train_cls.main(words))


def torchrun_with_forks() -> None:
    """Run torchrun, whose agent forks its processes: a new interpreter would import the libraries for seconds."""
    from torch.distributed import run

    def forking(config: Any, entrypoint: str) -> Callable[..., Any]:
        agent = elastic_launch(config, train)
        return lambda *words: agent(*words[words.index(__file__) + 1 :])

    elastic_launch, run.elastic_launch = run.elastic_launch, forking
    run.main()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve images."""
    write_classes(tmp_path / "data", count=4)
    return tmp_path


@pytest.fixture
def torchrun(launch: Callable[..., Launched], folder: Path) -> Callable[..., Launched]:
    """Starts an agent of torchrun, whose script is `train`."""

    def start(*words: Any) -> Launched:
        given = ("--start_method", "fork", *words, __file__, *OPTIONS)
        return launch(__file__, *given, cwd=folder, OMP_NUM_THREADS="1")

    return start


def steps(run: Path) -> list[int]:
    """Optimizer steps that were logged with figures of an evaluation."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line["step"] for line in lines if "top1" in line]


def test_a_killed_process_ends_all_and_the_run_goes_on_with_another_number_of_them(
    torchrun: Callable[..., Launched], group: Group, folder: Path
):
    status, _, errors = torchrun("--standalone", "--nproc_per_node", 2).end()
    assert status == 1
    cause = errors.split("Root Cause")[1]  # torchrun's report, after those that it ended
    assert "rank      : 1 (" in cause
    assert "Signal 9 (SIGKILL) received" in cause
    assert "gloo" not in errors
    assert "error: " not in errors
    ((status, out, errors),) = group("train_cls.py", "--resume", "--output", "run", cwds=[folder])
    assert status == 0, errors
    assert "the run was started on 2 processes and continues on 1" in out
    assert "the result is not bit-exact" in out
    assert steps(folder / "run") == [2, 4]


def test_two_machines_train_together_and_begin_anew_from_the_last_checkpoint(
    torchrun: Callable[..., Launched], group: Group, folder: Path
):
    """Bit for bit as two processes that were never killed, which accelerate launched."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = ("--rdzv_backend", "c10d", "--rdzv_endpoint", f"127.0.0.1:{port}", "--local_addr", "127.0.0.1")
    nodes = ("--nnodes", 2, "--nproc_per_node", 1, "--max_restarts", 1, "--rdzv_id", "test", *where)
    agents = [torchrun(*nodes) for _ in range(2)]
    ended = [agent.end() for agent in agents]
    assert [status for status, _, _ in ended] == [0, 0], "\n".join(errors for _, _, errors in ended)
    assert (folder / "died").exists()
    assert "".join(out for _, out, _ in ended).count("continuing after step 2\n") == 1
    assert steps(folder / "run") == [2, 4]

    straight = folder / "straight"
    write_classes(straight / "data", count=4)
    accelerate = {"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_USE_CPU": "true", "ACCELERATE_DYNAMO_BACKEND": "no"}
    launched = group("train_cls.py", *OPTIONS, cwds=[straight] * 2, **accelerate)
    assert [status for status, _, _ in launched] == [0, 0], launched
    assert weights(straight / "run") == weights(folder / "run")


def weights(run: Path) -> dict[str, Any]:
    """Return the weights of the trained net as lists."""
    from safetensors.numpy import load_file

    return {name: value.tolist() for name, value in load_file(run / "model.safetensors").items()}


if __name__ == "__main__":
    torchrun_with_forks()
