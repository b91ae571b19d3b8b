"""Sounds as one-channel images: the files, the meaning of their rows, and reproducible bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from backbones.errors import UserError
from tools.chirps import ChirpOptions
from tools.synthetic import chirps


def test_files_are_class_folders_of_arrays(tmp_path: Path, script):
    done = script("chirps.py", "--output", "sounds", "--train", 3, "--val", 2, cwd=tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, "sounds")
    for split, count in (("train", 3), ("val", 2)):
        folders = sorted((tmp_path / "sounds" / split).iterdir())
        assert [folder.name for folder in folders] == list(chirps.CLASSES)
        assert all(len(list(folder.glob("*.npy"))) == count for folder in folders)
    array = np.load(tmp_path / "sounds" / "val" / "rising" / "00001.npy")
    assert (array.shape, array.dtype) == ((64, 64), np.float32) and np.isfinite(array).all()


def test_the_same_options_give_the_same_bytes(tmp_path: Path):
    first = chirps.generate(tmp_path / "a", train=1, val=1, seed=5)
    again = chirps.generate(tmp_path / "b", train=1, val=1, seed=5)
    other = chirps.generate(tmp_path / "c", train=1, val=1, seed=6)
    name = Path("train") / "trill" / "00000.npy"
    assert (first / name).read_bytes() == (again / name).read_bytes() != (other / name).read_bytes()


def test_a_tone_lies_in_its_row():
    """1000 Hz of 0..4000 in 64 rows of 62.5 Hz lies between the 16th and 17th row from below: rows 48 and 47."""
    tone = np.sin(2 * np.pi * 1000 * np.arange(chirps.RATE) / chirps.RATE)
    loudest = chirps.spectrogram(tone).argmax(axis=0)
    assert set(loudest.tolist()) <= {47, 48}


def test_rising_rises_and_falling_falls():
    random = np.random.default_rng(0)
    rising = chirps.spectrogram(chirps.signal("rising", random)).argmax(axis=0)
    falling = chirps.spectrogram(chirps.signal("falling", random)).argmax(axis=0)
    assert np.median(rising[:16]) > np.median(rising[-16:]) + 5  # rows count from above
    assert np.median(falling[:16]) < np.median(falling[-16:]) - 5


def test_a_folder_is_not_overwritten(tmp_path: Path, script):
    (tmp_path / "mine").mkdir()
    done = script("chirps.py", "--output", "mine", cwd=tmp_path)
    assert done.returncode == 2 and "exists already" in done.stderr and done.stderr.count("\n") == 1
    assert not list((tmp_path / "mine").iterdir())
    with pytest.raises(UserError, match="--train 0"):
        ChirpOptions(output="x", train=0)
