"""What was found wrong with a data set: collected, printed as a table, written as JSON."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

EXAMPLES = 3  # of each kind in the table; the JSON file has all
WIDTH = 160  # characters of an example
# Worth a look, but nothing that training stumbles over.
REMARKS = ("same name in both splits", "no outline")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        kind: what, in a few words that others of its sort share.
        split: where, such as "train".
        record: which record of an annotation file, such as "annotation 12"; empty where there is none.
        file: the file that the record speaks of.
        text: what is wrong in particular.
    """

    kind: str
    split: str
    record: str
    file: str
    text: str

    def __str__(self) -> str:
        named = ", ".join(part for part in (self.record, self.file) if part)
        text = " ".join(f"{self.split}: {named}: {self.text}".split())
        return text if len(text) <= WIDTH else f"{text[: WIDTH - 3]}..."


@dataclass
class Report:
    """Collects problems.

    Attributes:
        checked: how much of what was looked at, by split.
    """

    problems: list[Problem] = field(default_factory=list)
    checked: dict[str, dict[str, int]] = field(default_factory=dict)

    def add(self, kind: str, split: str, *, record: str = "", file: str = "", text: str) -> None:
        """Note a problem; see `Problem`."""
        self.problems.append(Problem(kind, split, record, file, text))

    @property
    def wrong(self) -> int:
        """How many problems there are, remarks left out."""
        return sum(problem.kind not in REMARKS for problem in self.problems)

    def table(self) -> str:
        """Kind, count and first examples, the most frequent kinds first and remarks last, then what was checked."""
        counts = Counter(problem.kind for problem in self.problems)
        width = max(map(len, counts), default=0)
        lines = []
        for kind, count in sorted(counts.items(), key=lambda entry: (entry[0] in REMARKS, -entry[1])):
            examples = [str(problem) for problem in self.problems if problem.kind == kind][:EXAMPLES]
            lines += [f"{kind:<{width}}  {count:>7}  {examples[0]}"]
            lines += [f"{'':<{width}}  {'':>7}  {example}" for example in examples[1:]]
        return "\n".join([*lines, self._summary()])

    def as_json(self) -> dict[str, Any]:
        """`clean`, `checked`, `counts` by kind, and all `problems`, each with what `Problem` has."""
        return {
            "clean": not self.wrong,
            "checked": self.checked,
            "counts": dict(Counter(problem.kind for problem in self.problems)),
            "problems": [asdict(problem) for problem in self.problems],
        }

    def _summary(self) -> str:
        looked = "; ".join(
            f"{split}: {', '.join(f'{count} {what}' for what, count in counts.items())}"
            for split, counts in self.checked.items()
        )
        remarks = len(self.problems) - self.wrong
        found = [_several(self.wrong, "problem") if self.wrong else "clean"]
        found += [_several(remarks, "remark")] if remarks else []
        return f"{', '.join(found)} ({looked})"


def _several(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
