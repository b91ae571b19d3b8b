"""Tests of the metadata of options: whether they may change on --resume, and their former names."""

from __future__ import annotations

from dataclasses import dataclass

from backbones.common.options import former_names, option, renamed, resumable


@dataclass
class First:
    """Has two options that may change on --resume."""

    workers: int = option(2, resume="free")
    tile: int = option(0, resume="evaluation", formerly="window")


@dataclass
class Second:
    """Has one option that may not change."""

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
