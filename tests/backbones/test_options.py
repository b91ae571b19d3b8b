"""Options say beside their default whether they may change on --resume, and how they were called."""

from __future__ import annotations

from dataclasses import dataclass

from backbones.common.options import former_names, option, renamed, resumable


@dataclass
class First:
    """Two options that may change."""

    workers: int = option(2, resume="free")
    tile: int = option(0, resume="evaluation", formerly="window")


@dataclass
class Second:
    """One that may not."""

    lr: float = 0.1


def test_defaults_and_rules():
    assert (First(), First.tile, First(workers=3).workers) == (First(2, 0), 0, 3)
    assert resumable([First, Second], evaluation=False) == {"workers"}
    assert resumable([First, Second], evaluation=True) == {"workers", "tile"}


def test_former_names_are_replaced_unless_the_new_one_is_there():
    assert former_names([First, Second]) == {"window": "tile"}
    assert renamed({"window": 5, "lr": 1}, [First, Second]) == {"tile": 5, "lr": 1}
    assert renamed({"window": 5, "tile": 6}, [First]) == {"tile": 6}
    assert renamed({"window": 5}, [Second]) == {"window": 5}
