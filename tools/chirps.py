r"""Write sounds as pictures: log spectrograms of synthetic signals, one-channel `.npy` arrays in class folders.

    python tools/chirps.py --output chirps
    python tools/train_cls.py --data chirps --recipe shapes --normalise data --augment none \
        --crop-size 64 --resize-size 64

A residual net needs no photographs: an array [frequency, time] with structure will do. Each signal is one second at
8 kHz in noise; its class says how the pitch goes. Files are a function of the options.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # tools/ itself must not shadow other modules

import numpy as np

from backbones.common.files import create_once
from backbones.errors import UserError, require
from tools.cli.ending import run
from tools.cli.parsing import parse

CLASSES = ("clicks", "falling", "noise", "rising", "steady", "trill", "two_tones")
RATE = 8000  # samples a second
SIZE = 64  # frequencies and moments of a spectrogram
WINDOW = 256  # samples that one moment looks at
LOUDNESS = (0.4, 1.0)  # of the signal, beside noise of deviation NOISE
NOISE = 1.5


@dataclass
class ChirpOptions:
    """What to write.

    Args:
        output: folder to make.
        train: training signals of each class.
        val: validation signals of each class.
        seed: another seed, other signals.
    """

    output: str
    train: int = 300
    val: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("train", "val"):
            require(getattr(self, name) > 0, name, getattr(self, name), "must be above 0")


@dataclass
class Options:
    """The option groups of this script."""

    chirps: ChirpOptions


def generate(folder: Path, *, train: int, val: int, seed: int) -> Path:
    """Write `{train,val}/CLASS/*.npy`, float32 [64, 64], decibels.

    Raises:
        UserError: where the folder exists already.
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
    """One second of a sound `[8000]` of a kind, in noise."""
    time = np.arange(RATE) / RATE
    low, high = random.uniform(300, 1200), random.uniform(1800, 3400)
    pitch = {
        "rising": low + (high - low) * time,
        "falling": high + (low - high) * time,
        "steady": np.full(RATE, random.uniform(low, high)),
        "two_tones": np.full(RATE, low),
        "trill": (low + high) / 2 + 300 * np.sin(2 * np.pi * random.uniform(3, 7) * time),
    }.get(kind)
    sound = np.zeros(RATE) if pitch is None else np.sin(2 * np.pi * np.cumsum(pitch) / RATE + random.uniform(0, 6))
    if kind == "two_tones":
        sound += np.sin(2 * np.pi * high * time)
    if kind == "clicks":
        for at in random.integers(0, RATE - 40, size=random.integers(4, 9)):
            sound[at : at + 40] = random.normal(0, 3, 40)
    return random.uniform(*LOUDNESS) * sound + random.normal(0, NOISE, RATE)


def spectrogram(sound: np.ndarray) -> np.ndarray:
    """Loudness in decibels `[frequency, time]` = [64, 64] float32, low frequencies below."""
    starts = np.linspace(0, len(sound) - WINDOW, SIZE).astype(int)
    pieces = sound[starts[:, None] + np.arange(WINDOW)] * np.hanning(WINDOW)
    power = np.abs(np.fft.rfft(pieces, axis=1)[:, 1:]) ** 2
    bands = power.reshape(SIZE, SIZE, -1).mean(axis=2)
    return (10 * np.log10(bands + 1e-6)).T[::-1].astype(np.float32)


def main() -> None:
    """Generate the data set and say where it lies."""
    options = parse(Options, description=__doc__.splitlines()[0]).chirps
    folder = generate(Path(options.output), train=options.train, val=options.val, seed=options.seed)
    print(folder)


if __name__ == "__main__":
    run(main)
