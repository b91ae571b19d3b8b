"""Chooses, merges and renames the categories of COCO's records."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from backbones.common.category_options import CategoryOptions, listed
from backbones.common.datasets import Record, field, records_of, refuse_duplicates
from backbones.errors import UserError, first_names

NEAR = 3  # names that the error about an unknown class suggests


@dataclass(frozen=True)
class MappedRecords:
    """Records of a COCO file with other categories.

    Attributes:
        data: the records; `annotations` and `categories` are new lists.
        kept: index of each annotation among those of the file.
        dropped: number of annotations that were left out, because their category was.
    """

    data: Record
    kept: list[int]
    dropped: int


def map_records(data: Record, options: CategoryOptions, path: Path) -> MappedRecords:
    """Merge, rename and choose the categories of a COCO file, as the options say.

    Args:
        data: `categories` and `annotations`; not changed.
        path: file to name in messages.

    Raises:
        UserError: an option names a class that the file does not have, or two classes would have the same name; or a
            category has no valid id or name.
    """
    categories, annotations = records_of(data, "categories", path), records_of(data, "annotations", path)
    names = {field(c, "category", "id", path): str(field(c, "category", "name", path)) for c in categories}
    refuse_duplicates((category["id"] for category in categories), "category id", path)
    ids = map_ids(names, options, where=str(path))
    # Each new category is the record of the category whose id it has.
    final = new_names(names, options)
    new = [{**c, "name": final[c["id"]]} for c in categories if ids[c["id"]] == c["id"]]
    kept, changed = list[int](), list[Record]()
    for index, annotation in enumerate(annotations):
        before = annotation.get("category_id")
        # An annotation of an unknown category stays as it is; the check of the records reports it.
        after = ids[before] if isinstance(before, int) and before in ids else before
        if after is not None or before is None:
            kept.append(index)
            changed.append({**annotation, "category_id": after} if after != before else annotation)
    return MappedRecords({**data, "categories": new, "annotations": changed}, kept, len(annotations) - len(kept))


def map_ids(names: Mapping[int, str], options: CategoryOptions, *, where: str) -> dict[int, int | None]:
    """Return for each category id its new id, or None if the category is left out.

    Args:
        names: names of the categories by id.
        where: name of the data, for messages.

    Raises:
        UserError: an option names an unknown class, or two classes would have the same name.
    """
    ids = {identifier: identifier for identifier in names}
    by_name: dict[str, list[int]] = {}
    for identifier in sorted(names):
        by_name.setdefault(names[identifier], []).append(identifier)
    for new, members in options.merges().items():
        _require_known(members, by_name, "--merge-classes", where)
        if new in by_name and new not in members:
            raise UserError(f"--merge-classes {new}=...: {where} has a class {new}; list it as well, or name another")
        joined = sorted(identifier for member in members for identifier in by_name[member])
        target = min(by_name[new]) if new in members else joined[0]
        ids |= dict.fromkeys(joined, target)
    final = new_names(names, options)
    merged = list(_final_ids(ids, final, by_name, options, where))
    chosen = _chosen(merged, options, where)
    return {identifier: new if new in chosen else None for identifier, new in ids.items()}


def new_names(names: Mapping[int, str], options: CategoryOptions) -> dict[int, str]:
    """Return the name of each category id after merging and renaming."""
    merged = {old: new for new, members in options.merges().items() for old in members}
    renamed = options.new_names()
    united = {identifier: merged.get(name, name) for identifier, name in names.items()}
    return {identifier: renamed.get(name, name) for identifier, name in united.items()}


def _final_ids(
    ids: Mapping[int, int],
    final: Mapping[int, str],
    by_name: Mapping[str, Sequence[int]],
    options: CategoryOptions,
    where: str,
) -> Iterable[tuple[str, int]]:
    """Yield name and id of each category after merging and renaming."""
    merges = options.merges()
    gone = {name for new, members in merges.items() for name in members if name != new}
    _require_known(options.new_names(), [*(name for name in by_name if name not in gone), *merges], "--rename", where)
    seen: dict[str, int] = {}
    for identifier in ids:
        if ids[identifier] != identifier:
            continue
        other = seen.setdefault(final[identifier], identifier)
        if other != identifier and options.rename:
            raise UserError(
                f"--rename {options.rename}: two classes would have the name {final[identifier]}; unite them with "
                "--merge-classes"
            )
        yield final[identifier], identifier


def _chosen(merged: Sequence[tuple[str, int]], options: CategoryOptions, where: str) -> set[int]:
    """Return the ids that --classes and --drop-classes leave."""
    wanted, dropped = listed(options.classes), listed(options.drop_classes)
    for names, option in ((wanted, "--classes"), (dropped, "--drop-classes")):
        _require_known(names, [name for name, _ in merged], option, where)
    kept = {*(wanted or (name for name, _ in merged))} - {*dropped}
    chosen = {identifier for name, identifier in merged if name in kept}
    if not chosen:
        raise UserError(f"--drop-classes {options.drop_classes}: leaves no class of {where}; drop fewer classes")
    return chosen


def _require_known(names: Iterable[str], known: Iterable[str], option: str, where: str) -> None:
    """Refuse a class that does not exist; the error suggests near names."""
    known = list(known)
    plain = {name.casefold(): name for name in known}
    for name in names:
        if name not in known:
            near = [plain[each] for each in difflib.get_close_matches(name.casefold(), plain, NEAR)]
            hint = f"did you mean {' or '.join(near)}?" if near else f"its classes are {first_names(sorted(known), 10)}"
            raise UserError(f"{option} {name}: {where} has no class of this name; {hint}")
