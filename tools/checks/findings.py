"""Collects the problems of a data set; prints them as a table and writes them as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TypedDict

from backbones.common.files import JsonObject
from backbones.errors import counted, first_names
from tools.checks.box_sizes import describe_line, describe_proposals

EXAMPLES = 3  # of each kind in the table; the JSON file has all
WIDTH = 160  # characters of an example
NOT_SPLIT = "the data set is not split; --val-fraction divides it"
CLASSES = 24  # in the table; the JSON file has all
SINGULAR = {"classes": "class", "images": "image", "annotations": "annotation"}  # of what is counted in a split
IMBALANCED = 10  # number of the most frequent class over that of the rarest, from which a remark is due
# Kinds that do not disturb training, but deserve attention.
REMARKS = (
    "no outline",
    "class without images",
    "class without pixels",
    "passed over",
    "unnamed image",
    "duplicate box",
    "similar class names",
    "other capitals",
    "no objects",
    "no size",
    "foreign file name",
    "no such split",
    "other notation",
    "odd annotation id",
    "small 16-bit values",
    "near-equal image",
    "note",
    "unequal classes",
    "several classes",
)


def absent_split(names: Sequence[str]) -> str:
    """Return what to say about a split that a data set lacks, which has the splits `names`."""
    if len(names) < 2:
        return NOT_SPLIT
    return f"the data set has the splits {first_names(names)}; name one with --val-split, or use --val-fraction"


@dataclass(frozen=True)
class Problem:
    """One problem found in one record or file of a data set.

    Attributes:
        kind: short name of the kind of problem, such as "missing file".
        split: name of the split, such as "train".
        record: record of an annotation file, such as "annotation 12"; empty if the problem has no record.
        file: the file with the problem, or the file to which the record belongs.
        text: what is wrong in this case.
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


class ReportJson(TypedDict):
    """Content of the JSON file that `--json` writes."""

    clean: bool
    checked: dict[str, dict[str, int]]
    per_class: dict[str, dict[str, float]]
    boxes: dict[str, JsonObject]
    anchors: list[JsonObject]
    counts: dict[str, int]
    problems: list[dict[str, str]]


@dataclass
class CheckReport:
    """Report of a check: collects the problems of a data set, and returns them as a table or as JSON.

    Attributes:
        problems: all problems in the order of the checks.
        checked: numbers of checked records and files, by split and then by what was counted.
        per_class: number of images of each class, or its fraction 0..1 of the labelled pixels, by split.
        boxes: numbers, sides and aspect ratios of the boxes, by split; see `describe_boxes`.
        anchors: fraction of the training boxes that the default anchors cover, and those of a proposal; see `propose`.
    """

    problems: list[Problem] = field(default_factory=list)
    checked: dict[str, dict[str, int]] = field(default_factory=dict)
    per_class: dict[str, dict[str, float]] = field(default_factory=dict)
    boxes: dict[str, JsonObject] = field(default_factory=dict)
    anchors: list[JsonObject] = field(default_factory=list)

    def add(self, kind: str, split: str, *, record: str = "", file: str = "", text: str) -> None:
        """Add a problem to the report; the arguments are the fields of `Problem`."""
        self.problems.append(Problem(kind, split, record, file, text))

    @property
    def wrong(self) -> int:
        """Number of problems that make the data set faulty. Remarks, such as files that are not read, do not count."""
        return sum(problem.kind not in REMARKS for problem in self.problems)

    def table(self) -> str:
        """Return the report as text: count and first examples of each kind of problem, and what was checked.

        The most frequent kinds come first. Remarks come last.
        """
        counts = Counter(problem.kind for problem in self.problems)
        width = max(map(len, counts), default=0)
        lines = []
        for kind, count in sorted(counts.items(), key=lambda entry: (entry[0] in REMARKS, -entry[1])):
            examples = [str(problem) for problem in self.problems if problem.kind == kind][:EXAMPLES]
            lines += [f"{kind:<{width}}  {count:>7}  {examples[0]}"]
            lines += [f"{'':<{width}}  {'':>7}  {example}" for example in examples[1:]]
        lines += [_described(split, values) for split, values in self.per_class.items() if values]
        lines += [line for split, values in self.boxes.items() for line in describe_line(split, values)]
        lines += describe_proposals(self.anchors)
        return "\n".join([*lines, self._summary()])

    def as_json(self) -> ReportJson:
        """Return what was checked and found, with `counts` by kind, and all `problems` with the fields of `Problem`."""
        return {
            "clean": not self.wrong,
            "checked": self.checked,
            "per_class": self.per_class,
            "boxes": self.boxes,
            "anchors": self.anchors,
            "counts": dict(Counter(problem.kind for problem in self.problems)),
            "problems": [asdict(problem) for problem in self.problems],
        }

    def _summary(self) -> str:
        checked = "; ".join(
            f"{split}: {', '.join(counted(count, SINGULAR[what]) for what, count in counts.items())}"
            for split, counts in self.checked.items()
        )
        remarks = len(self.problems) - self.wrong
        found = [counted(self.wrong, "problem") if self.wrong else "clean"]
        found += [counted(remarks, "remark")] if remarks else []
        return f"{', '.join(found)} ({checked})"


def _described(split: str, per_class: Mapping[str, float]) -> str:
    """Return a line with the number of images or the fraction of the pixels of each class, the most frequent first."""
    fractions = any(isinstance(value, float) for value in per_class.values())
    order = sorted(per_class, key=lambda name: -per_class[name])
    parts = [f"{name} {per_class[name]:.2%}" if fractions else f"{name} {per_class[name]}" for name in order]
    return f"{'pixels' if fractions else 'images'} of {split} by class: {first_names(parts, CLASSES)}"


def unequal(counts: Mapping[str, int], what: str) -> str:
    """Return how unequal the numbers of the classes are, "" if they differ by less than `IMBALANCED` times.

    Args:
        counts: number of each class, above 0.
        what: what is counted, such as "images".
    """
    if not counts:
        return ""
    most, fewest = max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)
    ratio = counts[most] / counts[fewest]
    text = f"{counts[most]} {what} of {most}, but {counts[fewest]} of {fewest} ({ratio:.0f} to 1)"
    return text if ratio >= IMBALANCED else ""
