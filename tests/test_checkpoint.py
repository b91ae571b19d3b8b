"""Checkpoints: whole or refused, never pickle."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from backbones.errors import UserError
from tools import checkpoint

STATE = {
    "weights": {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3)},
    "optimizer": {
        "state": {0: {"step": torch.tensor(5.0), "none": None}},
        "groups": [{"lr": 0.1, "betas": (0.9, 0.99)}],
    },
    "half": torch.ones(3, dtype=torch.bfloat16),
    "mask": torch.tensor([True, False]),
    "empty": torch.zeros(0, 4),
    "text": "ä",
    "best": None,
}


def assert_same(one, other):
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, (list, tuple)):
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    else:
        assert one == other


def test_reads_back_what_was_written_with_key_types_tuples_and_dtypes(tmp_path: Path):
    path = tmp_path / "a" / "last.safetensors"
    checkpoint.save(path, STATE)
    assert_same(checkpoint.load(path), STATE)
    assert [entry.name for entry in path.parent.iterdir()] == ["last.safetensors"]


def test_tensors_that_share_memory_are_written(tmp_path: Path):
    shared = torch.arange(8.0)
    checkpoint.save(tmp_path / "c", {"a": shared, "b": shared[2:4], "c": shared.view(2, 4).T})
    assert checkpoint.load(tmp_path / "c")["b"].tolist() == [2, 3]
    assert checkpoint.load(tmp_path / "c")["c"].shape == (4, 2)


@pytest.mark.parametrize("cut", [0, 5, 100, -1])
def test_a_torn_file_is_refused(tmp_path: Path, cut: int):
    path = tmp_path / "c"
    checkpoint.save(path, STATE)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(UserError, match="not a whole safetensors file"):
        checkpoint.load(path)


def test_one_changed_bit_is_refused(tmp_path: Path):
    path = tmp_path / "c"
    checkpoint.save(path, STATE)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(UserError, match="damaged"):
        checkpoint.load(path)


def test_other_files_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match="no such file"):
        checkpoint.load(tmp_path / "absent")
    checkpoint.write_safetensors(tmp_path / "weights", {"a": torch.zeros(1)}, {})
    with pytest.raises(UserError, match="not a checkpoint"):
        checkpoint.load(tmp_path / "weights")


def test_a_pickle_is_never_unpickled(tmp_path: Path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "exploded"),)

    (tmp_path / "c").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(UserError):
        checkpoint.load(tmp_path / "c")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("stage", ["save_file", "os.fsync", "os.replace"])
def test_a_kill_at_any_stage_of_writing_leaves_the_file_before(tmp_path: Path, stage: str):
    """A real process is killed in the middle of the second save."""
    path = tmp_path / "last.safetensors"
    checkpoint.save(path, {"step": 1, "w": torch.zeros(1000)})
    owner, name = ("checkpoint", stage) if "." not in stage else ("checkpoint.os", stage.split(".")[1])
    code = f"""
import os, signal, torch
from pathlib import Path
from tools import checkpoint
def die(*args, **kwargs):
    if "{name}" == "save_file":
        Path(args[1]).write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
{owner}.{name} = die
checkpoint.save(Path({str(path)!r}), {{"step": 2, "w": torch.ones(1000)}})
"""
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, check=False)
    assert done.returncode == -9
    assert checkpoint.load(path)["step"] == 1
    checkpoint.save(path, {"step": 3})  # what the kill left behind is in nobody's way
    assert checkpoint.load(path)["step"] == 3


def test_a_folder_that_cannot_be_written_is_a_clear_error(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        checkpoint.save(tmp_path / "file" / "last.safetensors", STATE)
