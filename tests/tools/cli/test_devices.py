"""The option `--device` of all commands that compute with a model."""

from __future__ import annotations

from pathlib import Path

import pytest

from backbones.errors import UserError
from tools.cli.console import main

COMMANDS = {
    "train det": "--eval-only --recipe shapes",
    "rank": "--data nowhere --backbones resnet20",
    "analyse": "--backbones resnet20 --output analysis",
    "benchmark": "classify --nets resnet20 --output bench",
    "report": "nowhere",
    "predict": "--run {run} image.png",
    "demo": "--run {run} --port 0",
}


@pytest.mark.parametrize("words", COMMANDS)
def test_a_device_that_is_not_there_takes_one_line(
    words: str, tiny_runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "image.png").touch()
    given = COMMANDS[words].format(run=tiny_runs["cls"].resolve()).split()
    for name in ("cuda:99", "gpu0"):
        with pytest.raises(UserError) as error:
            main([*words.split(), *given, "--device", name])
        text = str(error.value)
        assert text.startswith(f"device {name}: cannot be used here (") and "\n" not in text
        assert text.endswith("); name another: cpu, cuda, cuda:1, mps or auto")
        assert "privateuseone" not in text  # one of the two dozen kinds that torch knows
