"""The mutation tester: which changes it makes, and that all holders of a function run the change."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
from operators import mutants, mutated
from transplant import transplant

SOURCE = '''
"""A text that stays: 1 + 1."""
from __future__ import annotations
from dataclasses import dataclass
from functools import cache
LIMIT: int = 3
RATE = 0.5

@dataclass
class Box:
    side: int = 2

    @property
    def area(self) -> int:
        return self.side**2

@cache
def inside(x, *, low=1):
    if x < 0:
        raise ValueError(f"{x + 1}")
    return low <= x and not x > LIMIT

def shown(flag):
    return "a" + "b" if flag else min(1.5, 2)
'''


def test_every_kind_of_change_and_nothing_else():
    found = [(each.scope, each.before, each.after) for each in mutants(SOURCE)]
    assert found == [
        ("", "3", "4"),
        ("", "0.5", "0.9"),
        ("Box", "2", "3"),
        ("Box.area", "return self.side ** 2", "return None"),
        ("Box.area", "self.side ** 2", "self.side * 2"),
        ("Box.area", "2", "3"),
        ("inside", "1", "2"),
        ("inside", "x < 0", "x <= 0"),
        ("inside", "0", "1"),
        ("inside", "return low <= x and (not x > LIMIT)", "return None"),
        ("inside", "low <= x and (not x > LIMIT)", "low <= x or not x > LIMIT"),
        ("inside", "low <= x", "low < x"),
        ("inside", "not x > LIMIT", "x > LIMIT"),
        ("inside", "x > LIMIT", "x >= LIMIT"),
        ("shown", "return 'a' + 'b' if flag else min(1.5, 2)", "return None"),
        ("shown", "flag", "not flag"),
        ("shown", "min(1.5, 2)", "max(1.5, 2)"),
        ("shown", "1.5", "2.7"),
        ("shown", "2", "3"),
    ]


def test_lines_of_a_mutant_are_those_of_its_statement():
    found = mutants("def f(a=1):\n    if (a >\n            2):\n        return (a +\n                3)\n")
    assert [(each.after, each.line, each.lines, each.inside) for each in found] == [
        ("2", 1, (1, 1), False),  # the default value is computed once, by the definition
        ("a >= 2", 2, (2, 3), True),
        ("3", 3, (2, 3), True),
        ("return None", 4, (4, 5), True),
        ("a - 3", 4, (4, 5), True),
        ("4", 5, (4, 5), True),
    ]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    (tmp_path / "mutated_example.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    import mutated_example

    yield mutated_example
    del sys.modules["mutated_example"]


CHANGES = {
    "4": lambda held: held["inside"](4),
    "0.9": lambda held: held["user"].RATE == 0.9,  # in another module too
    "3": lambda held: held["Box"]().side == 3,
    "self.side * 2": lambda held: held["Box"](5).area == 10,
    "2": lambda held: not held["inside"](1),  # a default value of a cached function
    "max(1.5, 2)": lambda held: held["shown"](False) == 2,
}


@pytest.mark.parametrize("after", CHANGES)
def test_holders_of_functions_classes_and_values_run_the_change(after: str, module: ModuleType, monkeypatch):
    user = ModuleType("mutated_user")
    user.RATE = module.RATE
    monkeypatch.setitem(sys.modules, "mutated_user", user)
    held = {"inside": module.inside, "Box": module.Box, "shown": module.shown, "user": user}
    mutant = next(each for each in mutants(SOURCE) if each.after == after)
    transplant(module, mutated(SOURCE, mutant.number))
    assert CHANGES[after](held)
    assert sys.modules["mutated_example"] is module
