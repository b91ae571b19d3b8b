"""Metadata of a command-line option: its changes on resume, its former name, and whether weights files record it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import field, fields
from typing import Literal, TypeVar

Resume = Literal["free", "evaluation", "nonfinite", "longer"]
Value = TypeVar("Value")


def option(
    default: Value,
    *,
    resume: Resume | None = None,
    formerly: str | None = None,
    recorded: bool | Literal["default", "evaluation"] = False,
) -> Value:
    """Declare a field of an option group, as `dataclasses.field` does.

        workers: int | None = option(None, resume="free")

    Args:
        default: the field's default; immutable.
        resume: "free" if the option may change when a run is resumed, since it does not change what is trained;
            "evaluation" if it may change only with `--eval-only --resume`; "nonfinite" if it may change also when the
            run stopped at values that are not finite; "longer" if its value may become larger, so that the run trains
            on; None if it may not change.
        formerly: an earlier name of the option. Command lines, config files and checkpoints may still use it.
        recorded: True if the weights of a run only fit with the run's value: a command that is given these weights
            uses the value in their header, and refuses another one on the command line. "default" if the weights fit
            with other values too, but were trained with the run's value: the command line may give another one.
            "evaluation" if an evaluation of the weights (`--eval-only`) uses the run's value, unless the command line
            or `--config` gives another one.
    """
    return field(default=default, metadata={"resume": resume, "formerly": formerly, "recorded": recorded})


def resumable(groups: Iterable[type], *, evaluation: bool = False, nonfinite: bool = False) -> set[str]:
    """Return the names of the options that may change when a run is resumed.

    Args:
        groups: option groups, dataclasses.
        evaluation: whether the run is only measured again, not trained on.
        nonfinite: whether the run stopped at values that are not finite.
    """
    kinds = {"free"} | ({"evaluation"} if evaluation else set()) | ({"nonfinite"} if nonfinite else set())
    return {each.name for group in groups for each in fields(group) if each.metadata.get("resume") in kinds}


def extensible(groups: Iterable[type]) -> set[str]:
    """Return the names of the options whose values may become larger when a run is resumed."""
    return {each.name for group in groups for each in fields(group) if each.metadata.get("resume") == "longer"}


def recorded(group: type) -> set[str]:
    """Return the names of a model's options whose values a weights file records for all uses of the weights."""
    return {each.name for each in fields(group) if each.metadata.get("recorded") in (True, "default")}


def evaluated(groups: Iterable[type]) -> set[str]:
    """Return the names of the options whose values an evaluation takes from the header of its weights."""
    return {each.name for group in groups for each in fields(group) if each.metadata.get("recorded") == "evaluation"}


def fitting(group: type) -> set[str]:
    """Return the names of a model's options without whose recorded values a weights file does not fit."""
    return {each.name for each in fields(group) if each.metadata.get("recorded") is True}


def former_names(groups: Iterable[type]) -> dict[str, str]:
    """Return a dict from the former names of renamed options to their present names."""
    every = [each for group in groups for each in fields(group)]
    return {each.metadata["formerly"]: each.name for each in every if each.metadata.get("formerly")}


def renamed(values: Mapping[str, Value], groups: Iterable[type]) -> dict[str, Value]:
    """Replace former option names by present ones. If both names occur, the value under the present name is kept."""
    now = former_names(groups)
    return {now.get(name, name): value for name, value in values.items() if now.get(name) not in values}
