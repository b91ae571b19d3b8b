"""Signals that ask a training to end: the first is noted, a later one kills."""

from __future__ import annotations

import multiprocessing.util
import os
import signal
import time
from pathlib import Path

import pytest
from conftest import child_only

from tools.processes import stopping


def sent(*numbers: int, apart: float) -> int:
    """Return the exit status of a process that notes signals: 7 if it noted one of these, 8 if there were none."""
    (ready, begun), (wait, over) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        with child_only(), stopping.catch_signals():
            os.close(over)
            os.write(begun, b"x")
            os.read(wait, 1)
            os._exit(7 if stopping.is_requested() else 8)
    os.read(ready, 1)
    for number in numbers:
        os.kill(child, number)
        time.sleep(apart)
    os.close(over)
    status = os.waitpid(child, 0)[1]
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


@pytest.mark.parametrize("number", stopping.SIGNALS)
def test_the_first_signal_is_noted_and_its_echo_as_well(monkeypatch: pytest.MonkeyPatch, number: int):
    monkeypatch.setattr(stopping, "REPEAT_SECONDS", 60.0)  # however slow the machine is
    assert sent(number, number, signal.SIGTERM, apart=0.02) == 7
    assert sent(apart=0) == 8


def test_a_signal_that_comes_later_kills_at_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stopping, "REPEAT_SECONDS", 0.1)
    assert sent(signal.SIGUSR1, signal.SIGTERM, apart=0.3) == -signal.SIGTERM


def test_afterwards_signals_mean_what_they_meant():
    before = [signal.getsignal(number) for number in stopping.SIGNALS]
    with stopping.catch_signals():
        os.kill(os.getpid(), signal.SIGUSR1)
        assert stopping.is_requested()
    assert not stopping.is_requested()
    assert [signal.getsignal(number) for number in stopping.SIGNALS] == before


def test_the_commands_status_says_that_a_run_can_go_on(capsys: pytest.CaptureFixture[str]):
    from tools.cli import ending

    def main() -> None:
        raise stopping.Stopped("stopped after step 3; go on with --resume --output run")

    with pytest.raises(SystemExit) as ended:
        ending.run(main)
    assert ended.value.code == stopping.STATUS == 143
    assert capsys.readouterr().err == "stopped after step 3; go on with --resume --output run\n"


def test_a_worker_lives_on_and_ends_with_its_process(tmp_path: Path):
    """A signal to all processes of a job, as SLURM sends it, in the middle of an epoch, which is loaded to its end."""
    from torch.utils.data import DataLoader

    child = os.fork()
    if child == 0:
        with child_only():
            loader = DataLoader(list(range(40)), num_workers=2, persistent_workers=True)
            stopping.protect_workers(loader)
            stopping.protect_workers(loader)  # once is enough
            with stopping.catch_signals():
                batches = iter(loader)
                loaded = len([next(batches), next(batches)])  # one of each worker, so that both have begun
                for worker in batches._workers:
                    for number in stopping.SIGNALS:
                        os.kill(worker.pid, number)
                loaded += sum(1 for _ in batches)
                (tmp_path / "workers").write_text(" ".join(str(worker.pid) for worker in batches._workers))
            multiprocessing.util._exit_function()  # what Python does at its end
            os._exit(0 if loaded == 40 else 1)
    assert os.waitpid(child, 0)[1] == 0
    for pid in (tmp_path / "workers").read_text().split():
        assert not Path("/proc", pid).exists()
