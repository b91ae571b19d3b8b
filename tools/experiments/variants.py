"""The axis `variant` of an experiment: each of its values sets several options of a cell at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from backbones.common.options import renamed
from backbones.errors import UserError

VARIANT = "variant"
Values: TypeAlias = Mapping[str, Any]  # JSON values by name


def check_variants(matrices: Mapping[str, Mapping[str, Values]], where: str) -> None:
    """Check the variants of all parts of a matrix.

    Args:
        matrices: for each part, such as "matrix" or "runs[0]", the values of each axis.
        where: file and task, for error messages.

    Raises:
        UserError: a variant is no mapping of options, sets an option that is an axis itself, or is missing in one part.
    """
    with_variants = [key for key, matrix in matrices.items() if VARIANT in matrix]
    for key, matrix in matrices.items():
        if with_variants and key not in with_variants:
            raise UserError(
                f"{where}: {key}: names no {VARIANT}, but {with_variants[0]} does; add `{VARIANT}: {{...}}`"
            )
        for name, options in matrix.get(VARIANT, {}).items():
            _check_variant(name, options, matrix, f"{where}: {key}")


def with_present_names(matrix: Mapping[str, Values], groups: Sequence[type]) -> dict[str, dict[str, Any]]:
    """Return a part of a matrix in which former names of options are replaced, also those inside variants."""
    present = {axis: dict(values) for axis, values in renamed(matrix, groups).items()}
    for name, options in present.get(VARIANT, {}).items():
        if isinstance(options, dict):
            present[VARIANT][name] = renamed(options, groups)
    return present


def option_names(matrix: Mapping[str, Values]) -> set[str]:
    """Return the names of the options that a part of a matrix sets, by its axes and by its variants."""
    return {*matrix} - {VARIANT} | {option for options in matrix.get(VARIANT, {}).values() for option in options}


def option_values(values: Values) -> dict[str, Any]:
    """Return the options of one cell: the values of its axes, with the variant replaced by the options that it sets."""
    chosen = values.get(VARIANT, {})
    return {**{name: value for name, value in values.items() if name != VARIANT}, **chosen}


def _check_variant(name: str, options: object, matrix: Mapping[str, Values], where: str) -> None:
    if not isinstance(options, dict) or not all(isinstance(option, str) for option in options):
        raise UserError(
            f"{where}: {VARIANT} {name}: is {options!r}; write the options that it sets: `{name}: {{base_lr: 0.001}}`"
        )
    twice = sorted({*options} & {*matrix})
    if twice:
        raise UserError(f"{where}: {VARIANT} {name}: sets {twice[0]}, which is an axis itself; leave one of them out")
