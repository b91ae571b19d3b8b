r"""Write sounds as images: log spectrograms of synthetic signals, one-channel `.npy` arrays in class folders.

    python tools/chirps.py --output chirps
    python tools/train_cls.py --data chirps --recipe shapes --normalise data --augment none \
        --crop-size 64 --resize-size 64

A residual network is not limited to photographs: it can classify any array [frequency, time] with structure. Each
signal is one second of sound at 8 kHz with noise. The class of a signal says how its pitch changes. The files are a
pure function of the options.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the root, not tools/, whose names could shadow others

from backbones.errors import require
from tools.cli.ending import run
from tools.cli.parsing import parse


@dataclass
class ChirpOptions:
    """Folder and size of the data set to generate.

    Args:
        output: folder to create.
        train: number of training signals of each class.
        val: number of validation signals of each class.
        seed: seed of the random generator; another seed gives other signals.
    """

    output: str
    train: int = 300
    val: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("train", "val"):
            require(getattr(self, name) > 0, name, getattr(self, name), "must be above 0")


@dataclass
class ChirpGroups:
    """The option groups of the command."""

    chirps: ChirpOptions


def main(argv: Sequence[str] | None = None) -> None:
    """Generate the data set and print its folder."""
    options = parse(ChirpGroups, description=__doc__, argv=argv).chirps

    from tools.synthetic.chirps import generate  # imports NumPy

    print(generate(Path(options.output), train=options.train, val=options.val, seed=options.seed))


if __name__ == "__main__":
    run(main)
