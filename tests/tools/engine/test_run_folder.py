"""A run folder belongs to one training: names, locks, what a killed start leaves, and the data it goes on with."""

from __future__ import annotations

import json
import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import CIFAR, child_only

from backbones.common.images import image_size
from backbones.errors import UserError
from tools import train_cls
from tools.engine.bad_images import RECORD, BadImages
from tools.engine.run_folder import LAUNCHERS, choose_folder, lock

WORDS = [*CIFAR, "--batch-size", "4", "--workers", "0", "--threads", "1"]


def pictures(root: Path, count: int = 4) -> Path:
    for split, name, number in ((s, n, i) for s in ("train", "val") for n in "ab" for i in range(count)):
        (root / split / name).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / split / name / f"{number}.png"), np.full((34, 34, 3), 20 * number, np.uint8))
    return root


def test_a_folder_is_held_by_one_process_for_as_long_as_it_lives(tmp_path: Path):
    (ready, begun), (wait, over) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        with child_only():
            os.close(over)
            lock(tmp_path)
            os.write(begun, b"x")
            os.read(wait, 1)
            os._exit(0)
    os.read(ready, 1)
    with pytest.raises(UserError, match="another process trains there; wait until it ends, or name a new folder"):
        lock(tmp_path)
    os.close(over)
    assert os.waitpid(child, 0)[1] == 0
    lock(tmp_path)


def test_runs_of_one_second_get_names_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.strftime", lambda form: "20260101-120000")
    names = [choose_folder(None, prefix="seg", resume=False)[0].name for _ in range(3)]
    assert names == ["seg-20260101-120000", "seg-20260101-120000-1", "seg-20260101-120000-2"]


@pytest.mark.parametrize("resume", [False, True])
def test_a_start_killed_before_its_first_checkpoint_begins_anew(tmp_path: Path, resume: bool):
    data, run = pictures(tmp_path / "data"), tmp_path / "run"
    words = ["--data", str(data), *WORDS, "--epochs", "1", "--output", str(run)]
    train_cls.main(words)
    for file in (path for path in run.rglob("*") if path.is_file() and path.name != "config.yaml"):
        file.unlink()
    (run / "checkpoint" / ".last.safetensors.tmp").write_bytes(b"half")
    train_cls.main(["--resume", "--output", str(run)] if resume else words)
    assert json.loads((run / "results.json").read_text())["images"] == 8
    assert (run / "checkpoint" / "last.safetensors").is_file()
    assert not list(run.rglob("*.tmp"))


def test_files_of_others_are_no_killed_start(tmp_path: Path):
    (tmp_path / "config.yaml").write_text("epochs: 9\n")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds files already"):
        choose_folder(str(tmp_path), prefix="cls", resume=False)


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_run_goes_on_with_its_own_images_alone(tmp_path: Path, split: str):
    data, run = pictures(tmp_path / "data", count=3), tmp_path / "run"
    words = ["--data", str(data), *WORDS, "--epochs", "1"]
    train_cls.main([*words, "--output", str(run)])
    (data / split / "a" / "0.png").rename(data / split / "a" / "7.png")
    with pytest.raises(
        UserError, match=f"the {split} images differ from those of the run in .*run; resume with the data"
    ):
        train_cls.main([*words, "--output", str(run), "--resume"])


def test_other_weights_under_the_old_name_are_refused(tmp_path: Path):
    data = pictures(tmp_path / "data")
    common = ["--data", str(data), *WORDS, "--epochs", "1"]
    train_cls.main([*common, "--output", str(tmp_path / "a")])
    weights = tmp_path / "a" / "model.safetensors"
    train_cls.main([*common, "--weights", str(weights), "--output", str(tmp_path / "b")])
    train_cls.main([*common, "--normalise", "data", "--output", str(tmp_path / "c")])
    os.replace(tmp_path / "c" / "model.safetensors", weights)
    with pytest.raises(UserError, match="sizes or normalisation of the inputs differ from those of the run"):
        train_cls.main([*common, "--weights", str(weights), "--output", str(tmp_path / "b"), "--resume"])


def test_a_damaged_note_of_launchers_is_nobodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for number, text in enumerate(("", "{", "[1, null]", "7")):
        path = Path("runs") / f"det-{number}" / LAUNCHERS
        path.parent.mkdir(parents=True)
        path.write_text(text)
    assert choose_folder(None, prefix="det", resume=False, launchers={"a"})[1] is False


def test_a_record_torn_by_a_kill_goes_on(tmp_path: Path):
    (tmp_path / RECORD).write_text('{"file": "a.jpg", "reason": "x"}\n{"file": "b.j')
    bad = BadImages(tmp_path, skip=True, seed=0)
    assert bad.files() == ["a.jpg"]
    bad.add(Path("b.jpg"), "does not decode")
    assert bad.files() == ["a.jpg", "b.jpg"]


def test_a_picture_of_too_many_pixels_is_named(tmp_path: Path):
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"")))
    parts = [struct.pack(">I", len(c)) + name + c + struct.pack(">I", zlib.crc32(name + c)) for name, c in chunks]
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    with pytest.raises(UserError, match=r"bomb\.png: has more than 1073741824 pixels; cut the image into smaller ones"):
        image_size(tmp_path / "bomb.png", apply_exif=False)
