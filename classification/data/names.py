"""Names of classes, of a weights file or of ImageNet, which are matched with the names of class folders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from backbones.common.spellings import other_spellings

IMAGENET_CLASSES = 1000


@dataclass(frozen=True)
class ClassNames:
    """The classes of a model.

    Attributes:
        names: names by label.
        labels: label by name of a class folder; a class of ImageNet has several possible names.
    """

    names: tuple[str, ...]
    labels: Mapping[str, int]

    def label(self, name: str) -> int | None:
        """Return the label of a class, whose name may differ in capitals if only one class fits; None if none fits."""
        if name in self.labels:
            return self.labels[name]
        found = {self.labels[known] for known in other_spellings(name, self.labels)}
        return found.pop() if len(found) == 1 else None

    @classmethod
    def of(cls, names: Sequence[str]) -> ClassNames:
        """Return classes with these names.

        If all are ImageNet's, folders may also be named by synset or by a single word.
        """
        known = _imagenet_labels()
        own = {name: label for label, name in enumerate(names)}
        if not all(name in known for name in names):
            return cls(tuple(names), own)
        here = {known[name]: label for name, label in own.items()}
        others = {name: here[number] for name, number in known.items() if number in here}
        return cls(tuple(names), {**others, **own})

    @classmethod
    def imagenet(cls) -> ClassNames:
        """Return the 1,000 classes of ImageNet (ILSVRC 2012). Folders may be named by synset, word or class number."""
        from timm.data import ImageNetInfo

        found = cls.of(ImageNetInfo().label_names())
        numbers = {str(label).zfill(width): label for label in range(IMAGENET_CLASSES) for width in (1, 3, 4)}
        return cls(found.names, {**numbers, **found.labels})


@cache
def _imagenet_labels() -> Mapping[str, int]:
    """Return ImageNet's labels by synset, description and word. Words that belong to several classes are left out."""
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    found: list[tuple[str, int]] = []
    for label, (synset, text) in enumerate(zip(info.label_names(), info.label_descriptions(), strict=True)):
        words = {text, *text.split(", ")}
        found += [(name, label) for name in {synset, *words, *(word.replace(" ", "_") for word in words)}]
    uses = Counter(name for name, _ in found)
    return {name: label for name, label in found if uses[name] == 1}
