"""TODO-DOC tools/experiments/groups.py."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tools.experiments.plan import SEED
from tools.experiments.runs import Run

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Group:
    """Cells that differ in the seed alone.

    Attributes:
        values: what those of the other axes are called.
        runs: of all seeds, unfinished ones included.
    """

    values: dict[str, str]
    runs: list[Run]

    @property
    def finished(self) -> list[Run]:
        return [run for run in self.runs if run.results is not None]

    def name(self, varying: Sequence[str]) -> str:
        """What a legend calls it: the values that differ between groups."""
        shown = [self.values[axis] for axis in varying] or list(self.values.values())
        return ", ".join(shown) or "all"


def groups(runs: Sequence[Run], axes: Sequence[str]) -> list[Group]:
    """Runs by the values of all axes but the seed, in order of appearance.

    Args:
        axes: names of options.
    """
    found: dict[str, Group] = {}
    for run in runs:
        values = {axis: run.cell.called(axis) for axis in axes if axis != SEED}
        found.setdefault(json.dumps(values), Group(values, [])).runs.append(run)
    return list(found.values())


def varying(found: Sequence[Group]) -> list[str]:
    """The axes whose values differ between groups."""
    names = list(found[0].values) if found else []
    return [name for name in names if len({group.values[name] for group in found}) > 1]
