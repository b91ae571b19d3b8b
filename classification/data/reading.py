"""How a data set of classification is read: the user's options, and what the caller decides."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from classification.options import ClassReadingOptions


@dataclass
class Reading(ClassReadingOptions):
    """How to read a data set.

    Args:
        allow_outside: accept paths that lead out of the folder of the data set.
        keep_absent: list images that do not exist, instead of refusing them.
    """

    allow_outside: bool = False
    keep_absent: bool = False

    @classmethod
    def of(cls, options: ClassReadingOptions, *, allow_outside: bool = False, keep_absent: bool = False) -> Reading:
        """Return the user's options together with what the caller decides."""
        return cls(**asdict(options), allow_outside=allow_outside, keep_absent=keep_absent)
