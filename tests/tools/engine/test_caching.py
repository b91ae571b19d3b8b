"""`--cache`: where decoded images are kept, how many, and that nothing is left behind, also after a kill."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import CIFAR, Group, child_only, write_noise

from backbones.common.decoded import GIB, DecodedImages
from backbones.errors import UserError
from classification.data.shard_writer import make_shards
from tools import train_cls
from tools.engine import caching
from tools.engine.options import RunOptions

WORDS = [*CIFAR, "--batch-size", "4", "--epochs", "3", "--threads", "1", "--train-eval", "0"]
SIDE, IMAGES = 40, 12  # of training and validation together


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    counts = {("train", "a"): 4, ("train", "b"): 4, ("val", "a"): 2, ("val", "b"): 2}
    return write_noise(tmp_path / "data", counts, SIDE)


@pytest.fixture(autouse=True)
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have this process take a folder of the test for that of memory."""
    (tmp_path / "memory").mkdir()
    monkeypatch.setattr(caching, "MEMORY", tmp_path / "memory")
    return tmp_path / "memory"


@pytest.mark.parametrize(("kind", "workers"), [("ram", "0"), ("disk", "2")])
def test_a_training_decodes_each_image_once_and_removes_what_it_kept(
    pictures: Path, memory: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch, kind: str, workers: str
):
    monkeypatch.chdir(tmp_path)
    train_cls.main(["--data", str(pictures), *WORDS, "--workers", workers, "--cache", kind, "--output", "run"])
    printed = capsys.readouterr().out
    where = memory / caching.PREFIX if kind == "ram" else Path("run/decoded")
    assert f"GiB of decoded images in {where}" in printed
    assert f"\n{IMAGES} decoded arrays kept, 0.00 GiB\n" in printed
    assert not list(memory.iterdir()) and not Path("run/decoded").exists()


def test_a_full_cache_is_told_with_its_option(pictures: Path, tmp_path: Path, capsys):
    limit = 5.5 * 2 * 4096 / GIB  # an image of 4,800 bytes and its header take two pages
    words = ["--workers", "0", "--cache", "ram", "--cache-gib", f"{limit:.12f}", "--output", str(tmp_path / "run")]
    train_cls.main(["--data", str(pictures), *WORDS, *words])
    assert (
        "\n5 decoded arrays kept, 0.00 GiB; full, so that the others are decoded each time" in capsys.readouterr().out
    )


def test_a_folder_that_cannot_be_written_is_told_before_training(pictures: Path, tmp_path: Path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(caching, "_memory", lambda: tmp_path / "file")
    with pytest.raises(
        UserError, match=r"^--cache: .*/file/\S+ cannot be written \(Not a directory\); make room there"
    ):
        train_cls.main(["--data", str(pictures), *WORDS, "--cache", "ram", "--output", str(tmp_path / "run")])
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_folder_that_somebody_removed_ends_no_training(memory: Path):
    cache = DecodedImages(memory / f"{caching.PREFIX}own", GIB)
    with caching.kept(cache):
        shutil.rmtree(cache.folder)
        assert (cache.get("a", lambda: np.ones(3, np.uint8)) == 1).all()


def test_two_processes_share_one_cache(group: Group, pictures: Path, tmp_path: Path):
    words = ("--data", pictures, *WORDS, "--workers", 0, "--cache", "disk", "--output", "run")
    ended = group("train_cls.py", *words, cwds=[tmp_path] * 2)
    assert [status for status, _, _ in ended] == [0, 0], ended
    assert f"\n{IMAGES} decoded arrays kept" in ended[0][1] and "decoded arrays" not in ended[1][1]
    assert not (tmp_path / "run" / "decoded").exists()


def test_what_killed_trainings_kept_is_removed_and_what_others_keep_stays(memory: Path):
    def start(name: str) -> int:
        child = os.fork()
        if child == 0:
            with child_only(), caching.kept(DecodedImages(memory / f"{caching.PREFIX}{name}", GIB)):
                os.write(begun, b"x")
                signal.pause()
        os.read(ready, 1)
        return child

    ready, begun = os.pipe()
    (memory / f"{caching.PREFIX}unlocked").mkdir()
    killed, alive = start("killed"), start("alive")
    os.kill(killed, signal.SIGKILL)
    os.waitpid(killed, 0)
    own = DecodedImages(memory / f"{caching.PREFIX}own", GIB)
    try:
        with caching.kept(own):
            names = {path.name.removeprefix(caching.PREFIX) for path in memory.iterdir()}
            assert names == {"alive", "alive.lock", "own", "own.lock"}
        assert {path.name.removeprefix(caching.PREFIX) for path in memory.iterdir()} == {"alive", "alive.lock"}
    finally:
        os.kill(alive, signal.SIGKILL)
        os.waitpid(alive, 0)


def test_trainings_of_other_users_hinder_none(memory: Path):
    theirs = memory / f"{caching.PREFIX}theirs.lock"
    theirs.mkdir()  # cannot be opened, as a file of another user cannot
    with caching.kept(DecodedImages(memory / f"{caching.PREFIX}own", GIB)):
        pass
    assert list(memory.iterdir()) == [theirs]


def test_a_training_without_a_cache_removes_what_a_killed_one_kept(memory: Path):
    (memory / f"{caching.PREFIX}killed").mkdir()
    with caching.kept(None):
        assert not list(memory.iterdir())


def test_nothing_is_left_if_nobody_reads_what_is_printed(memory: Path, monkeypatch: pytest.MonkeyPatch):
    def closed(self: DecodedImages) -> str:
        raise BrokenPipeError

    monkeypatch.setattr(DecodedImages, "describe", closed)
    with pytest.raises(BrokenPipeError), caching.kept(DecodedImages(memory / f"{caching.PREFIX}own", GIB)):
        pass
    assert not list(memory.iterdir())


def test_the_limit_leaves_half_of_the_free_space(memory: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("shutil.disk_usage", lambda place: SimpleNamespace(free=8 * GIB))
    limits = {size: caching.choose_cache(RunOptions(cache="ram", cache_gib=size), memory) for size in (None, 3.0, 99.0)}
    assert {size: cache and cache.limit / GIB for size, cache in limits.items()} == {None: 2, 3.0: 3, 99.0: 4}
    # One pass over the images keeps nothing.
    for once in (RunOptions(cache="ram", eval_only=True), RunOptions(cache="ram", dry_run=True), RunOptions()):
        assert caching.choose_cache(once, memory) is None


@pytest.mark.parametrize(("size", "kind"), [(0.0, "ram"), (-1.0, "disk"), (float("nan"), "ram"), (1.0, "none")])
def test_sizes_that_keep_nothing_are_refused(size: float, kind: str):
    with pytest.raises(UserError, match="--cache-gib"):
        RunOptions(cache=kind, cache_gib=size)  # type: ignore[arg-type]


def test_a_resumed_run_may_switch_off_a_cache_whose_size_its_configuration_names():
    assert RunOptions(cache="none", cache_gib=1.0, resume=True).cache == "none"


def test_shards_are_refused(pictures: Path, tmp_path: Path):
    make_shards(pictures, tmp_path / "shards", shard_size=4)
    with pytest.raises(UserError, match="--cache: does not work with tar shards"):
        train_cls.main(
            ["--data", str(tmp_path / "shards"), *WORDS, "--cache", "ram", "--output", str(tmp_path / "run")]
        )
    assert not (tmp_path / "run").exists()
