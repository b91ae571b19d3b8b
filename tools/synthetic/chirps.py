"""Spectrograms of synthetic sounds, as one-channel arrays in class folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from backbones.common.files import create_once
from backbones.errors import UserError

CLASSES = ("clicks", "falling", "noise", "rising", "steady", "trill", "two_tones")
RATE = 8000  # samples per second
SIZE = 64  # frequencies and moments of a spectrogram
WINDOW = 256  # samples that one moment covers
LOUDNESS = (0.4, 1.0)  # range of the signal's amplitude
NOISE = 1.5  # std of the noise


def generate(folder: Path, *, train: int, val: int, seed: int) -> Path:
    """Generate the sounds as `{train,val}/CLASS/*.npy`: spectrograms, float32 [64, 64], in decibels.

    Args:
        folder: folder to create.
        train: number of training signals of each class.
        val: number of validation signals of each class.
        seed: seed of the random generator.

    Raises:
        UserError: if the folder exists.
    """
    if folder.exists():
        raise UserError(f"--output {folder}: exists already; name a new folder")

    def write(at: Path) -> None:
        for split, count in enumerate((train, val)):
            for kind, name in enumerate(CLASSES):
                target = at / ("train", "val")[split] / name
                target.mkdir(parents=True)
                for index in range(count):
                    random = np.random.default_rng((seed, split, kind, index))
                    np.save(target / f"{index:05d}.npy", spectrogram(signal(name, random)))

    create_once(folder, is_complete=folder.exists, write=write)
    return folder


def signal(kind: str, random: np.random.Generator) -> np.ndarray:
    """Return one second of a sound of class `kind` with noise, as samples `[8000]`."""
    time = np.arange(RATE) / RATE
    low, high = random.uniform(300, 1200), random.uniform(1800, 3400)
    pitch = {
        "rising": low + (high - low) * time,
        "falling": high + (low - high) * time,
        "steady": np.full(RATE, random.uniform(low, high)),
        "two_tones": np.full(RATE, low),
        "trill": (low + high) / 2 + 300 * np.sin(2 * np.pi * random.uniform(3, 7) * time),
    }.get(kind)
    # Integrate the pitch (Hz) to the phase, from a random start.
    sound = np.zeros(RATE) if pitch is None else np.sin(2 * np.pi * np.cumsum(pitch) / RATE + random.uniform(0, 6))
    if kind == "two_tones":
        sound += np.sin(2 * np.pi * high * time)
    if kind == "clicks":
        for at in random.integers(0, RATE - 40, size=random.integers(4, 9)):
            sound[at : at + 40] = random.normal(0, 3, 40)
    return random.uniform(*LOUDNESS) * sound + random.normal(0, NOISE, RATE)


def spectrogram(sound: np.ndarray) -> np.ndarray:
    """Return a sound's loudness in decibels, float32 [64, 64]: frequency (from high to low) by time."""
    starts = np.linspace(0, len(sound) - WINDOW, SIZE).astype(int)
    pieces = sound[starts[:, None] + np.arange(WINDOW)] * np.hanning(WINDOW)
    # Drop the constant component, and average pairs of the remaining 128 frequencies.
    power = np.abs(np.fft.rfft(pieces, axis=1)[:, 1:]) ** 2
    bands = power.reshape(SIZE, SIZE, -1).mean(axis=2)
    return (10 * np.log10(bands + 1e-6)).T[::-1].astype(np.float32)
