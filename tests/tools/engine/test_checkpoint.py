"""Checkpoints: whole or refused, never pickle."""

from __future__ import annotations

import os
import pickle
import resource
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import child_only

from backbones.errors import UserError
from tools.engine import checkpoint

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
    "type": torch.bfloat16,
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


def test_files_have_the_permissions_that_the_process_gives_new_files(tmp_path: Path):
    for mask in (0o022, 0o007):
        before = os.umask(mask)
        try:
            checkpoint.save(tmp_path / "c", STATE)
        finally:
            os.umask(before)
        assert (tmp_path / "c").stat().st_mode & 0o777 == 0o666 & ~mask


def test_the_first_tensor_that_is_not_finite_is_named():
    large = torch.full((4,), torch.finfo(torch.float32).max)  # their sum is infinite
    healthy = {"a": [torch.ones(1), {"step": 3}], "b": torch.tensor([1, 2]), "c": large, "d": torch.zeros(0)}
    assert checkpoint.first_not_finite(healthy) is None
    broken = {"a": [torch.ones(1), {"w": torch.tensor([0.0, float("nan")])}], "b": torch.tensor(float("inf"))}
    assert checkpoint.first_not_finite(broken) == "a.1.w"
    assert checkpoint.first_not_finite(broken["b"], "b") == "b"
    assert checkpoint.first_not_finite(torch.tensor([float("inf"), -float("inf")]), "c") == "c"


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
    with pytest.raises(UserError, match="is not a complete safetensors file"):
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


def kill_at(call: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Have this process kill itself in the n-th call that changes the disk, a file being half written then."""
    calls: list[str] = []

    def deadly(name, real):
        def called(*args, **kwargs):
            calls.append(name)
            if len(calls) - 1 == call:
                if name == "save_file":
                    real(*args, **kwargs)
                    os.truncate(args[1], os.path.getsize(args[1]) // 2)
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        return called

    for name, owner in (("save_file", checkpoint), ("fsync", os), ("replace", os), ("unlink", Path)):
        monkeypatch.setattr(owner, name, deadly(name, getattr(owner, name)))
    return calls


def state(step: int) -> dict[str, Any]:
    return {"step": step, "w": torch.full((1000,), float(step))}


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_a_kill_at_any_stage_of_writing_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: int):
    """A process is killed in each call of its fourth save: what it saved before, or the new, loads, and all is tidy
    after the next save."""
    path, call, killed = tmp_path / "last.safetensors", 0, True
    while killed:
        for old in tmp_path.iterdir():
            old.unlink()
        for step in (1, 2, 3):
            checkpoint.save(path, state(step), keep=keep)
        child = os.fork()
        if child == 0:
            with child_only():
                kill_at(call, monkeypatch)
                checkpoint.save(path, state(4), keep=keep)
                os._exit(0)
        killed = os.waitpid(child, 0)[1] == signal.SIGKILL
        found = [checkpoint.load(file)["step"] for file in checkpoint.generations(path)]
        assert found[0] in (3, 4)
        assert found == list(range(found[0], found[0] - len(found), -1)) and len(found) >= keep
        assert checkpoint.load(checkpoint.newest_whole(path).path)["step"] == found[0]
        checkpoint.save(path, state(5), keep=keep)
        names = ["last.safetensors", *(f"last-{age}.safetensors" for age in range(1, keep))]
        assert sorted(file.name for file in tmp_path.iterdir()) == sorted(names)
        assert [checkpoint.load(file)["step"] for file in checkpoint.generations(path)][:2] == [5, found[0]][:keep]
        call += 1
    # The file, its flush, keep renames from last to the oldest, the last rename and the removal of what may be left
    # under the temporary name, the flush of the folder; the oldest file goes where several are kept.
    assert call - 1 == 2 + (keep if keep > 1 else 0) + 2 + (keep > 1) + 1


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "last.safetensors"
    for step in (1, 2, 3):
        checkpoint.save(path, state(step), keep=3)
    path.write_bytes(path.read_bytes()[:-1])
    assert checkpoint.newest_whole(path).path.name == "last-1.safetensors"
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {path}: is not a complete safetensors file") and line.endswith(
        "continuing from last-1.safetensors, which is older"
    )
    for file in checkpoint.generations(path):
        file.write_bytes(b"")
    with pytest.raises(UserError, match=r"no undamaged checkpoint \(.*last\.saf.*last-1\.saf.*last-2\.saf") as error:
        checkpoint.newest_whole(path)
    assert "\n" not in str(error.value)


def test_fewer_checkpoints_are_kept_when_asked_and_strangers_stay(tmp_path: Path):
    path = tmp_path / "last.safetensors"
    for step in range(5):
        checkpoint.save(path, state(step), keep=4)
    (tmp_path / "last-mine.safetensors").write_bytes(b"mine")
    checkpoint.save(path, state(5), keep=2)
    assert {file.name for file in tmp_path.iterdir()} == {
        "last.safetensors", "last-1.safetensors", "last-mine.safetensors"
    }  # fmt: skip


def test_a_tree_of_another_build_is_refused_and_named():
    like = {"a": [torch.zeros(2), 1.0], "b": float | None}
    checkpoint.require_like({"a": [torch.ones(2), 3], "b": None}, like, "here")
    for wrong, place in (
        ({"a": [torch.zeros(2), 1.0]}, "here: does"),
        ({"a": [torch.zeros(3), 1.0], "b": None}, "here: a: 0: does"),
        ({"a": [torch.zeros(2).int(), 1.0], "b": None}, "here: a: 0: does"),
        ({"a": [torch.zeros(2), True], "b": None}, "here: a: 1: does"),
        ({"a": (torch.zeros(2), 1.0), "b": None}, "here: a: does"),
        ({"a": [torch.zeros(2), 1.0], "b": "x"}, "here: b: does"),
    ):
        with pytest.raises(UserError, match=place):
            checkpoint.require_like(wrong, like, "here")


def test_a_full_disk_leaves_the_file_before(tmp_path: Path):
    """The system refuses files above a size, as it refuses all on a full disk."""
    path = tmp_path / "last.safetensors"
    checkpoint.save(path, state(1), keep=2)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
    try:
        with pytest.raises(
            UserError, match=r"last\.safetensors: cannot be written \(.*[Ff]ile too large.*\); the previous file"
        ):
            checkpoint.save(path, {**state(2), "more": torch.zeros(1000)}, keep=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [file.name for file in tmp_path.iterdir()] == ["last.safetensors"]
    assert checkpoint.load(path)["step"] == 1


def test_a_folder_that_cannot_be_written_is_a_clear_error(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        checkpoint.save(tmp_path / "file" / "last.safetensors", STATE)
